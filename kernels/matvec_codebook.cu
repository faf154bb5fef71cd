// Products with few rows of activations (`matvec.cuh`).
#include "matvec.cuh"

CODEBOOK_FORMATS(MATVEC)
