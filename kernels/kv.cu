// Keys and values of a batch into the pages of the sequence state.
#include "args.cuh"
#include "formats/state.cuh"

// Positions of a page, `hal::PAGE`.
constexpr uint32_t PAGE = 32;

// A warp for each head (blockIdx.y) of each row (blockIdx.x).
template <class F> __device__ inline void kv_append(const KvAppendArgs& a) {
    const uint32_t row = blockIdx.x, head = blockIdx.y, bytes = F::bytes(a.dim);
    uint8_t* page = a.pages + a.row_pages[row] * a.page_bytes + a.offset;
    uint8_t* to = page + (uint64_t)(head * PAGE + a.positions[row] % PAGE) * bytes;
    F::store(to, a.x + ((uint64_t)row * a.heads + head) * a.dim, a.dim);
}

#define KV_APPEND(TYPE, stem)                                                                                         \
    KERNEL(kv_append_##stem, KvAppendArgs, 32) { kv_append<TYPE>(a); }

STATE_FORMATS(KV_APPEND)
