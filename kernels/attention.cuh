// Attention over pages, element by element, in one pass over keys and values (Dao et al. 2022): for single tokens, and
// for tiles of what tensor cores do not take (`attention_tiles.cuh`).
//
// A block has a tile of rows of one sequence, and a chunk of the query heads that share one key head: their queries
// read each key once. It goes over its pages, `span` positions at a time: keys become floats in shared memory, every
// query gets its scores, a running maximum and sum, and its weighted sum of values is scaled when the maximum grows.
// Where few rows see many positions, several blocks share them (split-k) and `attend_join` puts their sums together
// in order. What a row does not see never enters its sums, not even times zero: it may be infinite.
#pragma once

#include "args.cuh"
#include "formats/state.cuh"

constexpr uint32_t ATTEND_THREADS = 128;
// Positions of a page, `hal::PAGE`.
constexpr uint32_t PAGE = 32;
// Queries whose sums a thread keeps in registers at a time.
constexpr uint32_t AT_ONCE = 8;

// Shared memory: queries, keys (rows one longer, so that neighbours use different banks), scores, sums, and for each
// query its maximum, its sum of weights and what its sums are scaled by. The backend computes the same size.
struct AttendRoom {
    float *queries, *keys, *scores, *sums, *most, *weight, *factor;
};

__device__ inline AttendRoom attend_room(const AttendArgs& a) {
    const uint32_t queries = a.rows * a.chunk;
    AttendRoom r;
    r.queries = (float*)dynamic_shared();
    r.keys = r.queries + queries * a.head_dim;
    r.scores = r.keys + a.span * (a.head_dim + 1);
    r.sums = r.scores + queries * a.span;
    r.most = r.sums + queries * a.v_dim;
    r.weight = r.most + queries;
    r.factor = r.weight + queries;
    return r;
}

// Whether a row at `position` sees position `at`.
__device__ inline bool sees(uint32_t position, uint32_t at, uint32_t window) {
    return at <= position && (window == 0 || position - at < window);
}

template <class K, class V> __device__ inline void attend(const AttendArgs& a) {
    AttendWork w = a.work[blockIdx.x];
    const AttendRoom room = attend_room(a);
    const uint32_t kv_head = blockIdx.y, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const uint32_t group = a.heads / a.kv_heads, chunks = (group + a.chunk - 1) / a.chunk;
    const uint32_t in_group = blockIdx.z % chunks * a.chunk, skip = blockIdx.z / chunks * a.rows;
    // Work that only fills up has no rows.
    if (skip >= w.rows) return;
    w.first += skip, w.rows = w.rows - skip < a.rows ? w.rows - skip : a.rows;
    const uint32_t chunk = group - in_group < a.chunk ? group - in_group : a.chunk;
    const uint32_t first_head = kv_head * group + in_group, queries = w.rows * chunk;
    const uint32_t k_bytes = K::bytes(a.head_dim), v_bytes = V::bytes(a.v_dim);

    // Query i is row i / chunk of the tile, head i % chunk of the chunk.
    for (uint32_t i = threadIdx.x; i < queries * a.head_dim; i += ATTEND_THREADS) {
        const uint32_t query = i / a.head_dim, row = a.order[w.first + query / chunk];
        const uint64_t head = (uint64_t)row * a.heads + first_head + query % chunk;
        room.queries[i] = a.q[head * a.head_dim + i % a.head_dim];
    }
    for (uint32_t i = threadIdx.x; i < queries * a.v_dim; i += ATTEND_THREADS) room.sums[i] = 0.0f;
    for (uint32_t i = threadIdx.x; i < queries; i += ATTEND_THREADS) room.most[i] = -INFINITY, room.weight[i] = 0.0f;

    const uint32_t last = a.positions[a.order[w.first + w.rows - 1]];
    for (uint32_t at = w.begin * PAGE; at < w.end * PAGE && at <= last; at += a.span) {
        const uint8_t* page = a.pages + a.tables[w.table + at / PAGE] * a.page_bytes;
        const uint8_t* keys = page + a.k_offset + (uint64_t)(kv_head * PAGE + at % PAGE) * k_bytes;
        const uint8_t* values = page + a.v_offset + (uint64_t)(kv_head * PAGE + at % PAGE) * v_bytes;
        __syncthreads();
        if (a.head_dim % 4 == 0) {
            const uint32_t parts = a.head_dim / 4;
            for (uint32_t i = threadIdx.x; i < a.span * parts; i += ATTEND_THREADS) {
                float v[4];
                K::load4(keys + i / parts * k_bytes, i % parts * 4, v);
                for (int k = 0; k < 4; k++) room.keys[i / parts * (a.head_dim + 1) + i % parts * 4 + k] = v[k];
            }
        } else {
            for (uint32_t i = threadIdx.x; i < a.span * a.head_dim; i += ATTEND_THREADS) {
                const uint32_t p = i / a.head_dim, c = i % a.head_dim;
                room.keys[p * (a.head_dim + 1) + c] = K::at(keys + p * k_bytes, c);
            }
        }
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < queries * a.span; i += ATTEND_THREADS) {
            const uint32_t query = i / a.span, p = i % a.span;
            float score = -INFINITY;
            if (sees(a.positions[a.order[w.first + query / chunk]], at + p, a.window)) {
                const float* q = room.queries + query * a.head_dim;
                const float* k = room.keys + p * (a.head_dim + 1);
                score = 0.0f;
                for (uint32_t c = 0; c < a.head_dim; c++) score = fmaf(q[c], k[c], score);
                score *= a.scale;
            }
            room.scores[i] = score;
        }
        __syncthreads();
        for (uint32_t query = warp; query < queries; query += ATTEND_THREADS / WARP) {
            float* scores = room.scores + query * a.span;
            const float score = lane < a.span ? scores[lane] : -INFINITY;
            const float before = room.most[query], most = fmaxf(before, warp_max(score));
            const float weight = score == -INFINITY ? 0.0f : expf(score - most);
            const float factor = before == most ? 1.0f : expf(before - most);
            const float sum = warp_sum(weight);
            if (lane < a.span) scores[lane] = weight;
            // All lanes have read what lane 0 overwrites: the sums over the warp came after.
            if (lane == 0) {
                room.most[query] = most;
                room.weight[query] = fmaf(room.weight[query], factor, sum);
                room.factor[query] = factor;
            }
        }
        __syncthreads();
        for (uint32_t c = threadIdx.x; c < a.v_dim; c += ATTEND_THREADS) {
            for (uint32_t from = 0; from < queries; from += AT_ONCE) {
                float sums[AT_ONCE];
                for (uint32_t i = 0; i < AT_ONCE; i++) {
                    const uint32_t query = from + i;
                    sums[i] = query < queries ? room.sums[query * a.v_dim + c] * room.factor[query] : 0.0f;
                }
                for (uint32_t p = 0; p < a.span && at + p <= last; p++) {
                    const float v = V::at(values + p * v_bytes, c);
                    for (uint32_t i = 0; i < AT_ONCE; i++) {
                        const uint32_t query = from + i;
                        const float weight = query < queries ? room.scores[query * a.span + p] : 0.0f;
                        if (weight != 0.0f) sums[i] = fmaf(weight, v, sums[i]);
                    }
                }
                for (uint32_t i = 0; i < AT_ONCE; i++) {
                    if (from + i < queries) room.sums[(from + i) * a.v_dim + c] = sums[i];
                }
            }
        }
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < queries * a.v_dim; i += ATTEND_THREADS) {
        const uint32_t query = i / a.v_dim, c = i % a.v_dim, head = first_head + query % chunk;
        if (w.splits > 1) {
            // Of each head of a split: maximum, sum of weights, sums.
            float* to = a.partials + ((uint64_t)w.partial * a.heads + head) * (a.v_dim + 2);
            to[2 + c] = room.sums[i];
            if (c == 0) to[0] = room.most[query], to[1] = room.weight[query];
        } else {
            const uint64_t row = a.order[w.first + query / chunk];
            a.out[(row * a.heads + head) * a.v_dim + c] = room.sums[i] / room.weight[query];
        }
    }
}

#define ATTEND(K, k, V, v)                                                                                            \
    KERNEL(attend_##k##_##v, AttendArgs, ATTEND_THREADS) { attend<K, V>(a); }
#define ATTEND_KEYS(K, k)                                                                                             \
    ATTEND(K, k, StateF32, f32)                                                                                       \
    ATTEND(K, k, StateF16, f16)                                                                                       \
    ATTEND(K, k, StateQ8_0, q8_0)                                                                                     \
    ATTEND(K, k, StateQ4_0, q4_0)
