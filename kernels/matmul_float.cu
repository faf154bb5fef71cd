// Products of plain floats with many rows of activations (`matmul_float.cuh`, `matmul_half.cuh`).
#include "matmul_float.cuh"
#include "matmul_half.cuh"

MATMUL_FLOAT(F32, f32)
MATMUL_HALF(TakesF16, f16)
MATMUL_HALF(TakesBF16, bf16)

// A warp for each row.
KERNEL(row_powers, RowPowersArgs, 128) {
    const uint32_t row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= a.rows) return;
    const float* x = a.x + (uint64_t)row * a.cols;
    float most = 0.0f;
    for (uint32_t i = lane; i < a.cols; i += WARP) most = fmaxf(most, fabsf(x[i]));
    most = warp_max(most);
    if (lane == 0) a.powers[row] = powers_of(most);
}
