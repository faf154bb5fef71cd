//! Q5_K: Q4_K with a fifth bit: 8 sub-blocks of 32, 6-bit scales and minima; 5-bit `q`: `x = (d scale) q - dmin min`.
//!
//! Layout: `d` (2 bytes), `dmin` (2), `scales` (12, see `kscales`), `qh` (32), `qs` (128). The low four bits as in
//! Q4_K; bit j of `qh[l]` is the fifth bit of element l of sub-block j.

use super::kscales;
use super::pack::{decode_blocks, encode_blocks, f16_at, field};

pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    decode_blocks(bytes, out, |b: &[u8; 176], y: &mut [f32; 256]| {
        let (d, dmin, qh, qs) = (f16_at(b, 0), f16_at(b, 2), &b[16..48], &b[48..]);
        let (scales, mins) = kscales::unpack(field(b, 4));
        for (j, y) in y.chunks_exact_mut(32).enumerate() {
            let (scale, min) = (d * f32::from(scales[j]), dmin * f32::from(mins[j]));
            let shift = j % 2 * 4;
            for ((y, q), h) in y.iter_mut().zip(&qs[j / 2 * 32..]).zip(qh) {
                *y = scale * f32::from(q >> shift & 15 | (h >> j & 1) << 4) - min;
            }
        }
    });
}

pub(super) fn encode(x: &[f32], out: &mut [u8]) {
    encode_blocks(x, out, |x: &[f32; 256], b: &mut [u8; 176]| {
        let block = kscales::quantise(x, 31.0, -5..10);
        b[..2].copy_from_slice(&block.d.to_le_bytes());
        b[2..4].copy_from_slice(&block.dmin.to_le_bytes());
        b[4..16].copy_from_slice(&block.scales);
        for l in 0..32 {
            b[16 + l] = (0..8).map(|j| block.quants[j][l] >> 4 << j).sum();
        }
        for (qs, q) in b[48..].chunks_exact_mut(32).zip(block.quants.chunks_exact(2)) {
            qs.iter_mut().zip(q[0]).zip(q[1]).for_each(|((b, low), high)| *b = low & 15 | high << 4);
        }
    });
}
