// Root-mean-square norm over groups of elements.
#include "quantise.cuh"

// A block of 256 threads for each group: rows of the residual stream.
KERNEL(norm_wide, NormArgs, 256) {
    __shared__ float parts[8];
    const float* x = a.x + (uint64_t)blockIdx.x * a.group;
    float* out = a.out + (uint64_t)blockIdx.x * a.group;
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x; i < a.group; i += blockDim.x) sum = fmaf(x[i], x[i], sum);
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = sum;
    __syncthreads();
    float all = 0.0f;
    for (uint32_t w = 0; w < blockDim.x / WARP; w++) all += parts[w];
    const float scale = 1.0f / sqrtf(all / (float)a.group + a.eps);
    // A warp has a block of 32 at a time: where there are such blocks, `group` is a multiple of them.
    const uint64_t first = (uint64_t)blockIdx.x * (a.group / 32);
    for (uint32_t i = threadIdx.x; i < a.group; i += blockDim.x) {
        const float y = x[i] * scale * a.weight[i];
        out[i] = y;
        if (a.q) quantise_warp(y, (uint8_t*)a.q + (first + i / 32) * 32, a.scales + first + i / 32);
    }
}

// A warp for each group: heads.
KERNEL(norm_narrow, NormArgs, 128) {
    const uint32_t group = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (group >= a.groups) return;
    const float* x = a.x + (uint64_t)group * a.group;
    float* out = a.out + (uint64_t)group * a.group;
    float sum = 0.0f;
    for (uint32_t i = lane; i < a.group; i += WARP) sum = fmaf(x[i], x[i], sum);
    const float scale = 1.0f / sqrtf(warp_sum(sum) / (float)a.group + a.eps);
    for (uint32_t i = lane; i < a.group; i += WARP) out[i] = x[i] * scale * a.weight[i];
}
