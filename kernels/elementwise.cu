// Sums, gates and selections, element by element.
#include "args.cuh"

KERNEL(add, AddArgs, 256) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < a.count) a.out[i] = a.a[i] + a.b[i];
}

KERNEL(glu_silu, GluArgs, 256) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= a.count) return;
    const float gate = a.gate[i];
    a.out[i] = gate / (1.0f + expf(-gate)) * a.up[i];
}

// blockIdx.y is the row.
KERNEL(select_rows, SelectArgs, 256) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= a.width) return;
    a.out[(uint64_t)blockIdx.y * a.width + i] = a.x[(uint64_t)a.picked[blockIdx.y] * a.width + i];
}

// blockIdx.y is the row.
KERNEL(expert_sum, ExpertSumArgs, 256) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= a.width) return;
    const uint64_t first = (uint64_t)blockIdx.y * a.k;
    float sum = 0.0f;
    for (uint32_t j = 0; j < a.k; j++) sum = fmaf(a.x[(first + j) * a.width + i], a.weights[first + j], sum);
    a.out[(uint64_t)blockIdx.y * a.width + i] = sum;
}
