// Formats whose nibbles name entries of a codebook: IQ4_NL, IQ4_XS, MXFP4.
#pragma once

#include "legacy.cuh"

// -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113
template <class W> __device__ inline void look_up_iq4(const W& w, int first, Sub& s) {
    const uint32_t book[4] = {0xbfad9881, 0xf6eaddcf, 0x26190d01, 0x71594535};
    look_up_all(book, w, first, s);
}

// d codebook[q], laid out as Q4_0
struct IQ4_NL : Blocks32 {
    static constexpr int BYTES = 18;
    static constexpr bool MIN = false;
    using Raw = Scaled<4>;
    static __device__ Raw load(const uint8_t* b, int) { return Raw::load(b); }
    static __device__ void unpack(const Raw& r, int, Sub* s) {
        look_up_iq4(r.w, 0, *s);
        s->d[0] = low_half(r.d);
    }
};

// (d scale) codebook[q]: eight runs with 6-bit scales, four bits in one word and two in a half
struct IQ4_XS {
    static constexpr int LEN = 256, BYTES = 136, SUBS = 1, SCALES = 1, OFFSET = 0;
    static constexpr bool MIN = false;
    struct Raw {
        Words<8, 2> head;
        Words<8, 4> w;
    };
    static __device__ int sub(int unit, int) { return unit; }
    static __device__ Raw load(const uint8_t* b, int j) {
        Raw r;
        r.head.load(b);
        r.w.load(b + 8 + 16 * j);
        return r;
    }
    static __device__ void unpack(const Raw& r, int j, Sub* s) {
        look_up_iq4(r.w, 0, *s);
        const uint32_t low = (r.head[1] >> (4 * j)) & 15, top = (r.head[0] >> (16 + 2 * j)) & 3;
        s->d[0] = low_half(r.head[0]) * (float)((int)(low | (top << 4)) - 32);
    }
};

// 2^(e - 128) codebook[q]; the codebook holds E2M1's values doubled: 0, 1, 2, 3, 4, 6, 8, 12 and their negatives
struct MXFP4 : Blocks32 {
    static constexpr int BYTES = 17;
    static constexpr bool MIN = false;
    struct Raw {
        Words<1, 4> w;
        uint32_t e;
    };
    static __device__ Raw load(const uint8_t* b, int) {
        Raw r;
        r.w.load(b + 1);
        r.e = b[0];
        return r;
    }
    static __device__ void unpack(const Raw& r, int, Sub* s) {
        const uint32_t book[4] = {0x03020100, 0x0c080604, 0xfdfeff00, 0xf4f8fafc};
        look_up_all(book, r.w, 0, *s);
        s->d[0] = bits_to_float(r.e < 2 ? 0x00200000u << r.e : (r.e - 1) << 23);
    }
};
