//! The definition of the sixteen-lane operations, in plain Rust; also what runs where no better set is known.

use super::{LANES, Simd, rows};
use crate::hal::cpu::math::f16_to_f32;

/// Plain Rust; LLVM vectorises it with whatever the target has.
#[derive(Debug, Clone, Copy)]
pub struct Scalar;

/// Adding it pushes a small float's fraction out of the significand, rounding to even; its bits hold the integer.
const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23

macro_rules! lanes {
    ($i:ident => $e:expr) => {{
        let mut out = [Default::default(); LANES];
        let mut $i = 0;
        while $i < LANES {
            out[$i] = $e;
            $i += 1;
        }
        out
    }};
}

#[inline(always)]
fn bytes<const N: usize>(p: &[u8], at: usize) -> &[u8; N] {
    p[at..at + N].try_into().expect("the slice has N bytes")
}

impl Simd for Scalar {
    type F = [f32; LANES];
    type I = [i32; LANES];
    const BIASED: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, p: &[f32], at: usize) -> Self::F {
        p[at..at + LANES].try_into().expect("the slice has 16 elements")
    }
    #[inline(always)]
    fn store(self, v: Self::F, p: &mut [f32], at: usize) {
        p[at..at + LANES].copy_from_slice(&v);
    }
    #[inline(always)]
    fn load_f16(self, p: &[u8], at: usize) -> Self::F {
        let p: &[u8; 32] = bytes(p, at);
        lanes!(i => f16_to_f32(u16::from_le_bytes([p[2 * i], p[2 * i + 1]])))
    }
    #[inline(always)]
    fn load_bf16(self, p: &[u8], at: usize) -> Self::F {
        let p: &[u8; 32] = bytes(p, at);
        lanes!(i => f32::from_bits(u32::from(u16::from_le_bytes([p[2 * i], p[2 * i + 1]])) << 16))
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(i => a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(i => a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(i => a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(i => a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        lanes!(i => a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(i => if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        lanes!(i => if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn isplat(self, x: i32) -> Self::I {
        [x; LANES]
    }
    #[inline(always)]
    fn iload(self, p: &[u8], at: usize) -> Self::I {
        let p: &[u8; 64] = bytes(p, at);
        lanes!(i => i32::from_le_bytes([p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3]]))
    }
    #[inline(always)]
    fn load_i8(self, p: &[u8], at: usize) -> Self::I {
        let p: &[u8; 16] = bytes(p, at);
        lanes!(i => i32::from(p[i] as i8))
    }
    #[inline(always)]
    fn load_u8(self, p: &[u8], at: usize) -> Self::I {
        let p: &[u8; 16] = bytes(p, at);
        lanes!(i => i32::from(p[i]))
    }
    #[inline(always)]
    fn load_u16(self, p: &[u8], at: usize) -> Self::I {
        let p: &[u8; 32] = bytes(p, at);
        lanes!(i => i32::from(u16::from_le_bytes([p[2 * i], p[2 * i + 1]])))
    }
    #[inline(always)]
    fn store_i8(self, v: Self::I, p: &mut [u8], at: usize) {
        let out: [u8; LANES] = lanes!(i => v[i] as u8);
        p[at..at + LANES].copy_from_slice(&out);
    }
    #[inline(always)]
    fn iadd(self, a: Self::I, b: Self::I) -> Self::I {
        lanes!(i => a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn imul(self, a: Self::I, b: Self::I) -> Self::I {
        lanes!(i => a[i].wrapping_mul(b[i]))
    }
    #[inline(always)]
    fn imax(self, a: Self::I, b: Self::I) -> Self::I {
        lanes!(i => a[i].max(b[i]))
    }
    #[inline(always)]
    fn and(self, a: Self::I, b: Self::I) -> Self::I {
        lanes!(i => a[i] & b[i])
    }
    #[inline(always)]
    fn or(self, a: Self::I, b: Self::I) -> Self::I {
        lanes!(i => a[i] | b[i])
    }
    #[inline(always)]
    fn xor(self, a: Self::I, b: Self::I) -> Self::I {
        lanes!(i => a[i] ^ b[i])
    }
    #[inline(always)]
    fn shl(self, v: Self::I, n: u32) -> Self::I {
        lanes!(i => v[i].wrapping_shl(n))
    }
    #[inline(always)]
    fn shr(self, v: Self::I, n: u32) -> Self::I {
        lanes!(i => (v[i] as u32).wrapping_shr(n) as i32)
    }

    #[inline(always)]
    fn load_rows(self, p: &[u8], at: usize, stride: usize) -> [Self::I; 4] {
        let p = rows(p, at, stride);
        let mut out = [[0; LANES]; 4];
        for r in 0..LANES {
            let row: &[u8; 16] = bytes(p, r * stride);
            let (words, _) = row.as_chunks::<4>();
            for (lanes, word) in out.iter_mut().zip(words) {
                lanes[r] = i32::from_le_bytes(*word);
            }
        }
        out
    }
    #[inline(always)]
    fn store_words(self, v: Self::I, p: &mut [u8], at: usize) {
        let (places, _) = p[at..at + 64].as_chunks_mut::<4>();
        for i in 0..LANES {
            places[i] = v[i].to_le_bytes();
        }
    }
    #[inline(always)]
    fn store_halves(self, v: Self::I, p: &mut [u8], at: usize) {
        let (places, _) = p[at..at + 64].as_chunks_mut::<2>();
        for i in 0..LANES {
            let [a, b, c, d] = v[i].to_le_bytes();
            (places[i], places[LANES + i]) = ([a, b], [c, d]);
        }
    }

    #[inline(always)]
    fn to_f32(self, v: Self::I) -> Self::F {
        lanes!(i => v[i] as f32)
    }
    #[inline(always)]
    fn round(self, v: Self::F) -> Self::I {
        lanes!(i => ((v[i] + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32))
    }
    #[inline(always)]
    fn as_float(self, v: Self::I) -> Self::F {
        lanes!(i => f32::from_bits(v[i] as u32))
    }
    #[inline(always)]
    fn as_words(self, v: Self::F) -> Self::I {
        lanes!(i => v[i].to_bits() as i32)
    }

    #[inline(always)]
    fn dot(self, acc: Self::I, w: Self::I, x: i32) -> Self::I {
        self.dot_signed(acc, w, x)
    }
    #[inline(always)]
    fn dot_signed(self, acc: Self::I, w: Self::I, x: i32) -> Self::I {
        let x = x.to_le_bytes();
        let mut out = acc;
        for i in 0..LANES {
            let w = w[i].to_le_bytes();
            for j in 0..4 {
                out[i] = out[i].wrapping_add(i32::from(w[j] as i8) * i32::from(x[j] as i8));
            }
        }
        out
    }
    #[inline(always)]
    fn dot_pairs(self, acc: Self::I, w: Self::I, x: i32) -> Self::I {
        let product = |w: i32| ((w as i16 as i32) * (x as i16 as i32)).wrapping_add((w >> 16) * (x >> 16));
        lanes!(i => acc[i].wrapping_add(product(w[i])))
    }
    #[inline(always)]
    fn scale_half(self, acc: Self::I, sum: Self::I, scale: Self::I) -> Self::I {
        lanes!(i => acc[i].wrapping_add(i32::from(sum[i] as i16).wrapping_mul(scale[i])))
    }
    #[inline(always)]
    fn lookup(self, v: Self::I, table: &[i8; 16]) -> Self::I {
        let mut out = v;
        for word in &mut out {
            let mut b = word.to_le_bytes();
            for byte in &mut b {
                *byte = table[usize::from(*byte & 15)] as u8;
            }
            *word = i32::from_le_bytes(b);
        }
        out
    }
    #[inline(always)]
    fn prefetch(self, _: &[u8], _: usize) {}
    #[inline(always)]
    fn prefetch_second(self, _: &[u8], _: usize) {}
}
