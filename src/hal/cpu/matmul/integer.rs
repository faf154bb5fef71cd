//! Integer products: the one kernel of all quantised formats.
//!
//! One activation row is served straight from the weights. More rows go in tiles of eight, four, two and one
//! over a block that was unpacked to the first-level cache, so that unpacking and reading weights are paid
//! once. Both ways compute every output by the same operations in the same order.

use super::super::activation::Block;
use super::{LANES, Pair, Simd, Sums, Task};
use std::marker::PhantomData;

/// How sixteen interleaved rows of a block yield integers. `p` is a block column: `BYTES` bytes.
pub trait IntFormat: 'static {
    /// The activations' block, of the same length.
    type X: Block;
    /// Bytes of sixteen rows of a block.
    const BYTES: usize;
    /// Elements that share a sub-scale: 16 or 32.
    const SUB: usize;
    /// Whether sub-blocks have scales (else one sub-block is the block).
    const SCALED: bool = false;
    /// Whether integers are signed bytes; else they are in `0 ..= 127`.
    const SIGNED: bool = false;
    /// Stored integers are this much too large.
    const OFFSET: i32 = 0;
    /// Whether there are minima.
    const MINIMA: bool = false;

    /// Elements `4j .. 4j + 4` of sub-block `sub`: four bytes of each row (as `Simd::dot` or `dot_signed` want them).
    fn quants<S: Simd>(s: S, p: &[u8], sub: usize, j: usize) -> S::I;
    /// Scale of the block.
    fn scale<S: Simd>(s: S, p: &[u8]) -> S::F;
    /// Scale of the minima.
    fn min_scale<S: Simd>(s: S, _: &[u8]) -> S::F {
        s.splat(0.0)
    }
    /// Scales of the sub-blocks.
    fn sub_scales<S: Simd>(_: S, _: &[u8], _: &mut [S::I; 16]) {}
    /// Minima of the sub-blocks.
    fn sub_minima<S: Simd>(_: S, _: &[u8], _: &mut [S::I; 16]) {}
}

/// What a tile reads: a packed block, or one that was unpacked.
trait Source<S: Simd, F: IntFormat> {
    fn quants(&self, s: S, sub: usize, j: usize) -> S::I;
}

struct Packed<'a>(&'a [u8]);

impl<S: Simd, F: IntFormat> Source<S, F> for Packed<'_> {
    #[inline(always)]
    fn quants(&self, s: S, sub: usize, j: usize) -> S::I {
        F::quants(s, self.0, sub, j)
    }
}

/// A block of sixteen rows, unpacked.
struct Unpacked<S: Simd>([S::I; 64]);

impl<S: Simd, F: IntFormat> Source<S, F> for Unpacked<S> {
    #[inline(always)]
    fn quants(&self, _: S, sub: usize, j: usize) -> S::I {
        self.0[sub * (F::SUB / 4) + j]
    }
}

/// Scales and minima of a block of sixteen rows.
struct Head<S: Simd, F: IntFormat> {
    scale: S::F,
    min_scale: S::F,
    sub_scales: [S::I; 16],
    sub_minima: [S::I; 16],
    format: PhantomData<F>,
}

impl<S: Simd, F: IntFormat> Head<S, F> {
    #[inline(always)]
    fn new(s: S, p: &[u8]) -> Self {
        let zero = [s.isplat(0); 16];
        let scale = F::scale(s, p);
        let min_scale = F::min_scale(s, p);
        let mut head = Head { scale, min_scale, sub_scales: zero, sub_minima: zero, format: PhantomData };
        F::sub_scales(s, p, &mut head.sub_scales);
        F::sub_minima(s, p, &mut head.sub_minima);
        head
    }
}

/// Adds one block's products with `T` activation rows to their sums.
#[inline(always)]
fn add_block<S: Simd, F: IntFormat, const T: usize>(
    s: S,
    source: &impl Source<S, F>,
    head: &Head<S, F>,
    x: [&F::X; T],
    acc: &mut [S::F; T],
) {
    let mut total = [s.isplat(0); T];
    let mut minima = [s.isplat(0); T];
    for sub in 0..F::X::LEN / F::SUB {
        let mut dot = [s.isplat(0); T];
        for t in 0..T {
            if F::SIGNED && S::BIASED {
                dot[t] = s.signed_start(x[t].minus_sum(sub, F::SUB));
            } else if F::OFFSET != 0 {
                dot[t] = s.isplat(x[t].minus_sum(sub, F::SUB) * F::OFFSET);
            }
        }
        for j in 0..F::SUB / 4 {
            let w = source.quants(s, sub, j);
            for t in 0..T {
                let word = x[t].word(sub * (F::SUB / 4) + j);
                dot[t] = if F::SIGNED { s.dot_signed(dot[t], w, word) } else { s.dot(dot[t], w, word) };
            }
        }
        for t in 0..T {
            total[t] = if F::SCALED { s.iadd(total[t], s.imul(dot[t], head.sub_scales[sub])) } else { dot[t] };
            if F::MINIMA {
                let minus_sum = s.isplat(x[t].minus_sum(sub, F::SUB));
                minima[t] =
                    if F::SCALED { s.iadd(minima[t], s.imul(minus_sum, head.sub_minima[sub])) } else { minus_sum };
            }
        }
    }
    for t in 0..T {
        let d = s.splat(x[t].scale());
        acc[t] = s.fma(s.to_f32(total[t]), s.mul(head.scale, d), acc[t]);
        if F::MINIMA {
            acc[t] = s.fma(s.to_f32(minima[t]), s.mul(head.min_scale, d), acc[t]);
        }
    }
}

/// `T` rows' sums in memory, and one unpacked block added to them.
#[inline(always)]
fn add_tile<S: Simd, F: IntFormat, const T: usize>(
    s: S,
    block: &Unpacked<S>,
    head: &Head<S, F>,
    x: &[F::X],
    pairs: &[Pair],
    sums: &mut [[f32; LANES]],
) {
    let mut rows = [&x[0]; T];
    let mut acc = [s.splat(0.0); T];
    for t in 0..T {
        rows[t] = &x[pairs[t].input as usize];
        acc[t] = s.load(&sums[t], 0);
    }
    add_block(s, block, head, rows, &mut acc);
    for t in 0..T {
        s.store(acc[t], &mut sums[t], 0);
    }
}

/// Runs a task. Weights stream forward through memory, so the hardware is told a little earlier than it guesses.
#[inline(always)]
pub fn multiply_int<S: Simd, F: IntFormat>(s: S, task: &Task, sums: &mut Sums) {
    let (x, stride) = (F::X::of(&task.x), task.x.rows);
    for (g, group) in task.weights.chunks_exact(task.group_bytes).enumerate() {
        if let [pair] = task.pairs {
            let mut acc = [s.splat(0.0)];
            for (p, x) in group.chunks_exact(F::BYTES).zip(x.chunks_exact(stride)) {
                let mut line = 0;
                while line < F::BYTES {
                    s.prefetch(p, PREFETCH + line);
                    line += 64;
                }
                let head = Head::<S, F>::new(s, p);
                add_block::<S, F, 1>(s, &Packed(p), &head, [&x[pair.input as usize]], &mut acc);
            }
            task.finish(s, g, pair.output, acc[0]);
        } else {
            multiply_rows::<S, F>(s, task, g, group, sums);
        }
    }
}

/// Bytes between the block that is computed and the one that is asked for.
const PREFETCH: usize = 4096;

/// One group of weight rows for many activation rows.
#[inline(always)]
fn multiply_rows<S: Simd, F: IntFormat>(s: S, task: &Task, g: usize, group: &[u8], sums: &mut Sums) {
    let (x, stride, n) = (F::X::of(&task.x), task.x.rows, task.pairs.len());
    sums.clear();
    sums.resize(n, [0.0; LANES]);
    let mut block = Unpacked::<S>([s.isplat(0); 64]);
    for (p, x) in group.chunks_exact(F::BYTES).zip(x.chunks_exact(stride)) {
        let head = Head::<S, F>::new(s, p);
        for sub in 0..F::X::LEN / F::SUB {
            for j in 0..F::SUB / 4 {
                block.0[sub * (F::SUB / 4) + j] = F::quants(s, p, sub, j);
            }
        }
        let mut t = 0;
        while t + 8 <= n {
            add_tile::<S, F, 8>(s, &block, &head, x, &task.pairs[t..], &mut sums[t..]);
            t += 8;
        }
        if t + 4 <= n {
            add_tile::<S, F, 4>(s, &block, &head, x, &task.pairs[t..], &mut sums[t..]);
            t += 4;
        }
        if t + 2 <= n {
            add_tile::<S, F, 2>(s, &block, &head, x, &task.pairs[t..], &mut sums[t..]);
            t += 2;
        }
        if t < n {
            add_tile::<S, F, 1>(s, &block, &head, x, &task.pairs[t..], &mut sums[t..]);
        }
    }
    for (pair, sums) in task.pairs.iter().zip(sums) {
        task.finish(s, g, pair.output, s.load(sums, 0));
    }
}
