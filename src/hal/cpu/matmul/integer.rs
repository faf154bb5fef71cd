//! Integer products: the one kernel of all quantised formats.
//!
//! Bytes of weights are read and unpacked once. A format says which *runs* of a block come out of the same bytes (the
//! low and the high nibbles, the four bit pairs), and the kernel keeps one sum for each of them, so that a word is
//! loaded once and several independent sums run side by side. One, two, four or eight activation rows are served
//! straight from the weights. Other numbers go in tiles over a few blocks: the first tile reads the weights and, as it
//! goes, leaves them unpacked in the nearest cache, where the others find them. Offsets and minima cost a product of
//! pairs for two sub-blocks, because activations carry minus their sums. All ways compute every output by the same exact integers
//! and the same float operations in the same order.

#![expect(clippy::needless_range_loop, reason = "an index runs through several arrays at once")]

use super::super::activation::Block;
use super::{LANES, Pair, Simd, Sums, Task};
use std::marker::PhantomData;

/// The words of up to four runs.
pub type Words<S> = [<S as Simd>::I; 4];

/// The words of two runs.
#[inline(always)]
pub fn two<I: Copy>([a, b]: [I; 2]) -> [I; 4] {
    [a, b, b, b]
}

/// How sixteen interleaved rows of a block yield integers. `p` is a block column: `BYTES` bytes.
pub trait IntFormat: 'static {
    /// The activations' block, of the same length.
    type X: Block;
    /// Bytes of sixteen rows of a block.
    const BYTES: usize;
    /// Elements that share a sub-scale: 16 or 32.
    const SUB: usize;
    /// Words (of four consecutive elements) of a run: 4 or 8, and not more than a sub-block has.
    const RUN: usize;
    /// Runs that come out of the same bytes, at most 4: a set.
    const WAYS: usize;
    /// Whether sub-blocks have scales (else one sub-block is the block).
    const SCALED: bool = false;
    /// Whether integers are signed bytes; else they are in `0 ..= 127`.
    const SIGNED: bool = false;
    /// Stored integers are this much too large: 0, 4, 8, 16 or 32.
    const OFFSET: i32 = 0;
    /// Whether a sum of `PART` words' products fits into 16 bits with its sign, and scales have no sign: such sums are
    /// scaled by one operation each, those of 32 products by three.
    const NARROW: bool = false;
    /// Whether there are minima.
    const MINIMA: bool = false;

    /// Word `j` of each run of a set: four bytes of each row (as `Simd::dot` or `dot_signed` want them).
    fn quants<S: Simd>(s: S, p: &[u8], set: usize, j: usize) -> Words<S>;
    /// Which run of the block is run `way` of a set.
    #[inline(always)]
    fn run(set: usize, way: usize) -> usize {
        set * Self::WAYS + way
    }
    /// Scale of the block.
    fn scale<S: Simd>(s: S, p: &[u8]) -> S::F;
    /// Scale of the minima.
    #[inline(always)]
    fn min_scale<S: Simd>(s: S, _: &[u8]) -> S::F {
        s.splat(0.0)
    }
    /// Scales of the sub-blocks.
    #[inline(always)]
    fn sub_scales<S: Simd>(_: S, _: &[u8], _: &mut [S::I; 16]) {}
    /// Minima of the sub-blocks, in pairs as `Block::minus_sum` takes them.
    #[inline(always)]
    fn sub_minima<S: Simd>(_: S, _: &[u8], _: &mut [S::I; 8]) {}
}

/// What stored integers are too large by, under an instruction set that wants signed bytes biased or not.
#[inline(always)]
fn excess<S: Simd, F: IntFormat>() -> i32 {
    if F::SIGNED && S::BIASED { 128 } else { F::OFFSET }
}

/// Scales and minima of the sub-blocks of sixteen rows.
#[derive(Clone, Copy)]
pub(super) struct Subs<S: Simd> {
    pub(super) scales: [S::I; 16],
    /// The scales in pairs, for what the excess of the integers adds.
    pairs: [S::I; 8],
    minima: [S::I; 8],
}

impl<S: Simd> Subs<S> {
    #[inline(always)]
    pub(super) fn zero(s: S) -> Self {
        let zero = s.isplat(0);
        Subs { scales: [zero; 16], pairs: [zero; 8], minima: [zero; 8] }
    }

    /// Scales and minima, for those who take the excess off the integers.
    #[inline(always)]
    pub(super) fn read_exact<F: IntFormat>(&mut self, s: S, p: &[u8]) {
        if F::SCALED {
            F::sub_scales(s, p, &mut self.scales);
            F::sub_minima(s, p, &mut self.minima);
        }
    }

    #[inline(always)]
    fn read<F: IntFormat>(&mut self, s: S, p: &[u8]) {
        self.read_exact::<F>(s, p);
        if F::SCALED && excess::<S, F>() != 0 {
            for i in 0..F::X::LEN / F::SUB / 2 {
                let (a, b) = (self.scales[i / 2 * 4 + i % 2], self.scales[i / 2 * 4 + i % 2 + 2]);
                self.pairs[i] = s.or(s.and(a, s.isplat(0xffff)), s.shl(b, 16));
            }
        }
    }
}

/// What a block's products need beside the integers.
pub(super) struct Head<'a, S: Simd, F: IntFormat> {
    scale: S::F,
    min_scale: S::F,
    subs: &'a Subs<S>,
    format: PhantomData<F>,
}

impl<'a, S: Simd, F: IntFormat> Head<'a, S, F> {
    #[inline(always)]
    pub(super) fn new(scale: S::F, min_scale: S::F, subs: &'a Subs<S>) -> Self {
        Head { scale, min_scale, subs, format: PhantomData }
    }

    /// The sum that a block's products start from: what the excess of the integers takes away.
    #[inline(always)]
    fn start(&self, s: S, x: &F::X) -> S::I {
        match excess::<S, F>() {
            0 => s.isplat(0),
            times => x.minus_sum(s, times, &self.subs.pairs, F::SUB),
        }
    }

    /// Adds a block's exact sum, and that of its minima, to an output.
    #[inline(always)]
    pub(super) fn finish(&self, s: S, x: &F::X, sum: S::I, acc: S::F) -> S::F {
        let d = s.splat(x.scale());
        let acc = s.fma(s.to_f32(sum), s.mul(self.scale, d), acc);
        if !F::MINIMA {
            return acc;
        }
        let minima = x.minus_sum(s, 1, &self.subs.minima, F::SUB);
        s.fma(s.to_f32(minima), s.mul(self.min_scale, d), acc)
    }
}

#[inline(always)]
fn dot<S: Simd, F: IntFormat>(s: S, acc: S::I, w: S::I, x: i32) -> S::I {
    if F::SIGNED { s.dot_signed(acc, w, x) } else { s.dot(acc, w, x) }
}

/// Words of which narrow formats scale the sum.
const PART: usize = 4;

/// A sum, scaled, added to another.
#[inline(always)]
fn scale<S: Simd, F: IntFormat>(s: S, total: S::I, sum: S::I, scale: S::I) -> S::I {
    if F::NARROW { s.scale_half(total, sum, scale) } else { s.iadd(total, s.imul(sum, scale)) }
}

/// Bytes between the block that is computed and the one that is asked for.
const PREFETCH: usize = 8192;

/// Adds one packed block's products with `T` activation rows to their sums. With `KEEP` it also writes the words as it
/// comes to them: the stores run beside the products.
#[inline(always)]
fn add_packed<S: Simd, F: IntFormat, const T: usize, const KEEP: bool>(
    s: S,
    p: &[u8],
    head: &Head<S, F>,
    x: [&F::X; T],
    acc: &mut [S::F; T],
    words: &mut [S::I],
) {
    let mut total = [s.isplat(0); T];
    for t in 0..T {
        total[t] = head.start(s, x[t]);
    }
    let sets = F::X::LEN / (4 * F::RUN * F::WAYS);
    for set in 0..sets {
        // Lines are asked for between computations: all at once, they would fill the queue of misses and stop it.
        let mut line = set * F::BYTES / sets;
        while line < (set + 1) * F::BYTES / sets {
            s.prefetch(p, PREFETCH + line);
            line += 64;
        }
        let mut sums = [[s.isplat(0); 4]; T];
        for j in 0..F::RUN {
            let w = F::quants(s, p, set, j);
            for way in 0..F::WAYS {
                let at = F::run(set, way) * F::RUN + j;
                if KEEP {
                    words[at] = w[way];
                }
                for t in 0..T {
                    sums[t][way] = dot::<S, F>(s, sums[t][way], w[way], x[t].word(at));
                }
                if F::NARROW && j % PART == PART - 1 {
                    let factor = head.subs.scales[at * 4 / F::SUB];
                    for t in 0..T {
                        total[t] = scale::<S, F>(s, total[t], sums[t][way], factor);
                        sums[t][way] = s.isplat(0);
                    }
                }
            }
        }
        for t in 0..if F::NARROW { 0 } else { T } {
            // Runs of one sub-block are added before they are scaled.
            let runs = if F::SCALED { F::SUB / (4 * F::RUN) } else { F::WAYS };
            for first in (0..F::WAYS).step_by(runs) {
                let mut sum = sums[t][first];
                for way in first + 1..first + runs {
                    sum = s.iadd(sum, sums[t][way]);
                }
                let factor = head.subs.scales[F::run(set, first) * 4 * F::RUN / F::SUB];
                total[t] = if F::SCALED { scale::<S, F>(s, total[t], sum, factor) } else { s.iadd(total[t], sum) };
            }
        }
    }
    for t in 0..T {
        acc[t] = head.finish(s, x[t], total[t], acc[t]);
    }
}

/// Products of `T` activation rows straight from the weights.
#[inline(always)]
fn multiply_packed<S: Simd, F: IntFormat, const T: usize>(s: S, task: &Task) {
    let (x, stride) = (F::X::of(&task.x), task.x.rows);
    let mut subs = Subs::zero(s);
    for (g, group) in task.weights.chunks_exact(task.group_bytes).enumerate() {
        let mut acc = [s.splat(0.0); T];
        for (p, x) in group.chunks_exact(F::BYTES).zip(x.chunks_exact(stride)) {
            subs.read::<F>(s, p);
            let head = Head::<S, F>::new(F::scale(s, p), F::min_scale(s, p), &subs);
            let mut rows = [&x[0]; T];
            for t in 0..T {
                rows[t] = &x[task.pairs[t].input as usize];
            }
            add_packed::<S, F, T, false>(s, p, &head, rows, &mut acc, &mut []);
        }
        for t in 0..T {
            task.finish(s, g, task.pairs[t].output, acc[t]);
        }
    }
}

/// Runs a task.
#[inline(always)]
pub fn multiply_int<S: Simd, F: IntFormat>(s: S, task: &Task, sums: &mut Sums) {
    match task.pairs.len() {
        0 => {}
        1 => multiply_packed::<S, F, 1>(s, task),
        2 => multiply_packed::<S, F, 2>(s, task),
        4 => multiply_packed::<S, F, 4>(s, task),
        8 if F::WAYS < 4 => multiply_packed::<S, F, 8>(s, task),
        _ => multiply_rows::<S, F>(s, task, sums),
    }
}

/// Elements of a row that all tiles pass before the next ones: sixteen times as many bytes, unpacked.
const STEP: usize = 1024;

/// Blocks of sixteen rows, unpacked.
struct Unpacked<S: Simd, F: IntFormat> {
    /// `[block][run][word]`
    words: [S::I; STEP / 4],
    scales: [S::F; STEP / 32],
    min_scales: [S::F; STEP / 32],
    subs: [Subs<S>; STEP / 256],
    format: PhantomData<F>,
}

impl<S: Simd, F: IntFormat> Unpacked<S, F> {
    /// Words of a block.
    const WORDS: usize = F::X::LEN / 4;

    #[inline(always)]
    fn empty(s: S) -> Self {
        let subs = [Subs::zero(s); STEP / 256];
        let scales = [s.splat(0.0); STEP / 32];
        Unpacked { words: [s.isplat(0); STEP / 4], scales, min_scales: scales, subs, format: PhantomData }
    }

    /// Adds the products of block `b` with `T` activation rows to their sums.
    #[inline(always)]
    fn add<const T: usize>(&self, s: S, b: usize, x: [&F::X; T], acc: &mut [S::F; T]) {
        let subs = &self.subs[b * F::X::LEN / 256];
        let head = Head::<S, F>::new(self.scales[b], self.min_scales[b], subs);
        let words = &self.words[b * Self::WORDS..][..Self::WORDS];
        let mut total = [s.isplat(0); T];
        for t in 0..T {
            total[t] = head.start(s, x[t]);
        }
        let part = if F::NARROW { PART } else { F::SUB / 4 };
        for first in (0..Self::WORDS).step_by(part) {
            let mut sums = if F::SCALED { [s.isplat(0); T] } else { total };
            for j in first..first + part {
                for t in 0..T {
                    sums[t] = dot::<S, F>(s, sums[t], words[j], x[t].word(j));
                }
            }
            for t in 0..T {
                let factor = head.subs.scales[first * 4 / F::SUB];
                total[t] = if F::SCALED { scale::<S, F>(s, total[t], sums[t], factor) } else { sums[t] };
            }
        }
        for t in 0..T {
            acc[t] = head.finish(s, x[t], total[t], acc[t]);
        }
    }

    /// Adds the products of blocks with `T` rows to their sums in memory. `x` begins with these blocks' columns. The
    /// first tile of all comes with the packed blocks and unpacks them for the others.
    #[inline(always)]
    fn add_tile<const T: usize, const FIRST: bool>(&mut self, s: S, step: &Step<F::X>, first: usize, sums: &mut Sums) {
        let sums = &mut sums[first..first + T];
        let mut acc = [s.splat(0.0); T];
        let mut inputs = [0; T];
        for t in 0..T {
            acc[t] = s.load(&sums[t], 0);
            inputs[t] = step.pairs[first + t].input as usize;
            assert!(inputs[t] < step.stride, "a pair names a row that there is");
        }
        for (b, p) in step.blocks.chunks_exact(F::BYTES).enumerate() {
            let x = &step.x[b * step.stride..][..step.stride];
            let mut rows = [&x[0]; T];
            for t in 0..T {
                rows[t] = &x[inputs[t]];
            }
            if FIRST {
                self.scales[b] = F::scale(s, p);
                self.min_scales[b] = F::min_scale(s, p);
                let subs = &mut self.subs[b * F::X::LEN / 256];
                subs.read::<F>(s, p);
                let head = Head::<S, F>::new(self.scales[b], self.min_scales[b], subs);
                let words = &mut self.words[b * Self::WORDS..][..Self::WORDS];
                add_packed::<S, F, T, true>(s, p, &head, rows, &mut acc, words);
            } else {
                self.add(s, b, rows, &mut acc);
            }
        }
        for t in 0..T {
            s.store(acc[t], &mut sums[t], 0);
        }
    }
}

/// Some blocks of sixteen rows and the activations that meet them.
struct Step<'a, X> {
    blocks: &'a [u8],
    /// `[block][row]`
    x: &'a [X],
    /// Rows of a block column.
    stride: usize,
    pairs: &'a [Pair],
}

/// Products of many activation rows.
#[inline(always)]
fn multiply_rows<S: Simd, F: IntFormat>(s: S, task: &Task, sums: &mut Sums) {
    let (stride, n) = (task.x.rows, task.pairs.len());
    let step = STEP / F::X::LEN;
    let mut unpacked = Unpacked::<S, F>::empty(s);
    for (g, group) in task.weights.chunks_exact(task.group_bytes).enumerate() {
        sums.clear();
        sums.resize(n, [0.0; LANES]);
        for (blocks, x) in group.chunks(step * F::BYTES).zip(F::X::of(&task.x).chunks(step * stride)) {
            let step = Step { blocks, x, stride, pairs: task.pairs };
            // The sums of all runs of the first tile are to stay in registers.
            let mut t = if n >= 8 && F::WAYS < 4 {
                unpacked.add_tile::<8, true>(s, &step, 0, sums);
                8
            } else if n >= 4 {
                unpacked.add_tile::<4, true>(s, &step, 0, sums);
                4
            } else {
                unpacked.add_tile::<2, true>(s, &step, 0, sums);
                2
            };
            while t + 8 <= n {
                unpacked.add_tile::<8, false>(s, &step, t, sums);
                t += 8;
            }
            if t + 4 <= n {
                unpacked.add_tile::<4, false>(s, &step, t, sums);
                t += 4;
            }
            if t + 2 <= n {
                unpacked.add_tile::<2, false>(s, &step, t, sums);
                t += 2;
            }
            if t < n {
                unpacked.add_tile::<1, false>(s, &step, t, sums);
            }
        }
        for (pair, sums) in task.pairs.iter().zip(sums.iter()) {
            task.finish(s, g, pair.output, s.load(sums, 0));
        }
    }
}
