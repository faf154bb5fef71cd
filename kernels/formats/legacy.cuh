// Blocks of 32 elements: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
#pragma once

#include "sub.cuh"

struct Blocks32 {
    static constexpr int LEN = 32, SUBS = 1, SCALES = 1, OFFSET = 0;
    static __device__ int sub(int, int) { return 0; }
};

// A half float as scale, and N words behind it.
template <int N> struct Scaled {
    Words<2, N> w;
    uint32_t d;
    static __device__ Scaled load(const uint8_t* b) {
        Scaled r;
        r.w.load(b + 2);
        r.d = half_bits(b);
        return r;
    }
};

// N words at any multiple of ALIGN bytes.
template <int ALIGN, int N> struct Whole {
    Words<ALIGN, N> w;
    static __device__ Whole load(const uint8_t* b) {
        Whole r;
        r.w.load(b);
        return r;
    }
};

__device__ inline float low_half(uint32_t w) { return half_to_float((uint16_t)w); }
__device__ inline float high_half(uint32_t w) { return half_to_float((uint16_t)(w >> 16)); }

// d (q - 8)
struct Q4_0 : Blocks32 {
    static constexpr int BYTES = 18, OFFSET = 8;
    static constexpr bool MIN = true;
    using Raw = Scaled<4>;
    static __device__ Raw load(const uint8_t* b, int) { return Raw::load(b); }
    static __device__ void unpack(const Raw& r, int, Sub* s) {
        nibbles(r.w, 0, *s);
        s->d[0] = low_half(r.d);
        s->m[0] = -8.0f * s->d[0];
    }
};

// d q + m
struct Q4_1 : Blocks32 {
    static constexpr int BYTES = 20;
    static constexpr bool MIN = true;
    using Raw = Whole<4, 5>;
    static __device__ Raw load(const uint8_t* b, int) { return Raw::load(b); }
    static __device__ void unpack(const Raw& r, int, Sub* s) {
        nibbles(r.w, 1, *s);
        s->d[0] = low_half(r.w[0]);
        s->m[0] = high_half(r.w[0]);
    }
};

// d (q - 16), the fifth bits in the first word
struct Q5_0 : Blocks32 {
    static constexpr int BYTES = 22, OFFSET = 16;
    static constexpr bool MIN = true;
    using Raw = Scaled<5>;
    static __device__ Raw load(const uint8_t* b, int) { return Raw::load(b); }
    static __device__ void unpack(const Raw& r, int, Sub* s) {
        nibbles(r.w, 1, *s);
        fifth_bits(r.w[0], *s);
        s->d[0] = low_half(r.d);
        s->m[0] = -16.0f * s->d[0];
    }
};

// d q + m, the fifth bits in the first word
struct Q5_1 : Blocks32 {
    static constexpr int BYTES = 24;
    static constexpr bool MIN = true;
    using Raw = Whole<8, 6>;
    static __device__ Raw load(const uint8_t* b, int) { return Raw::load(b); }
    static __device__ void unpack(const Raw& r, int, Sub* s) {
        nibbles(r.w, 2, *s);
        fifth_bits(r.w[1], *s);
        s->d[0] = low_half(r.w[0]);
        s->m[0] = high_half(r.w[0]);
    }
};

// d q
struct Q8_0 : Blocks32 {
    static constexpr int BYTES = 34;
    static constexpr bool MIN = false;
    using Raw = Scaled<8>;
    static __device__ Raw load(const uint8_t* b, int) { return Raw::load(b); }
    static __device__ void unpack(const Raw& r, int, Sub* s) {
        for (int i = 0; i < 8; i++) s->q[i] = r.w[i];
        s->d[0] = low_half(r.d);
    }
};
