//! Q4_K: 256 elements in 8 sub-blocks of 32, each with a 6-bit scale and a 6-bit minimum; 4-bit `q`:
//! `x = (d scale) q - dmin min`.
//!
//! Layout: `d` (2 bytes), `dmin` (2), `scales` (12, see `kscales`), `qs` (128): sub-blocks 2c and 2c + 1 are the low
//! and the high nibbles of `qs[32 c .. 32 c + 32]`.

use super::kscales;
use super::pack::{decode_blocks, encode_blocks, f16_at, field};

pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    decode_blocks(bytes, out, |b: &[u8; 144], y: &mut [f32; 256]| {
        let (d, dmin, qs) = (f16_at(b, 0), f16_at(b, 2), &b[16..]);
        let (scales, mins) = kscales::unpack(field(b, 4));
        for (j, y) in y.chunks_exact_mut(32).enumerate() {
            let (scale, min) = (d * f32::from(scales[j]), dmin * f32::from(mins[j]));
            let shift = j % 2 * 4;
            y.iter_mut().zip(&qs[j / 2 * 32..]).for_each(|(y, q)| *y = scale * f32::from(q >> shift & 15) - min);
        }
    });
}

pub(super) fn encode(x: &[f32], out: &mut [u8]) {
    encode_blocks(x, out, |x: &[f32; 256], b: &mut [u8; 144]| {
        let block = kscales::quantise(x, 15.0, -10..10);
        b[..2].copy_from_slice(&block.d.to_le_bytes());
        b[2..4].copy_from_slice(&block.dmin.to_le_bytes());
        b[4..16].copy_from_slice(&block.scales);
        for (qs, q) in b[16..].chunks_exact_mut(32).zip(block.quants.chunks_exact(2)) {
            qs.iter_mut().zip(q[0]).zip(q[1]).for_each(|((b, low), high)| *b = low | high << 4);
        }
    });
}
