// Blocks of 256 elements with scales in a few bits: Q2_K to Q6_K.
#pragma once

#include "legacy.cuh"

struct Blocks256 {
    static constexpr int LEN = 256, OFFSET = 0;
};

// The 6-bit scale and minimum of run j, from the twelve bytes of `src/quant/kscales.rs` as three words.
__device__ inline void kscale(uint32_t w0, uint32_t w1, uint32_t w2, int j, uint32_t& scale, uint32_t& min) {
    if (j < 4) {
        scale = (w0 >> (8 * j)) & 63;
        min = (w1 >> (8 * j)) & 63;
    } else {
        const int shift = 8 * (j - 4);
        scale = ((w2 >> shift) & 15) | (((w0 >> (shift + 6)) & 3) << 4);
        min = ((w2 >> (shift + 4)) & 15) | (((w1 >> (shift + 6)) & 3) << 4);
    }
}

// Scale and minimum of run j of Q4_K and Q5_K, from the block's first four words.
__device__ inline void affine(const Words<16, 4>& head, int j, Sub& s) {
    uint32_t scale, min;
    kscale(head[1], head[2], head[3], j, scale, min);
    s.d[0] = low_half(head[0]) * (float)scale;
    s.m[0] = -high_half(head[0]) * (float)min;
}

// Run j: two bits of 32 bytes that four runs share; a scale and a minimum of four bits for each sixteen.
struct Q2_K : Blocks256 {
    static constexpr int BYTES = 84, SUBS = 1, SCALES = 2;
    static constexpr bool MIN = true;
    struct Raw {
        Words<4, 8> w;
        uint32_t d, scales;
    };
    static __device__ int sub(int unit, int) { return unit; }
    static __device__ Raw load(const uint8_t* b, int j) {
        Raw r;
        r.w.load(b + 16 + 32 * (j / 4));
        r.d = *(const uint32_t*)(b + 80);
        r.scales = half_bits(b + 2 * j);
        return r;
    }
    static __device__ void unpack(const Raw& r, int j, Sub* s) {
        for (int i = 0; i < 8; i++) s->q[i] = (r.w[i] >> (2 * (j % 4))) & 0x03030303;
        for (int i = 0; i < 2; i++) {
            const uint32_t scale = (r.scales >> (8 * i)) & 255;
            s->d[i] = low_half(r.d) * (float)(scale & 15);
            s->m[i] = -high_half(r.d) * (float)(scale >> 4);
        }
    }
};

// Run j: two bits of 32 bytes that four runs share, a third bit of 32 bytes that all share; d scale (q - 4).
struct Q3_K : Blocks256 {
    static constexpr int BYTES = 110, SUBS = 1, SCALES = 2, OFFSET = 4;
    static constexpr bool MIN = true;
    struct Raw {
        Words<2, 8> w, high;
        uint32_t d, low, top;
    };
    static __device__ int sub(int unit, int) { return unit; }
    static __device__ Raw load(const uint8_t* b, int j) {
        Raw r;
        r.high.load(b);
        r.w.load(b + 32 + 32 * (j / 4));
        r.low = half_bits(b + 96 + 2 * j % 8);
        r.top = half_bits(b + 104 + 2 * j % 4);
        r.d = half_bits(b + 108);
        return r;
    }
    static __device__ void unpack(const Raw& r, int j, Sub* s) {
        for (int i = 0; i < 8; i++) {
            const uint32_t low = (r.w[i] >> (2 * (j % 4))) & 0x03030303;
            s->q[i] = low | (((r.high[i] >> j) & 0x01010101) << 2);
        }
        for (int i = 0; i < 2; i++) {
            const uint32_t low = (r.low >> (8 * i + j / 4 * 4)) & 15, top = (r.top >> (8 * i + j / 2 * 2)) & 3;
            s->d[i] = low_half(r.d) * (float)((int)(low | (top << 4)) - 32);
            s->m[i] = -4.0f * s->d[i];
        }
    }
};

// Runs 2c and 2c + 1: the nibbles of 32 bytes.
struct Q4_K : Blocks256 {
    static constexpr int BYTES = 144, SUBS = 2, SCALES = 1;
    static constexpr bool MIN = true;
    struct Raw {
        Words<16, 4> head;
        Words<16, 8> w;
    };
    static __device__ int sub(int unit, int i) { return 2 * unit + i; }
    static __device__ Raw load(const uint8_t* b, int unit) {
        Raw r;
        r.head.load(b);
        r.w.load(b + 16 + 32 * unit);
        return r;
    }
    static __device__ void unpack(const Raw& r, int unit, Sub* s) {
        for (int i = 0; i < 8; i++) {
            s[0].q[i] = r.w[i] & 0x0f0f0f0f;
            s[1].q[i] = (r.w[i] >> 4) & 0x0f0f0f0f;
        }
        affine(r.head, 2 * unit, s[0]);
        affine(r.head, 2 * unit + 1, s[1]);
    }
};

// As Q4_K; bit j of 32 further bytes is the fifth bit of run j.
struct Q5_K : Blocks256 {
    static constexpr int BYTES = 176, SUBS = 2, SCALES = 1;
    static constexpr bool MIN = true;
    struct Raw {
        Words<16, 4> head;
        Words<16, 8> high, w;
    };
    static __device__ int sub(int unit, int i) { return 2 * unit + i; }
    static __device__ Raw load(const uint8_t* b, int unit) {
        Raw r;
        r.head.load(b);
        r.high.load(b + 16);
        r.w.load(b + 48 + 32 * unit);
        return r;
    }
    static __device__ void unpack(const Raw& r, int unit, Sub* s) {
        for (int i = 0; i < 8; i++) {
            const uint32_t top = r.high[i] >> (2 * unit);
            s[0].q[i] = (r.w[i] & 0x0f0f0f0f) | ((top & 0x01010101) << 4);
            s[1].q[i] = ((r.w[i] >> 4) & 0x0f0f0f0f) | (((top >> 1) & 0x01010101) << 4);
        }
        affine(r.head, 2 * unit, s[0]);
        affine(r.head, 2 * unit + 1, s[1]);
    }
};

// Runs t and t + 2 of a half (t is 0 or 1): the nibbles of 32 bytes, and two bits each of 32 bytes that the half
// shares; d scale (q - 32).
struct Q6_K : Blocks256 {
    static constexpr int BYTES = 210, SUBS = 2, SCALES = 2, OFFSET = 32;
    static constexpr bool MIN = true;
    struct Raw {
        Words<2, 8> w, high;
        uint32_t d, scales[2];
    };
    static __device__ int sub(int unit, int i) { return 4 * (unit / 2) + unit % 2 + 2 * i; }
    static __device__ Raw load(const uint8_t* b, int unit) {
        Raw r;
        r.w.load(b + 32 * unit);
        r.high.load(b + 128 + 32 * (unit / 2));
        r.d = half_bits(b + 208);
        for (int i = 0; i < 2; i++) r.scales[i] = half_bits(b + 192 + 2 * sub(unit, i));
        return r;
    }
    static __device__ void unpack(const Raw& r, int unit, Sub* s) {
        for (int i = 0; i < 8; i++) {
            const uint32_t top = r.high[i] >> (2 * (unit % 2));
            s[0].q[i] = (r.w[i] & 0x0f0f0f0f) | ((top & 0x03030303) << 4);
            s[1].q[i] = ((r.w[i] >> 4) & 0x0f0f0f0f) | (((top >> 4) & 0x03030303) << 4);
        }
        for (int i = 0; i < 4; i++) {
            Sub& to = s[i / 2];
            to.d[i % 2] = low_half(r.d) * (float)(int8_t)(r.scales[i / 2] >> (8 * (i % 2)));
            to.m[i % 2] = -32.0f * to.d[i % 2];
        }
    }
};
