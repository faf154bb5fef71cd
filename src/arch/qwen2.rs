//! Qwen 2 and 2.5: Llama's layer with biases on queries, keys and values, and half-split rotation.
//!
//! Specification: `Qwen2ForCausalLM` of transformers.

use super::{Keys, ModelSpec};
use crate::error::Result;
use crate::op::Pairing;

/// From metadata to spec.
pub fn spec(keys: &Keys) -> Result<ModelSpec> {
    keys.model(|i| Ok((keys.attention(i, Pairing::HalfSplit, false)?, keys.dense_ffn(i)?)))
}
