//! IQ4_XS: 256 elements in 8 sub-blocks of 32, each with a 6-bit signed scale; 4-bit indices into IQ4_NL's codebook:
//! `x = (d scale) codebook[q]`.
//!
//! Layout: `d` (2 bytes), `scales_h` (2), `scales_l` (4), `qs` (128: sub-block j is `qs[16 j .. 16 j + 16]`, laid out
//! as in Q4_0). Scale j plus 32 has its low four bits in nibble j of `scales_l`, its high two in bits 2j, 2j + 1 of
//! `scales_h`.

use super::iq4_nl::CODEBOOK;
use super::pack::{decode_blocks, f16_at, field, nibbles};

pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    decode_blocks(bytes, out, |b: &[u8; 136], y: &mut [f32; 256]| {
        let (d, high) = (f16_at(b, 0), u16::from_le_bytes(*field(b, 2)));
        for (j, y) in y.chunks_exact_mut(32).enumerate() {
            let low = b[4 + j / 2] >> (j % 2 * 4) & 15;
            let dl = d * (i32::from(u16::from(low) | (high >> (2 * j) & 3) << 4) - 32) as f32;
            let q = nibbles(field(b, 8 + 16 * j));
            y.iter_mut().zip(q).for_each(|(y, q)| *y = dl * f32::from(CODEBOOK[usize::from(q)]));
        }
    });
}
