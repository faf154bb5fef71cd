// Products with many rows of activations (`matmul.cuh`).
#include "matmul_float.cuh"
#include "formats/table.cuh"

FLOAT_FORMATS(MATMUL_FLOAT)
