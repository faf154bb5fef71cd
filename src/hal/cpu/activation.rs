//! Activations as integer kernels read them: int8 with one float32 scale a block.
//!
//! Formats of 32-element blocks take blocks of 32, formats of 256-element superblocks take blocks of 256. The
//! scale is `max|x| / 127` and the integers are `x * (127 / max|x|)` rounded to nearest even, so they lie in
//! -127..=127 (never -128: the AVX2 products would not fit). Beside them stand minus the sums of the integers, which
//! formats with offsets and minima need. A block whose largest magnitude is below 2^-100 is zero; a block with an
//! infinity or NaN has the scale NaN and zeros, so that NaN reaches every output that reads it.
//!
//! Blocks of one column of all rows lie together (`[column][row]`), because a kernel walks columns outside and
//! rows inside.

use super::matmul::Activations;
use super::simd::{LANES, Simd};

/// Bits of 2^-100, the smallest magnitude that counts.
const TINY: i32 = (127 - 100) << 23;
/// Bits of infinity.
const INFINITY: i32 = 0x7f80_0000;

/// A block of quantised activations.
pub trait Block: Copy + Send + Sync + 'static {
    /// Elements.
    const LEN: usize;
    /// The blocks of this kind among a job's activations.
    fn of<'a>(x: &Activations<'a>) -> &'a [Self];
    /// All zeros, with this scale.
    fn zero(scale: f32) -> Self;
    /// Elements `4i .. 4i + 4` as the bytes of a word.
    fn word(&self, i: usize) -> i32;
    /// Minus the sum of the integers times `times` (1, 4, 8, 16, 32 or 128), in sixteen lanes. A block with sub-blocks
    /// (of `sub` integers: 16 or 32) weighs the sum of each by its factor in each lane. Factors come in pairs, in the
    /// halves of words: of each four, pair `2k` has the first and the third, pair `2k + 1` the second and the fourth, as
    /// bytes fall out of a word under a mask.
    fn minus_sum<S: Simd>(&self, s: S, times: i32, factors: &[S::I; 8], sub: usize) -> S::I;
    /// Scale.
    fn scale(&self) -> f32;
    /// The integers, to fill in.
    fn integers(&mut self) -> &mut [u8];
    /// Sets the scale and what follows from minus the sums of each sixteen integers.
    fn finish(&mut self, minus_sums: &[i32], scale: f32);
}

/// 32 elements: one cache line. The integers come first, where tiles find them.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Block32 {
    q: [u8; 32],
    /// Times 1, 8, 16 and 128, ready to start a product from.
    minus_sums: [i32; 4],
    scale: f32,
}

/// 256 elements: five cache lines. The integers come first, where tiles find them.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Block256 {
    q: [u8; 256],
    /// Pairs of sums of 16.
    pairs16: [i32; 8],
    /// Pairs of sums of 32.
    pairs32: [i32; 4],
    scale: f32,
}

/// Word `i` of bytes.
#[inline(always)]
fn word(q: &[u8], i: usize) -> i32 {
    let (words, _) = q.as_chunks::<4>();
    i32::from_le_bytes(words[i])
}

/// Two numbers below 2^15 in magnitude as the halves of a word.
fn halves(low: i32, high: i32) -> i32 {
    low & 0xffff | high << 16
}

/// The parts of pair `i`.
const fn parts(i: usize) -> (usize, usize) {
    let first = i / 2 * 4 + i % 2;
    (first, first + 2)
}

impl Block for Block32 {
    const LEN: usize = 32;
    #[inline(always)]
    fn of<'a>(x: &Activations<'a>) -> &'a [Self] {
        x.blocks32
    }
    fn zero(scale: f32) -> Self {
        Block32 { q: [0; 32], minus_sums: [0; 4], scale }
    }
    #[inline(always)]
    fn word(&self, i: usize) -> i32 {
        word(&self.q, i)
    }
    #[inline(always)]
    fn minus_sum<S: Simd>(&self, s: S, times: i32, _: &[S::I; 8], _: usize) -> S::I {
        s.isplat(match times {
            1 => self.minus_sums[0],
            8 => self.minus_sums[1],
            16 => self.minus_sums[2],
            _ => self.minus_sums[3],
        })
    }
    #[inline(always)]
    fn scale(&self) -> f32 {
        self.scale
    }
    #[inline(always)]
    fn integers(&mut self) -> &mut [u8] {
        &mut self.q
    }
    #[inline(always)]
    fn finish(&mut self, minus_sums: &[i32], scale: f32) {
        let n = minus_sums[0] + minus_sums[1];
        *self = Block32 { q: self.q, minus_sums: [n, 8 * n, 16 * n, 128 * n], scale };
    }
}

impl Block for Block256 {
    const LEN: usize = 256;
    #[inline(always)]
    fn of<'a>(x: &Activations<'a>) -> &'a [Self] {
        x.blocks256
    }
    fn zero(scale: f32) -> Self {
        Block256 { q: [0; 256], pairs16: [0; 8], pairs32: [0; 4], scale }
    }
    #[inline(always)]
    fn word(&self, i: usize) -> i32 {
        word(&self.q, i)
    }
    #[inline(always)]
    fn minus_sum<S: Simd>(&self, s: S, times: i32, factors: &[S::I; 8], sub: usize) -> S::I {
        let pairs = if sub == 16 { &self.pairs16[..] } else { &self.pairs32[..] };
        let mut sum = s.isplat(0);
        for (i, &pair) in pairs.iter().enumerate() {
            sum = s.dot_pairs(sum, factors[i], pair);
        }
        s.shl(sum, times.trailing_zeros())
    }
    #[inline(always)]
    fn scale(&self) -> f32 {
        self.scale
    }
    #[inline(always)]
    fn integers(&mut self) -> &mut [u8] {
        &mut self.q
    }
    #[inline(always)]
    fn finish(&mut self, minus_sums: &[i32], scale: f32) {
        for (i, pair) in self.pairs16.iter_mut().enumerate() {
            let (a, b) = parts(i);
            *pair = halves(minus_sums[a], minus_sums[b]);
        }
        for (i, pair) in self.pairs32.iter_mut().enumerate() {
            let (a, b) = parts(i);
            *pair = halves(minus_sums[2 * a] + minus_sums[2 * a + 1], minus_sums[2 * b] + minus_sums[2 * b + 1]);
        }
        self.scale = scale;
    }
}

/// Where the blocks of one row go: block c at `start + c * stride`.
#[derive(Debug, Clone, Copy)]
pub struct RowBlocks<B> {
    /// The row's first block.
    pub start: *mut B,
    /// Rows of a column.
    pub stride: usize,
}

/// Quantises a row (a multiple of the block).
///
/// # Safety
/// All blocks of the row are writable and nobody else uses them.
#[inline(always)]
pub unsafe fn quantise<S: Simd, B: Block>(s: S, x: &[f32], out: RowBlocks<B>) {
    for (c, x) in x.chunks_exact(B::LEN).enumerate() {
        // SAFETY: the caller's promise.
        quantise_block(s, x, unsafe { &mut *out.start.add(c * out.stride) });
    }
}

#[inline(always)]
fn quantise_block<S: Simd, B: Block>(s: S, x: &[f32], out: &mut B) {
    let magnitude = s.isplat(i32::MAX);
    let mut top = s.isplat(0);
    for at in (0..B::LEN).step_by(LANES) {
        top = s.imax(top, s.and(s.as_words(s.load(x, at)), magnitude));
    }
    let mut lanes = [0.0; LANES];
    s.store(s.as_float(top), &mut lanes, 0);
    // Magnitudes order as their bits do, with NaN above infinity.
    let mut bits = 0;
    for lane in lanes {
        bits = bits.max(lane.to_bits() as i32);
    }
    if !(TINY..INFINITY).contains(&bits) {
        *out = B::zero(if bits < TINY { 0.0 } else { f32::NAN });
        return;
    }
    let top = f32::from_bits(bits as u32);
    let inverse = s.splat(127.0 / top);
    let q = out.integers();
    let mut minus_sums = [0; 16];
    for (i, minus_sum) in minus_sums[..B::LEN / LANES].iter_mut().enumerate() {
        s.store_i8(s.round(s.mul(s.load(x, i * LANES), inverse)), q, i * LANES);
        let mut total = 0;
        for &b in &q[i * LANES..][..LANES] {
            total += i32::from(b as i8);
        }
        *minus_sum = -total;
    }
    out.finish(&minus_sums, top / 127.0);
}
