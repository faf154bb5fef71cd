//! Q6_K: 256 elements in 16 sub-blocks of 16, each with a signed 8-bit scale; 6-bit `q`: `x = (d scale) (q - 32)`.
//!
//! Layout: `ql` (128 bytes), `qh` (64), `scales` (16, signed), `d` (2). Element `128 h + 64 s + l` (l below 64) has
//! its low four bits in nibble s of `ql[64 h + l]`; element `128 h + 32 t + l` (l below 32) its high two in bits
//! `2t, 2t+1` of `qh[32 h + l]`.

use super::pack::{decode_blocks, encode_blocks, f16_at};
use super::search::{half_scale, inverse, nearest, symmetric};

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

pub(super) fn encode(x: &[f32], out: &mut [u8]) {
    encode_blocks(x, out, |x: &[f32; 256], b: &mut [u8; 210]| {
        let subs = x.as_chunks::<16>().0;
        let ideal: [f32; 16] = std::array::from_fn(|j| symmetric(&subs[j], 32.0, -9..10));
        let extreme = ideal.iter().fold(0.0, |a: f32, s| if s.abs() > a.abs() { *s } else { a });
        let d = half_scale(extreme / -128.0);
        b.fill(0);
        b[208..].copy_from_slice(&d.to_le_bytes());
        for (j, x) in subs.iter().enumerate() {
            let (scale, q) = choose(x, ideal[j], d.to_f32());
            b[192 + j] = scale as i8 as u8;
            let (h, within) = (j / 8, j % 8);
            for (l, q) in q.map(|q| (q + 32.0) as u8).into_iter().enumerate() {
                b[64 * h + within % 4 * 16 + l] |= (q & 15) << (within / 4 * 4);
                b[128 + 32 * h + within % 2 * 16 + l] |= q >> 4 << (within / 2 * 2);
            }
        }
    });
}

/// The signed byte nearest to the ideal scale, or a neighbour, with the least error, and the integers under it.
fn choose(x: &[f32; 16], ideal: f32, d: f32) -> (f32, [f32; 16]) {
    let mut best = (0.0, [0.0; 16]);
    let mut least = f32::INFINITY;
    for step in [0.0, -1.0, 1.0] {
        let scale = nearest(nearest(ideal * inverse(d), -128.0, 127.0) + step, -128.0, 127.0);
        let dl = d * scale;
        let q = x.map(|x| nearest(x * inverse(dl), -32.0, 31.0));
        let error: f32 = x.iter().zip(q).map(|(x, q)| (dl * q - x).powi(2)).sum();
        if error < least {
            (best, least) = ((scale, q), error);
        }
    }
    best
}
