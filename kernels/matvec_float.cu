// Products with few rows of activations (`matvec.cuh`).
#include "matvec.cuh"

FLOAT_FORMATS(MATVEC_FLOAT)
