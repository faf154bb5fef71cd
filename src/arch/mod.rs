//! Model families as data.
//!
//! An architecture is one function from a checkpoint's metadata to a `ModelSpec`: dimensions, and for each layer its
//! mixer and feed-forward part, as enums with payloads. A family that differs only in such facts costs one file and
//! one row of `ARCHITECTURES`. Nothing here computes; `lower` turns a spec into programs.
//!
//! Conventions of tensors and metadata keys are GGUF's (`docs/gguf.md` of the ggml project); what a
//! family computes is specified by its implementation in Hugging Face transformers.

mod keys;
mod llama;
mod qwen2;
mod qwen3;
mod qwen3moe;
pub mod shapes;
pub mod synthetic;

use crate::error::{Error, Result};
use crate::format::Catalogue;
use crate::op::{Activation, Attention, Rope};
pub use keys::Keys;

/// A model: everything that its programs depend on, weights excepted.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// GGUF's `general.architecture`.
    pub architecture: &'static str,
    /// Width of the residual stream.
    pub width: usize,
    /// Rows of the embedding, and logits.
    pub vocab: usize,
    /// Positions that the model was trained for.
    pub context: u32,
    /// Added to the mean square in norms.
    pub norm_eps: f32,
    /// Layers in order.
    pub layers: Vec<LayerSpec>,
    /// Whether the head uses the embedding's weights.
    pub tied: bool,
}

/// One layer: `x += mixer(norm(x)); x += ffn(norm(x))`.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSpec {
    /// What mixes positions.
    pub mixer: Mixer,
    /// What transforms each position.
    pub ffn: Ffn,
}

/// What mixes positions.
#[derive(Debug, Clone, PartialEq)]
pub enum Mixer {
    /// Softmax attention over cached keys and values.
    Attention(AttentionSpec),
}

/// Softmax attention with rotary positions.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionSpec {
    /// Heads, scale, window.
    pub shape: Attention,
    /// Rotation of queries and keys.
    pub rope: Rope,
    /// Whether `rope_freqs.weight` divides the frequencies.
    pub rope_factors: bool,
    /// Whether queries and keys are normalised per head before the rotation.
    pub qk_norm: bool,
    /// Which projections have a bias.
    pub bias: ProjectionBias,
}

/// Which of an attention's projections have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[expect(missing_docs, reason = "the projections by their usual letters")]
pub struct ProjectionBias {
    pub q: bool,
    pub k: bool,
    pub v: bool,
    pub o: bool,
}

/// What transforms each position.
#[derive(Debug, Clone, PartialEq)]
pub enum Ffn {
    /// `down(act(gate(x)) * up(x))`
    Dense {
        /// Inner width.
        width: usize,
        /// Of the gate.
        act: Activation,
        /// Whether the three projections have biases.
        bias: bool,
    },
    /// A router and `experts` dense parts of which each position uses `used`.
    Moe {
        /// How many there are.
        experts: usize,
        /// How many a position uses.
        used: usize,
        /// Inner width of one.
        width: usize,
        /// Of the gate.
        act: Activation,
        /// Whether the chosen probabilities are made to add up to one.
        normalise: bool,
    },
}

/// A row of the registry.
pub struct Architecture {
    /// GGUF's `general.architecture`.
    pub name: &'static str,
    /// Models that it covers, for people.
    pub covers: &'static str,
    /// From metadata to spec.
    pub spec: fn(&Keys) -> Result<ModelSpec>,
}

/// The families that air runs.
pub static ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "llama", covers: "Llama 2, 3, 3.x; Mistral; Mixtral", spec: llama::spec },
    Architecture { name: "qwen2", covers: "Qwen 2, 2.5", spec: qwen2::spec },
    Architecture { name: "qwen3", covers: "Qwen 3 (dense)", spec: qwen3::spec },
    Architecture { name: "qwen3moe", covers: "Qwen 3 (mixture of experts)", spec: qwen3moe::spec },
];

/// The spec of a checkpoint.
///
/// # Errors
/// `Unsupported` for an architecture that has no row, by name; `File` for metadata that is missing or makes no sense.
pub fn spec(catalogue: &Catalogue) -> Result<ModelSpec> {
    let name = catalogue.meta.str("general.architecture")?;
    let row = ARCHITECTURES.iter().find(|a| a.name == name).ok_or_else(|| {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|a| a.name).collect();
        Error::Unsupported {
            what: format!("{}: the architecture \"{name}\"", catalogue.file()),
            instead: format!("air runs {}", known.join(", ")),
        }
    })?;
    (row.spec)(&Keys::new(catalogue, row.name))
}
