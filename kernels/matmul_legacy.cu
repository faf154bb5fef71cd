// Products with many rows of activations (`matmul.cuh`).
#include "matmul.cuh"

LEGACY_FORMATS(MATMUL)
