// Products with many rows of activations (`matmul.cuh`).
#include "matmul.cuh"

CODEBOOK_FORMATS(MATMUL)
