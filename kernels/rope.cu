// Rotary embedding of heads.
//
// An angle is the position times a frequency, in float64, and is brought into one turn before it is rounded: a position
// of a hundred thousand would leave float32 two digits of the angle. Interpolation is part of the frequencies.
#include "args.cuh"

// blockIdx.x is the row; a thread turns one pair in eight heads, from 8 blockIdx.y on.
KERNEL(rope, RopeArgs, 64) {
    const uint64_t width = (uint64_t)a.heads * a.head_dim;
    const float* x = a.x + blockIdx.x * width;
    float* out = a.out + blockIdx.x * width;
    const uint32_t half = a.dims / 2, first = blockIdx.y * 8, last = a.heads < first + 8 ? a.heads : first + 8;
    for (uint32_t i = threadIdx.x; i < half; i += blockDim.x) {
        const double angle = (double)a.positions[blockIdx.x] * a.frequencies[i];
        const float turn = (float)(angle - rint(angle * 0.15915494309189535) * 6.283185307179586);
        const float s = sinf(turn) * a.magnitude, c = cosf(turn) * a.magnitude;
        const uint32_t low = a.half_split ? i : 2 * i, high = a.half_split ? i + half : 2 * i + 1;
        for (uint32_t head = first; head < last; head++) {
            const float u = x[head * a.head_dim + low], v = x[head * a.head_dim + high];
            out[head * a.head_dim + low] = u * c - v * s;
            out[head * a.head_dim + high] = u * s + v * c;
        }
    }
    for (uint32_t i = a.dims + threadIdx.x; i < a.head_dim; i += blockDim.x) {
        for (uint32_t head = first; head < last; head++) out[head * a.head_dim + i] = x[head * a.head_dim + i];
    }
}
