//! Attention over pages: scores, online softmax and the weighted sum of values, one page at a time.
//!
//! Softmax is the online form (Milakov and Gimelshein 2018): a page's largest score, the rescaled sum, the rescaled
//! output. Pages are fixed pieces of a sequence and are taken in order, so a row's result does not depend on the
//! rows beside it or on how the sequence came in. Up to four query heads that share a key head run together; each has
//! its own sums. Positions outside of a row's view get the weight zero and their values are not read
//! (they may be anything).

#![expect(clippy::needless_range_loop, reason = "an index runs through several arrays of lanes at once")]

use super::math::{exp, f16_to_f32, largest, sum};
use super::simd::{LANES, Simd};
use crate::hal::PAGE;

/// Most query heads of a tile.
pub const TILE: usize = 4;

/// The running state of a tile of query heads of one row.
#[derive(Debug, Default)]
pub struct Tile {
    /// Scores, then weights, of the page.
    weights: [[f32; PAGE]; TILE],
    /// Largest score so far.
    top: [f32; TILE],
    /// Sum of the weights so far.
    total: [f32; TILE],
    /// What earlier sums are multiplied by.
    rescale: [f32; TILE],
    /// `[head][padded v_dim]`: weighted sums of values.
    out: Vec<f32>,
}

/// What of a page a row sees.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The key head's panels.
    pub keys: &'a [u8],
    /// The value head's rows and some bytes behind them.
    pub values: &'a [u8],
    /// Query heads of the tile, one after another.
    pub q: &'a [f32],
    /// Elements of a value head.
    pub v_dim: usize,
    /// Multiplies scores.
    pub scale: f32,
    /// First position of the page that the row sees.
    pub from: usize,
    /// First one after it that it does not see.
    pub to: usize,
}

impl Tile {
    /// Begins a row.
    pub fn start(&mut self, heads: usize, v_dim: usize) {
        self.top = [f32::NEG_INFINITY; TILE];
        self.total = [0.0; TILE];
        self.out.clear();
        self.out.resize(heads * v_dim.next_multiple_of(LANES), 0.0);
    }

    /// Writes the result of a row: `[head][v_dim]`.
    pub fn finish(&self, v_dim: usize, out: &mut [f32]) {
        let padded = v_dim.next_multiple_of(LANES);
        for (h, (out, sums)) in out.chunks_exact_mut(v_dim).zip(self.out.chunks_exact(padded)).enumerate() {
            for (y, s) in out.iter_mut().zip(sums) {
                *y = s / self.total[h];
            }
        }
    }
}

/// A format of keys: sixteen positions of a block.
pub trait KeyFormat: 'static {
    /// Elements of a block.
    const LEN: usize;
    /// Bytes of sixteen positions of a block.
    const BYTES: usize;
    /// Adds the products of a block with the same elements of `H` queries.
    fn add<S: Simd, const H: usize>(s: S, p: &[u8], q: [&[f32]; H], acc: &mut [S::F; H]);
}

/// A format of values: rows of elements.
pub trait ValueFormat: 'static {
    /// Bytes of a row.
    fn row_bytes(v_dim: usize) -> usize;
    /// Elements `16 chunk ..` of the row that begins at byte `at`.
    fn lanes<S: Simd>(s: S, p: &[u8], at: usize, chunk: usize) -> S::F;
}

/// float32 state
pub struct F32;
/// float16 state
pub struct F16;
/// `block_q8_0` state
pub struct Q8_0;
/// `block_q4_0` state
pub struct Q4_0;

impl KeyFormat for F32 {
    const LEN: usize = 1;
    const BYTES: usize = 4 * LANES;
    #[inline(always)]
    fn add<S: Simd, const H: usize>(s: S, p: &[u8], q: [&[f32]; H], acc: &mut [S::F; H]) {
        let k = s.as_float(s.iload(p, 0));
        for h in 0..H {
            acc[h] = s.fma(k, s.splat(q[h][0]), acc[h]);
        }
    }
}

impl KeyFormat for F16 {
    const LEN: usize = 1;
    const BYTES: usize = 2 * LANES;
    #[inline(always)]
    fn add<S: Simd, const H: usize>(s: S, p: &[u8], q: [&[f32]; H], acc: &mut [S::F; H]) {
        let k = s.load_f16(p, 0);
        for h in 0..H {
            acc[h] = s.fma(k, s.splat(q[h][0]), acc[h]);
        }
    }
}

impl KeyFormat for Q8_0 {
    const LEN: usize = 32;
    const BYTES: usize = 34 * LANES;
    #[inline(always)]
    fn add<S: Simd, const H: usize>(s: S, p: &[u8], q: [&[f32]; H], acc: &mut [S::F; H]) {
        let mut part = [s.splat(0.0); H];
        for e in 0..32 {
            let k = s.to_f32(s.load_i8(p, (2 + e) * LANES));
            for h in 0..H {
                part[h] = s.fma(k, s.splat(q[h][e]), part[h]);
            }
        }
        let d = s.load_f16(p, 0);
        for h in 0..H {
            acc[h] = s.fma(part[h], d, acc[h]);
        }
    }
}

impl KeyFormat for Q4_0 {
    const LEN: usize = 32;
    const BYTES: usize = 18 * LANES;
    #[inline(always)]
    fn add<S: Simd, const H: usize>(s: S, p: &[u8], q: [&[f32]; H], acc: &mut [S::F; H]) {
        let mut part = [s.splat(0.0); H];
        for e in 0..16 {
            let byte = s.load_u8(p, (2 + e) * LANES);
            let low = s.to_f32(s.iadd(s.and(byte, s.isplat(15)), s.isplat(-8)));
            let high = s.to_f32(s.iadd(s.shr(byte, 4), s.isplat(-8)));
            for h in 0..H {
                part[h] = s.fma(low, s.splat(q[h][e]), part[h]);
                part[h] = s.fma(high, s.splat(q[h][e + 16]), part[h]);
            }
        }
        let d = s.load_f16(p, 0);
        for h in 0..H {
            acc[h] = s.fma(part[h], d, acc[h]);
        }
    }
}

impl ValueFormat for F32 {
    #[inline(always)]
    fn row_bytes(v_dim: usize) -> usize {
        4 * v_dim
    }
    #[inline(always)]
    fn lanes<S: Simd>(s: S, p: &[u8], at: usize, chunk: usize) -> S::F {
        s.as_float(s.iload(p, at + chunk * 4 * LANES))
    }
}

impl ValueFormat for F16 {
    #[inline(always)]
    fn row_bytes(v_dim: usize) -> usize {
        2 * v_dim
    }
    #[inline(always)]
    fn lanes<S: Simd>(s: S, p: &[u8], at: usize, chunk: usize) -> S::F {
        s.load_f16(p, at + chunk * 2 * LANES)
    }
}

impl ValueFormat for Q8_0 {
    #[inline(always)]
    fn row_bytes(v_dim: usize) -> usize {
        v_dim / 32 * 34
    }
    #[inline(always)]
    fn lanes<S: Simd>(s: S, p: &[u8], at: usize, chunk: usize) -> S::F {
        let block = at + chunk / 2 * 34;
        let d = f16_to_f32(u16::from_le_bytes([p[block], p[block + 1]]));
        s.mul(s.to_f32(s.load_i8(p, block + 2 + chunk % 2 * LANES)), s.splat(d))
    }
}

impl ValueFormat for Q4_0 {
    #[inline(always)]
    fn row_bytes(v_dim: usize) -> usize {
        v_dim / 32 * 18
    }
    #[inline(always)]
    fn lanes<S: Simd>(s: S, p: &[u8], at: usize, chunk: usize) -> S::F {
        let block = at + chunk / 2 * 18;
        let d = f16_to_f32(u16::from_le_bytes([p[block], p[block + 1]]));
        let nibble = s.and(s.shr(s.load_u8(p, block + 2), 4 * (chunk as u32 % 2)), s.isplat(15));
        s.mul(s.to_f32(s.iadd(nibble, s.isplat(-8))), s.splat(d))
    }
}

/// Scores of a page and their place in the online softmax.
#[inline(always)]
pub fn scores<S: Simd, K: KeyFormat, const H: usize>(s: S, view: &View, tile: &mut Tile) {
    let head_dim = view.q.len() / H;
    for half in 0..PAGE / LANES {
        let panel = &view.keys[half * (view.keys.len() / 2)..][..view.keys.len() / 2];
        let mut acc = [s.splat(0.0); H];
        for (b, p) in panel.chunks_exact(K::BYTES).enumerate() {
            let mut q = [view.q; H];
            for h in 0..H {
                q[h] = &view.q[h * head_dim + b * K::LEN..][..K::LEN];
            }
            K::add(s, p, q, &mut acc);
        }
        for h in 0..H {
            s.store(s.mul(acc[h], s.splat(view.scale)), &mut tile.weights[h], half * LANES);
        }
    }
    for h in 0..H {
        soften(s, h, view.from, view.to, tile);
    }
}

/// One head's scores become weights relative to the largest so far.
#[inline(always)]
fn soften<S: Simd>(s: S, h: usize, from: usize, to: usize, tile: &mut Tile) {
    let w = &mut tile.weights[h];
    for x in &mut w[..from] {
        *x = f32::NEG_INFINITY;
    }
    for x in &mut w[to..] {
        *x = f32::NEG_INFINITY;
    }
    let (a, b) = (s.load(w, 0), s.load(w, LANES));
    let here = largest(s, s.max(a, b));
    let top = if here > tile.top[h] { here } else { tile.top[h] };
    let mut factor = [0.0; LANES];
    s.store(exp(s, s.splat(tile.top[h] - top)), &mut factor, 0);
    let (a, b) = (exp(s, s.sub(a, s.splat(top))), exp(s, s.sub(b, s.splat(top))));
    s.store(a, w, 0);
    s.store(b, w, LANES);
    tile.rescale[h] = factor[0];
    tile.total[h] = tile.total[h] * factor[0] + sum(s, s.add(a, b));
    tile.top[h] = top;
}

/// Adds the page's weighted values to the rescaled sums.
#[inline(always)]
pub fn values<S: Simd, V: ValueFormat, const H: usize>(s: S, view: &View, tile: &mut Tile) {
    let row_bytes = V::row_bytes(view.v_dim);
    let chunks = view.v_dim.div_ceil(LANES);
    for chunk in 0..chunks {
        let mut acc = [s.splat(0.0); H];
        for h in 0..H {
            let at = (h * chunks + chunk) * LANES;
            acc[h] = s.mul(s.load(&tile.out, at), s.splat(tile.rescale[h]));
        }
        for pos in view.from..view.to {
            let v = V::lanes(s, view.values, pos * row_bytes, chunk);
            for h in 0..H {
                acc[h] = s.fma(s.splat(tile.weights[h][pos]), v, acc[h]);
            }
        }
        for h in 0..H {
            s.store(acc[h], &mut tile.out, (h * chunks + chunk) * LANES);
        }
    }
}
