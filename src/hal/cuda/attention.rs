//! Which kernels attend: one row's few queries by `attend_*`, element by element; tiles of many by `attend_tiles_*`,
//! on tensor cores.
//!
//! The tensor cores take half floats. Keys and values in float32 would lose what they were kept for, and heads of more
//! than 256 elements, or of a number that eight does not divide, do not fit: their tiles are attended element by
//! element too, a quarter of a tile at a time.

use super::driver::{Address, Driver};
use super::kernels;
use super::rows::{GroupParts, Part, Rows, TILE};
use crate::error::{Error, Result};
use crate::op::Attention;
use crate::quant::Kind;

/// How a block of attention's threads is used: query heads of a chunk, and positions at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blocks {
    chunk: u32,
    span: u32,
}

/// Shared memory that every device gives without being asked.
const COMMON_SHARED: u32 = 48 << 10;

/// Queries of a block, at most.
const MOST_QUERIES: u32 = 32;

/// Rows of a tile that are attended together, element by element.
const TOGETHER: u32 = 16;

impl Blocks {
    /// For up to `rows` rows: as many heads together as fit, many positions at a time before many heads.
    fn of(a: &Attention, rows: u32, most: u32) -> Result<Blocks> {
        let group = (a.heads / a.kv_heads) as u32;
        for room in [COMMON_SHARED, most] {
            for chunk in (1..=group.min((MOST_QUERIES / rows).max(1))).rev() {
                for span in [32, 16, 8] {
                    if kernels::attend_shared(rows, chunk, span, a.head_dim as u32, a.v_dim as u32) <= room {
                        return Ok(Blocks { chunk, span });
                    }
                }
            }
        }
        let what = format!("attention with heads of {} and {} elements on this device", a.head_dim, a.v_dim);
        Err(Error::Unsupported { what, instead: "run the model on the CPU".into() })
    }
}

/// Whether a block with `shared` bytes of shared memory has room for these heads, whatever the batch is.
///
/// # Errors
/// `Unsupported` where not even one head of a few rows fits.
pub(super) fn check(a: &Attention, shared: u32) -> Result<()> {
    Blocks::of(a, TOGETHER, shared).map(drop)
}

/// Elements of a head that the kernel has room for which attends tiles of these heads; none where no kernel does.
fn tile_width(a: &Attention, k: Kind, v: Kind) -> Option<u32> {
    let fits = [k, v].iter().all(|k| *k != Kind::F32) && a.head_dim.is_multiple_of(8) && a.v_dim.is_multiple_of(8);
    let most = a.head_dim.max(a.v_dim) as u32;
    kernels::TILE_WIDTHS.into_iter().find(|width| fits && most <= *width)
}

/// Queries, results, splits, and a layer's part of the pages of a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) q: Address,
    pub(super) out: Address,
    pub(super) partials: Address,
    pub(super) pages: Address,
    pub(super) page_bytes: u64,
    pub(super) k_offset: u64,
    pub(super) v_offset: u64,
    pub(super) k: Kind,
    pub(super) v: Kind,
}

/// Attention of all rows of a batch, whose work in this group `parts` is.
///
/// # Errors
/// Those of the device.
pub(super) fn attend(
    d: &mut dyn Driver,
    a: &Attention,
    rows: &Rows,
    parts: GroupParts,
    p: Place,
    shared: u32,
) -> Result<()> {
    if parts.single.count > 0 {
        by_element(d, a, rows, parts, (parts.single, 1), p, shared)?;
    }
    if parts.tiles.count > 0 {
        match tile_width(a, p.k, p.v) {
            Some(width) => by_tile(d, a, rows, parts, p, width)?,
            None => by_element(d, a, rows, parts, (parts.tiles, TILE as u32), p, shared)?,
        }
    }
    if parts.joins.count > 0 {
        let (partials, work, out) = (p.partials, rows.at(parts.joins), p.out);
        let args = kernels::AttendJoinArgs { partials, work, out, heads: a.heads as u32, v_dim: a.v_dim as u32 };
        kernels::attend_join(d, &args, parts.joins.count as u32)?;
    }
    Ok(())
}

fn by_tile(d: &mut dyn Driver, a: &Attention, rows: &Rows, parts: GroupParts, p: Place, width: u32) -> Result<()> {
    let args = kernels::AttendTileArgs {
        q: p.q,
        out: p.out,
        pages: p.pages,
        work: rows.at(parts.tiles),
        order: rows.at(rows.order),
        positions: rows.at(rows.positions),
        tables: rows.at(parts.tables),
        page_bytes: p.page_bytes,
        k_offset: p.k_offset,
        v_offset: p.v_offset,
        heads: a.heads as u32,
        kv_heads: a.kv_heads as u32,
        head_dim: a.head_dim as u32,
        v_dim: a.v_dim as u32,
        k_format: kernels::state(p.k) as u32,
        v_format: kernels::state(p.v) as u32,
        window: a.window.unwrap_or(0),
        scale: a.scale,
    };
    kernels::attend_tiles(d, width, &args, parts.tiles.count as u32, TILE as u32)
}

/// Work, and how many rows a piece of it has at most.
fn by_element(
    d: &mut dyn Driver,
    a: &Attention,
    rows: &Rows,
    parts: GroupParts,
    (work, most): (Part, u32),
    p: Place,
    shared: u32,
) -> Result<()> {
    let together = most.min(TOGETHER);
    let Blocks { chunk, span } = Blocks::of(a, together, shared)?;
    let args = kernels::AttendArgs {
        q: p.q,
        out: p.out,
        partials: p.partials,
        pages: p.pages,
        work: rows.at(work),
        order: rows.at(rows.order),
        positions: rows.at(rows.positions),
        tables: rows.at(parts.tables),
        page_bytes: p.page_bytes,
        k_offset: p.k_offset,
        v_offset: p.v_offset,
        heads: a.heads as u32,
        kv_heads: a.kv_heads as u32,
        head_dim: a.head_dim as u32,
        v_dim: a.v_dim as u32,
        rows: together,
        chunk,
        span,
        window: a.window.unwrap_or(0),
        scale: a.scale,
        unused: 0,
    };
    kernels::attend(d, p.k, p.v, &args, work.count as u32, most)
}
