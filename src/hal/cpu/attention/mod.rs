//! Attention over pages: scores, softmax and the weighted sum of values, a segment of positions at a time.
//!
//! The arithmetic: a sequence is cut into segments of `SEGMENT` positions. Within one, weights are powers of two
//! (queries are multiplied by the scale and by log2 e beforehand) relative to the segment's largest score, their
//! sum has a partial sum for each lane, and values are added in order of position. Segments are then
//! folded in order, each rescaled by the largest score so far, as in the online softmax (Milakov and Gimelshein 2018).
//! So a row's result does not depend on the rows beside it, on how the sequence came in, or on which thread takes which
//! segment. Positions outside of what a query sees add nothing, and their values may be anything.
//!
//! A tile is some queries that share a key head: heads of a group, and neighbouring rows. A vector of keys or values
//! is loaded and decoded once for all of them. What is read next is asked for while the page before it is computed.

#![expect(clippy::needless_range_loop, reason = "an index runs through several arrays of lanes at once")]

mod formats;

pub use formats::{F16, F32, KeyFormat, Q4_0, Q8_0, ValueFormat};

use super::math::{exp2, largest, sum};
use super::pages::Head;
use super::simd::{LANES, Simd};
use crate::hal::PAGE;

/// Positions of a segment: part of the arithmetic.
pub const SEGMENT: usize = 512;

/// Most queries of a tile.
pub const TILE: usize = 8;

/// Floats between the weights of two queries: not a power of two, so that they share no set of a cache.
const STRIDE: usize = SEGMENT + LANES;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Softmax over some positions, for each query of a tile.
#[derive(Debug, Default, Clone)]
pub struct Softmax {
    /// Largest score.
    pub top: [f32; LANES],
    /// Sum of the weights; 0 where a query saw nothing.
    pub total: [f32; LANES],
    /// `[query][v_dim, padded]`: weighted sums of values.
    pub out: Vec<f32>,
}

impl Softmax {
    /// Nothing seen yet.
    pub fn clear(&mut self, queries: usize, v_dim: usize) {
        self.top = [f32::NEG_INFINITY; LANES];
        self.total = [0.0; LANES];
        self.out.clear();
        self.out.resize(queries * v_dim.next_multiple_of(LANES), 0.0);
    }

    /// Writes one query's sums to `[2 + v_dim, padded]`.
    pub fn save(&self, query: usize, to: &mut [f32]) {
        let n = to.len() - 2;
        (to[0], to[1]) = (self.top[query], self.total[query]);
        to[2..].copy_from_slice(&self.out[query * n..][..n]);
    }

    /// Reads what `save` wrote.
    pub fn restore(&mut self, query: usize, from: &[f32]) {
        let n = from.len() - 2;
        (self.top[query], self.total[query]) = (from[0], from[1]);
        self.out[query * n..][..n].copy_from_slice(&from[2..]);
    }
}

/// Queries that share a key head.
#[derive(Debug, Default)]
pub struct Tile {
    /// `[head_dim][queries]`, multiplied by scale and log2 e.
    pub q: Vec<f32>,
    /// What the segments so far amount to.
    pub sums: Softmax,
}

/// A tile's work on one segment, reused from segment to segment.
#[derive(Debug, Default)]
pub struct Part {
    /// First position of the segment that each query sees, and the first one after that it does not see.
    pub views: [(usize, usize); TILE],
    /// `[query][STRIDE]`: scores, then weights.
    weights: Vec<f32>,
    /// What the segment amounts to.
    pub sums: Softmax,
}

/// Neighbouring pages of a segment.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// The key head's part of each page.
    pub pages: &'a [Head<'a>],
    /// Position in the segment of the first page's first.
    pub start: usize,
    /// What is read afterwards.
    pub next: Head<'a>,
    /// Elements of a value head.
    pub v_dim: usize,
}

/// Scores of a segment for `T` queries, as weights relative to the largest.
#[inline(always)]
pub fn scores<S: Simd, K: KeyFormat, const T: usize, const P: usize>(
    s: S,
    segment: &Segment,
    tile: &Tile,
    part: &mut Part,
) {
    part.weights.resize(TILE * STRIDE, 0.0);
    let mut at = segment.start;
    for (n, page) in segment.pages.iter().enumerate() {
        let ahead = if n + 1 < segment.pages.len() { segment.pages[n + 1].keys } else { segment.pages[0].values };
        // The page after that is touched, which has its address translated in time.
        if n + 2 < segment.pages.len() {
            s.prefetch(segment.pages[n + 2].keys, 0);
        } else {
            s.prefetch(segment.pages[(n + 2 - segment.pages.len()).min(n)].values, 0);
        }
        let panel = page.keys.len() / (PAGE / LANES);
        for first in (0..PAGE / LANES).step_by(P) {
            let mut acc = [[s.splat(0.0); P]; T];
            for (b, q) in tile.q.chunks_exact(K::LEN * T).enumerate() {
                let mut p = [page.keys; P];
                for i in 0..P {
                    p[i] = &page.keys[(first + i) * panel + b * K::BYTES..][..K::BYTES];
                }
                K::add(s, p, q, &mut acc);
                // A pass over some panels asks for as many bytes of the next page.
                for line in (0..P * K::BYTES).step_by(LINE) {
                    s.prefetch(ahead, first * panel + b * P * K::BYTES + line);
                }
            }
            for t in 0..T {
                for i in 0..P {
                    s.store(acc[t][i], &mut part.weights, t * STRIDE + at + i * LANES);
                }
            }
            at += P * LANES;
        }
    }
    for t in 0..T {
        let (from, to) = part.views[t];
        let weights = &mut part.weights[t * STRIDE..][segment.start..at];
        (part.sums.top[t], part.sums.total[t]) = if from < to {
            soften(s, weights, from.max(segment.start) - segment.start, to.min(at) - segment.start)
        } else {
            (f32::NEG_INFINITY, 0.0)
        };
    }
}

/// One query's scores become weights; the largest score and the weights' sum.
///
/// Positions outside of `from..to` get a weight of nothing beside the largest one's 1, and their values are not read.
#[inline(always)]
fn soften<S: Simd>(s: S, weights: &mut [f32], from: usize, to: usize) -> (f32, f32) {
    for x in &mut weights[..from] {
        *x = f32::NEG_INFINITY;
    }
    for x in &mut weights[to..] {
        *x = f32::NEG_INFINITY;
    }
    let mut top = s.splat(f32::NEG_INFINITY);
    for at in (0..weights.len()).step_by(LANES) {
        top = s.max(s.load(weights, at), top);
    }
    let top = largest(s, top);
    let mut total = s.splat(0.0);
    for at in (0..weights.len()).step_by(LANES) {
        let w = exp2(s, s.sub(s.load(weights, at), s.splat(top)));
        s.store(w, weights, at);
        total = s.add(total, w);
    }
    (top, sum(s, total))
}

/// The values of a page, and which part of a segment they are.
#[derive(Clone, Copy)]
struct Rows<'a> {
    values: &'a [u8],
    ahead: &'a [u8],
    /// Position in the segment of the first.
    base: usize,
    v_dim: usize,
}

/// Softmax of a segment's values with the weights of `T` queries, `C` vectors at a time.
#[inline(always)]
pub fn values<S: Simd, V: ValueFormat, const T: usize, const C: usize>(s: S, segment: &Segment, part: &mut Part) {
    let chunks = segment.v_dim.div_ceil(LANES);
    part.sums.out.clear();
    part.sums.out.resize(T * chunks * LANES, 0.0);
    let end = segment.start + segment.pages.len() * PAGE;
    // What all queries see is added together, the ragged ends for one query after another.
    let (mut from, mut to) = (0, end);
    for t in 0..T {
        from = from.max(part.views[t].0);
        to = to.min(part.views[t].1);
    }
    if from >= to {
        (from, to) = (end, end);
    }
    for (n, page) in segment.pages.iter().enumerate() {
        let ahead = if n + 1 < segment.pages.len() { segment.pages[n + 1].values } else { segment.next.keys };
        if n + 2 < segment.pages.len() {
            s.prefetch(segment.pages[n + 2].values, 0);
        } else {
            s.prefetch(segment.next.keys, 0);
        }
        let base = segment.start + n * PAGE;
        let rows = Rows { values: page.values, ahead, base, v_dim: segment.v_dim };
        for t in 0..T {
            let view = part.views[t];
            weigh_all::<S, V, 1, 1>(s, rows, view.0, view.1.min(from), t, part);
        }
        weigh_all::<S, V, T, C>(s, rows, from, to, 0, part);
        for t in 0..T {
            let view = part.views[t];
            weigh_all::<S, V, 1, 1>(s, rows, view.0.max(to), view.1, t, part);
        }
    }
}

/// Adds those values of a page that lie in `from..to` to the sums of queries `first..first + T`.
#[inline(always)]
fn weigh_all<S: Simd, V: ValueFormat, const T: usize, const C: usize>(
    s: S,
    rows: Rows,
    from: usize,
    to: usize,
    first: usize,
    part: &mut Part,
) {
    let (from, to) = (from.max(rows.base), to.min(rows.base + PAGE));
    if from >= to {
        return;
    }
    let chunks = rows.v_dim.div_ceil(LANES);
    let mut chunk = 0;
    while chunk < chunks {
        if chunk + C <= chunks {
            weigh::<S, V, T, C>(s, rows, from, to, first, chunk, part);
            chunk += C;
        } else {
            weigh::<S, V, T, 1>(s, rows, from, to, first, chunk, part);
            chunk += 1;
        }
    }
}

/// The same for `C` vectors of each value.
#[inline(always)]
fn weigh<S: Simd, V: ValueFormat, const T: usize, const C: usize>(
    s: S,
    rows: Rows,
    from: usize,
    to: usize,
    first: usize,
    chunk: usize,
    part: &mut Part,
) {
    let chunks = rows.v_dim.div_ceil(LANES);
    let bytes = V::row_bytes(rows.v_dim);
    // The first vectors ask for all lines of the next page's rows.
    let asked = if chunk == 0 { bytes } else { 0 };
    let mut acc = [[s.splat(0.0); C]; T];
    for t in 0..T {
        for c in 0..C {
            acc[t][c] = s.load(&part.sums.out, ((first + t) * chunks + chunk + c) * LANES);
        }
    }
    for pos in from..to {
        let at = (pos - rows.base) * bytes;
        let mut v = [s.splat(0.0); C];
        for c in 0..C {
            v[c] = V::lanes(s, rows.values, at, chunk + c);
        }
        for t in 0..T {
            let w = s.splat(part.weights[(first + t) * STRIDE + pos]);
            for c in 0..C {
                acc[t][c] = s.fma(w, v[c], acc[t][c]);
            }
        }
        let mut line = 0;
        while line < asked {
            s.prefetch(rows.ahead, at + line);
            line += LINE;
        }
    }
    for t in 0..T {
        for c in 0..C {
            s.store(acc[t][c], &mut part.sums.out, ((first + t) * chunks + chunk + c) * LANES);
        }
    }
}

/// Adds what a segment amounts to.
#[inline(always)]
pub fn fold<S: Simd>(s: S, part: &Softmax, sums: &mut Softmax, queries: usize) {
    let (old_top, new_top) = (s.load(&sums.top, 0), s.load(&part.top, 0));
    let top = s.max(new_top, old_top);
    let (mut tops, mut old, mut new) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    s.store(top, &mut tops, 0);
    s.store(exp2(s, s.sub(old_top, top)), &mut old, 0);
    s.store(exp2(s, s.sub(new_top, top)), &mut new, 0);
    let padded = part.out.len() / queries;
    for t in 0..queries {
        // A query that saw nothing of the segment stays as it is.
        if part.total[t] == 0.0 {
            continue;
        }
        sums.top[t] = tops[t];
        sums.total[t] = sums.total[t] * old[t] + part.total[t] * new[t];
        let (old, new) = (s.splat(old[t]), s.splat(new[t]));
        for at in (t * padded..(t + 1) * padded).step_by(LANES) {
            let more = s.mul(s.load(&part.out, at), new);
            s.store(s.fma(s.load(&sums.out, at), old, more), &mut sums.out, at);
        }
    }
}
