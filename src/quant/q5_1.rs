//! Q5_1: 32 elements as half-float scale `d`, half-float minimum `m` and 5-bit `q`: `x = d q + m`.
//!
//! Layout: `d` (2 bytes), `m` (2), then `qh` and `qs` as in Q5_0.

use super::pack::{decode_blocks, encode_blocks, f16_at, field};
use super::q5_0::{pack, quants};
use super::search::{half_scale, inverse, nearest};

pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    decode_blocks(bytes, out, |b: &[u8; 24], y: &mut [f32; 32]| {
        let (d, m, q) = (f16_at(b, 0), f16_at(b, 2), quants(field(b, 4), field(b, 8)));
        y.iter_mut().zip(q).for_each(|(y, q)| *y = d * f32::from(q) + m);
    });
}

/// The grid spans the block from its least to its largest element.
pub(super) fn encode(x: &[f32], out: &mut [u8]) {
    encode_blocks(x, out, |x: &[f32; 32], b: &mut [u8; 24]| {
        let low = x.iter().fold(f32::INFINITY, |a, b| a.min(*b));
        let high = x.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
        let m = half_scale(low);
        let d = half_scale((high - m.to_f32()) / 31.0);
        let inv = inverse(d.to_f32());
        b[..2].copy_from_slice(&d.to_le_bytes());
        b[2..4].copy_from_slice(&m.to_le_bytes());
        pack(&x.map(|x| nearest((x - m.to_f32()) * inv, 0.0, 31.0) as u8), &mut b[4..]);
    });
}
