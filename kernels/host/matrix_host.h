// Products of small matrices by a warp, for a host compiler (`intrinsics.cuh` says what a lane holds of each).
//
// Each lane gives its words of a and b, waits for the others, and computes its own four elements of d: element (r, c)
// of a product needs row r of a, which is with the four lanes 4 (r % 8) to 4 (r % 8) + 3, and column c of b, which is
// with lanes 4 c to 4 c + 3. `tests/cuda/matrices.rs` compares these with plain products of whole matrices, which it
// cuts up by the formulas of the PTX document; so nothing here can agree with a kernel's mistake alone.
#pragma once

// Sum of the products of four bytes.
AIR_UNCHECKED inline int air_dot4(uint32_t a, uint32_t b) {
    int sum = 0;
    for (int i = 0; i < 4; i++) sum += (int8_t)(a >> (8 * i)) * (int8_t)(b >> (8 * i));
    return sum;
}

// d[0], d[1] are of the lane's own row g, d[2], d[3] of g + 8, whose words are the odd ones of a. PARTS is how often
// the four lanes of a row hold four bytes of it.
template <int PARTS> AIR_UNCHECKED inline void air_mma_s8(int* d, const uint32_t* a, const uint32_t* b, const int* c) {
    uint32_t words[3 * PARTS];
    for (int i = 0; i < 2 * PARTS; i++) words[i] = a[i];
    for (int i = 0; i < PARTS; i++) words[2 * PARTS + i] = b[i];
    const uint32_t* all = air_exchange(0xffffffffu, words, 3 * PARTS);
    const uint32_t lane = threadIdx.x % 32, row = lane / 4, column = lane % 4 * 2;
    for (uint32_t e = 0; e < 4; e++) {
        uint32_t sum = (uint32_t)c[e];
        for (uint32_t t = 0; t < 4; t++) {
            const uint32_t* of_a = all + (4 * row + t) * AIR_WORDS;
            const uint32_t* of_b = all + (4 * (column + e % 2) + t) * AIR_WORDS;
            for (int p = 0; p < PARTS; p++) {
                sum += (uint32_t)air_dot4(of_a[2 * p + e / 2], of_b[2 * PARTS + p]);
            }
        }
        d[e] = (int)sum;
    }
}

inline void mma_s8_32(int* d, const uint32_t* a, const uint32_t* b, const int* c) { air_mma_s8<2>(d, a, b, c); }
inline void mma_s8_16(int* d, const uint32_t* a, const uint32_t* b, const int* c) { air_mma_s8<1>(d, a, b, c); }

inline uint32_t pack_halves(float low, float high) {
    return (uint32_t)float_to_half(low) | (uint32_t)float_to_half(high) << 16;
}

// Rounds to nearest, ties to even; a NaN stays one.
inline uint32_t air_bfloat(float x) {
    const uint32_t bits = __float_as_uint(x);
    return x != x ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}

inline uint32_t pack_bfloats(float low, float high) { return air_bfloat(low) | air_bfloat(high) << 16; }

inline float air_f16(uint32_t bits) { return half_to_float((uint16_t)bits); }
inline float air_bf16(uint32_t bits) { return __uint_as_float(bits << 16); }

// The same of two numbers of 16 bits in each word; sums are floats.
template <float (*NUMBER)(uint32_t)>
AIR_UNCHECKED inline void air_mma_16(float* d, const uint32_t* a, const uint32_t* b) {
    const uint32_t words[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const uint32_t* all = air_exchange(0xffffffffu, words, 6);
    const uint32_t lane = threadIdx.x % 32, row = lane / 4, column = lane % 4 * 2;
    // The lane's two rows of a and two columns of b.
    float rows[2][16], columns[2][16];
    for (uint32_t i = 0; i < 2; i++) {
        for (uint32_t t = 0; t < 8; t++) {
            const uint32_t of_a = all[(4 * row + t % 4) * AIR_WORDS + t / 4 * 2 + i];
            const uint32_t of_b = all[(4 * (column + i) + t % 4) * AIR_WORDS + 4 + t / 4];
            rows[i][2 * t] = NUMBER(of_a & 0xffff), rows[i][2 * t + 1] = NUMBER(of_a >> 16);
            columns[i][2 * t] = NUMBER(of_b & 0xffff), columns[i][2 * t + 1] = NUMBER(of_b >> 16);
        }
    }
    for (uint32_t e = 0; e < 4; e++) {
        for (uint32_t k = 0; k < 16; k++) d[e] += rows[e / 2][k] * columns[e % 2][k];
    }
}

inline void mma_f16(float* d, const uint32_t* a, const uint32_t* b) { air_mma_16<air_f16>(d, a, b); }
inline void mma_bf16(float* d, const uint32_t* a, const uint32_t* b) { air_mma_16<air_bf16>(d, a, b); }

// The rows of all lanes.
inline const uint16_t* air_row(const uint32_t* all, uint32_t lane) {
    const uint16_t* row;
    memcpy(&row, all + lane * AIR_WORDS, sizeof row);
    return row;
}

inline void load_turned_matrices(uint32_t* out, const void* row) {
    uint32_t words[2];
    if ((uintptr_t)row % 16) air_fail("a matrix's row in shared memory is not aligned to 16 bytes");
    memcpy(words, &row, 8);
    const uint32_t* all = air_exchange(0xffffffffu, words, 2);
    const uint32_t lane = threadIdx.x % 32, first = lane % 4 * 2;
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t low = air_row(all, 8 * i + first)[lane / 4];
        out[i] = low | (uint32_t)air_row(all, 8 * i + first + 1)[lane / 4] << 16;
    }
}

inline void load_matrices(uint32_t* out, const void* row) {
    uint32_t words[2];
    if ((uintptr_t)row % 16) air_fail("a matrix's row in shared memory is not aligned to 16 bytes");
    memcpy(words, &row, 8);
    const uint32_t* all = air_exchange(0xffffffffu, words, 2);
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t i = 0; i < 4; i++) {
        memcpy(&out[i], air_row(all, 8 * i + lane / 4) + lane % 4 * 2, 4);
    }
}

inline void copy_16(void* to, const void* from, bool there) {
    if (((uintptr_t)to | (uintptr_t)from) % 16) air_fail("a copy is not aligned to 16 bytes");
    air_copy_16(to, from, there);
}

inline void copies_done() { air_copies_done(); }
