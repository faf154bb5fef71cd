// Formats whose nibbles name entries of a codebook: IQ4_NL, IQ4_XS, MXFP4.
#pragma once

#include "legacy.cuh"

// -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113
__device__ inline void look_up_iq4(const uint32_t* w, Sub& s) {
    const uint32_t book[4] = {0xbfad9881, 0xf6eaddcf, 0x26190d01, 0x71594535};
    look_up_all(book, w, s);
}

// d codebook[q], laid out as Q4_0
struct IQ4_NL : Blocks32 {
    static constexpr int BYTES = 18, ALIGN = 2;
    static constexpr bool MIN = false;
    static __device__ void unpack(const uint8_t* b, int, Sub* s) {
        uint32_t w[4];
        load_words<ALIGN, 4>(b + 2, w);
        look_up_iq4(w, *s);
        s->d[0] = half_at(b);
    }
};

// (d scale) codebook[q]: eight runs with 6-bit scales, four bits in one word and two in a half
struct IQ4_XS {
    static constexpr int LEN = 256, BYTES = 136, ALIGN = 8, SUBS = 1, SCALES = 1;
    static constexpr bool MIN = false;
    static __device__ int sub(int unit, int) { return unit; }
    static __device__ void unpack(const uint8_t* b, int j, Sub* s) {
        uint32_t head[2], w[4];
        load_words<ALIGN, 2>(b, head);
        load_words<ALIGN, 4>(b + 8 + 16 * j, w);
        look_up_iq4(w, *s);
        const uint32_t low = (head[1] >> (4 * j)) & 15, top = (head[0] >> (16 + 2 * j)) & 3;
        s->d[0] = half_to_float((uint16_t)head[0]) * (float)((int)(low | (top << 4)) - 32);
    }
};

// 2^(e - 128) codebook[q]; the codebook holds E2M1's values doubled: 0, 1, 2, 3, 4, 6, 8, 12 and their negatives
struct MXFP4 : Blocks32 {
    static constexpr int BYTES = 17, ALIGN = 1;
    static constexpr bool MIN = false;
    static __device__ void unpack(const uint8_t* b, int, Sub* s) {
        const uint32_t book[4] = {0x03020100, 0x0c080604, 0xfdfeff00, 0xf4f8fafc};
        uint32_t w[4];
        load_words<ALIGN, 4>(b + 1, w);
        look_up_all(book, w, *s);
        const uint32_t e = b[0];
        s->d[0] = bits_to_float(e < 2 ? 0x00200000u << e : (e - 1) << 23);
    }
};
