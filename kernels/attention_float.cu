// Attention over float keys (`attention.cuh`), and the joining of splits.
#include "attention.cuh"

ATTEND_KEYS(StateF32, f32)
ATTEND_KEYS(StateF16, f16)

// blockIdx.x: the row's place in `work`; blockIdx.y: the head.
KERNEL(attend_join, AttendJoinArgs, 128) {
    const AttendJoin w = a.work[blockIdx.x];
    if (w.splits == 0) return;
    const uint32_t head = blockIdx.y;
    const uint64_t step = (uint64_t)a.heads * (a.v_dim + 2);
    const float* parts = a.partials + w.first * step + (uint64_t)head * (a.v_dim + 2);
    float most = -INFINITY;
    for (uint32_t s = 0; s < w.splits; s++) most = fmaxf(most, parts[s * step]);
    for (uint32_t c = threadIdx.x; c < a.v_dim; c += blockDim.x) {
        float sum = 0.0f, weight = 0.0f;
        for (uint32_t s = 0; s < w.splits; s++) {
            const float* part = parts + s * step;
            const float factor = part[0] == most ? 1.0f : expf(part[0] - most);
            weight = fmaf(part[1], factor, weight);
            sum = fmaf(part[2 + c], factor, sum);
        }
        a.out[((uint64_t)w.row * a.heads + head) * a.v_dim + c] = sum / weight;
    }
}
