//! What the block formats share: walking blocks, reading half floats, nibbles.
//!
//! Blocks have compile-time sizes here, so a decoder's inner loops have constant bounds. A caller that passes
//! slices of unequal block counts made a mistake; that is an assertion, because lengths come from checked extents.

use half::f16;

/// Calls `block` for each pair of a block of `B` bytes and its `N` elements.
pub(super) fn decode_blocks<const B: usize, const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; B], &mut [f32; N]),
) {
    let ((blocks, rest), (outs, out_rest)) = (bytes.as_chunks::<B>(), out.as_chunks_mut::<N>());
    assert!(rest.is_empty() && out_rest.is_empty() && blocks.len() == outs.len(), "whole blocks of equal number");
    blocks.iter().zip(outs).for_each(|(b, y)| block(b, y));
}

/// Calls `block` for each pair of `N` elements and their block of `B` bytes.
pub(super) fn encode_blocks<const B: usize, const N: usize>(
    x: &[f32],
    out: &mut [u8],
    block: impl Fn(&[f32; N], &mut [u8; B]),
) {
    let ((xs, rest), (blocks, out_rest)) = (x.as_chunks::<N>(), out.as_chunks_mut::<B>());
    assert!(rest.is_empty() && out_rest.is_empty() && blocks.len() == xs.len(), "whole blocks of equal number");
    xs.iter().zip(blocks).for_each(|(x, b)| block(x, b));
}

/// The half float at byte `at` of a block, as float32.
#[inline]
pub(super) fn f16_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The 32 values of 16 bytes of nibbles: all low ones, then all high ones.
#[inline]
pub(super) fn nibbles(qs: &[u8; 16]) -> [u8; 32] {
    std::array::from_fn(|i| if i < 16 { qs[i] & 15 } else { qs[i - 16] >> 4 })
}

/// The `N` bytes of a block from `at` on.
#[inline]
pub(super) fn field<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..].first_chunk().expect("fields lie inside their block")
}
