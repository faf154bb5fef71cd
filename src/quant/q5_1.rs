//! Q5_1: 32 elements as half-float scale `d`, half-float minimum `m` and 5-bit `q`: `x = d q + m`.
//!
//! Layout: `d` (2 bytes), `m` (2), then `qh` and `qs` as in Q5_0.

use super::pack::{decode_blocks, f16_at, field};
use super::q5_0::quants;

pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    decode_blocks(bytes, out, |b: &[u8; 24], y: &mut [f32; 32]| {
        let (d, m, q) = (f16_at(b, 0), f16_at(b, 2), quants(field(b, 4), field(b, 8)));
        y.iter_mut().zip(q).for_each(|(y, q)| *y = d * f32::from(q) + m);
    });
}
