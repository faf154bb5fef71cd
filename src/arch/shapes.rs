//! Shapes of popular models: dimensions as their publishers' `config.json` gives them, without any weights.
//!
//! Pure data. `synthetic` makes models of these shapes, to test a machine without a download.

/// The dimensions of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// As typed.
    pub name: &'static str,
    /// GGUF's `general.architecture`.
    pub architecture: &'static str,
    /// Width of the residual stream.
    pub width: u32,
    /// Layers.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Inner width of the feed-forward part, or of one expert.
    pub ffn: u32,
    /// Tokens.
    pub vocab: u32,
    /// Positions.
    pub context: u32,
    /// Base of the rotary frequencies.
    pub rope_base: f32,
    /// Llama 3's stretching of the low frequencies (a tensor of divisors).
    pub rope_stretch: Option<f32>,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Experts, and how many of them a token uses.
    pub experts: Option<(u32, u32)>,
}

/// A Llama 3 model; the others are written as what differs.
const LLAMA3: Shape = Shape {
    name: "llama-3.1-8b",
    architecture: "llama",
    width: 4096,
    layers: 32,
    heads: 32,
    kv_heads: 8,
    head_dim: 128,
    ffn: 14336,
    vocab: 128_256,
    context: 131_072,
    rope_base: 500_000.0,
    rope_stretch: Some(8.0),
    tied: false,
    experts: None,
};
const LLAMA2: Shape = Shape {
    name: "llama-2-7b",
    kv_heads: 32,
    ffn: 11008,
    vocab: 32_000,
    context: 4096,
    rope_base: 10_000.0,
    rope_stretch: None,
    ..LLAMA3
};
const MISTRAL: Shape =
    Shape { name: "mistral-7b", vocab: 32_768, context: 32_768, rope_base: 1_000_000.0, rope_stretch: None, ..LLAMA3 };
const QWEN2: Shape = Shape {
    name: "qwen2.5-7b",
    architecture: "qwen2",
    width: 3584,
    layers: 28,
    heads: 28,
    kv_heads: 4,
    ffn: 18944,
    vocab: 152_064,
    context: 32_768,
    rope_base: 1_000_000.0,
    rope_stretch: None,
    ..LLAMA3
};
const QWEN3: Shape = Shape {
    name: "qwen3-8b",
    architecture: "qwen3",
    layers: 36,
    ffn: 12288,
    vocab: 151_936,
    context: 40_960,
    rope_base: 1_000_000.0,
    rope_stretch: None,
    ..LLAMA3
};
/// Small enough for tests, every row a multiple of 256.
const TINY: Shape = Shape {
    name: "tiny-llama",
    width: 256,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    head_dim: 64,
    ffn: 512,
    vocab: 1024,
    context: 512,
    ..LLAMA3
};

/// All shapes, by family and size.
pub static SHAPES: &[Shape] = &[
    Shape { name: "llama-3.2-1b", width: 2048, layers: 16, head_dim: 64, ffn: 8192, ..TIED3 },
    Shape { name: "llama-3.2-3b", width: 3072, layers: 28, heads: 24, ffn: 8192, ..TIED3 },
    LLAMA3,
    Shape { name: "llama-3.1-70b", width: 8192, layers: 80, heads: 64, ffn: 28672, ..LLAMA3 },
    LLAMA2,
    Shape { name: "llama-2-13b", width: 5120, layers: 40, heads: 40, kv_heads: 40, ffn: 13824, ..LLAMA2 },
    Shape { name: "llama-2-70b", width: 8192, layers: 80, heads: 64, kv_heads: 8, ffn: 28672, ..LLAMA2 },
    MISTRAL,
    Shape { name: "mixtral-8x7b", vocab: 32_000, experts: Some((8, 2)), ..MISTRAL },
    Shape { name: "qwen2.5-0.5b", width: 896, layers: 24, heads: 14, kv_heads: 2, head_dim: 64, ffn: 4864, ..TIED2 },
    Shape { name: "qwen2.5-1.5b", width: 1536, heads: 12, kv_heads: 2, ffn: 8960, ..TIED2 },
    Shape { name: "qwen2.5-3b", width: 2048, layers: 36, heads: 16, kv_heads: 2, ffn: 11008, ..TIED2 },
    QWEN2,
    Shape { name: "qwen2.5-14b", width: 5120, layers: 48, heads: 40, kv_heads: 8, ffn: 13824, ..QWEN2 },
    Shape { name: "qwen2.5-32b", width: 5120, layers: 64, heads: 40, kv_heads: 8, ffn: 27648, ..QWEN2 },
    Shape { name: "qwen2.5-72b", width: 8192, layers: 80, heads: 64, kv_heads: 8, ffn: 29568, ..QWEN2 },
    Shape { name: "qwen3-0.6b", width: 1024, layers: 28, heads: 16, ffn: 3072, tied: true, ..QWEN3 },
    Shape { name: "qwen3-1.7b", width: 2048, layers: 28, heads: 16, ffn: 6144, tied: true, ..QWEN3 },
    Shape { name: "qwen3-4b", width: 2560, ffn: 9728, tied: true, ..QWEN3 },
    QWEN3,
    Shape { name: "qwen3-14b", width: 5120, layers: 40, heads: 40, ffn: 17408, ..QWEN3 },
    Shape { name: "qwen3-32b", width: 5120, layers: 64, heads: 64, ffn: 25600, ..QWEN3 },
    Shape {
        name: "qwen3-30b-a3b",
        architecture: "qwen3moe",
        width: 2048,
        layers: 48,
        kv_heads: 4,
        ffn: 768,
        experts: Some((128, 8)),
        ..QWEN3
    },
    Shape {
        name: "moe-120b-a5b",
        architecture: "qwen3moe",
        width: 2880,
        layers: 36,
        heads: 64,
        kv_heads: 8,
        head_dim: 64,
        ffn: 2880,
        vocab: 201_088,
        context: 131_072,
        experts: Some((128, 4)),
        ..QWEN3
    },
    Shape { name: "llama-1.5b-bench", width: 2048, layers: 16, head_dim: 64, ffn: 8192, context: 16_384, ..PLAIN3 },
    Shape { name: "llama-3b-bench", width: 3072, layers: 28, heads: 24, ffn: 8192, context: 16_384, ..PLAIN3 },
    TINY,
    Shape { name: "tiny-mixtral", rope_stretch: None, experts: Some((4, 2)), ..TINY },
    Shape { name: "tiny-qwen2", architecture: "qwen2", rope_stretch: None, tied: true, ..TINY },
    Shape { name: "tiny-qwen3", architecture: "qwen3", rope_stretch: None, head_dim: 128, tied: true, ..TINY },
    Shape {
        name: "tiny-qwen3moe",
        architecture: "qwen3moe",
        rope_stretch: None,
        ffn: 256,
        experts: Some((8, 2)),
        ..TINY
    },
];

const TIED3: Shape = Shape { rope_stretch: Some(32.0), tied: true, ..LLAMA3 };
const TIED2: Shape = Shape { vocab: 151_936, tied: true, ..QWEN2 };
const PLAIN3: Shape = Shape { rope_stretch: None, ..LLAMA3 };
