// Many rows of activations through a matrix of half floats, by the tensor cores.
//
// Tiles, warps and the two halves of shared memory are those of `matmul.cuh`; a step is 64 elements, which are 128
// bytes too. Weights are copied as they lie, by themselves. Activations are rounded to the weights' format on their
// way, so their error is the rounding's: 2^-11 of an element at most, 2^-8 for bfloat16. A float16 ends at 65504, so a
// row of activations is scaled by a power of two, which `row_powers` finds, and the sums back by another.
#pragma once

#include "formats/floats.cuh"
#include "matmul_tile.cuh"

// How products take elements of a format.
struct TakesF16 {
    static constexpr bool POWERS = true;
    static __device__ uint32_t pack(float low, float high) { return pack_halves(low, high); }
    static __device__ void mma(float* d, const uint32_t* a, const uint32_t* b) { mma_f16(d, a, b); }
};

struct TakesBF16 {
    static constexpr bool POWERS = false;
    static __device__ uint32_t pack(float low, float high) { return pack_bfloats(low, high); }
    static __device__ void mma(float* d, const uint32_t* a, const uint32_t* b) { mma_bf16(d, a, b); }
};

// Elements of a step.
constexpr uint32_t HALVES = STEP_BYTES / 2;

struct HalfStage {
    uint8_t *weights, *inputs;
    __device__ static HalfStage at(uint32_t which) {
        const uint32_t tile = blockDim.x / 2;
        HalfStage s;
        s.weights = dynamic_shared() + which * 2 * tile * STEP_BYTES;
        s.inputs = s.weights + tile * STEP_BYTES;
        return s;
    }
};

// The part of every step that a thread brings: eight elements of four rows, and of four activations.
template <class H> struct HalfCarrier {
    uint32_t cols, rows, inputs;
    const uint8_t *weights, *weight[4];
    const float* input[4];
    float down[4], x[4][8];

    __device__ static uint32_t row(uint32_t i) { return threadIdx.x / 8 + i * (blockDim.x / 8); }

    __device__ HalfCarrier(const MatmulArgs& a, const MatmulTile& t, uint32_t first_row, uint64_t row_bytes) {
        cols = a.cols, rows = a.rows - first_row, inputs = t.count, weights = t.weight;
        for (uint32_t i = 0; i < 4; i++) {
            weight[i] = t.weight + (first_row + row(i)) * row_bytes;
            const uint32_t from = matmul_input(a, matmul_slot(a, t, row(i) < inputs ? row(i) : 0));
            input[i] = a.x + (uint64_t)from * cols;
            down[i] = H::POWERS ? ((const Powers*)a.scales)[from].down : 1.0f;
        }
    }

    // Elements from `from` on set out for `to`.
    __device__ void begin(const HalfStage& to, uint32_t from) {
        const uint32_t part = threadIdx.x % 8, first = from + 8 * part;
        // Where rows are not multiples of 16 bytes, elements come one by one.
        const bool whole = cols % 8 == 0;
        for (uint32_t i = 0; i < 4; i++) {
            uint8_t* at = matmul_part(to.weights, row(i), part);
            const bool there = row(i) < rows && first < cols;
            if (whole) {
                copy_16(at, there ? weight[i] + 2 * first : weights, there);
            } else {
                uint32_t w[4] = {};
                for (uint32_t k = 0; k < 8; k++) {
                    if (there && first + k < cols) w[k / 2] |= half_bits(weight[i] + 2 * (first + k)) << (16 * (k % 2));
                }
                *(uint4*)at = make_uint4(w[0], w[1], w[2], w[3]);
            }
        }
        for (uint32_t i = 0; i < 4; i++) {
            if (row(i) >= inputs) continue;
            if (whole && first < cols) load_floats<8>(input[i] + first, x[i]);
            for (uint32_t k = 0; k < 8 && !(whole && first < cols); k++) {
                x[i][k] = first + k < cols ? input[i][first + k] : 0.0f;
            }
        }
    }

    // What has set out arrives.
    __device__ void end(const HalfStage& to) {
        for (uint32_t i = 0; i < 4; i++) {
            if (row(i) >= inputs) continue;
            uint32_t w[4];
            for (uint32_t k = 0; k < 4; k++) w[k] = H::pack(x[i][2 * k] * down[i], x[i][2 * k + 1] * down[i]);
            *(uint4*)matmul_part(to.inputs, row(i), threadIdx.x % 8) = make_uint4(w[0], w[1], w[2], w[3]);
        }
        copies_done();
    }
};

// Sixteen elements of a stage with the first `count` activations of a tile, or with all of 128.
template <class H, bool ALL>
__device__ inline void half_products(const HalfStage& s, uint32_t run, uint32_t count, MatmulSums& sums) {
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, row = warp / 2 * 32, first = warp % 2 * 16;
    const uint8_t* weights = matmul_part(s.weights, row + lane % 16, 2 * run + lane / 16);
    const uint8_t* inputs = matmul_part(s.inputs, first + lane % 8 + lane / 16 * 8, 2 * run + lane / 8 % 2);
    uint32_t w[2][4];
    for (uint32_t i = 0; i < 2; i++) load_matrices(w[i], weights + 16 * i * STEP_BYTES);
#pragma unroll
    for (uint32_t j = 0; j < 4; j++) {
        if (!ALL && first + 32 * j >= count) break;
        uint32_t x[4];
        load_matrices(x, inputs + 32 * j * STEP_BYTES);
        for (uint32_t i = 0; i < 4; i++) H::mma(sums.of[j][i / 2][i % 2], w[i % 2], x + i / 2 * 2);
    }
}

template <class H> __device__ inline void matmul_half(const MatmulArgs& a) {
    const uint32_t tile = blockDim.x / 2, first_row = blockIdx.x * tile;
    const uint64_t row_bytes = (uint64_t)a.cols * 2;
    const MatmulTile t = matmul_tile(a, row_bytes, tile);
    if (t.count == 0) return;
    HalfCarrier<H> carrier(a, t, first_row, row_bytes);
    MatmulSums sums = {};
    carrier.begin(HalfStage::at(0), 0);
    carrier.end(HalfStage::at(0));
    __syncthreads();
    for (uint32_t from = 0, which = 0; from < a.cols; from += HALVES, which ^= 1) {
        const HalfStage now = HalfStage::at(which), next = HalfStage::at(which ^ 1);
        const bool more = from + HALVES < a.cols;
        if (more) carrier.begin(next, from + HALVES);
#pragma unroll
        for (uint32_t run = 0; run < HALVES / 16; run++) {
            if (t.count > 96) half_products<H, true>(now, run, t.count, sums);
            else half_products<H, false>(now, run, t.count, sums);
        }
        if (more) carrier.end(next);
        __syncthreads();
    }
    matmul_write<H::POWERS>(a, t, first_row, sums);
}

#define MATMUL_HALF(TAKES, stem)                                                                                      \
    KERNEL(matmul_##stem, MatmulArgs, 256) { matmul_half<TAKES>(a); }
