// Blocks of 256 elements with scales in a few bits: Q2_K to Q6_K.
#pragma once

#include "sub.cuh"

struct Blocks256 {
    static constexpr int LEN = 256;
};

// The 6-bit scale and minimum of run j, from the twelve bytes of `src/quant/kscales.rs` as three words.
__device__ inline void kscale(const uint32_t* w, int j, uint32_t& scale, uint32_t& min) {
    if (j < 4) {
        scale = (w[0] >> (8 * j)) & 63;
        min = (w[1] >> (8 * j)) & 63;
    } else {
        const int shift = 8 * (j - 4);
        scale = ((w[2] >> shift) & 15) | (((w[0] >> (shift + 6)) & 3) << 4);
        min = ((w[2] >> (shift + 4)) & 15) | (((w[1] >> (shift + 6)) & 3) << 4);
    }
}

// Scale and minimum of run j of Q4_K and Q5_K, from the block's first four words.
__device__ inline void affine(const uint32_t* head, int j, Sub& s) {
    uint32_t scale, min;
    kscale(head + 1, j, scale, min);
    s.d[0] = half_to_float((uint16_t)head[0]) * (float)scale;
    s.m[0] = -half_to_float((uint16_t)(head[0] >> 16)) * (float)min;
}

// Run j: two bits of 32 bytes that four runs share; a scale and a minimum of four bits for each sixteen.
struct Q2_K : Blocks256 {
    static constexpr int BYTES = 84, ALIGN = 4, SUBS = 1, SCALES = 2;
    static constexpr bool MIN = true;
    static __device__ int sub(int unit, int) { return unit; }
    static __device__ void unpack(const uint8_t* b, int j, Sub* s) {
        load_words<ALIGN, 8>(b + 16 + 32 * (j / 4), s->q);
        for (int i = 0; i < 8; i++) s->q[i] = (s->q[i] >> (2 * (j % 4))) & 0x03030303;
        const float d = half_at(b + 80), dmin = half_at(b + 82);
        for (int i = 0; i < 2; i++) {
            const uint32_t scale = b[2 * j + i];
            s->d[i] = d * (float)(scale & 15);
            s->m[i] = -dmin * (float)(scale >> 4);
        }
    }
};

// Run j: two bits of 32 bytes that four runs share, a third bit of 32 bytes that all share; d scale (q - 4).
struct Q3_K : Blocks256 {
    static constexpr int BYTES = 110, ALIGN = 2, SUBS = 1, SCALES = 2;
    static constexpr bool MIN = true;
    static __device__ int sub(int unit, int) { return unit; }
    static __device__ void unpack(const uint8_t* b, int j, Sub* s) {
        uint32_t high[8];
        load_words<ALIGN, 8>(b, high);
        load_words<ALIGN, 8>(b + 32 + 32 * (j / 4), s->q);
        for (int i = 0; i < 8; i++) {
            const uint32_t low = (s->q[i] >> (2 * (j % 4))) & 0x03030303;
            s->q[i] = low | (((high[i] >> j) & 0x01010101) << 2);
        }
        const float d = half_at(b + 108);
        for (int i = 0; i < 2; i++) {
            const int at = 2 * j + i;
            const uint32_t low = ((uint32_t)b[96 + at % 8] >> (at / 8 * 4)) & 15;
            const uint32_t top = ((uint32_t)b[104 + at % 4] >> (at / 4 * 2)) & 3;
            s->d[i] = d * (float)((int)(low | (top << 4)) - 32);
            s->m[i] = -4.0f * s->d[i];
        }
    }
};

// Runs 2c and 2c + 1: the nibbles of 32 bytes.
struct Q4_K : Blocks256 {
    static constexpr int BYTES = 144, ALIGN = 16, SUBS = 2, SCALES = 1;
    static constexpr bool MIN = true;
    static __device__ int sub(int unit, int i) { return 2 * unit + i; }
    static __device__ void unpack(const uint8_t* b, int unit, Sub* s) {
        uint32_t head[4], w[8];
        load_words<ALIGN, 4>(b, head);
        load_words<ALIGN, 8>(b + 16 + 32 * unit, w);
        for (int i = 0; i < 8; i++) {
            s[0].q[i] = w[i] & 0x0f0f0f0f;
            s[1].q[i] = (w[i] >> 4) & 0x0f0f0f0f;
        }
        affine(head, 2 * unit, s[0]);
        affine(head, 2 * unit + 1, s[1]);
    }
};

// As Q4_K; bit j of 32 further bytes is the fifth bit of run j.
struct Q5_K : Blocks256 {
    static constexpr int BYTES = 176, ALIGN = 16, SUBS = 2, SCALES = 1;
    static constexpr bool MIN = true;
    static __device__ int sub(int unit, int i) { return 2 * unit + i; }
    static __device__ void unpack(const uint8_t* b, int unit, Sub* s) {
        uint32_t head[4], high[8], w[8];
        load_words<ALIGN, 4>(b, head);
        load_words<ALIGN, 8>(b + 16, high);
        load_words<ALIGN, 8>(b + 48 + 32 * unit, w);
        for (int i = 0; i < 8; i++) {
            const uint32_t top = high[i] >> (2 * unit);
            s[0].q[i] = (w[i] & 0x0f0f0f0f) | ((top & 0x01010101) << 4);
            s[1].q[i] = ((w[i] >> 4) & 0x0f0f0f0f) | (((top >> 1) & 0x01010101) << 4);
        }
        affine(head, 2 * unit, s[0]);
        affine(head, 2 * unit + 1, s[1]);
    }
};

// Runs t and t + 2 of a half (t is 0 or 1): the nibbles of 32 bytes, and two bits each of 32 bytes that the half
// shares; d scale (q - 32).
struct Q6_K : Blocks256 {
    static constexpr int BYTES = 210, ALIGN = 2, SUBS = 2, SCALES = 2;
    static constexpr bool MIN = true;
    static __device__ int sub(int unit, int i) { return 4 * (unit / 2) + unit % 2 + 2 * i; }
    static __device__ void unpack(const uint8_t* b, int unit, Sub* s) {
        const int h = unit / 2, t = unit % 2;
        uint32_t w[8], high[8];
        load_words<ALIGN, 8>(b + 64 * h + 32 * t, w);
        load_words<ALIGN, 8>(b + 128 + 32 * h, high);
        for (int i = 0; i < 8; i++) {
            const uint32_t top = high[i] >> (2 * t);
            s[0].q[i] = (w[i] & 0x0f0f0f0f) | ((top & 0x03030303) << 4);
            s[1].q[i] = ((w[i] >> 4) & 0x0f0f0f0f) | (((top >> 4) & 0x03030303) << 4);
        }
        const float d = half_at(b + 208);
        for (int i = 0; i < 4; i++) {
            Sub& to = s[i / 2];
            to.d[i % 2] = d * (float)(int8_t)b[192 + 2 * sub(unit, i / 2) + i % 2];
            to.m[i % 2] = -32.0f * to.d[i % 2];
        }
    }
};
