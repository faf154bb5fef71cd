// Many rows of activations through a quantised matrix, by the tensor cores' products of bytes.
//
// A block of 2 t threads (t is 32, 64 or 128) computes a tile of t rows of the matrix by t of the activations and goes
// along the inner dimension in steps of four runs of 32. While its warps multiply one step, the next one comes: the
// bytes of the weights into registers, activations into shared memory by themselves. Behind the products the weights
// are unpacked into shared memory, once for the whole tile, so there are two halves of it and one barrier a step.
//
// A warp has 32 rows and every other 16 activations. The products of a run of 32 are summed as integers, exactly; each
// sum then goes through the scales of its row and its activations, and runs are added in order: what a sum is does not
// depend on the tile. An integer becomes a float without being converted, which costs four times a product: the tensor
// cores add it to the bits of 1.5 2^23, and the multiplication by the scale, d, takes d 1.5 2^23 away again, which is
// exact: scales have at most 19 bits.
#pragma once

#include "formats/table.cuh"
#include "matmul_tile.cuh"

// Runs of a step.
constexpr uint32_t RUNS = STEP_BYTES / 32;
// 1.5 2^23, and its bits.
constexpr float BIG = 12582912.0f;
constexpr int BIG_BITS = 0x4b400000;
// Scales of a run follow those of the run before at this many rows more than there are, in other banks.
constexpr uint32_t APART = 8;

// One half of a block's shared memory. The backend computes the same size.
template <class F> struct Stage {
    // Where an offset is a multiple of the scale, the integers have it.
    static constexpr bool MIN = F::MIN && F::OFFSET == 0;
    // Floats beside a run: scales and offsets of a row; scale of an activation, and its sums.
    static constexpr uint32_t OF_ROW = F::SCALES * (MIN ? 2 : 1), OF_INPUT = MIN ? 2 * F::SCALES : 1;

    uint32_t tile;
    uint8_t *weights, *inputs;
    float *of_rows, *of_inputs;

    __device__ static Stage at(uint32_t which) {
        Stage s;
        s.tile = blockDim.x / 2;
        const uint32_t of_runs = RUNS * (s.tile + APART) * 4;
        s.weights = dynamic_shared() + which * (2 * s.tile * STEP_BYTES + of_runs * (OF_ROW + OF_INPUT));
        s.inputs = s.weights + s.tile * STEP_BYTES;
        s.of_rows = (float*)(s.inputs + s.tile * STEP_BYTES);
        s.of_inputs = s.of_rows + of_runs / 4 * OF_ROW;
        return s;
    }
    __device__ float* of_row(uint32_t run, uint32_t row) const {
        return of_rows + (run * (tile + APART) + row) * OF_ROW;
    }
    __device__ float* of_input(uint32_t run, uint32_t input) const {
        return of_inputs + (run * (tile + APART) + input) * OF_INPUT;
    }
};

// The part of every step that a thread brings: runs of weights, and two runs of activations.
template <class F> struct Carrier {
    // Steps of the format in a row of a step, and how many of those a thread has.
    static constexpr uint32_t UNITS = RUNS / F::SUBS, MINE = UNITS / 2;

    uint32_t runs, rows, inputs;
    const uint8_t* weight[MINE];
    uint64_t input[2];
    const uint4* q;
    const Scale* scales;
    typename F::Raw raw[MINE];
    Scale scale[2];

    __device__ static uint32_t row(uint32_t i) { return threadIdx.x / UNITS + i * (blockDim.x / UNITS); }
    __device__ static uint32_t input_of(uint32_t i) { return threadIdx.x / RUNS + i * (blockDim.x / RUNS); }

    __device__ Carrier(const MatmulArgs& a, const MatmulTile& t, uint32_t first_row, uint64_t row_bytes) {
        runs = a.cols / 32, rows = a.rows - first_row, inputs = t.count;
        q = (const uint4*)a.q, scales = a.scales;
        for (uint32_t i = 0; i < MINE; i++) weight[i] = t.weight + (first_row + row(i)) * row_bytes;
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t j = input_of(i) < inputs ? input_of(i) : 0;
            input[i] = (uint64_t)matmul_input(a, matmul_slot(a, t, j)) * runs + threadIdx.x % RUNS;
        }
    }

    // Runs from `from` on set out for `to`.
    __device__ void begin(const Stage<F>& to, uint32_t from) {
        const uint32_t step = from / F::SUBS + threadIdx.x % UNITS, run = threadIdx.x % RUNS;
        for (uint32_t i = 0; i < MINE; i++) {
            raw[i] = {};
            if (row(i) < rows && Steps<F>::run(step, 0) < runs) raw[i] = Steps<F>::load(weight[i], step);
        }
        const bool there = from + run < runs;
        for (uint32_t i = 0; i < 2; i++) {
            scale[i] = {};
            if (input_of(i) >= inputs) continue;
            const uint64_t at = there ? input[i] + from : 0;
            for (uint32_t half = 0; half < 2; half++) {
                copy_16(matmul_part(to.inputs, input_of(i), 2 * run + half), q + 2 * at + half, there);
            }
            if (there) scale[i] = load_scale(scales + at);
        }
    }

    // What has set out arrives.
    __device__ void end(const Stage<F>& to, uint32_t from) {
        const uint32_t step = from / F::SUBS + threadIdx.x % UNITS;
        for (uint32_t i = 0; i < MINE; i++) {
            Sub w[F::SUBS];
            F::unpack(raw[i], Steps<F>::unit(step), w);
            for (uint32_t k = 0; k < F::SUBS; k++) {
                const uint32_t run = Steps<F>::run(step, k) - from;
                if (F::OFFSET != 0) {
                    for (int j = 0; j < 8; j++) w[k].q[j] = minus<F::OFFSET>(w[k].q[j]);
                }
                for (uint32_t half = 0; half < 2; half++) {
                    const uint32_t* from = w[k].q + 4 * half;
                    uint8_t* at = matmul_part(to.weights, row(i), 2 * run + half);
                    *(uint4*)at = make_uint4(from[0], from[1], from[2], from[3]);
                }
                float* of_row = to.of_row(run, row(i));
                for (int j = 0; j < F::SCALES; j++) {
                    of_row[j] = w[k].d[j];
                    if (Stage<F>::MIN) of_row[F::SCALES + j] = w[k].m[j];
                }
            }
        }
        for (uint32_t i = 0; i < 2; i++) {
            if (input_of(i) >= inputs) continue;
            float* of_input = to.of_input(threadIdx.x % RUNS, input_of(i));
            of_input[0] = scale[i].d;
            if (!Stage<F>::MIN) continue;
            const int first = first_sum(scale[i]), second = second_sum(scale[i]);
            of_input[1] = (float)(F::SCALES == 1 ? first + second : first);
            if (F::SCALES == 2) of_input[2] = (float)second, of_input[3] = 0.0f;
        }
        copies_done();
    }

    // Four bytes below 128, each less N.
    template <int N> __device__ static uint32_t minus(uint32_t q) {
        return ((q | 0x80808080u) - N * 0x01010101u) ^ 0x80808080u;
    }
};

// The scales of a lane's two rows of 16.
template <class F> struct RowScales {
    float d[2][F::SCALES], less[2][F::SCALES], m[2][F::SCALES];

    __device__ void load(const float* from) {
        for (uint32_t i = 0; i < 2; i++) {
            float of[Stage<F>::OF_ROW];
            load_floats<Stage<F>::OF_ROW>(from + 8 * i * Stage<F>::OF_ROW, of);
            for (int k = 0; k < F::SCALES; k++) {
                d[i][k] = of[k];
                less[i][k] = -BIG * of[k];
                m[i][k] = Stage<F>::MIN ? of[F::SCALES + k] : 0.0f;
            }
        }
    }
};

// A run of a stage: to the sums of 16 rows and 8 activations, whose scales are `scales` and `of`, come their products.
template <class F>
__device__ inline void matmul_block(const uint32_t* w, const uint32_t* x, const RowScales<F>& scales, const float* of,
                                    float* sums) {
    const int big[4] = {BIG_BITS, BIG_BITS, BIG_BITS, BIG_BITS};
    int dots[F::SCALES][4];
    if (F::SCALES == 1) mma_s8_32(dots[0], w, x, big);
    for (int k = 0; F::SCALES == 2 && k < 2; k++) mma_s8_16(dots[k], w + 2 * k, x + k, big);
    for (uint32_t e = 0; e < 4; e++) {
        const uint32_t r = e / 2;
        const float* input = of + e % 2 * Stage<F>::OF_INPUT;
        float y = 0.0f;
        for (int k = 0; k < F::SCALES; k++) {
            const float part = fmaf(scales.d[r][k], bits_to_float((uint32_t)dots[k][e]), scales.less[r][k]);
            y = k == 0 ? part : y + part;
        }
        for (int k = 0; Stage<F>::MIN && k < F::SCALES; k++) y = fmaf(scales.m[r][k], input[1 + k], y);
        sums[e] = fmaf(input[0], y, sums[e]);
    }
}

// Run `run` of a stage with the first `count` activations of a tile, or with all of 128.
template <class F, bool ALL>
__device__ inline void matmul_run(const Stage<F>& s, uint32_t run, uint32_t count, MatmulSums& sums) {
    constexpr uint32_t OF_INPUT = Stage<F>::OF_INPUT;
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, row = warp / 2 * 32, first = warp % 2 * 16;
    const uint8_t* weights = matmul_part(s.weights, row + lane % 16, 2 * run + lane / 16);
    const uint8_t* inputs = matmul_part(s.inputs, first + lane % 8 + lane / 16 * 8, 2 * run + lane / 8 % 2);
    const float *of_rows = s.of_row(run, row + lane / 4), *of_inputs = s.of_input(run, first + lane % 4 * 2);
    uint32_t w[2][4];
    RowScales<F> scales[2];
    for (uint32_t i = 0; i < 2; i++) {
        load_matrices(w[i], weights + 16 * i * STEP_BYTES);
        scales[i].load(of_rows + 16 * i * Stage<F>::OF_ROW);
    }
#pragma unroll
    for (uint32_t j = 0; j < 4; j++) {
        if (!ALL && first + 32 * j >= count) break;
        uint32_t x[4];
        load_matrices(x, inputs + 32 * j * STEP_BYTES);
        for (uint32_t block = 0; block < 2; block++) {
            float of[2 * OF_INPUT];
            load_floats<2 * OF_INPUT>(of_inputs + (32 * j + 8 * block) * OF_INPUT, of);
            for (uint32_t i = 0; i < 2; i++) matmul_block<F>(w[i], x + 2 * block, scales[i], of, sums.of[j][block][i]);
        }
    }
}

template <class F> __device__ inline void matmul(const MatmulArgs& a) {
    const uint32_t tile = blockDim.x / 2, first_row = blockIdx.x * tile, runs = a.cols / 32;
    const uint64_t row_bytes = (uint64_t)(a.cols / F::LEN) * F::BYTES;
    const MatmulTile t = matmul_tile(a, row_bytes, tile);
    if (t.count == 0) return;
    Carrier<F> carrier(a, t, first_row, row_bytes);
    MatmulSums sums = {};
    carrier.begin(Stage<F>::at(0), 0);
    carrier.end(Stage<F>::at(0), 0);
    __syncthreads();
    for (uint32_t from = 0, which = 0; from < runs; from += RUNS, which ^= 1) {
        const Stage<F> now = Stage<F>::at(which), next = Stage<F>::at(which ^ 1);
        const bool more = from + RUNS < runs;
        if (more) carrier.begin(next, from + RUNS);
        // More than three quarters of the largest tile cost what the whole does, without a branch; with two scales to a
        // run that takes more registers than there are.
#pragma unroll 1
        for (uint32_t run = 0; run < RUNS; run++) {
            if (F::SCALES == 1 && t.count > 96) matmul_run<F, true>(now, run, t.count, sums);
            else matmul_run<F, false>(now, run, t.count, sums);
        }
        if (more) carrier.end(next, from + RUNS);
        __syncthreads();
    }
    matmul_write<false>(a, t, first_row, sums);
}

#define MATMUL(TYPE, stem)                                                                                            \
    KERNEL(matmul_##stem, MatmulArgs, 256) { matmul<TYPE>(a); }
