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
    /// All zeros.
    const ZERO: Self;
    /// Elements `4i .. 4i + 4` as the bytes of a word.
    fn word(&self, i: usize) -> i32;
    /// Minus the sum of the i-th `len` elements; `len` is 16 or 32.
    fn minus_sum(&self, i: usize, len: usize) -> i32;
    /// Scale.
    fn scale(&self) -> f32;
    /// The integers and the sums of each 16 of them, to fill in, and the scale.
    fn parts(&mut self) -> (&mut [u8], &mut [i32], &mut f32);
}

/// 32 elements: one cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Block32 {
    q: [u8; 32],
    minus_sums: [i32; 2],
    scale: f32,
}

/// 256 elements.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Block256 {
    q: [u8; 256],
    minus_sums: [i32; 16],
    scale: f32,
}

macro_rules! block {
    ($name:ident, $len:literal, $field:ident) => {
        impl Block for $name {
            const LEN: usize = $len;
            const ZERO: Self = $name { q: [0; $len], minus_sums: [0; $len / 16], scale: 0.0 };
            #[inline(always)]
            fn of<'a>(x: &Activations<'a>) -> &'a [Self] {
                x.$field
            }
            #[inline(always)]
            fn word(&self, i: usize) -> i32 {
                i32::from_le_bytes([self.q[4 * i], self.q[4 * i + 1], self.q[4 * i + 2], self.q[4 * i + 3]])
            }
            #[inline(always)]
            fn minus_sum(&self, i: usize, len: usize) -> i32 {
                if len == 16 { self.minus_sums[i] } else { self.minus_sums[2 * i] + self.minus_sums[2 * i + 1] }
            }
            #[inline(always)]
            fn scale(&self) -> f32 {
                self.scale
            }
            #[inline(always)]
            fn parts(&mut self) -> (&mut [u8], &mut [i32], &mut f32) {
                (&mut self.q, &mut self.minus_sums, &mut self.scale)
            }
        }
    };
}

block!(Block32, 32, blocks32);
block!(Block256, 256, blocks256);

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
        *out = B::ZERO;
        *out.parts().2 = if bits < TINY { 0.0 } else { f32::NAN };
        return;
    }
    let top = f32::from_bits(bits as u32);
    let inverse = s.splat(127.0 / top);
    let (q, minus_sums, scale) = out.parts();
    *scale = top / 127.0;
    for (i, minus_sum) in minus_sums.iter_mut().enumerate() {
        s.store_i8(s.round(s.mul(s.load(x, i * LANES), inverse)), q, i * LANES);
        let mut total = 0;
        for &b in &q[i * LANES..][..LANES] {
            total += i32::from(b as i8);
        }
        *minus_sum = -total;
    }
}
