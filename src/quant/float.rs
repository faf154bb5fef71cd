//! F32, F16, BF16: plain floats as formats with blocks of one element.
//!
//! Little-endian, as GGUF stores them. Narrowing rounds to nearest, ties to even; a NaN stays a NaN (quiet), and
//! what is too large becomes infinite, as IEEE 754 has it.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

pub(super) fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    super::pack::decode_blocks(bytes, out, |b: &[u8; 4], y: &mut [f32; 1]| y[0] = f32::from_le_bytes(*b));
}

pub(super) fn encode_f32(x: &[f32], out: &mut [u8]) {
    x.iter().zip(out.as_chunks_mut::<4>().0).for_each(|(x, b)| *b = x.to_le_bytes());
}

pub(super) fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    super::pack::decode_blocks(bytes, out, |b: &[u8; 2], y: &mut [f32; 1]| y[0] = f16::from_le_bytes(*b).to_f32());
}

pub(super) fn encode_f16(x: &[f32], out: &mut [u8]) {
    let mut part = [f16::ZERO; 64];
    for (x, out) in x.chunks(64).zip(out.chunks_mut(128)) {
        let part = &mut part[..x.len()];
        part.convert_from_f32_slice(x);
        part.iter().zip(out.as_chunks_mut::<2>().0).for_each(|(h, b)| *b = h.to_le_bytes());
    }
}

pub(super) fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    super::pack::decode_blocks(bytes, out, |b: &[u8; 2], y: &mut [f32; 1]| y[0] = bf16::from_le_bytes(*b).to_f32());
}

pub(super) fn encode_bf16(x: &[f32], out: &mut [u8]) {
    x.iter().zip(out.as_chunks_mut::<2>().0).for_each(|(x, b)| *b = bf16::from_f32(*x).to_le_bytes());
}
