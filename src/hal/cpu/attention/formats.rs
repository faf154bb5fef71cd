//! Formats of sequence state: keys in panels of sixteen positions, values as rows, decoded where they lie.
//!
//! Keys have positions in the lanes: an element of sixteen positions is one vector, which meets that element of all
//! queries of the tile. Values have elements in the lanes. A vector of either is decoded once for the whole tile.

use crate::hal::cpu::math::f16_to_f32;
use crate::hal::cpu::simd::{LANES, Simd};

/// A format of keys: sixteen positions of a block.
pub trait KeyFormat: 'static {
    /// Elements of a block.
    const LEN: usize;
    /// Bytes of sixteen positions of a block.
    const BYTES: usize;
    /// Adds the products of the same block of `P` panels with these elements of `T` queries, `q[LEN][T]`.
    fn add<S: Simd, const T: usize, const P: usize>(s: S, p: [&[u8]; P], q: &[f32], acc: &mut [[S::F; P]; T]);
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

/// One element of all panels times that element of each query, added up.
#[inline(always)]
fn outer<S: Simd, const T: usize, const P: usize>(s: S, k: [S::F; P], q: &[f32], acc: &mut [[S::F; P]; T]) {
    for t in 0..T {
        let q = s.splat(q[t]);
        for i in 0..P {
            acc[t][i] = s.fma(k[i], q, acc[t][i]);
        }
    }
}

/// A block's sums times the positions' scales, added up.
#[inline(always)]
fn scale<S: Simd, const T: usize, const P: usize>(s: S, p: [&[u8]; P], part: [[S::F; P]; T], acc: &mut [[S::F; P]; T]) {
    for i in 0..P {
        let d = s.load_f16(p[i], 0);
        for t in 0..T {
            acc[t][i] = s.fma(part[t][i], d, acc[t][i]);
        }
    }
}

impl KeyFormat for F32 {
    const LEN: usize = 1;
    const BYTES: usize = 4 * LANES;
    #[inline(always)]
    fn add<S: Simd, const T: usize, const P: usize>(s: S, p: [&[u8]; P], q: &[f32], acc: &mut [[S::F; P]; T]) {
        let mut k = [s.splat(0.0); P];
        for i in 0..P {
            k[i] = s.as_float(s.iload(p[i], 0));
        }
        outer(s, k, q, acc);
    }
}

impl KeyFormat for F16 {
    const LEN: usize = 1;
    const BYTES: usize = 2 * LANES;
    #[inline(always)]
    fn add<S: Simd, const T: usize, const P: usize>(s: S, p: [&[u8]; P], q: &[f32], acc: &mut [[S::F; P]; T]) {
        let mut k = [s.splat(0.0); P];
        for i in 0..P {
            k[i] = s.load_f16(p[i], 0);
        }
        outer(s, k, q, acc);
    }
}

impl KeyFormat for Q8_0 {
    const LEN: usize = 32;
    const BYTES: usize = 34 * LANES;
    #[inline(always)]
    fn add<S: Simd, const T: usize, const P: usize>(s: S, p: [&[u8]; P], q: &[f32], acc: &mut [[S::F; P]; T]) {
        let mut part = [[s.splat(0.0); P]; T];
        for e in 0..32 {
            let mut k = [s.splat(0.0); P];
            for i in 0..P {
                k[i] = s.to_f32(s.load_i8(p[i], (2 + e) * LANES));
            }
            outer(s, k, &q[e * T..][..T], &mut part);
        }
        scale(s, p, part, acc);
    }
}

impl KeyFormat for Q4_0 {
    const LEN: usize = 32;
    const BYTES: usize = 18 * LANES;
    #[inline(always)]
    fn add<S: Simd, const T: usize, const P: usize>(s: S, p: [&[u8]; P], q: &[f32], acc: &mut [[S::F; P]; T]) {
        let mut part = [[s.splat(0.0); P]; T];
        for e in 0..16 {
            let (mut low, mut high) = ([s.splat(0.0); P], [s.splat(0.0); P]);
            for i in 0..P {
                let byte = s.load_u8(p[i], (2 + e) * LANES);
                low[i] = s.to_f32(s.iadd(s.and(byte, s.isplat(15)), s.isplat(-8)));
                high[i] = s.to_f32(s.iadd(s.shr(byte, 4), s.isplat(-8)));
            }
            outer(s, low, &q[e * T..][..T], &mut part);
            outer(s, high, &q[(e + 16) * T..][..T], &mut part);
        }
        scale(s, p, part, acc);
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
