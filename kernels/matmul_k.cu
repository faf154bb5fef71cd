// Products with many rows of activations (`matmul.cuh`).
#include "matmul.cuh"

K_FORMATS(MATMUL)
