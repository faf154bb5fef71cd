// One to eight rows of activations through a matrix: a warp for each row of the matrix.
//
// The bytes of the weights are what such a product costs. Lanes take neighbouring steps of a row, so a warp reads one
// stretch of memory at a time, and each step is unpacked once for all rows of activations, which stay in the caches.
// Rows of activations beyond `n` are not computed. The same kernels serve experts, one slot for each blockIdx.y.
#pragma once

#include "args.cuh"
#include "dot.cuh"
#include "formats/table.cuh"

constexpr uint32_t MATVEC_THREADS = 128;

// Where a warp's row of the matrix begins and what it is multiplied with.
struct MatvecRow {
    const uint8_t* weight;
    uint32_t row, slot, input;
};

__device__ inline MatvecRow matvec_row(const MatvecArgs& a, uint64_t row_bytes) {
    MatvecRow r;
    r.row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    r.slot = blockIdx.y;
    r.input = a.ids ? r.slot / a.share : 0;
    const uint64_t expert = a.ids ? a.ids[r.slot] : 0;
    r.weight = a.weight + (expert * a.rows + r.row) * row_bytes;
    return r;
}

// The sums of all lanes, with the bias, to their places; lane j writes input j.
template <int N> __device__ inline void matvec_write(const MatvecArgs& a, const MatvecRow& r, const float* sums) {
    const uint32_t lane = threadIdx.x % WARP;
    for (uint32_t j = 0; j < N; j++) {
        const float y = warp_sum(sums[j]);
        if (lane == j && j < a.n) a.y[(uint64_t)(r.slot + j) * a.rows + r.row] = a.bias ? y + a.bias[r.row] : y;
    }
}

template <class F, int N> __device__ inline void matvec(const MatvecArgs& a) {
    constexpr uint32_t PER_BLOCK = F::LEN / 32 / F::SUBS;
    const MatvecRow r = matvec_row(a, (uint64_t)(a.cols / F::LEN) * F::BYTES);
    if (r.row >= a.rows) return;
    const uint32_t runs = a.cols / 32;
    const uint4* q = (const uint4*)a.q + (uint64_t)r.input * runs * 2;
    const Scale* scales = a.scales + (uint64_t)r.input * runs;

    float sums[N] = {};
    for (uint32_t step = threadIdx.x % WARP; step < runs / F::SUBS; step += WARP) {
        const uint32_t block = step / PER_BLOCK, unit = step % PER_BLOCK;
        Sub w[F::SUBS];
        F::unpack(r.weight + (uint64_t)block * F::BYTES, unit, w);
        for (int i = 0; i < F::SUBS; i++) {
            const uint32_t run = block * (F::LEN / 32) + F::sub(unit, i);
            for (uint32_t j = 0; j < N; j++) {
                if (j >= a.n) break;
                const uint64_t at = (uint64_t)j * runs + run;
                const uint4 low = q[2 * at], high = q[2 * at + 1];
                const uint32_t x[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
                sums[j] += dot<F>(w[i], x, load_scale(scales + at));
            }
        }
    }
    matvec_write<N>(a, r, sums);
}

template <class F, int N> __device__ inline void matvec_float(const MatvecArgs& a) {
    const MatvecRow r = matvec_row(a, (uint64_t)a.cols * F::BYTES);
    if (r.row >= a.rows) return;
    const uint32_t lane = threadIdx.x % WARP;
    const float* x = a.x + (uint64_t)r.input * a.cols;

    float sums[N] = {};
    if (a.cols % 8 == 0) {
        for (uint32_t c = lane * 8; c < a.cols; c += WARP * 8) {
            float w[8];
            F::load8(r.weight + (uint64_t)c * F::BYTES, w);
            for (uint32_t j = 0; j < N; j++) {
                if (j >= a.n) break;
                const float4* from = (const float4*)(x + (uint64_t)j * a.cols + c);
                const float4 low = from[0], high = from[1];
                const float v[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
                for (int i = 0; i < 8; i++) sums[j] = fmaf(w[i], v[i], sums[j]);
            }
        }
    } else {
        for (uint32_t c = lane; c < a.cols; c += WARP) {
            const float w = F::at(r.weight, c);
            for (uint32_t j = 0; j < N; j++) {
                if (j < a.n) sums[j] = fmaf(w, x[(uint64_t)j * a.cols + c], sums[j]);
            }
        }
    }
    matvec_write<N>(a, r, sums);
}

// Kernels of one format for one, up to four and up to eight rows.
#define MATVEC(TYPE, stem)                                                                                            \
    KERNEL(matvec_##stem##_1, MatvecArgs, MATVEC_THREADS) { matvec<TYPE, 1>(a); }                                     \
    KERNEL(matvec_##stem##_4, MatvecArgs, MATVEC_THREADS) { matvec<TYPE, 4>(a); }                                     \
    KERNEL(matvec_##stem##_8, MatvecArgs, MATVEC_THREADS) { matvec<TYPE, 8>(a); }

#define MATVEC_FLOAT(TYPE, stem)                                                                                      \
    KERNEL(matvec_##stem##_1, MatvecArgs, MATVEC_THREADS) { matvec_float<TYPE, 1>(a); }                               \
    KERNEL(matvec_##stem##_4, MatvecArgs, MATVEC_THREADS) { matvec_float<TYPE, 4>(a); }                               \
    KERNEL(matvec_##stem##_8, MatvecArgs, MATVEC_THREADS) { matvec_float<TYPE, 8>(a); }
