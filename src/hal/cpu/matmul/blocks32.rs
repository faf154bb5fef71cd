//! Formats of 32-element blocks: where their integers, scales and minima lie in sixteen interleaved rows.
//!
//! Offsets are those of the format's fields times sixteen. Nibbles: low ones are elements 0 to 15, high ones
//! 16 to 31. Layouts: ggml's `block_q4_0` and so on; MXFP4 after the OCP microscaling specification.

use super::super::activation::Block32;
use super::{IntFormat, LANES, Simd, Words, two};

/// The low and the high nibbles of word `j` of those that begin at `at`: here elements `4j..` and `16 + 4j..`.
#[inline(always)]
pub fn nibbles<S: Simd>(s: S, p: &[u8], at: usize, j: usize) -> [S::I; 2] {
    let word = s.iload(p, at + j * 64);
    let mask = s.isplat(0x0f0f_0f0f);
    [s.and(word, mask), s.and(s.shr(word, 4), mask)]
}

/// Their fifth bits out of a word of 32 at `at`, set over the nibbles.
#[inline(always)]
fn with_fifth_bits<S: Simd>(s: S, p: &[u8], at: usize, j: usize, [low, high]: [S::I; 2]) -> [S::I; 2] {
    let bits = s.iload(p, at);
    [s.or(low, fifths(s, s.shr(bits, 4 * j as u32))), s.or(high, fifths(s, s.shr(bits, 16 + 4 * j as u32)))]
}

/// Four bits of each word, each at bit 4 of a byte.
#[inline(always)]
fn fifths<S: Simd>(s: S, bits: S::I) -> S::I {
    // Bit i to bit 8i: four copies at distances of 7 bits, whose other bits fall away.
    let copies = s.imul(s.and(bits, s.isplat(0xf)), s.isplat(1 | 1 << 7 | 1 << 14 | 1 << 21));
    s.shl(s.and(copies, s.isplat(0x0101_0101)), 4)
}

/// The codebook's entries of nibbles, as a signed dot wants them.
#[inline(always)]
pub fn entries<S: Simd>(s: S, [low, high]: [S::I; 2], table: &[i8; 16]) -> [S::I; 2] {
    [s.signed_weight(s.lookup(low, table)), s.signed_weight(s.lookup(high, table))]
}

/// `block_q4_0`
pub struct Q4_0;
impl IntFormat for Q4_0 {
    type X = Block32;
    const BYTES: usize = 18 * LANES;
    const SUB: usize = 32;
    const RUN: usize = 4;
    const WAYS: usize = 2;
    const OFFSET: i32 = 8;
    #[inline(always)]
    fn quants<S: Simd>(s: S, p: &[u8], _: usize, j: usize) -> Words<S> {
        two(nibbles(s, p, 2 * LANES, j))
    }
    #[inline(always)]
    fn scale<S: Simd>(s: S, p: &[u8]) -> S::F {
        s.load_f16(p, 0)
    }
}

/// `block_q4_1`
pub struct Q4_1;
impl IntFormat for Q4_1 {
    type X = Block32;
    const BYTES: usize = 20 * LANES;
    const SUB: usize = 32;
    const RUN: usize = 4;
    const WAYS: usize = 2;
    const MINIMA: bool = true;
    #[inline(always)]
    fn quants<S: Simd>(s: S, p: &[u8], _: usize, j: usize) -> Words<S> {
        two(nibbles(s, p, 4 * LANES, j))
    }
    #[inline(always)]
    fn scale<S: Simd>(s: S, p: &[u8]) -> S::F {
        s.load_f16(p, 0)
    }
    #[inline(always)]
    fn min_scale<S: Simd>(s: S, p: &[u8]) -> S::F {
        minus(s, s.load_f16(p, 2 * LANES))
    }
}

/// `block_q5_0`
pub struct Q5_0;
impl IntFormat for Q5_0 {
    type X = Block32;
    const BYTES: usize = 22 * LANES;
    const SUB: usize = 32;
    const RUN: usize = 4;
    const WAYS: usize = 2;
    const OFFSET: i32 = 16;
    #[inline(always)]
    fn quants<S: Simd>(s: S, p: &[u8], _: usize, j: usize) -> Words<S> {
        two(with_fifth_bits(s, p, 2 * LANES, j, nibbles(s, p, 6 * LANES, j)))
    }
    #[inline(always)]
    fn scale<S: Simd>(s: S, p: &[u8]) -> S::F {
        s.load_f16(p, 0)
    }
}

/// `block_q5_1`
pub struct Q5_1;
impl IntFormat for Q5_1 {
    type X = Block32;
    const BYTES: usize = 24 * LANES;
    const SUB: usize = 32;
    const RUN: usize = 4;
    const WAYS: usize = 2;
    const MINIMA: bool = true;
    #[inline(always)]
    fn quants<S: Simd>(s: S, p: &[u8], _: usize, j: usize) -> Words<S> {
        two(with_fifth_bits(s, p, 4 * LANES, j, nibbles(s, p, 8 * LANES, j)))
    }
    #[inline(always)]
    fn scale<S: Simd>(s: S, p: &[u8]) -> S::F {
        s.load_f16(p, 0)
    }
    #[inline(always)]
    fn min_scale<S: Simd>(s: S, p: &[u8]) -> S::F {
        minus(s, s.load_f16(p, 2 * LANES))
    }
}

/// The kernel multiplies minima with minus the sum of the activations; here the minimum is added, not subtracted.
#[inline(always)]
fn minus<S: Simd>(s: S, v: S::F) -> S::F {
    s.mul(v, s.splat(-1.0))
}

/// `block_q8_0`
pub struct Q8_0;
impl IntFormat for Q8_0 {
    type X = Block32;
    const BYTES: usize = 34 * LANES;
    const SUB: usize = 32;
    const RUN: usize = 4;
    const WAYS: usize = 2;
    const SIGNED: bool = true;
    #[inline(always)]
    fn quants<S: Simd>(s: S, p: &[u8], _: usize, j: usize) -> Words<S> {
        let (low, high) = (s.iload(p, 2 * LANES + j * 64), s.iload(p, 2 * LANES + (4 + j) * 64));
        two([s.signed_weight(low), s.signed_weight(high)])
    }
    #[inline(always)]
    fn scale<S: Simd>(s: S, p: &[u8]) -> S::F {
        s.load_f16(p, 0)
    }
}

/// The codebook of `IQ4_NL` and `IQ4_XS`.
pub const NON_LINEAR: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// `block_iq4_nl`
pub struct Iq4Nl;
impl IntFormat for Iq4Nl {
    type X = Block32;
    const BYTES: usize = 18 * LANES;
    const SUB: usize = 32;
    const RUN: usize = 4;
    const WAYS: usize = 2;
    const SIGNED: bool = true;
    #[inline(always)]
    fn quants<S: Simd>(s: S, p: &[u8], _: usize, j: usize) -> Words<S> {
        two(entries(s, nibbles(s, p, 2 * LANES, j), &NON_LINEAR))
    }
    #[inline(always)]
    fn scale<S: Simd>(s: S, p: &[u8]) -> S::F {
        s.load_f16(p, 0)
    }
}

/// `block_mxfp4`: twice the values of E2M1, and half the shared power of two.
pub struct Mxfp4;
impl IntFormat for Mxfp4 {
    type X = Block32;
    const BYTES: usize = 17 * LANES;
    const SUB: usize = 32;
    const RUN: usize = 4;
    const WAYS: usize = 2;
    const SIGNED: bool = true;
    #[inline(always)]
    fn quants<S: Simd>(s: S, p: &[u8], _: usize, j: usize) -> Words<S> {
        const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
        two(entries(s, nibbles(s, p, LANES, j), &E2M1))
    }
    #[inline(always)]
    fn scale<S: Simd>(s: S, p: &[u8]) -> S::F {
        // 2^(e - 128), in two factors because the smallest are not normal.
        let e = s.load_u8(p, 0);
        let half = s.shr(e, 1);
        let rest = s.iadd(e, s.iadd(s.xor(half, s.isplat(-1)), s.isplat(1)));
        let bias = s.isplat(127 - 64);
        s.mul(s.as_float(s.shl(s.iadd(half, bias), 23)), s.as_float(s.shl(s.iadd(rest, bias), 23)))
    }
}
