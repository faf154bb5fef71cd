// Embedding: the decoded row of each row's token.
#include "args.cuh"
#include "formats/table.cuh"

// The row of the table that this block decodes.
__device__ inline uint64_t embed_row(const EmbedArgs& a) { return a.tokens ? a.tokens[blockIdx.y] : blockIdx.y; }

// A thread unpacks one step of a row; blockIdx.y is the row.
template <class F> __device__ inline void embed(const EmbedArgs& a) {
    const uint32_t step = blockIdx.x * blockDim.x + threadIdx.x;
    if (step >= a.cols / 32 / F::SUBS) return;
    const uint8_t* row = a.table + embed_row(a) * (a.cols / F::LEN) * F::BYTES;
    Sub w[F::SUBS];
    F::unpack(Steps<F>::load(row, step), Steps<F>::unit(step), w);
    for (int i = 0; i < F::SUBS; i++) {
        float* out = a.out + (uint64_t)blockIdx.y * a.cols + Steps<F>::run(step, i) * 32;
        for (int k = 0; k < 32; k++) {
            const int half = F::SCALES == 1 ? 0 : k / 16;
            const float y = w[i].d[half] * (float)(int8_t)(w[i].q[k / 4] >> (8 * (k % 4)));
            out[k] = F::MIN ? y + w[i].m[half] : y;
        }
    }
}

template <class F> __device__ inline void embed_float(const EmbedArgs& a) {
    const uint32_t c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= a.cols) return;
    const uint8_t* row = a.table + embed_row(a) * a.cols * F::BYTES;
    a.out[(uint64_t)blockIdx.y * a.cols + c] = F::at(row, c);
}

#define EMBED(TYPE, stem)                                                                                             \
    KERNEL(embed_##stem, EmbedArgs, 128) { embed<TYPE>(a); }
#define EMBED_FLOAT(TYPE, stem)                                                                                       \
    KERNEL(embed_##stem, EmbedArgs, 128) { embed_float<TYPE>(a); }

FLOAT_FORMATS(EMBED_FLOAT)
INTEGER_FORMATS(EMBED)
