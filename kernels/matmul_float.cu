// Products with many rows of activations (`matmul.cuh`).
#include "matmul.cuh"

FLOAT_FORMATS(MATMUL_FLOAT)
