// Products with few rows of activations (`matvec.cuh`).
#include "matvec.cuh"

LEGACY_FORMATS(MATVEC)
