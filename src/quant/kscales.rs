//! What Q4_K and Q5_K share: eight 6-bit scales and eight 6-bit minima in twelve bytes, and how they are chosen.
//!
//! Bytes 0..4 hold scales 0..4 in their low six bits, bytes 4..8 minima 0..4; the two top bits of each are the high
//! bits of scale (minimum) 4..8, whose low nibbles share bytes 8..12: scale low, minimum high.

use super::search::{Affine, half_scale, inverse, nearest};
use half::f16;
use std::ops::Range;

/// Scales and minima, each below 64.
#[inline]
pub(super) fn unpack(p: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let scale = |j: usize| if j < 4 { p[j] & 63 } else { p[j + 4] & 15 | p[j - 4] >> 6 << 4 };
    let min = |j: usize| if j < 4 { p[j + 4] & 63 } else { p[j + 4] >> 4 | p[j] >> 6 << 4 };
    (std::array::from_fn(scale), std::array::from_fn(min))
}

/// The inverse of [`unpack`].
pub(super) fn pack(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    let mut p = [0; 12];
    for j in 0..4 {
        p[j] = scales[j] | scales[j + 4] >> 4 << 6;
        p[j + 4] = mins[j] | mins[j + 4] >> 4 << 6;
        p[j + 8] = scales[j + 4] & 15 | (mins[j + 4] & 15) << 4;
    }
    p
}

/// A block of eight affine sub-blocks, quantised.
pub(super) struct Block {
    /// Scale of the scales, as it is stored.
    pub(super) d: f16,
    /// Scale of the minima.
    pub(super) dmin: f16,
    /// Scales and minima in six bits each, packed.
    pub(super) scales: [u8; 12],
    /// The elements as integers of `0..=top`.
    pub(super) quants: [[u8; 32]; 8],
}

/// Quantises 256 elements: a search for each sub-block, six bits for its scale and minimum, then the best of the
/// neighbouring scales and minima for the elements as they are rounded in the end. `tenths`: see [`Affine::search`].
pub(super) fn quantise(x: &[f32; 256], top: f32, tenths: Range<i32>) -> Block {
    let subs: &[[f32; 32]; 8] = x.as_chunks().0.try_into().expect("256 elements are eight times 32");
    let ideal: [Affine; 8] = std::array::from_fn(|j| Affine::search(&subs[j], top, tenths.clone()));
    let d = half_scale(ideal.iter().fold(0.0, |a: f32, s| a.max(s.scale)) / 63.0);
    let dmin = half_scale(ideal.iter().fold(0.0, |a: f32, s| a.max(s.min)) / 63.0);
    let mut block = Block { d, dmin, scales: [0; 12], quants: [[0; 32]; 8] };
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for (j, x) in subs.iter().enumerate() {
        let (scale, min, q) = choose(x, ideal[j], d.to_f32(), dmin.to_f32(), top);
        (scales[j], mins[j], block.quants[j]) = (scale as u8, min as u8, q.map(|q| q as u8));
    }
    block.scales = pack(&scales, &mins);
    block
}

/// The pair of six-bit scale and minimum, one step around the ideal ones, with the least error, and its integers.
fn choose(x: &[f32; 32], ideal: Affine, d: f32, dmin: f32, top: f32) -> (f32, f32, [f32; 32]) {
    let (scale, min) = (nearest(ideal.scale * inverse(d), 0.0, 63.0), nearest(ideal.min * inverse(dmin), 0.0, 63.0));
    let mut best = (scale, min, [0.0; 32]);
    let mut least = f32::INFINITY;
    for ds in [0.0, -1.0, 1.0] {
        for dm in [0.0, -1.0, 1.0] {
            let (scale, min) = (nearest(scale + ds, 0.0, 63.0), nearest(min + dm, 0.0, 63.0));
            let affine = Affine { scale: d * scale, min: dmin * min };
            let q = affine.quants(x, top);
            let error = affine.error(x, &q);
            if error < least {
                (best, least) = ((scale, min, q), error);
            }
        }
    }
    best
}
