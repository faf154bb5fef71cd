//! Q4_0: 32 elements as one half-float scale `d` and 4-bit `q`: `x = d (q - 8)`.
//!
//! Layout: `d` (2 bytes), `qs` (16): elements 0..16 in the low nibbles, 16..32 in the high ones.

use super::pack::{decode_blocks, encode_blocks, f16_at, field, nibbles};
use super::search::{half_scale, inverse, nearest};

pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    decode_blocks(bytes, out, |b: &[u8; 18], y: &mut [f32; 32]| {
        let (d, q) = (f16_at(b, 0), nibbles(field(b, 2)));
        y.iter_mut().zip(q).for_each(|(y, q)| *y = d * (i32::from(q) - 8) as f32);
    });
}

/// The element of largest magnitude becomes -8, so that the grid's longer side carries it.
pub(super) fn encode(x: &[f32], out: &mut [u8]) {
    encode_blocks(x, out, |x: &[f32; 32], b: &mut [u8; 18]| {
        let extreme = x.iter().fold(0.0, |a: f32, x| if x.abs() > a.abs() { *x } else { a });
        let d = half_scale(extreme / -8.0);
        let inv = inverse(d.to_f32());
        let q = x.map(|x| nearest(x * inv, -8.0, 7.0) as i8 + 8);
        b[..2].copy_from_slice(&d.to_le_bytes());
        b[2..].iter_mut().enumerate().for_each(|(i, b)| *b = (q[i] | q[i + 16] << 4) as u8);
    });
}
