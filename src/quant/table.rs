//! The table of formats: one row each, in the order of `Kind`.
//!
//! Numbers are ggml's: type id, elements and bytes of a block. Half floats and the shared exponent move whole,
//! everything else in words of four bytes. Fields stand in the order in which kernels read them: scales first, then
//! what is unpacked together side by side, so that weights come from memory as one stream.

use super::{Field, Format, Kind, float};
use super::{iq4_nl, iq4_xs, mxfp4, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0};

/// A half float.
const fn half(at: usize) -> Field {
    Field { at, len: 2, unit: 2 }
}

/// `len` bytes that move in words.
const fn words(at: usize, len: usize) -> Field {
    Field { at, len, unit: 4 }
}

/// Sixteen bytes of nibbles of two quarters and the upper bits of all four quarters, four times.
const Q6_K: &[Field] = &[
    half(208),
    words(192, 16),
    words(0, 16),
    words(32, 16),
    words(128, 16),
    words(16, 16),
    words(48, 16),
    words(144, 16),
    words(64, 16),
    words(96, 16),
    words(160, 16),
    words(80, 16),
    words(112, 16),
    words(176, 16),
];

/// All formats, in the order of [`Kind`].
pub static FORMATS: &[Format] = &[
    Format {
        kind: Kind::F32,
        name: "F32",
        ggml_id: 0,
        block_len: 1,
        block_bytes: 4,
        fields: &[words(0, 4)],
        decode: float::decode_f32,
        encode: Some(float::encode_f32),
    },
    Format {
        kind: Kind::F16,
        name: "F16",
        ggml_id: 1,
        block_len: 1,
        block_bytes: 2,
        fields: &[half(0)],
        decode: float::decode_f16,
        encode: Some(float::encode_f16),
    },
    Format {
        kind: Kind::BF16,
        name: "BF16",
        ggml_id: 30,
        block_len: 1,
        block_bytes: 2,
        fields: &[half(0)],
        decode: float::decode_bf16,
        encode: Some(float::encode_bf16),
    },
    Format {
        kind: Kind::Q4_0,
        name: "Q4_0",
        ggml_id: 2,
        block_len: 32,
        block_bytes: 18,
        fields: &[half(0), words(2, 16)],
        decode: q4_0::decode,
        encode: Some(q4_0::encode),
    },
    Format {
        kind: Kind::Q4_1,
        name: "Q4_1",
        ggml_id: 3,
        block_len: 32,
        block_bytes: 20,
        fields: &[half(0), half(2), words(4, 16)],
        decode: q4_1::decode,
        encode: None,
    },
    Format {
        kind: Kind::Q5_0,
        name: "Q5_0",
        ggml_id: 6,
        block_len: 32,
        block_bytes: 22,
        fields: &[half(0), words(2, 4), words(6, 16)],
        decode: q5_0::decode,
        encode: Some(q5_0::encode),
    },
    Format {
        kind: Kind::Q5_1,
        name: "Q5_1",
        ggml_id: 7,
        block_len: 32,
        block_bytes: 24,
        fields: &[half(0), half(2), words(4, 4), words(8, 16)],
        decode: q5_1::decode,
        encode: Some(q5_1::encode),
    },
    Format {
        kind: Kind::Q8_0,
        name: "Q8_0",
        ggml_id: 8,
        block_len: 32,
        block_bytes: 34,
        fields: &[half(0), words(2, 32)],
        decode: q8_0::decode,
        encode: Some(q8_0::encode),
    },
    Format {
        kind: Kind::Q2_K,
        name: "Q2_K",
        ggml_id: 10,
        block_len: 256,
        block_bytes: 84,
        fields: &[half(80), half(82), words(0, 16), words(16, 64)],
        decode: q2_k::decode,
        encode: None,
    },
    Format {
        kind: Kind::Q3_K,
        name: "Q3_K",
        ggml_id: 11,
        block_len: 256,
        block_bytes: 110,
        fields: &[half(108), words(96, 12), words(0, 32), words(32, 64)],
        decode: q3_k::decode,
        encode: None,
    },
    Format {
        kind: Kind::Q4_K,
        name: "Q4_K",
        ggml_id: 12,
        block_len: 256,
        block_bytes: 144,
        fields: &[half(0), half(2), words(4, 12), words(16, 128)],
        decode: q4_k::decode,
        encode: Some(q4_k::encode),
    },
    Format {
        kind: Kind::Q5_K,
        name: "Q5_K",
        ggml_id: 13,
        block_len: 256,
        block_bytes: 176,
        fields: &[half(0), half(2), words(4, 12), words(16, 32), words(48, 128)],
        decode: q5_k::decode,
        encode: Some(q5_k::encode),
    },
    Format {
        kind: Kind::Q6_K,
        name: "Q6_K",
        ggml_id: 14,
        block_len: 256,
        block_bytes: 210,
        fields: Q6_K,
        decode: q6_k::decode,
        encode: Some(q6_k::encode),
    },
    Format {
        kind: Kind::IQ4_NL,
        name: "IQ4_NL",
        ggml_id: 20,
        block_len: 32,
        block_bytes: 18,
        fields: &[half(0), words(2, 16)],
        decode: iq4_nl::decode,
        encode: None,
    },
    Format {
        kind: Kind::IQ4_XS,
        name: "IQ4_XS",
        ggml_id: 23,
        block_len: 256,
        block_bytes: 136,
        fields: &[half(0), half(2), words(4, 4), words(8, 128)],
        decode: iq4_xs::decode,
        encode: None,
    },
    Format {
        kind: Kind::MXFP4,
        name: "MXFP4",
        ggml_id: 39,
        block_len: 32,
        block_bytes: 17,
        fields: &[Field { at: 0, len: 1, unit: 1 }, words(1, 16)],
        decode: mxfp4::decode,
        encode: None,
    },
];
