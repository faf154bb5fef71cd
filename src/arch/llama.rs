//! Llama 2, 3 and 3.x, Mistral (a window in every layer, where the file says so) and Mixtral (experts).
//!
//! GGUF stores the query and key rows of this family permuted, so pairs are interleaved. Llama 3.1's long-context
//! scaling is a tensor of frequency divisors, `rope_freqs.weight`. Biases are used where they exist. Specification:
//! `LlamaForCausalLM`, `MistralForCausalLM` and `MixtralForCausalLM` of transformers.

use super::{Keys, ModelSpec};
use crate::error::Result;
use crate::op::Pairing;

/// From metadata to spec.
pub fn spec(keys: &Keys) -> Result<ModelSpec> {
    let sparse = keys.has_experts()?;
    keys.model(|i| {
        let ffn = if sparse { keys.moe_ffn("feed_forward_length", true) } else { keys.dense_ffn(i) };
        Ok((keys.attention(i, Pairing::Interleaved, false)?, ffn?))
    })
}
