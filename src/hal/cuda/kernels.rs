//! One typed launcher for each kernel of `kernels/*.cu`.
//!
//! The parameters of a kernel are one struct, declared here and in `kernels/args.cuh`; neither has padding, and a test
//! compares every offset. A launcher knows how a kernel's grid follows from its parameters, and which kernel serves a
//! format; it does not know programs or memory.

use super::driver::{Address, Driver, Grid};
use super::ptx;
use crate::error::{Error, Result};
use crate::quant::{FORMATS, Format, Kind};

/// A struct whose bytes are a kernel's parameters, or a part of what it reads.
trait Parameters: Copy {
    /// Its bytes.
    fn bytes(&self) -> &[u8];
}

/// A struct as the C++ side must have it.
#[derive(Debug)]
pub struct Layout {
    /// The struct's name.
    pub name: &'static str,
    /// Its bytes.
    pub size: usize,
    /// Name, offset and bytes of each field.
    pub fields: &'static [(&'static str, usize, usize)],
}

macro_rules! layouts {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy)]
            #[repr(C)]
            pub(super) struct $name { $(pub(super) $field: $ty),* }

            const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$ty>())*, "there is no padding");

            impl Parameters for $name {
                fn bytes(&self) -> &[u8] {
                    let at = std::ptr::from_ref(self).cast::<u8>();
                    // SAFETY: the struct has numbers only and no padding, so each of its bytes is initialised.
                    unsafe { std::slice::from_raw_parts(at, size_of::<$name>()) }
                }
            }
        )*

        /// All structs that kernels read.
        pub const LAYOUTS: &[Layout] = &[$(Layout {
            name: stringify!($name),
            size: size_of::<$name>(),
            fields: &[$((stringify!($field), std::mem::offset_of!($name, $field), size_of::<$ty>())),*],
        }),*];
    };
}

layouts! {
    /// `embed_*`
    EmbedArgs { table: Address, tokens: Address, out: Address, cols: u32, rows: u32 }
    /// `restore`
    RestoreArgs {
        from: Address, to: Address, row_bytes: u32, rows: u32, block_bytes: u32, unused: u32, places: [u16; 256],
    }
    /// `quantise`
    QuantiseArgs { x: Address, q: Address, scales: Address, blocks: u32, unused: u32 }
    /// `row_powers`
    RowPowersArgs { x: Address, powers: Address, cols: u32, rows: u32 }
    /// A matrix more for the same input; none where it has no rows.
    MatvecMore { weight: Address, bias: Address, y: Address, rows: u32, unused: u32 }
    /// `matvec_*`; no gate where `up` is zero, no experts where `ids` is, no bias and no residual where those are.
    MatvecArgs {
        weight: Address, up: Address, x: Address, q: Address, scales: Address, bias: Address, residual: Address,
        ids: Address, y: Address, cols: u32, rows: u32, n: u32, share: u32, stride: u32, unused: u32,
        more: [MatvecMore; 2],
    }
    /// `matmul_*`; no experts where `tiles` is zero.
    MatmulArgs {
        weight: Address, x: Address, q: Address, scales: Address, bias: Address, residual: Address, tiles: Address,
        order: Address, y: Address, cols: u32, rows: u32, n: u32, share: u32, stride: u32, unused: u32,
    }
    /// `expert_count`
    ExpertCountArgs { ids: Address, counts: Address, slots: u32, unused: u32 }
    /// `expert_place`
    ExpertPlaceArgs {
        ids: Address, counts: Address, order: Address, tiles: Address,
        slots: u32, experts: u32, most_tiles: u32, tile: u32,
    }
    /// `expert_sum`
    ExpertSumArgs { x: Address, weights: Address, out: Address, rows: u32, k: u32, width: u32, unused: u32 }
    /// `route`
    RouteArgs { logits: Address, ids: Address, weights: Address, rows: u32, experts: u32, k: u32, normalise: u32 }
    /// `norm_*`; no eight bits where `q` is zero.
    NormArgs { x: Address, weight: Address, out: Address, q: Address, scales: Address, groups: u32, group: u32, eps: f32, unused: u32 }
    /// `rope`
    RopeArgs {
        x: Address, frequencies: Address, positions: Address, out: Address,
        heads: u32, head_dim: u32, dims: u32, half_split: u32, magnitude: f32, unused: u32,
    }
    /// `add`
    AddArgs { a: Address, b: Address, out: Address, count: u32, unused: u32 }
    /// `glu_silu`
    GluArgs { gate: Address, up: Address, out: Address, count: u32, unused: u32 }
    /// `select_rows`
    SelectArgs { x: Address, picked: Address, out: Address, rows: u32, width: u32 }
    /// `kv_append_*`
    KvAppendArgs {
        x: Address, pages: Address, row_pages: Address, positions: Address,
        page_bytes: u64, offset: u64, heads: u32, dim: u32,
    }
    /// `position_*`
    PositionArgs {
        q: Address, k: Address, v: Address, frequencies: Address, positions: Address, out: Address, pages: Address,
        row_pages: Address, page_bytes: u64, k_offset: u64, v_offset: u64,
        heads: u32, kv_heads: u32, head_dim: u32, v_dim: u32, dims: u32, half_split: u32, magnitude: f32, unused: u32,
    }
    /// What `attend_*` does with one tile of rows.
    AttendWork {
        first: u32, rows: u32, table: u32, begin: u32, end: u32, partial: u32, splits: u32, unused: u32,
    }
    /// `attend_*`
    AttendArgs {
        q: Address, out: Address, partials: Address, pages: Address, work: Address, order: Address,
        positions: Address, tables: Address, page_bytes: u64, k_offset: u64, v_offset: u64,
        heads: u32, kv_heads: u32, head_dim: u32, v_dim: u32,
        rows: u32, chunk: u32, span: u32, window: u32, scale: f32, unused: u32,
    }
    /// `attend_tiles_*`; formats are places in `STATE`.
    AttendTileArgs {
        q: Address, out: Address, pages: Address, work: Address, order: Address, positions: Address, tables: Address,
        page_bytes: u64, k_offset: u64, v_offset: u64, heads: u32, kv_heads: u32, head_dim: u32, v_dim: u32,
        k_format: u32, v_format: u32, window: u32, scale: f32,
    }
    /// A row whose splits `attend_join` puts together.
    AttendJoin { row: u32, first: u32, splits: u32, unused: u32 }
    /// `attend_join`
    AttendJoinArgs { partials: Address, work: Address, out: Address, heads: u32, v_dim: u32 }
}

/// Rows of activations up to which a product reads the weights once, by `matvec`.
pub(super) const FEW_ROWS: usize = 8;

/// Inputs of a tile of `matmul`, at least and at most.
pub(super) const TILE_INPUTS: [u32; 2] = [32, 128];

/// The kernels of a family, in the order of `Kind`.
macro_rules! by_format {
    ($prefix:literal, $suffix:literal) => {
        by_format!($prefix, $suffix, "f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k",
            "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs", "mxfp4")
    };
    ($prefix:literal, $suffix:literal, $($stem:literal),*) => { [$(concat!($prefix, $stem, $suffix)),*] };
}

/// One for each format.
type Family = [&'static str; 16];

const EMBED: Family = by_format!("embed_", "");
const MATVEC: [(usize, Family); 3] =
    [(1, by_format!("matvec_", "_1")), (4, by_format!("matvec_", "_4")), (FEW_ROWS, by_format!("matvec_", "_8"))];
const MATMUL: Family = by_format!("matmul_", "");

/// Formats of the sequence state.
pub(super) const STATE: [Kind; 4] = [Kind::F32, Kind::F16, Kind::Q8_0, Kind::Q4_0];
const KV_APPEND: [&str; 4] = ["kv_append_f32", "kv_append_f16", "kv_append_q8_0", "kv_append_q4_0"];
/// By the format of keys, then of values.
const POSITION: [[&str; 4]; 4] = [
    ["position_f32_f32", "position_f32_f16", "position_f32_q8_0", "position_f32_q4_0"],
    ["position_f16_f32", "position_f16_f16", "position_f16_q8_0", "position_f16_q4_0"],
    ["position_q8_0_f32", "position_q8_0_f16", "position_q8_0_q8_0", "position_q8_0_q4_0"],
    ["position_q4_0_f32", "position_q4_0_f16", "position_q4_0_q8_0", "position_q4_0_q4_0"],
];
/// As above.
const ATTEND: [[&str; 4]; 4] = [
    ["attend_f32_f32", "attend_f32_f16", "attend_f32_q8_0", "attend_f32_q4_0"],
    ["attend_f16_f32", "attend_f16_f16", "attend_f16_q8_0", "attend_f16_q4_0"],
    ["attend_q8_0_f32", "attend_q8_0_f16", "attend_q8_0_q8_0", "attend_q8_0_q4_0"],
    ["attend_q4_0_f32", "attend_q4_0_f16", "attend_q4_0_q8_0", "attend_q4_0_q4_0"],
];
/// Elements of a head that fit into each of `ATTEND_TILES`.
pub(super) const TILE_WIDTHS: [u32; 4] = [64, 96, 128, 256];
const ATTEND_TILES: [&str; 4] = ["attend_tiles_64", "attend_tiles_96", "attend_tiles_128", "attend_tiles_256"];
const OTHERS: [&str; 14] = [
    "quantise",
    "row_powers",
    "expert_count",
    "expert_place",
    "expert_sum",
    "route",
    "norm_wide",
    "norm_narrow",
    "restore",
    "rope",
    "add",
    "glu_silu",
    "select_rows",
    "attend_join",
];

impl MatvecMore {
    /// No matrix more.
    pub(super) const NONE: MatvecMore =
        MatvecMore { weight: Address(0), bias: Address(0), y: Address(0), rows: 0, unused: 0 };
}

/// Refuses, while air is built, a kernel that is missing or takes another struct than `T`.
const fn check<T>(names: &[&str]) {
    let mut i = 0;
    while i < names.len() {
        match ptx::find(names[i]) {
            Some((_, entry)) => assert!(entry.args == size_of::<T>(), "the kernel takes another struct"),
            None => panic!("there is no such kernel"),
        }
        i += 1;
    }
}

const _: () = {
    check::<EmbedArgs>(&EMBED);
    check::<RestoreArgs>(&["restore"]);
    check::<MatmulArgs>(&MATMUL);
    let mut i = 0;
    while i < MATVEC.len() {
        check::<MatvecArgs>(&MATVEC[i].1);
        i += 1;
    }
    check::<KvAppendArgs>(&KV_APPEND);
    let mut i = 0;
    while i < ATTEND.len() {
        check::<AttendArgs>(&ATTEND[i]);
        check::<PositionArgs>(&POSITION[i]);
        i += 1;
    }
    check::<AttendTileArgs>(&ATTEND_TILES);
    check::<QuantiseArgs>(&["quantise"]);
    check::<RowPowersArgs>(&["row_powers"]);
    check::<ExpertCountArgs>(&["expert_count"]);
    check::<ExpertPlaceArgs>(&["expert_place"]);
    check::<ExpertSumArgs>(&["expert_sum"]);
    check::<RouteArgs>(&["route"]);
    check::<NormArgs>(&["norm_wide", "norm_narrow"]);
    check::<RopeArgs>(&["rope"]);
    check::<AddArgs>(&["add"]);
    check::<GluArgs>(&["glu_silu"]);
    check::<SelectArgs>(&["select_rows"]);
    check::<AttendJoinArgs>(&["attend_join"]);
};

/// The symbol of every kernel that is launched.
pub fn names() -> Vec<&'static str> {
    let families = [EMBED, MATMUL].into_iter().chain(MATVEC.map(|(_, family)| family));
    let attend = ATTEND.into_iter().chain(POSITION).flatten();
    let mut names: Vec<&str> = families.flatten().chain(KV_APPEND).chain(attend).collect();
    names.extend(OTHERS.iter().chain(&ATTEND_TILES));
    names.sort_unstable();
    names.dedup();
    names
}

/// The place of a format of the sequence state in the tables above.
pub(super) fn state(kind: Kind) -> usize {
    STATE.iter().position(|k| *k == kind).expect("`reserve` admits no other")
}

fn launch(
    d: &mut dyn Driver,
    name: &'static str,
    blocks: [u32; 3],
    threads: u32,
    args: &impl Parameters,
) -> Result<()> {
    launch_with(d, name, blocks, threads, 0, args)
}

fn launch_with(
    d: &mut dyn Driver,
    name: &'static str,
    blocks: [u32; 3],
    threads: u32,
    shared: u32,
    args: &impl Parameters,
) -> Result<()> {
    if blocks[1] > 65535 || blocks[2] > 65535 {
        return Err(Error::Engine(format!("kernel {name}: a grid of {blocks:?} blocks is more than a device takes")));
    }
    d.launch(name, Grid { blocks, threads, shared }, args.bytes())
}

/// A kernel that does nothing.
pub(super) fn nothing(d: &mut dyn Driver) -> Result<()> {
    let none = Address::default();
    launch(d, "add", [1, 1, 1], 32, &AddArgs { a: none, b: none, out: none, count: 0, unused: 0 })
}

/// Bytes of weights that a product reads; none for other kernels, and where the device chooses among experts' tiles.
pub(super) fn weight_bytes(kernel: &str, grid: Grid, args: &[u8]) -> Option<u64> {
    let (stem, layout) = match kernel.strip_prefix("matvec_") {
        Some(stem) => (stem, "MatvecArgs"),
        None => (kernel.strip_prefix("matmul_")?, "MatmulArgs"),
    };
    let named = |f: &&Format| {
        let rest = stem.strip_prefix(f.name.to_lowercase().as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    };
    let format = FORMATS.iter().find(named)?;
    let layout = LAYOUTS.iter().find(|l| l.name == layout && l.size == args.len())?;
    let place = |name: &str| layout.fields.iter().find(|f| f.0 == name).map(|f| &args[f.1..f.1 + f.2]);
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
    let field = |name: &str| place(name).map(number);
    // Of each matrix more.
    let rows = std::mem::offset_of!(MatvecMore, rows);
    let more = place("more").map_or(&[][..], |more| more.as_chunks::<{ size_of::<MatvecMore>() }>().0);
    let more: u64 = more.iter().map(|matrix| number(&matrix[rows..rows + 4])).sum();
    let all = (field("rows")? + more) * format.row_bytes(field("cols")? as usize) as u64;
    match layout.name {
        "MatvecArgs" => Some(all * if field("up")? == 0 { 1 } else { 2 } * u64::from(grid.blocks[1])),
        _ => (field("tiles")? == 0).then_some(all),
    }
}

/// `out = decode(table[tokens])`
pub(super) fn embed(d: &mut dyn Driver, kind: Kind, args: &EmbedArgs) -> Result<()> {
    // A thread has an element, or at least one run of 32.
    let threads = if kind.format().block_len == 1 { args.cols } else { args.cols / 32 };
    launch(d, EMBED[kind as usize], [threads.div_ceil(128), args.rows, 1], 128, args)
}

/// Rows of a format, out of the groups in which a processor keeps them.
pub(super) fn restore(
    d: &mut dyn Driver,
    format: &Format,
    [from, to]: [Address; 2],
    row_bytes: u32,
    rows: u32,
) -> Result<()> {
    let (mut places, mut unit_at) = ([0; 256], 0);
    for field in format.fields {
        for (n, place) in places[field.at..][..field.len].iter_mut().enumerate() {
            let start = (unit_at + n / field.unit * field.unit) * 16 + n % field.unit;
            *place = (start << 2) as u16 | field.unit.ilog2() as u16;
        }
        unit_at += field.len;
    }
    let args = RestoreArgs { from, to, row_bytes, rows, block_bytes: format.block_bytes as u32, unused: 0, places };
    launch(d, "restore", [row_bytes.div_ceil(256), rows.div_ceil(16), 1], 256, &args)
}

/// Activations in eight bits.
pub(super) fn quantise(d: &mut dyn Driver, args: &QuantiseArgs) -> Result<()> {
    launch(d, "quantise", [args.blocks.div_ceil(32), 1, 1], 256, args)
}

/// Powers of two of rows.
pub(super) fn row_powers(d: &mut dyn Driver, args: &RowPowersArgs) -> Result<()> {
    launch(d, "row_powers", [args.rows.div_ceil(4), 1, 1], 128, args)
}

/// A product with `args.n` rows, up to `FEW_ROWS`; with experts, of `slots` slots.
pub(super) fn matvec(d: &mut dyn Driver, kind: Kind, args: &MatvecArgs, slots: u32) -> Result<()> {
    let (_, family) = MATVEC.iter().find(|(rows, _)| args.n as usize <= *rows).expect("`n` is at most FEW_ROWS");
    let rows = args.rows + args.more.iter().map(|matrix| matrix.rows).sum::<u32>();
    launch(d, family[kind as usize], [rows.div_ceil(4), slots, 1], 128, args)
}

/// How many inputs a tile of `matmul` has best, of about `n` with one matrix of `rows` rows: few for few, and few where
/// larger tiles would leave many of `multiprocessors` without one.
pub(super) fn tile_inputs(kind: Kind, rows: u32, n: u32, multiprocessors: u32) -> u32 {
    let [least, most] = TILE_INPUTS;
    let mut tile = if kind == Kind::F32 { least } else { most };
    // Three quarters of a device with large tiles do as much as a whole one with small ones.
    while tile > least && (n <= tile / 2 || 4 * rows.div_ceil(tile) * n.div_ceil(tile) < 3 * multiprocessors) {
        tile /= 2;
    }
    tile
}

/// A product with many rows: `tiles` tiles of `tile` of them.
pub(super) fn matmul(d: &mut dyn Driver, kind: Kind, args: &MatmulArgs, tile: u32, tiles: u32) -> Result<()> {
    if kind == Kind::F32 {
        return launch(d, MATMUL[kind as usize], [args.rows.div_ceil(64), tiles, 1], 256, args);
    }
    let blocks = [args.rows.div_ceil(tile), tiles, 1];
    launch_with(d, MATMUL[kind as usize], blocks, 2 * tile, matmul_shared(kind, tile), args)
}

/// Bytes of shared memory of `matmul` (`Stage` in `kernels/matmul.cuh`, `HalfStage` in `kernels/matmul_half.cuh`): two
/// halves of weights, inputs, and four runs of floats beside both.
fn matmul_shared(kind: Kind, tile: u32) -> u32 {
    let floats = match kind {
        Kind::F16 | Kind::BF16 => 0,
        Kind::Q4_1 | Kind::Q5_1 | Kind::Q4_K | Kind::Q5_K => 4,
        Kind::Q3_K | Kind::Q6_K => 3,
        Kind::Q2_K => 8,
        _ => 2,
    };
    2 * (2 * tile * 128 + 4 * (tile + 8) * 4 * floats)
}

/// Slots of each of `experts` experts.
pub(super) fn expert_count(d: &mut dyn Driver, args: &ExpertCountArgs, experts: u32) -> Result<()> {
    launch(d, "expert_count", [experts, 1, 1], 32, args)
}

/// Slots by expert, and tiles of them.
pub(super) fn expert_place(d: &mut dyn Driver, args: &ExpertPlaceArgs) -> Result<()> {
    launch(d, "expert_place", [args.experts, 1, 1], 32, args)
}

/// Weighted sums of slots.
pub(super) fn expert_sum(d: &mut dyn Driver, args: &ExpertSumArgs) -> Result<()> {
    launch(d, "expert_sum", [args.width.div_ceil(256), args.rows, 1], 256, args)
}

/// Experts of each row.
pub(super) fn route(d: &mut dyn Driver, args: &RouteArgs) -> Result<()> {
    launch(d, "route", [args.rows.div_ceil(4), 1, 1], 128, args)
}

/// Elements up to which a group is a warp's, which makes no eight bits.
pub(super) const NARROW: u32 = 256;

/// Norms; a warp for small groups.
pub(super) fn norm(d: &mut dyn Driver, args: &NormArgs) -> Result<()> {
    match args.group <= NARROW {
        true => launch(d, "norm_narrow", [args.groups.div_ceil(4), 1, 1], 128, args),
        false => launch(d, "norm_wide", [args.groups, 1, 1], 256, args),
    }
}

/// Rotation of `rows` rows.
pub(super) fn rope(d: &mut dyn Driver, args: &RopeArgs, rows: u32) -> Result<()> {
    launch(d, "rope", [rows, args.heads.div_ceil(8), 1], 64, args)
}

/// Sums.
pub(super) fn add(d: &mut dyn Driver, args: &AddArgs) -> Result<()> {
    launch(d, "add", [args.count.div_ceil(256), 1, 1], 256, args)
}

/// Gates.
pub(super) fn glu_silu(d: &mut dyn Driver, args: &GluArgs) -> Result<()> {
    launch(d, "glu_silu", [args.count.div_ceil(256), 1, 1], 256, args)
}

/// Rows that are picked.
pub(super) fn select_rows(d: &mut dyn Driver, args: &SelectArgs) -> Result<()> {
    launch(d, "select_rows", [args.width.div_ceil(256), args.rows, 1], 256, args)
}

/// Keys or values of `rows` rows into pages of a format.
pub(super) fn kv_append(d: &mut dyn Driver, kind: Kind, args: &KvAppendArgs, rows: u32) -> Result<()> {
    launch(d, KV_APPEND[state(kind)], [rows, args.heads, 1], 32, args)
}

/// Queries, keys and values of `rows` rows at their positions, into pages of these formats.
pub(super) fn position(d: &mut dyn Driver, k: Kind, v: Kind, args: &PositionArgs, rows: u32) -> Result<()> {
    let heads = args.heads + 2 * args.kv_heads;
    launch_with(d, POSITION[state(k)][state(v)], [rows, heads, 1], 32, 4 * args.head_dim, args)
}

/// Attention of `tiles` tiles of up to `most` rows over keys and values of these formats.
pub(super) fn attend(d: &mut dyn Driver, k: Kind, v: Kind, args: &AttendArgs, tiles: u32, most: u32) -> Result<()> {
    let chunks = (args.heads / args.kv_heads).div_ceil(args.chunk) * most.div_ceil(args.rows);
    let shared = attend_shared(args.rows, args.chunk, args.span, args.head_dim, args.v_dim);
    launch_with(d, ATTEND[state(k)][state(v)], [tiles, args.kv_heads, chunks], 128, shared, args)
}

/// Attention of `tiles` tiles of up to `most` rows by the kernel for heads of up to `width` elements, one of
/// `TILE_WIDTHS`.
pub(super) fn attend_tiles(d: &mut dyn Driver, width: u32, args: &AttendTileArgs, tiles: u32, most: u32) -> Result<()> {
    let name = TILE_WIDTHS.iter().zip(ATTEND_TILES).find(|(w, _)| **w == width).expect("one of the widths").1;
    // Four warps of 16 queries, and two pages of keys and values, with 144 bytes of marks (`TilePage`).
    let blocks = [tiles, args.kv_heads, (most * (args.heads / args.kv_heads)).div_ceil(64)];
    let shared = 2 * (2 * 32 * (width + 8) * 2 + 144);
    launch_with(d, name, blocks, 128, shared, args)
}

/// Bytes of shared memory of `attend` (`attend_room` in `kernels/attention.cuh`).
pub(super) fn attend_shared(rows: u32, chunk: u32, span: u32, head_dim: u32, v_dim: u32) -> u32 {
    let queries = rows * chunk;
    4 * (queries * (head_dim + span + v_dim + 3) + span * (head_dim + 1))
}

/// The splits of `rows` rows together.
pub(super) fn attend_join(d: &mut dyn Driver, args: &AttendJoinArgs, rows: u32) -> Result<()> {
    launch(d, "attend_join", [rows, args.heads, 1], 128, args)
}
