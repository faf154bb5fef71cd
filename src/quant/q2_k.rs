//! Q2_K: 256 elements in 16 sub-blocks of 16, each with a 4-bit scale and a 4-bit minimum; 2-bit `q`:
//! `x = (d scale) q - dmin min`.
//!
//! Layout: `scales` (16 bytes: scale low nibble, minimum high nibble), `qs` (64), `d` (2), `dmin` (2). Element
//! `128 h + 32 s + l` stands in bits `2s, 2s+1` of `qs[32 h + l]`.

use super::pack::{decode_blocks, f16_at};

pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    decode_blocks(bytes, out, |b: &[u8; 84], y: &mut [f32; 256]| {
        let (scales, qs) = (&b[..16], &b[16..80]);
        let (d, dmin) = (f16_at(b, 80), f16_at(b, 82));
        for (j, y) in y.chunks_exact_mut(16).enumerate() {
            let (scale, min) = (d * f32::from(scales[j] & 15), dmin * f32::from(scales[j] >> 4));
            let (shift, from) = (j % 8 / 2 * 2, j / 8 * 32 + j % 2 * 16);
            y.iter_mut().zip(&qs[from..]).for_each(|(y, q)| *y = scale * f32::from(q >> shift & 3) - min);
        }
    });
}
