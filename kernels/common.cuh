// What kernels share: sums over a warp, words at any alignment, activations in eight bits.
#pragma once

#include "intrinsics.cuh"

constexpr uint32_t WARP = 32;
constexpr uint32_t ALL_LANES = 0xffffffffu;

// Sum over the warp, in every lane; the same order of additions for every lane, so the same bits.
__device__ inline float warp_sum(float x) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

__device__ inline uint32_t warp_sum(uint32_t x) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

// Largest of the warp; a NaN is passed over.
__device__ inline float warp_max(float x) {
    for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
}

__device__ inline float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }

__device__ inline float half_at(const uint8_t* p) { return half_to_float(*(const uint16_t*)p); }

// N words from `p`, which is a multiple of ALIGN bytes: in the widest loads that this allows. Below four bytes they are
// put together from aligned words, of which the last may end up to four bytes behind the N-th: the backend leaves room
// for them behind every weight.
template <int ALIGN, int N> __device__ inline void load_words(const uint8_t* p, uint32_t* w) {
    if (ALIGN % 16 == 0 && N % 4 == 0) {
        for (int i = 0; i < N / 4; i++) {
            const uint4 v = ((const uint4*)p)[i];
            w[4 * i] = v.x, w[4 * i + 1] = v.y, w[4 * i + 2] = v.z, w[4 * i + 3] = v.w;
        }
    } else if (ALIGN % 8 == 0 && N % 2 == 0) {
        for (int i = 0; i < N / 2; i++) {
            const uint2 v = ((const uint2*)p)[i];
            w[2 * i] = v.x, w[2 * i + 1] = v.y;
        }
    } else if (ALIGN % 4 == 0) {
        for (int i = 0; i < N; i++) w[i] = ((const uint32_t*)p)[i];
    } else {
        const uint32_t* from = (const uint32_t*)((uintptr_t)p & ~(uintptr_t)3);
        const uint32_t shift = ((uint32_t)(uintptr_t)p & 3) * 8;
        uint32_t low = from[0];
        for (int i = 0; i < N; i++) {
            const uint32_t high = from[i + 1];
            w[i] = __funnelshift_r(low, high, shift);
            low = high;
        }
    }
}

// 32 consecutive activations were rounded to eight bits under one scale; `sums` holds the sums of the integers of both
// halves of sixteen, as two signed 16-bit numbers.
struct Scale {
    float d;
    uint32_t sums;
};

__device__ inline int first_sum(Scale s) { return (int16_t)(s.sums & 0xffff); }
__device__ inline int second_sum(Scale s) { return (int16_t)(s.sums >> 16); }

__device__ inline Scale load_scale(const Scale* p) {
    const uint2 v = *(const uint2*)p;
    Scale s;
    s.d = bits_to_float(v.x);
    s.sums = v.y;
    return s;
}
