//! Q5_0: 32 elements as one half-float scale `d` and 5-bit `q`: `x = d (q - 16)`.
//!
//! Layout: `d` (2 bytes), `qh` (4): bit i is the fifth bit of element i, `qs` (16): the low four bits, elements
//! 0..16 in the low nibbles, 16..32 in the high ones.

use super::pack::{decode_blocks, encode_blocks, f16_at, field, nibbles};
use super::search::{half_scale, inverse, nearest};

/// The 5-bit values of the fields `qh` and `qs`.
pub(super) fn quants(qh: &[u8; 4], qs: &[u8; 16]) -> [u8; 32] {
    let (high, low) = (u32::from_le_bytes(*qh), nibbles(qs));
    std::array::from_fn(|i| low[i] | ((high >> i & 1) << 4) as u8)
}

/// The fields `qh` and `qs` (20 bytes together) of 5-bit values; the inverse of [`quants`].
pub(super) fn pack(q: &[u8; 32], out: &mut [u8]) {
    let high = q.iter().enumerate().fold(0, |bits, (i, q)| bits | u32::from(q >> 4) << i);
    out[..4].copy_from_slice(&high.to_le_bytes());
    out[4..].iter_mut().enumerate().for_each(|(i, b)| *b = q[i] & 15 | q[i + 16] << 4);
}

pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    decode_blocks(bytes, out, |b: &[u8; 22], y: &mut [f32; 32]| {
        let (d, q) = (f16_at(b, 0), quants(field(b, 2), field(b, 6)));
        y.iter_mut().zip(q).for_each(|(y, q)| *y = d * (i32::from(q) - 16) as f32);
    });
}

/// The element of largest magnitude becomes -16, so that the grid's longer side carries it.
pub(super) fn encode(x: &[f32], out: &mut [u8]) {
    encode_blocks(x, out, |x: &[f32; 32], b: &mut [u8; 22]| {
        let extreme = x.iter().fold(0.0, |a: f32, x| if x.abs() > a.abs() { *x } else { a });
        let d = half_scale(extreme / -16.0);
        let inv = inverse(d.to_f32());
        b[..2].copy_from_slice(&d.to_le_bytes());
        pack(&x.map(|x| (nearest(x * inv, -16.0, 15.0) + 16.0) as u8), &mut b[2..]);
    });
}
