//! Q8_0: 32 elements as one half-float scale `d` and signed bytes `q`: `x = d q`.
//!
//! Layout: `d` (2 bytes), `qs` (32).

use super::pack::{decode_blocks, encode_blocks, f16_at};
use super::search::{half_scale, inverse, nearest};

pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    decode_blocks(bytes, out, |b: &[u8; 34], y: &mut [f32; 32]| {
        let d = f16_at(b, 0);
        y.iter_mut().zip(&b[2..]).for_each(|(y, &q)| *y = d * f32::from(q as i8));
    });
}

pub(super) fn encode(x: &[f32], out: &mut [u8]) {
    encode_blocks(x, out, |x: &[f32; 32], b: &mut [u8; 34]| {
        let most = x.iter().fold(0.0, |a: f32, x| a.max(x.abs()));
        let d = half_scale(most / 127.0);
        let inv = inverse(d.to_f32());
        b[..2].copy_from_slice(&d.to_le_bytes());
        b[2..].iter_mut().zip(x).for_each(|(b, x)| *b = nearest(x * inv, -127.0, 127.0) as i8 as u8);
    });
}
