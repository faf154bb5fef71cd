//! IQ4_NL: 32 elements as one half-float scale `d` and 4-bit indices into a fixed, non-linear codebook:
//! `x = d codebook[q]`.
//!
//! Layout: that of Q4_0.

use super::pack::{decode_blocks, f16_at, field, nibbles};

/// The codebook, shared with IQ4_XS.
pub(super) const CODEBOOK: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    decode_blocks(bytes, out, |b: &[u8; 18], y: &mut [f32; 32]| {
        let (d, q) = (f16_at(b, 0), nibbles(field(b, 2)));
        y.iter_mut().zip(q).for_each(|(y, q)| *y = d * f32::from(CODEBOOK[usize::from(q)]));
    });
}
