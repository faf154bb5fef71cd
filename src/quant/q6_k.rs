//! Q6_K: 256 elements in 16 sub-blocks of 16, each with a signed 8-bit scale; 6-bit `q`: `x = (d scale) (q - 32)`.
//!
//! Layout: `ql` (128 bytes), `qh` (64), `scales` (16, signed), `d` (2). Element `128 h + 64 s + l` (l below 64) has
//! its low four bits in nibble s of `ql[64 h + l]`; element `128 h + 32 t + l` (l below 32) its high two in bits
//! `2t, 2t+1` of `qh[32 h + l]`.

use super::pack::{decode_blocks, f16_at};

pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    decode_blocks(bytes, out, |b: &[u8; 210], y: &mut [f32; 256]| {
        let (ql, qh, scales, d) = (&b[..128], &b[128..192], &b[192..208], f16_at(b, 208));
        for (j, y) in y.chunks_exact_mut(16).enumerate() {
            let dl = d * f32::from(scales[j] as i8);
            let (h, within) = (j / 8, j % 8);
            let low = &ql[64 * h + within % 4 * 16..];
            let high = &qh[32 * h + within % 2 * 16..];
            let (low_shift, high_shift) = (within / 4 * 4, within / 2 * 2);
            for ((y, l), h) in y.iter_mut().zip(low).zip(high) {
                *y = dl * (i32::from(l >> low_shift & 15 | (h >> high_shift & 3) << 4) - 32) as f32;
            }
        }
    });
}
