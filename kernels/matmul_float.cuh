// Many rows of activations through a matrix of floats: tiles of 64 rows of the matrix by 32 of the activations.
//
// A block goes along the inner dimension in steps of 32, puts weights and activations into shared memory as floats, and
// each of its 256 threads computes four by two of the tile's sums. Rows of shared memory are one word longer than what
// they hold, so that neighbouring threads use different banks. What lies beyond the matrix counts as zero.
#pragma once

#include "formats/floats.cuh"
#include "matmul_tile.cuh"

constexpr uint32_t MATMUL_THREADS = 256;
constexpr uint32_t TILE_ROWS = 64, TILE_INPUTS = 32;

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

template <class F> __device__ inline void matmul_float(const MatmulArgs& a) {
    constexpr uint32_t STEP = 32;
    __shared__ float weights[TILE_ROWS][STEP + 1];
    __shared__ float inputs[TILE_INPUTS][STEP + 1];
    const uint64_t row_bytes = (uint64_t)a.cols * F::BYTES;
    const MatmulTile t = matmul_tile(a, row_bytes, TILE_INPUTS);
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

#define MATMUL_FLOAT(TYPE, stem)                                                                                      \
    KERNEL(matmul_##stem, MatmulArgs, MATMUL_THREADS) { matmul_float<TYPE>(a); }
