// What stands between the products of queries, keys and values and their attention: queries and keys are turned by
// their position, and keys and values go into the pages of the sequence state. One kernel for what else would be four.
#include "formats/state.cuh"
#include "rope.cuh"

// Positions of a page, `hal::PAGE`.
constexpr uint32_t PAGE = 32;

// A warp for each head (blockIdx.y: of the queries, then of the keys, then of the values) of each row (blockIdx.x).
template <class K, class V> __device__ inline void position(const PositionArgs& a) {
    const uint32_t row = blockIdx.x, position = a.positions[row];
    const bool is_query = blockIdx.y < a.heads, is_key = !is_query && blockIdx.y < a.heads + a.kv_heads;
    const uint32_t head = is_query ? blockIdx.y : (blockIdx.y - a.heads) % a.kv_heads;
    uint8_t* page = a.pages + a.row_pages[row] * a.page_bytes;
    const uint64_t place = head * PAGE + position % PAGE, kv = (uint64_t)row * a.kv_heads + head;
    if (!is_query && !is_key) {
        V::store(page + a.v_offset + place * V::bytes(a.v_dim), a.v + kv * a.v_dim, a.v_dim);
        return;
    }
    const uint64_t query = ((uint64_t)row * a.heads + head) * a.head_dim;
    const float* x = is_query ? a.q + query : a.k + kv * a.head_dim;
    float* out = is_query ? a.out + query : (float*)dynamic_shared();
    const uint32_t half = a.dims / 2;
    for (uint32_t i = threadIdx.x; i < half; i += WARP) {
        const Turn t = turn_of(position, a.frequencies[i], a.magnitude);
        turn_pair(x, out, pair_low(i, a.half_split), pair_high(i, half, a.half_split), t);
    }
    for (uint32_t i = a.dims + threadIdx.x; i < a.head_dim; i += WARP) out[i] = x[i];
    if (is_query) return;
    __syncthreads();
    K::store(page + a.k_offset + place * K::bytes(a.head_dim), out, a.head_dim);
}

#define POSITION(K, k, V, v)                                                                                          \
    KERNEL(position_##k##_##v, PositionArgs, 32) { position<K, V>(a); }
#define POSITION_KEYS(K, k)                                                                                           \
    POSITION(K, k, StateF32, f32)                                                                                     \
    POSITION(K, k, StateF16, f16)                                                                                     \
    POSITION(K, k, StateQ8_0, q8_0)                                                                                   \
    POSITION(K, k, StateQ4_0, q4_0)

POSITION_KEYS(StateF32, f32)
POSITION_KEYS(StateF16, f16)
POSITION_KEYS(StateQ8_0, q8_0)
POSITION_KEYS(StateQ4_0, q4_0)
