// Plain floats: F32, F16, BF16. Eight elements in 128-bit loads, or one.
#pragma once

#include "../common.cuh"

struct F32 {
    static constexpr int BYTES = 4;
    static __device__ float at(const uint8_t* row, uint32_t i) { return ((const float*)row)[i]; }
    static __device__ void load8(const uint8_t* p, float* out) {
        const float4 a = ((const float4*)p)[0], b = ((const float4*)p)[1];
        out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
        out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
    }
};

struct F16 {
    static constexpr int BYTES = 2;
    static __device__ float at(const uint8_t* row, uint32_t i) { return half_to_float(((const uint16_t*)row)[i]); }
    static __device__ void load8(const uint8_t* p, float* out) {
        uint32_t w[4];
        load_words<16, 4>(p, w);
        for (int i = 0; i < 8; i++) out[i] = half_to_float((uint16_t)(w[i / 2] >> (16 * (i % 2))));
    }
};

struct BF16 {
    static constexpr int BYTES = 2;
    static __device__ float at(const uint8_t* row, uint32_t i) {
        return bits_to_float((uint32_t)((const uint16_t*)row)[i] << 16);
    }
    static __device__ void load8(const uint8_t* p, float* out) {
        uint32_t w[4];
        load_words<16, 4>(p, w);
        for (int i = 0; i < 4; i++) {
            out[2 * i] = bits_to_float(w[i] << 16);
            out[2 * i + 1] = bits_to_float(w[i] & 0xffff0000u);
        }
    }
};
