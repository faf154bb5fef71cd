// The parameters of all kernels. `src/hal/cuda/kernels.rs` declares the same structs; a test compares each offset.
//
// Addresses stand before numbers and the size is a multiple of eight, so that there is no padding. Matrices are
// row-major float32 unless said; a "slot" is a row of the batch, or one of its chosen experts.
#pragma once

#include "common.cuh"

// out[r] = decoded row tokens[r] of the table, `cols` wide; row r, where there are no tokens.
struct EmbedArgs {
    const uint8_t* table;
    const uint32_t* tokens;
    float* out;
    uint32_t cols, rows;
};

// to = `rows` rows, of blocks that are interleaved by sixteen in `from`. The bytes of a block begin at byte
// places[byte] / 4 of a block column and are those of the rows 2^(places[byte] % 4) bytes apart.
struct RestoreArgs {
    const uint8_t* from;
    uint8_t* to;
    uint32_t row_bytes, rows, block_bytes, unused;
    uint16_t places[256];
};

// q, scales = `blocks` blocks of 32 elements of x in eight bits.
struct QuantiseArgs {
    const float* x;
    uint32_t* q;
    Scale* scales;
    uint32_t blocks, unused;
};

// One more matrix for the same input, with a result of its own: y[slot][row] = weight row . input (+ bias), slots
// `rows` apart. No rows: there is none.
struct MatvecMore {
    const uint8_t* weight;
    const float* bias;
    float* y;
    uint32_t rows, unused;
};

// y[slot][row] = weight row . input (+ bias). Plain: `n` rows of input, `ids` is null. By experts: blockIdx.y is the
// slot, its expert is ids[slot] and its input slot / share. With `up` it is a gate, and the product of `up` with the
// same input goes through it: silu(weight row . input) * (up row . input). A residual is added last; y may be it. Slots
// of y and of the residual are `stride` apart: these may be some rows of a larger matrix. A plain product that is no
// gate may have `more` matrices behind it: their rows follow in the grid.
struct MatvecArgs {
    const uint8_t* weight;
    const uint8_t* up;
    const float* x;
    const uint32_t* q;
    const Scale* scales;
    const float* bias;
    const float* residual;
    const uint32_t* ids;
    float* y;
    uint32_t cols, rows, n, share, stride, unused;
    MatvecMore more[2];
};

// As above for many inputs, without a gate; for weights in float16 `scales` are the inputs' `Powers`. By experts:
// `tiles` says which slots of `order` blockIdx.y works on.
struct MatmulArgs {
    const uint8_t* weight;
    const float* x;
    const uint32_t* q;
    const Scale* scales;
    const float* bias;
    const float* residual;
    const uint4* tiles;
    const uint32_t* order;
    float* y;
    uint32_t cols, rows, n, share, stride, unused;
};

// powers[row] of `rows` rows of `cols` elements, for products with float16.
struct RowPowersArgs {
    const float* x;
    Powers* powers;
    uint32_t cols, rows;
};

// counts[e] = how many of the slots chose expert e.
struct ExpertCountArgs {
    const uint32_t* ids;
    uint32_t* counts;
    uint32_t slots, unused;
};

// Slots in order of their expert, and tiles of at most `tile` of them: (expert, first, count, 0). Tiles that are not
// needed get a count of zero.
struct ExpertPlaceArgs {
    const uint32_t* ids;
    const uint32_t* counts;
    uint32_t* order;
    uint4* tiles;
    uint32_t slots, experts, most_tiles, tile;
};

// out[row] = sum over j of weights[row][j] * x[row][j], `width` wide.
struct ExpertSumArgs {
    const float* x;
    const float* weights;
    float* out;
    uint32_t rows, k, width, unused;
};

// The k largest of `experts` logits and their shares.
struct RouteArgs {
    const float* logits;
    uint32_t* ids;
    float* weights;
    uint32_t rows, experts, k, normalise;
};

// `groups` groups of `group` elements. With `q` those of a wide norm are put into eight bits too, as by `quantise`.
struct NormArgs {
    const float* x;
    const float* weight;
    float* out;
    uint32_t* q;
    Scale* scales;
    uint32_t groups, group;
    float eps;
    uint32_t unused;
};

// Turns `heads` heads of each row; frequencies[i] is the angle of pair i at position 1.
struct RopeArgs {
    const float* x;
    const double* frequencies;
    const uint32_t* positions;
    float* out;
    uint32_t heads, head_dim, dims, half_split;
    float magnitude;
    uint32_t unused;
};

// out = a + b, `count` elements; out may be a or b.
struct AddArgs {
    const float* a;
    const float* b;
    float* out;
    uint32_t count, unused;
};

// out = silu(gate) * up
struct GluArgs {
    const float* gate;
    const float* up;
    float* out;
    uint32_t count, unused;
};

// out[i] = x[picked[i]]
struct SelectArgs {
    const float* x;
    const uint32_t* picked;
    float* out;
    uint32_t rows, width;
};

// Encodes a row's heads into its page: pages + row_pages[row] * page_bytes + offset holds [head][position][dim].
struct KvAppendArgs {
    const float* x;
    uint8_t* pages;
    const uint32_t* row_pages;
    const uint32_t* positions;
    uint64_t page_bytes, offset;
    uint32_t heads, dim;
};

// `rope` of queries to `out`, and of keys into pages as by `kv_append`, beside the values.
struct PositionArgs {
    const float* q;
    const float* k;
    const float* v;
    const double* frequencies;
    const uint32_t* positions;
    float* out;
    uint8_t* pages;
    const uint32_t* row_pages;
    uint64_t page_bytes, k_offset, v_offset;
    uint32_t heads, kv_heads, head_dim, v_dim, dims, half_split;
    float magnitude;
    uint32_t unused;
};

// A tile of attention: rows order[first ..][..rows] of one sequence over pages begin .. end of its table, which starts
// at tables[table]. With more than one split the sums go to `partial`. No rows: nothing to do.
struct AttendWork {
    uint32_t first, rows, table, begin, end, partial, splits, unused;
};

// Attention of tiles. A block works on `rows` rows of a tile (blockIdx.x) and a chunk of `chunk` query heads
// (blockIdx.z, chunks of the first rows first) of one key head (blockIdx.y), `span` positions at a time; window 0 is
// none.
struct AttendArgs {
    const float* q;
    float* out;
    float* partials;
    const uint8_t* pages;
    const AttendWork* work;
    const uint32_t* order;
    const uint32_t* positions;
    const uint32_t* tables;
    uint64_t page_bytes, k_offset, v_offset;
    uint32_t heads, kv_heads, head_dim, v_dim;
    uint32_t rows, chunk, span, window;
    float scale;
    uint32_t unused;
};

// The same on tensor cores: blockIdx.z is a part of a tile's queries. Formats are places in a table (`state.cuh`).
struct AttendTileArgs {
    const float* q;
    float* out;
    const uint8_t* pages;
    const AttendWork* work;
    const uint32_t* order;
    const uint32_t* positions;
    const uint32_t* tables;
    uint64_t page_bytes, k_offset, v_offset;
    uint32_t heads, kv_heads, head_dim, v_dim;
    uint32_t k_format, v_format, window;
    float scale;
};

// Puts together the splits of row work[blockIdx.x].row: partials first .. first + splits. No splits: nothing to do.
struct AttendJoin {
    uint32_t row, first, splits, unused;
};

struct AttendJoinArgs {
    const float* partials;
    const AttendJoin* work;
    float* out;
    uint32_t heads, v_dim;
};
