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

__device__ inline uint32_t float_bits(float x) { return __float_as_uint(x); }

__device__ inline float half_at(const uint8_t* p) { return half_to_float(*(const uint16_t*)p); }

__device__ inline uint32_t half_bits(const uint8_t* p) { return *(const uint16_t*)p; }

// N words from an address that is a multiple of ALIGN bytes: in the widest loads that this allows. Below four bytes
// they lie across aligned words, of which the last may end up to four bytes behind the N-th: the backend leaves room
// for them behind every weight. Words are put together when they are asked for, so that loads wait for nothing.
template <int ALIGN, int N> struct Words {
    static constexpr int HELD = ALIGN % 4 == 0 ? N : N + 1;
    uint32_t held[HELD], shift;

    __device__ void load(const uint8_t* p) {
        if constexpr (ALIGN % 16 == 0 && N % 4 == 0) {
            for (int i = 0; i < N / 4; i++) {
                const uint4 v = ((const uint4*)p)[i];
                held[4 * i] = v.x, held[4 * i + 1] = v.y, held[4 * i + 2] = v.z, held[4 * i + 3] = v.w;
            }
        } else if constexpr (ALIGN % 8 == 0 && N % 2 == 0) {
            for (int i = 0; i < N / 2; i++) {
                const uint2 v = ((const uint2*)p)[i];
                held[2 * i] = v.x, held[2 * i + 1] = v.y;
            }
        } else {
            const uintptr_t low = ALIGN % 4 == 0 ? 0 : (uintptr_t)p & 3;
            for (int i = 0; i < HELD; i++) held[i] = ((const uint32_t*)(p - low))[i];
            shift = (uint32_t)low * 8;
        }
    }

    __device__ uint32_t operator[](int i) const {
        if constexpr (ALIGN % 4 == 0) return held[i];
        else return __funnelshift_r(held[i], held[i + 1], shift);
    }
};

template <int ALIGN, int N> __device__ inline void load_words(const uint8_t* p, uint32_t* w) {
    Words<ALIGN, N> words;
    words.load(p);
    for (int i = 0; i < N; i++) w[i] = words[i];
}

// N floats, aligned to as many bytes.
template <int N> __device__ inline void load_floats(const float* from, float* to) {
    static_assert(N == 1 || N == 2 || N % 4 == 0, "loads of 4, 8 or 16 bytes");
    if (N == 1) to[0] = from[0];
    Words<N % 4 == 0 ? 16 : 8, N> words;
    if (N > 1) words.load((const uint8_t*)from);
    for (int i = 0; N > 1 && i < N; i++) to[i] = bits_to_float(words[i]);
}

// A power of two by which the largest of some numbers comes to between 1 and 2, and its inverse: both are one where
// there is none such, or where that is no number.
struct Powers {
    float down, up;
};

__device__ inline Powers powers_of(float most) {
    const uint32_t exponent = float_bits(most) >> 23;
    Powers p = {1.0f, 1.0f};
    if (exponent > 0 && exponent < 254) {
        p.down = bits_to_float((254 - exponent) << 23);
        p.up = bits_to_float(exponent << 23);
    }
    return p;
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
