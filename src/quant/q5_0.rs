//! Q5_0: 32 elements as one half-float scale `d` and 5-bit `q`: `x = d (q - 16)`.
//!
//! Layout: `d` (2 bytes), `qh` (4): bit i is the fifth bit of element i, `qs` (16): the low four bits, elements
//! 0..16 in the low nibbles, 16..32 in the high ones.

use super::pack::{decode_blocks, f16_at, field, nibbles};

/// The 5-bit values of the fields `qh` and `qs`.
pub(super) fn quants(qh: &[u8; 4], qs: &[u8; 16]) -> [u8; 32] {
    let (high, low) = (u32::from_le_bytes(*qh), nibbles(qs));
    std::array::from_fn(|i| low[i] | ((high >> i & 1) << 4) as u8)
}

pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    decode_blocks(bytes, out, |b: &[u8; 22], y: &mut [f32; 32]| {
        let (d, q) = (f16_at(b, 0), quants(field(b, 2), field(b, 6)));
        y.iter_mut().zip(q).for_each(|(y, q)| *y = d * (i32::from(q) - 16) as f32);
    });
}
