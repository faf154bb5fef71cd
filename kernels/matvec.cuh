// One to eight rows of activations through a matrix: a warp for each row of the matrix.
//
// The bytes of the weights are what such a product costs. Lanes take neighbouring steps of a row, so a warp reads one
// stretch of memory at a time, and each step is unpacked once for all rows of activations, which stay in the caches.
// Rows of activations beyond `n` are not computed. The same kernels serve experts, one slot for each blockIdx.y, and
// several matrices with one input, whose rows follow one another.
#pragma once

#include "args.cuh"
#include "dot.cuh"
#include "formats/table.cuh"

constexpr uint32_t MATVEC_THREADS = 128;

// What a warp computes: a row of a matrix (the first, or one more) with the inputs from `input` on, for the slots from
// `slot` on. What else is the matrix's is looked up where it is needed (`of_matrix`): in registers it would cost warps.
struct MatvecRow {
    uint32_t matrix, row, rows, slot, input;
    // Of the row, in bytes of the weights.
    uint64_t offset;
};

template <class T> __device__ inline T of_matrix(uint32_t matrix, T first, T second, T third) {
    return matrix == 0 ? first : matrix == 1 ? second : third;
}

__device__ inline MatvecRow matvec_row(const MatvecArgs& a, uint64_t row_bytes) {
    MatvecRow r;
    r.matrix = 0;
    r.row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    r.rows = a.rows;
    while (r.matrix < 2 && r.row >= r.rows) {
        r.row -= r.rows;
        r.matrix++;
        r.rows = of_matrix(r.matrix, a.rows, a.more[0].rows, a.more[1].rows);
    }
    r.slot = blockIdx.y;
    r.input = a.ids ? r.slot / a.share : 0;
    const uint64_t expert = a.ids ? a.ids[r.slot] : 0;
    r.offset = (expert * a.rows + r.row) * row_bytes;
    return r;
}

// A lane's part of the sums of a row of the matrix with each of `n` inputs.
template <class F, int N> struct Integers {
    static __device__ uint64_t row_bytes(uint32_t cols) { return (uint64_t)(cols / F::LEN) * F::BYTES; }
    static __device__ void sums(const MatvecArgs& a, const uint8_t* weight, uint32_t input, float* sums) {
        const uint32_t runs = a.cols / 32;
        const uint4* q = (const uint4*)a.q + (uint64_t)input * runs * 2;
        const Scale* scales = a.scales + (uint64_t)input * runs;
        for (uint32_t step = threadIdx.x % WARP; step < runs / F::SUBS; step += WARP) {
            Sub w[F::SUBS];
            F::unpack(Steps<F>::load(weight, step), Steps<F>::unit(step), w);
            for (int i = 0; i < F::SUBS; i++) {
                const uint32_t run = Steps<F>::run(step, i);
                for (uint32_t j = 0; j < N; j++) {
                    if (j >= a.n) break;
                    const uint64_t at = (uint64_t)j * runs + run;
                    const uint4 low = q[2 * at], high = q[2 * at + 1];
                    const uint32_t x[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
                    sums[j] += dot<F>(w[i], x, load_scale(scales + at));
                }
            }
        }
    }
};

template <class F, int N> struct Floats {
    static __device__ uint64_t row_bytes(uint32_t cols) { return (uint64_t)cols * F::BYTES; }
    static __device__ void sums(const MatvecArgs& a, const uint8_t* weight, uint32_t input, float* sums) {
        const uint32_t lane = threadIdx.x % WARP;
        const float* x = a.x + (uint64_t)input * a.cols;
        if (a.cols % 8 == 0) {
            for (uint32_t c = lane * 8; c < a.cols; c += WARP * 8) {
                float w[8];
                F::load8(weight + (uint64_t)c * F::BYTES, w);
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
                const float w = F::at(weight, c);
                for (uint32_t j = 0; j < N; j++) {
                    if (j < a.n) sums[j] = fmaf(w, x[(uint64_t)j * a.cols + c], sums[j]);
                }
            }
        }
    }
};

// Lane j finishes and writes input j. A gate is a first round, whose sums each lane keeps.
template <class Kind, int N> __device__ inline void matvec(const MatvecArgs& a) {
    const MatvecRow r = matvec_row(a, Kind::row_bytes(a.cols));
    if (r.row >= r.rows) return;
    const uint32_t lane = threadIdx.x % WARP, rounds = a.up ? 2 : 1;
    float gate = 0.0f, y = 0.0f;
    for (uint32_t round = 0; round < rounds; round++) {
        gate = y;
        float sums[N] = {};
        const uint8_t* weight = of_matrix(r.matrix, a.weight, a.more[0].weight, a.more[1].weight);
        Kind::sums(a, (round ? a.up : weight) + r.offset, r.input, sums);
        for (uint32_t j = 0; j < N; j++) {
            const float sum = warp_sum(sums[j]);
            if (lane == j) y = sum;
        }
    }
    if (lane >= a.n) return;
    const float* bias = of_matrix(r.matrix, a.bias, a.more[0].bias, a.more[1].bias);
    const uint32_t stride = of_matrix(r.matrix, a.stride, a.more[0].rows, a.more[1].rows);
    const uint64_t at = (uint64_t)(r.slot + lane) * stride + r.row;
    if (a.up) y = gate / (1.0f + expf(-gate)) * y;
    if (bias) y += bias[r.row];
    if (a.residual) y += a.residual[at];
    of_matrix(r.matrix, a.y, a.more[0].y, a.more[1].y)[at] = y;
}

// Kernels of one format for one, up to four and up to eight rows.
#define MATVEC_KERNELS(KIND, TYPE, stem)                                                                              \
    KERNEL(matvec_##stem##_1, MatvecArgs, MATVEC_THREADS) { matvec<KIND<TYPE, 1>, 1>(a); }                            \
    KERNEL(matvec_##stem##_4, MatvecArgs, MATVEC_THREADS) { matvec<KIND<TYPE, 4>, 4>(a); }                            \
    KERNEL(matvec_##stem##_8, MatvecArgs, MATVEC_THREADS) { matvec<KIND<TYPE, 8>, 8>(a); }

#define MATVEC(TYPE, stem) MATVEC_KERNELS(Integers, TYPE, stem)
#define MATVEC_FLOAT(TYPE, stem) MATVEC_KERNELS(Floats, TYPE, stem)
