// Formats of keys and values in the sequence state: F32, F16, Q8_0, Q4_0.
//
// `bytes` of a head of `dim` elements; `at` gives one element of it, `load4` four from a multiple of four on, where
// `dim` is a multiple of four; `store` writes a head, all lanes of a warp together, as `src/quant` encodes it.
#pragma once

#include "../common.cuh"

struct StateF32 {
    static __device__ uint32_t bytes(uint32_t dim) { return dim * 4; }
    static __device__ float at(const uint8_t* head, uint32_t i) { return ((const float*)head)[i]; }
    static __device__ void load4(const uint8_t* head, uint32_t i, float* out) {
        const float4 v = *(const float4*)(head + i * 4);
        out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
    }
    static __device__ void store(uint8_t* head, const float* x, uint32_t dim) {
        for (uint32_t i = threadIdx.x % WARP; i < dim; i += WARP) ((float*)head)[i] = x[i];
    }
};

struct StateF16 {
    static __device__ uint32_t bytes(uint32_t dim) { return dim * 2; }
    static __device__ float at(const uint8_t* head, uint32_t i) { return half_at(head + i * 2); }
    static __device__ void load4(const uint8_t* head, uint32_t i, float* out) {
        const uint2 v = *(const uint2*)(head + i * 2);
        out[0] = half_to_float((uint16_t)v.x), out[1] = half_to_float((uint16_t)(v.x >> 16));
        out[2] = half_to_float((uint16_t)v.y), out[3] = half_to_float((uint16_t)(v.y >> 16));
    }
    static __device__ void store(uint8_t* head, const float* x, uint32_t dim) {
        for (uint32_t i = threadIdx.x % WARP; i < dim; i += WARP) ((uint16_t*)head)[i] = float_to_half(x[i]);
    }
};

// A half float that serves as a scale, as `quant::search::half_scale`: finite, and away from zero where it is
// subnormal.
__device__ inline uint16_t half_scale(float x) {
    if (x != x) return 0;
    const uint16_t h = float_to_half(fminf(fmaxf(x, -65504.0f), 65504.0f));
    const bool short_of = fabsf(half_to_float(h)) < fabsf(x) && fabsf(x) < 6.103515625e-5f;
    return short_of ? (uint16_t)(h + 1) : h;
}

__device__ inline float inverse_scale(float d) {
    const float inverse = 1.0f / d;
    return fabsf(inverse) < INFINITY ? inverse : 0.0f;
}

__device__ inline int nearest(float x, float low, float high) { return __float2int_rn(fminf(fmaxf(x, low), high)); }

struct StateQ8_0 {
    static __device__ uint32_t bytes(uint32_t dim) { return dim / 32 * 34; }
    static __device__ float at(const uint8_t* head, uint32_t i) {
        const uint8_t* block = head + i / 32 * 34;
        return half_at(block) * (float)(int8_t)block[2 + i % 32];
    }
    static __device__ void load4(const uint8_t* head, uint32_t i, float* out) {
        const uint8_t* block = head + i / 32 * 34;
        const float d = half_at(block);
        uint32_t w;
        load_words<2, 1>(block + 2 + i % 32, &w);
        for (int k = 0; k < 4; k++) out[k] = d * (float)(int8_t)(w >> (8 * k));
    }
    static __device__ void store(uint8_t* head, const float* x, uint32_t dim) {
        const uint32_t lane = threadIdx.x % WARP;
        for (uint32_t b = 0; b < dim / 32; b++) {
            const float v = x[b * 32 + lane];
            const uint16_t d = half_scale(warp_max(fabsf(v)) / 127.0f);
            uint8_t* block = head + b * 34;
            if (lane == 0) *(uint16_t*)block = d;
            block[2 + lane] = (uint8_t)nearest(v * inverse_scale(half_to_float(d)), -127.0f, 127.0f);
        }
    }
};

struct StateQ4_0 {
    static __device__ uint32_t bytes(uint32_t dim) { return dim / 32 * 18; }
    static __device__ float at(const uint8_t* head, uint32_t i) {
        const uint8_t* block = head + i / 32 * 18;
        const uint32_t q = (block[2 + i % 16] >> (i % 32 / 16 * 4)) & 15;
        return half_at(block) * (float)((int)q - 8);
    }
    static __device__ void load4(const uint8_t* head, uint32_t i, float* out) {
        const uint8_t* block = head + i / 32 * 18;
        const float d = half_at(block);
        uint32_t w;
        load_words<2, 1>(block + 2 + i % 16, &w);
        w >>= i % 32 / 16 * 4;
        for (int k = 0; k < 4; k++) out[k] = d * (float)((int)((w >> (8 * k)) & 15) - 8);
    }
    // The element of largest magnitude, the first of equal ones, becomes -8.
    static __device__ void store(uint8_t* head, const float* x, uint32_t dim) {
        const uint32_t lane = threadIdx.x % WARP;
        for (uint32_t b = 0; b < dim / 32; b++) {
            const float v = x[b * 32 + lane];
            const float most = warp_max(fabsf(v));
            const uint32_t first = __ffs(__ballot_sync(ALL_LANES, fabsf(v) == most));
            const float extreme = first == 0 ? 0.0f : __shfl_sync(ALL_LANES, v, first - 1);
            const uint16_t d = half_scale(extreme / -8.0f);
            const uint32_t q = (uint32_t)(nearest(v * inverse_scale(half_to_float(d)), -8.0f, 7.0f) + 8);
            const uint32_t high = __shfl_xor_sync(ALL_LANES, q, 16);
            uint8_t* block = head + b * 18;
            if (lane == 0) *(uint16_t*)block = d;
            if (lane < 16) block[2 + lane] = (uint8_t)(q | high << 4);
        }
    }
};

// The formats' places in the table of `src/hal/cuda/kernels.rs`, where a kernel is for all.
constexpr uint32_t IS_F32 = 0, IS_F16 = 1, IS_Q8_0 = 2, IS_Q4_0 = 3;

__device__ inline uint32_t state_bytes(uint32_t format, uint32_t dim) {
    if (format == IS_F32) return StateF32::bytes(dim);
    if (format == IS_F16) return StateF16::bytes(dim);
    return format == IS_Q8_0 ? StateQ8_0::bytes(dim) : StateQ4_0::bytes(dim);
}

#define STATE_FORMATS(X) X(StateF32, f32) X(StateF16, f16) X(StateQ8_0, q8_0) X(StateQ4_0, q4_0)
