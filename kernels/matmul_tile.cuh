// Which rows of activations a block of a product works on.
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
