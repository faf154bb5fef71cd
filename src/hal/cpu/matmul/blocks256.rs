//! Formats of 256-element superblocks: where integers, sub-scales and minima lie in sixteen interleaved rows.
//!
//! A word of four bytes of each row is one vector, so the packed scales of four sub-blocks are unpacked for sixteen
//! rows at once. Layouts: ggml's `block_q2_K` to `block_q6_K` and `block_iq4_xs`.

#![expect(clippy::needless_range_loop, reason = "an index runs through several arrays of lanes at once")]

use super::super::activation::Block256;
use super::blocks32::NON_LINEAR;
use super::{IntFormat, LANES, Simd};

/// Byte `i` of each word, as an integer.
#[inline(always)]
fn byte<S: Simd>(s: S, words: S::I, i: usize) -> S::I {
    s.and(s.shr(words, 8 * i as u32), s.isplat(0xff))
}

/// Four bytes of each word, less `offset`, to `out`.
#[inline(always)]
fn spread<S: Simd>(s: S, words: S::I, offset: i32, out: &mut [S::I]) {
    for i in 0..4 {
        out[i] = s.iadd(byte(s, words, i), s.isplat(-offset));
    }
}

/// The 6-bit scales (`which` 0) or minima (1) of eight sub-blocks, packed in three words at `at`.
#[inline(always)]
fn six_bits<S: Simd>(s: S, p: &[u8], at: usize, which: usize, out: &mut [S::I; 16]) {
    let word = s.iload(p, at + which * 64);
    let low = s.shr(s.iload(p, at + 128), 4 * which as u32);
    let high = s.and(s.shr(word, 2), s.isplat(0x3030_3030));
    spread(s, s.and(word, s.isplat(0x3f3f_3f3f)), 0, &mut out[..4]);
    spread(s, s.or(s.and(low, s.isplat(0x0f0f_0f0f)), high), 0, &mut out[4..]);
}

/// Elements `4j..` of sub-block `sub` (of 32) out of nibbles at `at`: pairs of sub-blocks share 32 bytes.
#[inline(always)]
fn nibbles<S: Simd>(s: S, p: &[u8], at: usize, sub: usize, j: usize) -> S::I {
    let word = s.iload(p, at + (sub / 2 * 8 + j) * 64);
    s.and(s.shr(word, 4 * (sub as u32 % 2)), s.isplat(0x0f0f_0f0f))
}

/// `block_q4_K`
pub struct Q4K;
impl IntFormat for Q4K {
    type X = Block256;
    const BYTES: usize = 144 * LANES;
    const SUB: usize = 32;
    const SCALED: bool = true;
    const MINIMA: bool = true;
    #[inline(always)]
    fn quants<S: Simd>(s: S, p: &[u8], sub: usize, j: usize) -> S::I {
        nibbles(s, p, 16 * LANES, sub, j)
    }
    #[inline(always)]
    fn scale<S: Simd>(s: S, p: &[u8]) -> S::F {
        s.load_f16(p, 0)
    }
    #[inline(always)]
    fn min_scale<S: Simd>(s: S, p: &[u8]) -> S::F {
        s.load_f16(p, 2 * LANES)
    }
    #[inline(always)]
    fn sub_scales<S: Simd>(s: S, p: &[u8], out: &mut [S::I; 16]) {
        six_bits(s, p, 4 * LANES, 0, out);
    }
    #[inline(always)]
    fn sub_minima<S: Simd>(s: S, p: &[u8], out: &mut [S::I; 16]) {
        six_bits(s, p, 4 * LANES, 1, out);
    }
}

/// `block_q5_K`
pub struct Q5K;
impl IntFormat for Q5K {
    type X = Block256;
    const BYTES: usize = 176 * LANES;
    const SUB: usize = 32;
    const SCALED: bool = true;
    const MINIMA: bool = true;
    #[inline(always)]
    fn quants<S: Simd>(s: S, p: &[u8], sub: usize, j: usize) -> S::I {
        let high = s.shr(s.iload(p, 16 * LANES + j * 64), sub as u32);
        let high = s.shl(s.and(high, s.isplat(0x0101_0101)), 4);
        s.or(nibbles(s, p, 48 * LANES, sub, j), high)
    }
    #[inline(always)]
    fn scale<S: Simd>(s: S, p: &[u8]) -> S::F {
        s.load_f16(p, 0)
    }
    #[inline(always)]
    fn min_scale<S: Simd>(s: S, p: &[u8]) -> S::F {
        s.load_f16(p, 2 * LANES)
    }
    #[inline(always)]
    fn sub_scales<S: Simd>(s: S, p: &[u8], out: &mut [S::I; 16]) {
        six_bits(s, p, 4 * LANES, 0, out);
    }
    #[inline(always)]
    fn sub_minima<S: Simd>(s: S, p: &[u8], out: &mut [S::I; 16]) {
        six_bits(s, p, 4 * LANES, 1, out);
    }
}

/// `block_q6_K`: sub-blocks of 16; a half of 128 elements has 64 bytes of nibbles and 32 bytes of upper bit pairs.
pub struct Q6K;
impl IntFormat for Q6K {
    type X = Block256;
    const BYTES: usize = 210 * LANES;
    const SUB: usize = 16;
    const SCALED: bool = true;
    const OFFSET: i32 = 32;
    #[inline(always)]
    fn quants<S: Simd>(s: S, p: &[u8], sub: usize, j: usize) -> S::I {
        let (half, quarter, word) = (sub / 8, sub % 8 / 2, sub % 2 * 4 + j);
        let low = s.iload(p, (half * 16 + quarter % 2 * 8 + word) * 64);
        let low = s.and(s.shr(low, 4 * (quarter as u32 / 2)), s.isplat(0x0f0f_0f0f));
        let high = s.iload(p, 128 * LANES + (half * 8 + word) * 64);
        let high = s.and(s.shr(high, 2 * quarter as u32), s.isplat(0x0303_0303));
        s.or(low, s.shl(high, 4))
    }
    #[inline(always)]
    fn scale<S: Simd>(s: S, p: &[u8]) -> S::F {
        s.load_f16(p, 208 * LANES)
    }
    #[inline(always)]
    fn sub_scales<S: Simd>(s: S, p: &[u8], out: &mut [S::I; 16]) {
        for i in 0..4 {
            let words = s.iload(p, 192 * LANES + i * 64);
            // A signed byte plus 128 is the byte with its top bit flipped.
            spread(s, s.xor(words, s.isplat(0x8080_8080_u32 as i32)), 128, &mut out[4 * i..]);
        }
    }
}

/// Elements `4j..` of sub-block `sub` (of 16) out of bit pairs at `at`: 128 elements share 32 bytes.
#[inline(always)]
fn bit_pairs<S: Simd>(s: S, p: &[u8], at: usize, sub: usize, j: usize) -> S::I {
    let word = s.iload(p, at + (sub / 8 * 8 + sub % 2 * 4 + j) * 64);
    s.and(s.shr(word, 2 * (sub as u32 % 8 / 2)), s.isplat(0x0303_0303))
}

/// `block_q2_K`
pub struct Q2K;
impl IntFormat for Q2K {
    type X = Block256;
    const BYTES: usize = 84 * LANES;
    const SUB: usize = 16;
    const SCALED: bool = true;
    const MINIMA: bool = true;
    #[inline(always)]
    fn quants<S: Simd>(s: S, p: &[u8], sub: usize, j: usize) -> S::I {
        bit_pairs(s, p, 16 * LANES, sub, j)
    }
    #[inline(always)]
    fn scale<S: Simd>(s: S, p: &[u8]) -> S::F {
        s.load_f16(p, 80 * LANES)
    }
    #[inline(always)]
    fn min_scale<S: Simd>(s: S, p: &[u8]) -> S::F {
        s.load_f16(p, 82 * LANES)
    }
    #[inline(always)]
    fn sub_scales<S: Simd>(s: S, p: &[u8], out: &mut [S::I; 16]) {
        for i in 0..4 {
            spread(s, s.and(s.iload(p, i * 64), s.isplat(0x0f0f_0f0f)), 0, &mut out[4 * i..]);
        }
    }
    #[inline(always)]
    fn sub_minima<S: Simd>(s: S, p: &[u8], out: &mut [S::I; 16]) {
        for i in 0..4 {
            spread(s, s.and(s.shr(s.iload(p, i * 64), 4), s.isplat(0x0f0f_0f0f)), 0, &mut out[4 * i..]);
        }
    }
}

/// `block_q3_K`: a set bit of the mask adds 4, and 4 is subtracted from all.
pub struct Q3K;
impl IntFormat for Q3K {
    type X = Block256;
    const BYTES: usize = 110 * LANES;
    const SUB: usize = 16;
    const SCALED: bool = true;
    const OFFSET: i32 = 4;
    #[inline(always)]
    fn quants<S: Simd>(s: S, p: &[u8], sub: usize, j: usize) -> S::I {
        let mask = s.shr(s.iload(p, (sub % 2 * 4 + j) * 64), sub as u32 / 2);
        let high = s.shl(s.and(mask, s.isplat(0x0101_0101)), 2);
        s.or(bit_pairs(s, p, 32 * LANES, sub, j), high)
    }
    #[inline(always)]
    fn scale<S: Simd>(s: S, p: &[u8]) -> S::F {
        s.load_f16(p, 108 * LANES)
    }
    #[inline(always)]
    fn sub_scales<S: Simd>(s: S, p: &[u8], out: &mut [S::I; 16]) {
        let high = s.iload(p, 96 * LANES + 128);
        for i in 0..4 {
            let low = s.shr(s.iload(p, 96 * LANES + i % 2 * 64), 4 * (i as u32 / 2));
            let top = s.shl(s.and(s.shr(high, 2 * i as u32), s.isplat(0x0303_0303)), 4);
            spread(s, s.or(s.and(low, s.isplat(0x0f0f_0f0f)), top), 32, &mut out[4 * i..]);
        }
    }
}

/// `block_iq4_xs`
pub struct Iq4Xs;
impl IntFormat for Iq4Xs {
    type X = Block256;
    const BYTES: usize = 136 * LANES;
    const SUB: usize = 32;
    const SCALED: bool = true;
    const SIGNED: bool = true;
    #[inline(always)]
    fn quants<S: Simd>(s: S, p: &[u8], sub: usize, j: usize) -> S::I {
        // Unlike in Q4_K, a sub-block has its own 16 bytes: low nibbles first, then high ones.
        let word = s.iload(p, 8 * LANES + (sub * 4 + j % 4) * 64);
        let nibbles = s.and(s.shr(word, 4 * (j as u32 / 4)), s.isplat(0x0f0f_0f0f));
        s.signed_weight(s.lookup(nibbles, &NON_LINEAR))
    }
    #[inline(always)]
    fn scale<S: Simd>(s: S, p: &[u8]) -> S::F {
        s.load_f16(p, 0)
    }
    #[inline(always)]
    fn sub_scales<S: Simd>(s: S, p: &[u8], out: &mut [S::I; 16]) {
        let low = s.iload(p, 4 * LANES);
        // Sixteen bits of each row: two bytes that were moved together.
        let high = s.load_u16(p, 2 * LANES);
        for (sub, out) in out[..8].iter_mut().enumerate() {
            let nibble = s.and(s.shr(low, 4 * sub as u32), s.isplat(15));
            let top = s.shl(s.and(s.shr(high, 2 * sub as u32), s.isplat(3)), 4);
            *out = s.iadd(s.or(nibble, top), s.isplat(-32));
        }
    }
}
