// Rotary embedding of heads.
#include "rope.cuh"

// blockIdx.x is the row; a thread turns one pair in eight heads, from 8 blockIdx.y on.
KERNEL(rope, RopeArgs, 64) {
    const uint64_t width = (uint64_t)a.heads * a.head_dim;
    const float* x = a.x + blockIdx.x * width;
    float* out = a.out + blockIdx.x * width;
    const uint32_t half = a.dims / 2, first = blockIdx.y * 8, last = a.heads < first + 8 ? a.heads : first + 8;
    for (uint32_t i = threadIdx.x; i < half; i += blockDim.x) {
        const Turn t = turn_of(a.positions[blockIdx.x], a.frequencies[i], a.magnitude);
        const uint32_t low = pair_low(i, a.half_split), high = pair_high(i, half, a.half_split);
        for (uint32_t head = first; head < last; head++) {
            turn_pair(x + head * a.head_dim, out + head * a.head_dim, low, high, t);
        }
    }
    for (uint32_t i = a.dims + threadIdx.x; i < a.head_dim; i += blockDim.x) {
        for (uint32_t head = first; head < last; head++) out[head * a.head_dim + i] = x[head * a.head_dim + i];
    }
}
