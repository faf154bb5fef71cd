//! Q4_1: 32 elements as half-float scale `d`, half-float minimum `m` and 4-bit `q`: `x = d q + m`.
//!
//! Layout: `d` (2 bytes), `m` (2), `qs` (16): elements 0..16 in the low nibbles, 16..32 in the high ones.

use super::pack::{decode_blocks, f16_at, field, nibbles};

pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    decode_blocks(bytes, out, |b: &[u8; 20], y: &mut [f32; 32]| {
        let (d, m, q) = (f16_at(b, 0), f16_at(b, 2), nibbles(field(b, 4)));
        y.iter_mut().zip(q).for_each(|(y, q)| *y = d * f32::from(q) + m);
    });
}
