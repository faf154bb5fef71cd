// Routing: which experts a row uses, and the order in which a batch's slots are worked on.
#include "args.cuh"

constexpr uint32_t NONE = 0xffffffffu;

// A warp for each row. Softmax over the logits; the k largest, one after another, equal ones by lower index. Where a
// logit is NaN (or infinite) all probabilities are, and the first experts are chosen.
KERNEL(route, RouteArgs, 128) {
    const uint32_t row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= a.rows) return;
    const float* logits = a.logits + (uint64_t)row * a.experts;
    uint32_t* ids = a.ids + (uint64_t)row * a.k;
    float* weights = a.weights + (uint64_t)row * a.k;

    float most = -INFINITY;
    for (uint32_t e = lane; e < a.experts; e += WARP) most = fmaxf(most, logits[e]);
    most = warp_max(most);
    float sum = 0.0f;
    for (uint32_t e = lane; e < a.experts; e += WARP) sum += expf(logits[e] - most);
    sum = warp_sum(sum);
    const bool ordered = sum == sum;

    float last = INFINITY, chosen = 0.0f;
    uint32_t last_id = NONE;
    for (uint32_t j = 0; j < a.k; j++) {
        float best = -INFINITY;
        uint32_t id = ordered ? NONE : j;
        for (uint32_t e = lane; ordered && e < a.experts; e += WARP) {
            const float x = logits[e];
            const bool left = last_id == NONE || x < last || (x == last && e > last_id);
            if (left && (id == NONE || x > best)) best = x, id = e;
        }
        for (int step = 16; step > 0; step /= 2) {
            const float other = __shfl_xor_sync(ALL_LANES, best, step);
            const uint32_t other_id = __shfl_xor_sync(ALL_LANES, id, step);
            const bool better = id == NONE || other > best || (other == best && other_id < id);
            if (other_id != NONE && better) best = other, id = other_id;
        }
        last = best, last_id = id;
        const float share = ordered ? expf(best - most) : NAN;
        chosen += share;
        // The same lane divides it below.
        if (lane == j % WARP) ids[j] = id, weights[j] = share;
    }
    const float whole = a.normalise ? chosen : sum;
    for (uint32_t j = lane; j < a.k; j += WARP) weights[j] /= whole;
}

// A warp for each expert.
KERNEL(expert_count, ExpertCountArgs, 32) {
    uint32_t count = 0;
    for (uint32_t slot = threadIdx.x; slot < a.slots; slot += WARP) count += a.ids[slot] == blockIdx.x;
    count = warp_sum(count);
    if (threadIdx.x == 0) a.counts[blockIdx.x] = count;
}

// A warp for each expert: its slots behind those of the experts before it, in their order.
KERNEL(expert_place, ExpertPlaceArgs, 32) {
    const uint32_t expert = blockIdx.x, lane = threadIdx.x;
    uint32_t first = 0, tile = 0;
    for (uint32_t e = lane; e < expert; e += WARP) {
        first += a.counts[e];
        tile += (a.counts[e] + a.tile - 1) / a.tile;
    }
    first = warp_sum(first);
    tile = warp_sum(tile);
    const uint32_t count = a.counts[expert], tiles = (count + a.tile - 1) / a.tile;
    uint32_t next = first;
    for (uint32_t from = 0; from < a.slots; from += WARP) {
        const bool mine = from + lane < a.slots && a.ids[from + lane] == expert;
        const uint32_t takers = __ballot_sync(ALL_LANES, mine);
        if (mine) a.order[next + __popc(takers & ((1u << lane) - 1))] = from + lane;
        next += __popc(takers);
    }
    for (uint32_t i = lane; i < tiles; i += WARP) {
        const uint32_t left = count - i * a.tile;
        a.tiles[tile + i] = make_uint4(expert, first + i * a.tile, left < a.tile ? left : a.tile, 0);
    }
    if (expert + 1 < a.experts) return;
    for (uint32_t i = tile + tiles + lane; i < a.most_tiles; i += WARP) a.tiles[i] = make_uint4(0, 0, 0, 0);
}
