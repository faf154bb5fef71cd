// Rows out of groups of sixteen, in which a processor keeps them: of a group, block columns follow each other; of a block
// column the units of its fields; of a unit the sixteen rows (`src/hal/cpu/layout.rs`).
#include "args.cuh"

// A thread has a byte of sixteen rows; blockIdx.y is their group.
KERNEL(restore, RestoreArgs, 256) {
    const uint32_t byte = blockIdx.x * blockDim.x + threadIdx.x, first = blockIdx.y * 16;
    if (byte >= a.row_bytes) return;
    const uint32_t column = byte / a.block_bytes, place = a.places[byte % a.block_bytes];
    const uint8_t* from = a.from + ((uint64_t)first * a.row_bytes + (uint64_t)column * a.block_bytes * 16) + (place >> 2);
    uint8_t* to = a.to + (uint64_t)first * a.row_bytes + byte;
    const uint32_t rows = a.rows - first < 16 ? a.rows - first : 16;
    for (uint32_t r = 0; r < rows; r++) to[(uint64_t)r * a.row_bytes] = from[r << (place & 3)];
}
