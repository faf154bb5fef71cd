// Attention of many rows of a sequence over pages, by the tensor cores' products of half floats (Dao 2023).
//
// The queries of a tile are its rows times the query heads of one key head, those of a row together. A block has 16 of
// them for each of its warps, which keep their queries and sums in registers; keys and values of a page become half
// floats in shared memory, one page while the one before is worked on. Pages that none of a block's rows see are not
// read, and those that all rows of a warp see whole are not masked. Weights never leave registers: the layout of a
// product's result is that of the next one's left side.
//
// Queries are scaled by a power of two for each of them, so that none is too large for a half float; scores, maxima and
// sums are float32. What a row does not see must not reach it, not even times zero. A page's values may be infinite or
// not numbers (nobody wrote those behind the last position), so such values count as zero, and the weight of one that
// is seen is not a number. What a row gets depends on that row alone.
#pragma once

#include "args.cuh"
#include "formats/state.cuh"

// Positions of a page, `hal::PAGE`.
constexpr uint32_t TILE_PAGE = 32;


// A page of heads of up to D elements in shared memory; the backend computes the same size. Rows are 16 bytes longer
// than what they hold: eight of them at the same element use different banks.
template <uint32_t D> struct TilePage {
    static constexpr uint32_t ROW = D + 8;
    uint16_t keys[TILE_PAGE][ROW], values[TILE_PAGE][ROW];
    // The number of the page, where a value of a position, or of any, is not finite.
    uint32_t odd[TILE_PAGE], any_odd, unused[3];
};

// Eight elements as half floats.
template <class S> __device__ inline uint4 halves(const uint8_t* head, uint32_t first) {
    float x[8];
    S::load4(head, first, x);
    S::load4(head, first + 4, x + 4);
    return make_uint4(pack_halves(x[0], x[1]), pack_halves(x[2], x[3]), pack_halves(x[4], x[5]),
                      pack_halves(x[6], x[7]));
}

__device__ inline bool is_odd(uint32_t two_halves) {
    return (two_halves & 0x7c00u) == 0x7c00u || (two_halves & 0x7c000000u) == 0x7c000000u;
}

// Stores eight values of position `p` of page `number`.
template <uint32_t D>
__device__ inline void put_values(TilePage<D>& page, uint32_t p, uint32_t first, uint4 v, uint32_t number) {
    if (is_odd(v.x) || is_odd(v.y) || is_odd(v.z) || is_odd(v.w)) {
        v = make_uint4(0, 0, 0, 0);
        page.odd[p] = number, page.any_odd = number;
    }
    *(uint4*)&page.values[p][first] = v;
}

// The `i`-th eight elements that a thread brings: of which position, from which element on.
template <uint32_t D> __device__ inline uint32_t position_of(uint32_t i) { return i / (D / 8); }
template <uint32_t D> __device__ inline uint32_t first_of(uint32_t i) { return i % (D / 8) * 8; }

// A page sets out for shared memory, `number` its number; quantised heads are there at the next barrier.
template <uint32_t D>
__device__ inline void bring_page(const AttendTileArgs& a, TilePage<D>& to, const uint8_t* page, uint32_t number) {
    const uint32_t k_bytes = state_bytes(a.k_format, a.head_dim), v_bytes = state_bytes(a.v_format, a.v_dim);
    const uint8_t* keys = page + a.k_offset + (uint64_t)(blockIdx.y * TILE_PAGE) * k_bytes;
    const uint8_t* values = page + a.v_offset + (uint64_t)(blockIdx.y * TILE_PAGE) * v_bytes;
    for (uint32_t i = threadIdx.x; i < TILE_PAGE * (D / 8); i += blockDim.x) {
        const uint32_t p = position_of<D>(i), first = first_of<D>(i);
        const uint8_t *key = keys + p * k_bytes, *value = values + p * v_bytes;
        if (first < a.head_dim) {
            uint4* at = (uint4*)&to.keys[p][first];
            if (a.k_format == IS_F16) copy_16(at, key + 2 * first, true);
            else *at = a.k_format == IS_Q8_0 ? halves<StateQ8_0>(key, first) : halves<StateQ4_0>(key, first);
        }
        if (first < a.v_dim) {
            if (a.v_format == IS_F16) {
                copy_16(&to.values[p][first], value + 2 * first, true);
            } else {
                const bool eight = a.v_format == IS_Q8_0;
                const uint4 v = eight ? halves<StateQ8_0>(value, first) : halves<StateQ4_0>(value, first);
                put_values(to, p, first, v, number);
            }
        }
    }
}

// What was copied has arrived; a thread looks at the values that it copied itself.
template <uint32_t D>
__device__ inline void page_is_there(const AttendTileArgs& a, TilePage<D>& page, uint32_t number) {
    copies_done();
    if (a.v_format != IS_F16) return;
    for (uint32_t i = threadIdx.x; i < TILE_PAGE * (D / 8); i += blockDim.x) {
        const uint32_t p = position_of<D>(i), first = first_of<D>(i);
        if (first >= a.v_dim) continue;
        const uint4 v = *(const uint4*)&page.values[p][first];
        if (is_odd(v.x) || is_odd(v.y) || is_odd(v.z) || is_odd(v.w)) put_values(page, p, first, v, number);
    }
}

// A lane's part of 16 queries: with lane 4 g + t, what is indexed by 2 belongs to queries g and g + 8.
template <uint32_t D> struct TileQueries {
    // As the left side of products, 16 elements each.
    uint32_t q[D / 16][4];
    // Products times this are scores in powers of two.
    float scale[2];
    // -1 where there is no query.
    int position[2];
    // Least and largest position of the warp.
    int least, most;
};

// Running maximum, sum of weights (a lane's part), and weighted sums of values, eight elements each.
template <uint32_t D> struct TileSums {
    float most[2], weight[2], of[D / 8][4];
};

// The largest of the four lanes that share a row.
__device__ inline float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

__device__ inline float row_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

// Two elements of a query from `c` on; zeros behind its end.
__device__ inline void two_of(const AttendTileArgs& a, const float* q, uint32_t c, bool there, float* x) {
    x[0] = x[1] = 0.0f;
    if (there && c < a.head_dim) load_floats<2>(q + c, x);
}

// The head of a query, counted over all rows' heads; where there is none, any.
__device__ inline uint64_t head_of(const AttendTileArgs& a, const AttendWork& w, uint32_t query) {
    const uint32_t group = a.heads / a.kv_heads, row = a.order[w.first + (query < w.rows * group ? query / group : 0)];
    return (uint64_t)row * a.heads + blockIdx.y * group + query % group;
}

template <uint32_t D>
__device__ inline void take_queries(const AttendTileArgs& a, const AttendWork& w, uint32_t first, TileQueries<D>& t) {
    const uint32_t group = a.heads / a.kv_heads, all = w.rows * group, lane = threadIdx.x % WARP;
    const uint32_t of_warp = first + threadIdx.x / WARP * 16;
    t.least = of_warp < all ? (int)a.positions[a.order[w.first + of_warp / group]] : -1;
    const uint32_t last = of_warp + 15 < all ? of_warp + 15 : all - 1;
    t.most = of_warp < all ? (int)a.positions[a.order[w.first + last / group]] : -1;
    for (uint32_t i = 0; i < 2; i++) {
        const uint32_t query = of_warp + lane / 4 + 8 * i;
        const bool there = query < all;
        t.position[i] = there ? (int)a.positions[a.order[w.first + query / group]] : -1;
        const float* q = a.q + head_of(a, w, query) * a.head_dim;
        float most = 0.0f, x[2];
        for (uint32_t k = 0; k < D / 8; k++) {
            two_of(a, q, 8 * k + lane % 4 * 2, there, x);
            most = fmaxf(most, fmaxf(fabsf(x[0]), fabsf(x[1])));
        }
        const Powers powers = powers_of(row_max(most));
        t.scale[i] = powers.up * a.scale * 1.44269504f;
        for (uint32_t k = 0; k < D / 8; k++) {
            two_of(a, q, 8 * k + lane % 4 * 2, there, x);
            t.q[k / 2][k % 2 * 2 + i] = pack_halves(x[0] * powers.down, x[1] * powers.down);
        }
    }
}

// Scores of a page's positions, from `at` on, become weights; what was summed before is scaled to the new maximum.
template <uint32_t D>
__device__ inline void weigh(const AttendTileArgs& a, const TileQueries<D>& t, const TilePage<D>& page, uint32_t number,
                             int at, float scores[4][4], TileSums<D>& sums) {
    const int first = at + (int)(threadIdx.x % 4 * 2), window = (int)a.window, last = at + (int)TILE_PAGE - 1;
    const bool whole = last <= t.least && (window == 0 || t.most - at < window);
    float most[2] = {-INFINITY, -INFINITY};
    for (uint32_t j = 0; j < 4; j++) {
        for (uint32_t e = 0; e < 4; e++) {
            const int position = t.position[e / 2], p = first + (int)(8 * j + e % 2);
            const bool sees = whole || (p <= position && (window == 0 || position - p < window));
            scores[j][e] = sees ? scores[j][e] * t.scale[e / 2] : -INFINITY;
            most[e / 2] = fmaxf(most[e / 2], scores[j][e]);
        }
    }
    float factor[2];
    for (uint32_t i = 0; i < 2; i++) {
        const float before = sums.most[i];
        most[i] = fmaxf(before, row_max(most[i]));
        sums.most[i] = most[i];
        // Nothing seen yet: all weights are zero, from any base.
        if (most[i] == -INFINITY) most[i] = 0.0f;
        factor[i] = before == most[i] ? 1.0f : exp2f(before - most[i]);
        sums.weight[i] *= factor[i];
    }
    for (uint32_t j = 0; j < 4; j++) {
        for (uint32_t e = 0; e < 4; e++) {
            scores[j][e] = exp2f(scores[j][e] - most[e / 2]);
            sums.weight[e / 2] += scores[j][e];
        }
    }
    if (__ballot_sync(ALL_LANES, factor[0] != 1.0f || factor[1] != 1.0f) != 0) {
        for (uint32_t n = 0; n < D / 8; n++) {
            for (uint32_t e = 0; e < 4; e++) sums.of[n][e] *= factor[e / 2];
        }
    }
    if (page.any_odd != number) return;
    for (uint32_t j = 0; j < 4; j++) {
        for (uint32_t e = 0; e < 4; e++) {
            const bool odd = page.odd[threadIdx.x % 4 * 2 + 8 * j + e % 2] == number;
            if (odd && scores[j][e] != 0.0f) scores[j][e] = NAN;
        }
    }
}

// To a warp's sums comes page `number`, whose first position is `at`.
template <uint32_t D>
__device__ inline void attend_page(const AttendTileArgs& a, const TileQueries<D>& t, const TilePage<D>& page,
                                   uint32_t number, int at, TileSums<D>& sums) {
    const int window = (int)a.window;
    if (at > t.most || (window != 0 && t.least - (at + (int)TILE_PAGE - 1) >= window)) return;
    const uint32_t lane = threadIdx.x % WARP;
    float scores[4][4] = {};
    // Keys are the right side as they lie: a column is a position.
    const uint16_t* keys = &page.keys[lane % 8 + lane / 16 * 8][lane / 8 % 2 * 8];
#pragma unroll
    for (uint32_t k = 0; k < D / 16; k++) {
        for (uint32_t j = 0; j < 2; j++) {
            uint32_t of[4];
            load_matrices(of, keys + 16 * j * TilePage<D>::ROW + 16 * k);
            mma_f16(scores[2 * j], t.q[k], of);
            mma_f16(scores[2 * j + 1], t.q[k], of + 2);
        }
    }
    weigh(a, t, page, number, at, scores, sums);
    // Values lie the other way round: a row is a position.
    const uint16_t* values = &page.values[lane % 16][lane / 16 * 8];
#pragma unroll
    for (uint32_t k = 0; k < 2; k++) {
        uint32_t weights[4];
        for (uint32_t i = 0; i < 4; i++) {
            const float* two = scores[2 * k + i / 2] + i % 2 * 2;
            weights[i] = pack_halves(two[0], two[1]);
        }
#pragma unroll
        for (uint32_t n = 0; n < D / 16; n++) {
            uint32_t of[4];
            load_turned_matrices(of, values + 16 * k * TilePage<D>::ROW + 16 * n);
            mma_f16(sums.of[2 * n], weights, of);
            mma_f16(sums.of[2 * n + 1], weights, of + 2);
        }
    }
}

// blockIdx: a tile, a key head, a part of the tile's queries.
template <uint32_t D> __device__ inline void attend_tile(const AttendTileArgs& a) {
    const AttendWork w = a.work[blockIdx.x];
    const uint32_t group = a.heads / a.kv_heads, first = blockIdx.z * (blockDim.x / 2), all = w.rows * group;
    if (first >= all) return;
    TilePage<D>* pages = (TilePage<D>*)dynamic_shared();
    // Elements behind the head's end are zero, and no page has been odd.
    for (uint32_t i = threadIdx.x; i < 2 * sizeof(TilePage<D>) / 16; i += blockDim.x) {
        ((uint4*)pages)[i] = make_uint4(0, 0, 0, 0);
    }
    TileQueries<D> t;
    take_queries(a, w, first, t);
    TileSums<D> sums = {};
    sums.most[0] = sums.most[1] = -INFINITY;

    const uint32_t behind = first + blockDim.x / 2 < all ? first + blockDim.x / 2 : all;
    const uint32_t least = a.positions[a.order[w.first + first / group]];
    const uint32_t most = a.positions[a.order[w.first + (behind - 1) / group]];
    const uint32_t begin = a.window != 0 && least + 1 > a.window ? (least + 1 - a.window) / TILE_PAGE : 0;
    const uint32_t end = most / TILE_PAGE + 1;
    __syncthreads();
    // Pages are counted from one.
    bring_page(a, pages[0], a.pages + a.tables[w.table + begin] * a.page_bytes, 1);
    page_is_there(a, pages[0], 1);
    __syncthreads();
    for (uint32_t i = begin; i < end; i++) {
        const uint32_t number = i - begin + 1;
        TilePage<D>&now = pages[(number - 1) % 2], &next = pages[number % 2];
        const bool more = i + 1 < end;
        if (more) bring_page(a, next, a.pages + a.tables[w.table + i + 1] * a.page_bytes, number + 1);
        attend_page(a, t, now, number, (int)(i * TILE_PAGE), sums);
        if (more) page_is_there(a, next, number + 1);
        __syncthreads();
    }
    for (uint32_t i = 0; i < 2; i++) {
        const float weight = row_sum(sums.weight[i]);
        if (t.position[i] < 0) continue;
        const uint32_t query = first + threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4 + 8 * i;
        float* out = a.out + head_of(a, w, query) * a.v_dim;
        for (uint32_t n = 0; n < D / 8; n++) {
            const uint32_t c = 8 * n + threadIdx.x % 4 * 2;
            if (c < a.v_dim) out[c] = sums.of[n][2 * i] / weight, out[c + 1] = sums.of[n][2 * i + 1] / weight;
        }
    }
}

#define ATTEND_TILES(D)                                                                                               \
    KERNEL(attend_tiles_##D, AttendTileArgs, 128) { attend_tile<D>(a); }
