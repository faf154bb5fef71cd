//! The twelve bytes in which Q4_K and Q5_K keep eight 6-bit scales and eight 6-bit minima.
//!
//! Bytes 0..4 hold scales 0..4 in their low six bits, bytes 4..8 minima 0..4; the two top bits of each are the high
//! bits of scale (minimum) 4..8, whose low nibbles share bytes 8..12: scale low, minimum high.

/// Scales and minima, each below 64.
#[inline]
pub(super) fn unpack(p: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let scale = |j: usize| if j < 4 { p[j] & 63 } else { p[j + 4] & 15 | p[j - 4] >> 6 << 4 };
    let min = |j: usize| if j < 4 { p[j + 4] & 63 } else { p[j + 4] >> 4 | p[j] >> 6 << 4 };
    (std::array::from_fn(scale), std::array::from_fn(min))
}
