// What the products with many rows of activations share: which of them a block works on, how a tile lies in shared
// memory, and how its sums lie in registers and are written.
#pragma once

#include "args.cuh"

// The inputs of a block: slots `first` to `first + count` (of `order`, where there are tiles).
struct MatmulTile {
    const uint8_t* weight;
    uint32_t first, count;
};

__device__ inline MatmulTile matmul_tile(const MatmulArgs& a, uint64_t row_bytes, uint32_t inputs) {
    MatmulTile t;
    t.weight = a.weight;
    if (a.tiles) {
        const uint4 tile = a.tiles[blockIdx.y];
        t.weight += (uint64_t)tile.x * a.rows * row_bytes;
        t.first = tile.y;
        t.count = tile.z;
    } else {
        t.first = blockIdx.y * inputs;
        t.count = a.n - t.first < inputs ? a.n - t.first : inputs;
    }
    return t;
}

// Which slot is the tile's j-th, and which input it reads.
__device__ inline uint32_t matmul_slot(const MatmulArgs& a, const MatmulTile& t, uint32_t j) {
    return a.tiles ? a.order[t.first + j] : t.first + j;
}

__device__ inline uint32_t matmul_input(const MatmulArgs& a, uint32_t slot) { return a.tiles ? slot / a.share : slot; }

// Bytes of a row of a tile in shared memory: those of one step along the inner dimension.
constexpr uint32_t STEP_BYTES = 128;

// Part `part` of such a row, 16 bytes: it lies at part ^ (row % 8), so that eight rows that are read or written at the
// same part use different banks.
__device__ inline uint8_t* matmul_part(uint8_t* rows, uint32_t row, uint32_t part) {
    return rows + row * STEP_BYTES + (part ^ (row % 8)) * 16;
}

// A lane's part of a warp's 32 rows by half the tile's activations: of each 16 activations in two blocks of eight, and
// of the rows in two of sixteen, four sums as `mma` has them.
struct MatmulSums {
    float of[4][2][2][4];
};

// Writes a warp's sums; where rows of activations were scaled by POWERS, back again.
template <bool POWERS>
__device__ inline void matmul_write(const MatmulArgs& a, const MatmulTile& t, uint32_t first_row,
                                    const MatmulSums& sums) {
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll
    for (uint32_t i = 0; i < 4 * 2 * 2; i++) {
        const uint32_t j = i / 4, block = i / 2 % 2, which = i % 2, first = 16 * (2 * j + warp % 2) + 8 * block;
        for (uint32_t e = 0; e < 4; e++) {
            const uint32_t input = first + lane % 4 * 2 + e % 2;
            const uint32_t row = first_row + warp / 2 * 32 + 16 * which + lane / 4 + e / 2 * 8;
            if (input >= t.count || row >= a.rows) continue;
            const uint32_t slot = matmul_slot(a, t, input);
            const uint64_t at = (uint64_t)slot * a.stride + row;
            float y = sums.of[j][block][which][e];
            if (POWERS) y *= ((const Powers*)a.scales)[matmul_input(a, slot)].up;
            if (a.bias) y += a.bias[row];
            if (a.residual) y += a.residual[at];
            a.y[at] = y;
        }
    }
}
