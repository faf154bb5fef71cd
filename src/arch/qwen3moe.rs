//! Qwen 3 with a mixture of experts in every layer; the chosen probabilities add up to one.
//!
//! Specification: `Qwen3MoeForCausalLM` of transformers (`norm_topk_prob` true, as all released models have it).

use super::{Keys, ModelSpec};
use crate::error::Result;
use crate::op::Pairing;

/// From metadata to spec.
pub fn spec(keys: &Keys) -> Result<ModelSpec> {
    keys.model(|i| {
        let ffn = keys.moe_ffn("expert_feed_forward_length", true)?;
        Ok((keys.attention(i, Pairing::HalfSplit, true)?, ffn))
    })
}
