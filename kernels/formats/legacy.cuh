// Blocks of 32 elements: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
#pragma once

#include "sub.cuh"

struct Blocks32 {
    static constexpr int LEN = 32, SUBS = 1, SCALES = 1;
    static __device__ int sub(int, int) { return 0; }
};

// d (q - 8)
struct Q4_0 : Blocks32 {
    static constexpr int BYTES = 18, ALIGN = 2;
    static constexpr bool MIN = true;
    static __device__ void unpack(const uint8_t* b, int, Sub* s) {
        uint32_t w[4];
        load_words<ALIGN, 4>(b + 2, w);
        nibbles(w, *s);
        s->d[0] = half_at(b);
        s->m[0] = -8.0f * s->d[0];
    }
};

// d q + m
struct Q4_1 : Blocks32 {
    static constexpr int BYTES = 20, ALIGN = 4;
    static constexpr bool MIN = true;
    static __device__ void unpack(const uint8_t* b, int, Sub* s) {
        uint32_t w[4];
        load_words<ALIGN, 4>(b + 4, w);
        nibbles(w, *s);
        s->d[0] = half_at(b);
        s->m[0] = half_at(b + 2);
    }
};

// d (q - 16), the fifth bits in the first word
struct Q5_0 : Blocks32 {
    static constexpr int BYTES = 22, ALIGN = 2;
    static constexpr bool MIN = true;
    static __device__ void unpack(const uint8_t* b, int, Sub* s) {
        uint32_t w[5];
        load_words<ALIGN, 5>(b + 2, w);
        nibbles(w + 1, *s);
        fifth_bits(w[0], *s);
        s->d[0] = half_at(b);
        s->m[0] = -16.0f * s->d[0];
    }
};

// d q + m, the fifth bits in the first word
struct Q5_1 : Blocks32 {
    static constexpr int BYTES = 24, ALIGN = 8;
    static constexpr bool MIN = true;
    static __device__ void unpack(const uint8_t* b, int, Sub* s) {
        uint32_t w[6];
        load_words<ALIGN, 6>(b, w);
        nibbles(w + 2, *s);
        fifth_bits(w[1], *s);
        s->d[0] = half_to_float((uint16_t)w[0]);
        s->m[0] = half_to_float((uint16_t)(w[0] >> 16));
    }
};

// d q
struct Q8_0 : Blocks32 {
    static constexpr int BYTES = 34, ALIGN = 2;
    static constexpr bool MIN = false;
    static __device__ void unpack(const uint8_t* b, int, Sub* s) {
        load_words<ALIGN, 8>(b + 2, s->q);
        s->d[0] = half_at(b);
    }
};
