//! Q4_0: 32 elements as one half-float scale `d` and 4-bit `q`: `x = d (q - 8)`.
//!
//! Layout: `d` (2 bytes), `qs` (16): elements 0..16 in the low nibbles, 16..32 in the high ones.

use super::pack::{decode_blocks, f16_at, field, nibbles};

pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    decode_blocks(bytes, out, |b: &[u8; 18], y: &mut [f32; 32]| {
        let (d, q) = (f16_at(b, 0), nibbles(field(b, 2)));
        y.iter_mut().zip(q).for_each(|(y, q)| *y = d * (i32::from(q) - 8) as f32);
    });
}
