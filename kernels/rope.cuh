// Rotary embedding of one pair of elements.
//
// An angle is the position times a frequency, in float64, and is brought into one turn before it is rounded: a position
// of a hundred thousand would leave float32 two digits of the angle. Interpolation is part of the frequencies.
#pragma once

#include "args.cuh"

struct Turn {
    float sine, cosine;
};

__device__ inline Turn turn_of(uint32_t position, double frequency, float magnitude) {
    const double angle = (double)position * frequency;
    const float turn = (float)(angle - rint(angle * 0.15915494309189535) * 6.283185307179586);
    return {sinf(turn) * magnitude, cosf(turn) * magnitude};
}

// Where the elements of pair i of `dims / 2` stand in a head.
__device__ inline uint32_t pair_low(uint32_t i, uint32_t half_split) { return half_split ? i : 2 * i; }
__device__ inline uint32_t pair_high(uint32_t i, uint32_t half, uint32_t half_split) {
    return half_split ? i + half : 2 * i + 1;
}

__device__ inline void turn_pair(const float* x, float* out, uint32_t low, uint32_t high, Turn t) {
    const float u = x[low], v = x[high];
    out[low] = u * t.cosine - v * t.sine;
    out[high] = u * t.sine + v * t.cosine;
}
