//! Q3_K: 256 elements in 16 sub-blocks of 16, each with a signed 6-bit scale; 3-bit `q`: `x = (d scale) q`.
//!
//! Layout: `hmask` (32 bytes), `qs` (64), `scales` (12), `d` (2). Element `128 h + 32 s + l` has its low two bits in
//! bits `2s, 2s+1` of `qs[32 h + l]`; its third bit is bit `4h + s` of `hmask[l]`, and subtracts 4 where it is
//! *clear*. Scale j minus 32 has its low four bits in the nibbles of `scales[0..8]` (low nibbles first) and its high
//! two in `scales[8 + j % 4]` at bit `2 (j / 4)`.

use super::pack::{decode_blocks, f16_at};

fn scale(scales: &[u8], j: usize) -> i32 {
    let low = scales[j % 8] >> (j / 8 * 4) & 15;
    let high = scales[8 + j % 4] >> (j / 4 * 2) & 3;
    i32::from(low | high << 4) - 32
}

pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    decode_blocks(bytes, out, |b: &[u8; 110], y: &mut [f32; 256]| {
        let (hmask, qs, scales, d) = (&b[..32], &b[32..96], &b[96..108], f16_at(b, 108));
        for (j, y) in y.chunks_exact_mut(16).enumerate() {
            let dl = d * scale(scales, j) as f32;
            let (shift, bit, l) = (j % 8 / 2 * 2, j / 2, j % 2 * 16);
            let low = &qs[j / 8 * 32 + l..];
            for ((y, q), h) in y.iter_mut().zip(low).zip(&hmask[l..]) {
                *y = dl * (i32::from(q >> shift & 3) + i32::from(h >> bit & 1) * 4 - 4) as f32;
            }
        }
    });
}
