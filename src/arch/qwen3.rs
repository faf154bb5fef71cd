//! Qwen 3: queries and keys are normalised per head before the rotation; the head size is a key of its own.
//!
//! Specification: `Qwen3ForCausalLM` of transformers.

use super::{Keys, ModelSpec};
use crate::error::Result;
use crate::op::Pairing;

/// From metadata to spec.
pub fn spec(keys: &Keys) -> Result<ModelSpec> {
    keys.model(|i| Ok((keys.attention(i, Pairing::HalfSplit, true)?, keys.dense_ffn(i)?)))
}
