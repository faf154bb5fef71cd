// Products with few rows of activations (`matvec.cuh`).
#include "matvec.cuh"

K_FORMATS(MATVEC)
