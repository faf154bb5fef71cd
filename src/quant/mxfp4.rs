//! MXFP4: 32 four-bit floats (E2M1) under one shared power of two (E8M0): `x = 2^(e - 127) value(q)`.
//!
//! Follows the OCP Microscaling Formats specification 1.0, with ggml's layout: `e` (1 byte), `qs` (16) as in Q4_0.
//! The codebook holds the values doubled, and the scale is halved to match. The specification's NaN (e = 255) is not
//! special here, as in ggml and the `gguf` package: it decodes as 2^128.

use super::pack::{decode_blocks, field, nibbles};

/// The values of E2M1, doubled.
const CODEBOOK: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// `2^(e - 128)`; the two smallest are subnormal.
fn half_scale(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
}

pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    decode_blocks(bytes, out, |b: &[u8; 17], y: &mut [f32; 32]| {
        let (d, q) = (half_scale(b[0]), nibbles(field(b, 1)));
        y.iter_mut().zip(q).for_each(|(y, q)| *y = d * f32::from(CODEBOOK[usize::from(q)]));
    });
}
