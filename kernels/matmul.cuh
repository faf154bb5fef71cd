// Many rows of activations through a matrix: tiles of 64 rows of the matrix by 32 of the activations.
//
// A block goes along the inner dimension in steps of 128 (of 32, for floats): it unpacks the weights of the step into
// shared memory once, puts the activations beside them, and each of its 256 threads computes four by two of the
// tile's sums. Rows of shared memory are one word longer than what they hold, so that neighbouring threads use
// different banks.
// What lies beyond the matrix counts as zero. With `tiles` the activations of a tile are slots of one expert.
#pragma once

#include "args.cuh"
#include "dot.cuh"
#include "formats/table.cuh"

constexpr uint32_t MATMUL_THREADS = 256;
constexpr uint32_t TILE_ROWS = 64, TILE_INPUTS = 32;
// Runs of 32 elements of a step, and words of a row in shared memory.
constexpr uint32_t RUNS = 4, ROW_WORDS = RUNS * 8 + 1;

// The inputs of a block: slots `first` to `first + count` (of `order`, where there are tiles).
struct MatmulTile {
    const uint8_t* weight;
    uint32_t first, count;
};

__device__ inline MatmulTile matmul_tile(const MatmulArgs& a, uint64_t row_bytes) {
    MatmulTile t;
    t.weight = a.weight;
    if (a.tiles) {
        const uint4 tile = a.tiles[blockIdx.y];
        t.weight += (uint64_t)tile.x * a.rows * row_bytes;
        t.first = tile.y;
        t.count = tile.z;
    } else {
        t.first = blockIdx.y * TILE_INPUTS;
        t.count = a.n - t.first < TILE_INPUTS ? a.n - t.first : TILE_INPUTS;
    }
    return t;
}

// Which slot is the tile's j-th, and which input it reads.
__device__ inline uint32_t matmul_slot(const MatmulArgs& a, const MatmulTile& t, uint32_t j) {
    return a.tiles ? a.order[t.first + j] : t.first + j;
}

__device__ inline uint32_t matmul_input(const MatmulArgs& a, uint32_t slot) { return a.tiles ? slot / a.share : slot; }

// A thread's sums: rows x + 16 i of the tile, inputs y + 16 j.
__device__ inline void matmul_write(const MatmulArgs& a, const MatmulTile& t, const float sums[4][2]) {
    const uint32_t x = threadIdx.x % 16, y = threadIdx.x / 16;
    for (uint32_t j = 0; j < 2; j++) {
        if (y + 16 * j >= t.count) break;
        const uint64_t slot = matmul_slot(a, t, y + 16 * j);
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t row = blockIdx.x * TILE_ROWS + x + 16 * i;
            if (row >= a.rows) continue;
            const uint64_t at = slot * a.stride + row;
            float y = sums[i][j];
            if (a.bias) y += a.bias[row];
            if (a.residual) y += a.residual[at];
            a.y[at] = y;
        }
    }
}

template <class F> __device__ inline void matmul(const MatmulArgs& a) {
    __shared__ uint32_t weights[TILE_ROWS][ROW_WORDS];
    __shared__ float weight_d[TILE_ROWS][RUNS][2], weight_m[TILE_ROWS][RUNS][2];
    __shared__ uint32_t inputs[TILE_INPUTS][ROW_WORDS];
    __shared__ Scale input_scales[TILE_INPUTS][RUNS];

    constexpr uint32_t BLOCK_RUNS = F::LEN / 32, PER_BLOCK = BLOCK_RUNS / F::SUBS, STEP_UNITS = RUNS / F::SUBS;
    const uint64_t row_bytes = (uint64_t)(a.cols / F::LEN) * F::BYTES;
    const MatmulTile t = matmul_tile(a, row_bytes);
    if (t.count == 0) return;
    const uint32_t runs = a.cols / 32, x = threadIdx.x % 16, y = threadIdx.x / 16;
    const uint32_t first_row = blockIdx.x * TILE_ROWS;

    float sums[4][2] = {};
    for (uint32_t from = 0; from < runs; from += RUNS) {
        for (uint32_t task = threadIdx.x; task < TILE_ROWS * STEP_UNITS; task += MATMUL_THREADS) {
            const uint32_t row = task / STEP_UNITS, step = from / F::SUBS + task % STEP_UNITS;
            const uint32_t block = step / PER_BLOCK, unit = step % PER_BLOCK;
            Sub w[F::SUBS] = {};
            if (first_row + row < a.rows && block * BLOCK_RUNS + F::sub(unit, 0) < runs) {
                F::unpack(t.weight + (first_row + row) * row_bytes + (uint64_t)block * F::BYTES, unit, w);
            }
            for (int i = 0; i < F::SUBS; i++) {
                const uint32_t run = block * BLOCK_RUNS + F::sub(unit, i) - from;
                for (int k = 0; k < 8; k++) weights[row][run * 8 + k] = w[i].q[k];
                for (int k = 0; k < 2; k++) weight_d[row][run][k] = w[i].d[k], weight_m[row][run][k] = w[i].m[k];
            }
        }
        // Eight threads for each of the inputs, half a run each.
        const uint32_t input = threadIdx.x / 8, half = threadIdx.x % 8, run = half / 2;
        uint4 words = {0, 0, 0, 0};
        Scale scale = {0.0f, 0};
        if (input < t.count && from + run < runs) {
            const uint64_t at = (uint64_t)matmul_input(a, matmul_slot(a, t, input)) * runs + from + run;
            words = ((const uint4*)a.q)[at * 2 + half % 2];
            scale = load_scale(a.scales + at);
        }
        uint32_t* to = &inputs[input][half * 4];
        to[0] = words.x, to[1] = words.y, to[2] = words.z, to[3] = words.w;
        if (half % 2 == 0) input_scales[input][run] = scale;
        __syncthreads();
        for (uint32_t r = 0; r < RUNS; r++) {
            for (uint32_t i = 0; i < 4; i++) {
                Sub w;
                for (int k = 0; k < 8; k++) w.q[k] = weights[x + 16 * i][r * 8 + k];
                for (int k = 0; k < 2; k++) w.d[k] = weight_d[x + 16 * i][r][k], w.m[k] = weight_m[x + 16 * i][r][k];
                for (uint32_t j = 0; j < 2; j++) {
                    sums[i][j] += dot<F>(w, &inputs[y + 16 * j][r * 8], input_scales[y + 16 * j][r]);
                }
            }
        }
        __syncthreads();
    }
    matmul_write(a, t, sums);
}

template <class F> __device__ inline void matmul_float(const MatmulArgs& a) {
    constexpr uint32_t STEP = 32;
    __shared__ float weights[TILE_ROWS][STEP + 1];
    __shared__ float inputs[TILE_INPUTS][STEP + 1];
    const uint64_t row_bytes = (uint64_t)a.cols * F::BYTES;
    const MatmulTile t = matmul_tile(a, row_bytes);
    if (t.count == 0) return;
    const uint32_t x = threadIdx.x % 16, y = threadIdx.x / 16;
    const uint32_t first_row = blockIdx.x * TILE_ROWS, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;

    float sums[4][2] = {};
    for (uint32_t from = 0; from < a.cols; from += STEP) {
        const bool inside = from + lane < a.cols;
        for (uint32_t row = warp; row < TILE_ROWS; row += MATMUL_THREADS / WARP) {
            const bool there = inside && first_row + row < a.rows;
            weights[row][lane] = there ? F::at(t.weight + (first_row + row) * row_bytes, from + lane) : 0.0f;
        }
        for (uint32_t input = warp; input < TILE_INPUTS; input += MATMUL_THREADS / WARP) {
            float v = 0.0f;
            if (inside && input < t.count) {
                v = a.x[(uint64_t)matmul_input(a, matmul_slot(a, t, input)) * a.cols + from + lane];
            }
            inputs[input][lane] = v;
        }
        __syncthreads();
        for (uint32_t c = 0; c < STEP; c++) {
            for (uint32_t i = 0; i < 4; i++) {
                for (uint32_t j = 0; j < 2; j++) {
                    sums[i][j] = fmaf(weights[x + 16 * i][c], inputs[y + 16 * j][c], sums[i][j]);
                }
            }
        }
        __syncthreads();
    }
    matmul_write(a, t, sums);
}

#define MATMUL(TYPE, stem)                                                                                            \
    KERNEL(matmul_##stem, MatmulArgs, MATMUL_THREADS) { matmul<TYPE>(a); }

#define MATMUL_FLOAT(TYPE, stem)                                                                                      \
    KERNEL(matmul_##stem, MatmulArgs, MATMUL_THREADS) { matmul_float<TYPE>(a); }
