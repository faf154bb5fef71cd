// Activations in eight bits (`quantise.cuh`), computed once for all products that read the same value.
#include "quantise.cuh"

// Eight lanes a block, four elements a lane.
KERNEL(quantise, QuantiseArgs, 256) {
    const uint32_t lane = threadIdx.x % 8;
    const uint32_t block = blockIdx.x * (blockDim.x / 8) + threadIdx.x / 8;
    const bool live = block < a.blocks;
    float4 v = {0.0f, 0.0f, 0.0f, 0.0f};
    if (live) v = ((const float4*)a.x)[(uint64_t)block * 8 + lane];

    float most = larger(larger(fabsf(v.x), fabsf(v.y)), larger(fabsf(v.z), fabsf(v.w)));
    for (int step = 4; step > 0; step /= 2) most = larger(most, __shfl_xor_sync(ALL_LANES, most, step));
    const float factor = to_integers(most);

    const float x[4] = {v.x, v.y, v.z, v.w};
    uint32_t word = 0;
    int sum = 0;
    for (int i = 0; i < 4; i++) {
        const int q = to_integer(x[i], factor);
        word |= ((uint32_t)q & 255) << (8 * i);
        sum += q;
    }
    // Lanes 0 to 3 hold the first half of a block, 4 to 7 the second.
    for (int step = 2; step > 0; step /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, step);
    const int second = __shfl_xor_sync(ALL_LANES, sum, 4);
    if (!live) return;
    a.q[(uint64_t)block * 8 + lane] = word;
    if (lane == 0) a.scales[block] = scale_of(most, sum, second);
}
