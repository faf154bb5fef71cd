// What a format tells the kernels: how 32 consecutive elements of a row become integers under one or two scales.
//
// A format is a struct with LEN elements and BYTES bytes of a block; SUBS, how many runs of 32 elements one step
// unpacks (those that share bytes); SCALES, 1 or 2 to a run; MIN, whether elements have an offset; OFFSET, which is not
// zero where that is always d times -OFFSET. `sub(unit, i)` says which run of the block is the i-th of step `unit`,
// `load` loads what a step needs, as a `Raw`, and `unpack` unpacks it: apart, so that a kernel can load early. Rows are
// whole blocks and a weight begins at a multiple of 256, which says how a block is aligned. The layouts are those of
// `src/quant`.
#pragma once

#include "../common.cuh"

// Element i is d[i / 16] * q[i] + m[i / 16], with q four to a word, lowest byte first. Where SCALES is 1 only the first
// of d and m are set, where MIN is false none of m.
struct Sub {
    uint32_t q[8];
    float d[2], m[2];
};

// 16 bytes of nibbles, from word `first` on: elements 0 to 15 are the low ones, 16 to 31 the high ones.
template <class W> __device__ inline void nibbles(const W& w, int first, Sub& s) {
    for (int i = 0; i < 4; i++) {
        const uint32_t word = w[first + i];
        s.q[i] = word & 0x0f0f0f0f;
        s.q[i + 4] = (word >> 4) & 0x0f0f0f0f;
    }
}

// Four bits as the lowest bits of four bytes: the product puts bit k at 7 j + k for each j, which is 8 j where k = j.
__device__ inline uint32_t spread(uint32_t bits) { return ((bits & 15) * 0x00204081) & 0x01010101; }

// Adds the fifth bits of 32 elements in order.
__device__ inline void fifth_bits(uint32_t high, Sub& s) {
    for (int i = 0; i < 8; i++) s.q[i] |= spread(high >> (4 * i)) << 4;
}

// The entries of a codebook of 16 bytes that the eight nibbles of a word name: in `low` those of the low nibbles.
__device__ inline void look_up(const uint32_t* book, uint32_t w, uint32_t& low, uint32_t& high) {
    uint32_t part[2];
    // Three bits choose among eight bytes, in both halves of the codebook; the fourth bit chooses the half.
    const uint32_t half = 0x32103210 | ((w & 0x88888888) >> 1);
    for (int i = 0; i < 2; i++) {
        const uint32_t index = (w >> (16 * i)) & 0x7777;
        const uint32_t first = __byte_perm(book[0], book[1], index);
        const uint32_t second = __byte_perm(book[2], book[3], index);
        part[i] = __byte_perm(first, second, (half >> (16 * i)) & 0x7777);
    }
    low = __byte_perm(part[0], part[1], 0x6420);
    high = __byte_perm(part[0], part[1], 0x7531);
}

// 16 bytes of nibbles that are indices of a codebook, as in `nibbles`.
template <class W> __device__ inline void look_up_all(const uint32_t* book, const W& w, int first, Sub& s) {
    for (int i = 0; i < 4; i++) look_up(book, w[first + i], s.q[i], s.q[i + 4]);
}

// The steps of a row that begins at `row`, counted over its blocks.
template <class F> struct Steps {
    static constexpr uint32_t RUNS = F::LEN / 32, PER_BLOCK = RUNS / F::SUBS;
    static __device__ int unit(uint32_t step) { return (int)(step % PER_BLOCK); }
    // The run of the row that is the i-th of a step.
    static __device__ uint32_t run(uint32_t step, int i) { return step / PER_BLOCK * RUNS + F::sub(unit(step), i); }
    static __device__ typename F::Raw load(const uint8_t* row, uint32_t step) {
        return F::load(row + (uint64_t)(step / PER_BLOCK) * F::BYTES, unit(step));
    }
};
