//! Formats of 256-element superblocks: where integers, sub-scales and minima lie in sixteen interleaved rows.
//!
//! A word of four bytes of each row is one vector, so the packed scales of four sub-blocks are unpacked for sixteen
//! rows at once. Layouts: ggml's `block_q2_K` to `block_q6_K` and `block_iq4_xs`.

#![expect(clippy::needless_range_loop, reason = "an index runs through several arrays of lanes at once")]

use super::super::activation::Block256;
use super::blocks32::{NON_LINEAR, entries, nibbles};
use super::{IntFormat, LANES, Simd, Words, two};

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

/// Bytes of each word as pairs of halves: the first and the third, the second and the fourth.
#[inline(always)]
fn pairs<S: Simd>(s: S, words: S::I, out: &mut [S::I]) {
    let mask = s.isplat(0x00ff_00ff);
    out[0] = s.and(words, mask);
    out[1] = s.and(s.shr(words, 8), mask);
}

/// The 6-bit scales (`which` 0) or minima (1) of sub-blocks 0 to 3 and 4 to 7, packed in three words at `at`.
#[inline(always)]
fn six_bits<S: Simd>(s: S, p: &[u8], at: usize, which: usize) -> [S::I; 2] {
    let word = s.iload(p, at + which * 64);
    let low = s.shr(s.iload(p, at + 128), 4 * which as u32);
    let high = s.and(s.shr(word, 2), s.isplat(0x3030_3030));
    [s.and(word, s.isplat(0x3f3f_3f3f)), s.or(s.and(low, s.isplat(0x0f0f_0f0f)), high)]
}

/// The sub-block (of 16) that is quarter `way` of a half: a set is the even or the odd ones of a half.
#[inline(always)]
fn quarters(set: usize, way: usize) -> usize {
    set / 2 * 8 + set % 2 + 2 * way
}

/// `block_q4_K`
pub struct Q4K;
impl IntFormat for Q4K {
    type X = Block256;
    const BYTES: usize = 144 * LANES;
    const SUB: usize = 32;
    const RUN: usize = 8;
    const WAYS: usize = 2;
    const SCALED: bool = true;
    // 16 products of 15 and 127: 30480.
    const NARROW: bool = true;
    const MINIMA: bool = true;
    #[inline(always)]
    fn quants<S: Simd>(s: S, p: &[u8], set: usize, j: usize) -> Words<S> {
        // Two sub-blocks of 32 share bytes.
        two(nibbles(s, p, 16 * LANES + set * 512, j))
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
        let [first, last] = six_bits(s, p, 4 * LANES, 0);
        spread(s, first, 0, &mut out[..4]);
        spread(s, last, 0, &mut out[4..]);
    }
    #[inline(always)]
    fn sub_minima<S: Simd>(s: S, p: &[u8], out: &mut [S::I; 8]) {
        let [first, last] = six_bits(s, p, 4 * LANES, 1);
        pairs(s, first, &mut out[..2]);
        pairs(s, last, &mut out[2..]);
    }
}

/// `block_q5_K`
pub struct Q5K;
impl IntFormat for Q5K {
    type X = Block256;
    const BYTES: usize = 176 * LANES;
    const SUB: usize = 32;
    const RUN: usize = 8;
    const WAYS: usize = 2;
    const SCALED: bool = true;
    const MINIMA: bool = true;
    #[inline(always)]
    fn quants<S: Simd>(s: S, p: &[u8], set: usize, j: usize) -> Words<S> {
        let [low, high] = nibbles(s, p, 48 * LANES + set * 512, j);
        // The two bits of this set, as bits 4 and 5 of each byte.
        let fifth = s.shl(s.shr(s.iload(p, 16 * LANES + j * 64), 2 * set as u32), 4);
        let mask = s.isplat(0x1010_1010);
        two([s.or(low, s.and(fifth, mask)), s.or(high, s.and(s.shr(fifth, 1), mask))])
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
        let [first, last] = six_bits(s, p, 4 * LANES, 0);
        spread(s, first, 0, &mut out[..4]);
        spread(s, last, 0, &mut out[4..]);
    }
    #[inline(always)]
    fn sub_minima<S: Simd>(s: S, p: &[u8], out: &mut [S::I; 8]) {
        let [first, last] = six_bits(s, p, 4 * LANES, 1);
        pairs(s, first, &mut out[..2]);
        pairs(s, last, &mut out[2..]);
    }
}

/// `block_q6_K`: sub-blocks of 16; a half of 128 elements has 64 bytes of nibbles and 32 bytes of upper bit pairs.
pub struct Q6K;
impl IntFormat for Q6K {
    type X = Block256;
    const BYTES: usize = 210 * LANES;
    const SUB: usize = 16;
    const RUN: usize = 4;
    const WAYS: usize = 4;
    const SCALED: bool = true;
    const OFFSET: i32 = 32;
    #[inline(always)]
    fn quants<S: Simd>(s: S, p: &[u8], set: usize, j: usize) -> Words<S> {
        // A set has four words of each of two rows of nibbles and of the upper bits, one after the other.
        let at = 18 * LANES + (set * 12 + j) * 64;
        let nibble = s.isplat(0x0f0f_0f0f);
        let (a, b) = (s.iload(p, at), s.iload(p, at + 256));
        let high = s.iload(p, at + 512);
        let top = s.isplat(0x3030_3030);
        [
            s.or(s.and(a, nibble), s.and(s.shl(high, 4), top)),
            s.or(s.and(b, nibble), s.and(s.shl(high, 2), top)),
            s.or(s.and(s.shr(a, 4), nibble), s.and(high, top)),
            s.or(s.and(s.shr(b, 4), nibble), s.and(s.shr(high, 2), top)),
        ]
    }
    #[inline(always)]
    fn run(set: usize, way: usize) -> usize {
        quarters(set, way)
    }
    #[inline(always)]
    fn scale<S: Simd>(s: S, p: &[u8]) -> S::F {
        s.load_f16(p, 0)
    }
    #[inline(always)]
    fn sub_scales<S: Simd>(s: S, p: &[u8], out: &mut [S::I; 16]) {
        for i in 0..4 {
            let words = s.iload(p, 2 * LANES + i * 64);
            // A signed byte plus 128 is the byte with its top bit flipped.
            spread(s, s.xor(words, s.isplat(0x8080_8080_u32 as i32)), 128, &mut out[4 * i..]);
        }
    }
}

/// Elements `4j..` of four sub-blocks of 16 that share bit pairs at `at`.
#[inline(always)]
fn bit_pairs<S: Simd>(s: S, p: &[u8], at: usize, set: usize, j: usize) -> [S::I; 4] {
    let word = s.iload(p, at + (set / 2 * 8 + set % 2 * 4 + j) * 64);
    let mask = s.isplat(0x0303_0303);
    [s.and(word, mask), s.and(s.shr(word, 2), mask), s.and(s.shr(word, 4), mask), s.and(s.shr(word, 6), mask)]
}

/// `block_q2_K`
pub struct Q2K;
impl IntFormat for Q2K {
    type X = Block256;
    const BYTES: usize = 84 * LANES;
    const SUB: usize = 16;
    const RUN: usize = 4;
    const WAYS: usize = 4;
    const SCALED: bool = true;
    const MINIMA: bool = true;
    #[inline(always)]
    fn quants<S: Simd>(s: S, p: &[u8], set: usize, j: usize) -> Words<S> {
        bit_pairs(s, p, 20 * LANES, set, j)
    }
    #[inline(always)]
    fn run(set: usize, way: usize) -> usize {
        quarters(set, way)
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
        for i in 0..4 {
            spread(s, s.and(s.iload(p, 4 * LANES + i * 64), s.isplat(0x0f0f_0f0f)), 0, &mut out[4 * i..]);
        }
    }
    #[inline(always)]
    fn sub_minima<S: Simd>(s: S, p: &[u8], out: &mut [S::I; 8]) {
        for i in 0..4 {
            pairs(s, s.and(s.shr(s.iload(p, 4 * LANES + i * 64), 4), s.isplat(0x0f0f_0f0f)), &mut out[2 * i..]);
        }
    }
}

/// `block_q3_K`: a set bit of the mask adds 4, and 4 is subtracted from all.
pub struct Q3K;
impl IntFormat for Q3K {
    type X = Block256;
    const BYTES: usize = 110 * LANES;
    const SUB: usize = 16;
    const RUN: usize = 4;
    const WAYS: usize = 4;
    const SCALED: bool = true;
    const OFFSET: i32 = 4;
    #[inline(always)]
    fn quants<S: Simd>(s: S, p: &[u8], set: usize, j: usize) -> Words<S> {
        let [a, b, c, d] = bit_pairs(s, p, 46 * LANES, set, j);
        // Four masks of this half, at bits 0 to 3 of each byte.
        let masks = s.shr(s.iload(p, 14 * LANES + (set % 2 * 4 + j) * 64), set as u32 / 2 * 4);
        let four = s.isplat(0x0404_0404);
        [
            s.or(a, s.and(s.shl(masks, 2), four)),
            s.or(b, s.and(s.shl(masks, 1), four)),
            s.or(c, s.and(masks, four)),
            s.or(d, s.and(s.shr(masks, 1), four)),
        ]
    }
    #[inline(always)]
    fn run(set: usize, way: usize) -> usize {
        quarters(set, way)
    }
    #[inline(always)]
    fn scale<S: Simd>(s: S, p: &[u8]) -> S::F {
        s.load_f16(p, 0)
    }
    #[inline(always)]
    fn sub_scales<S: Simd>(s: S, p: &[u8], out: &mut [S::I; 16]) {
        let high = s.iload(p, 2 * LANES + 128);
        for i in 0..4 {
            let low = s.shr(s.iload(p, 2 * LANES + i % 2 * 64), 4 * (i as u32 / 2));
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
    const RUN: usize = 4;
    const WAYS: usize = 2;
    const SCALED: bool = true;
    const SIGNED: bool = true;
    #[inline(always)]
    fn quants<S: Simd>(s: S, p: &[u8], set: usize, j: usize) -> Words<S> {
        // Unlike in Q4_K, a sub-block has its own 16 bytes: low nibbles first, then high ones.
        two(entries(s, nibbles(s, p, 8 * LANES + set * 256, j), &NON_LINEAR))
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
