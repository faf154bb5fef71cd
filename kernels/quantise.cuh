// One block of 32 activations in eight bits, under one float scale, with the sums of both halves.
//
// A block with a NaN or an infinity gets a scale that is one, so the product is one too; a block whose elements are all
// below 1e-30 counts as zero.
#pragma once

#include "args.cuh"

// Larger of two magnitudes; a NaN stays.
__device__ inline float larger(float a, float b) { return a > b || a != a ? a : b; }

// The factor that brings a block whose largest magnitude is `most` to integers, and back; both zero for no block.
__device__ inline float to_integers(float most) { return most < 1e-30f ? 0.0f : 127.0f / most; }
__device__ inline float from_integers(float most) { return most < 1e-30f ? 0.0f : most / 127.0f; }

// The bounds make an integer of a NaN too.
__device__ inline int to_integer(float x, float factor) {
    return __float2int_rn(fminf(fmaxf(x * factor, -127.0f), 127.0f));
}

__device__ inline Scale scale_of(float most, int first, int second) {
    Scale s;
    s.d = from_integers(most);
    s.sums = ((uint32_t)first & 0xffff) | (uint32_t)second << 16;
    return s;
}

// A warp's 32 elements, one a lane, to a block's place.
__device__ inline void quantise_warp(float x, uint8_t* q, Scale* scale) {
    const uint32_t lane = threadIdx.x % WARP;
    float most = fabsf(x);
    for (int step = 16; step > 0; step /= 2) most = larger(most, __shfl_xor_sync(ALL_LANES, most, step));
    const int integer = to_integer(x, to_integers(most));
    int sum = integer;
    for (int step = 8; step > 0; step /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, step);
    const int second = __shfl_xor_sync(ALL_LANES, sum, 16);
    q[lane] = (uint8_t)integer;
    if (lane == 0) *scale = scale_of(most, sum, second);
}
