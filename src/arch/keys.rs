//! Reading the metadata that families share, with the checks that make a spec sane.
//!
//! Numbers come from a file: every one is bounded here, so that `lower` and the engine can multiply them. That the
//! weights have the shapes that follow is checked when they are bound.

use super::{AttentionSpec, Ffn, LayerSpec, Mixer, ModelSpec, ProjectionBias};
use crate::error::{Error, Result};
use crate::format::Catalogue;
use crate::op::{Activation, Attention, Pairing, Rope, Yarn};

/// Largest width, head count, layer count … that is believed.
const MOST: u32 = 1 << 24;

/// Tensors that a layer with attention has: two norms, four projections, three matrices of the feed-forward part. What a
/// file declares costs memory when it is lowered, so that it must be able to hold it.
const LEAST_TENSORS: usize = 9;

/// Metadata under the architecture's prefix, and which tensors exist.
#[derive(Debug)]
pub struct Keys<'a> {
    catalogue: &'a Catalogue,
    architecture: &'static str,
}

impl<'a> Keys<'a> {
    /// The keys of `architecture` in a catalogue.
    pub fn new(catalogue: &'a Catalogue, architecture: &'static str) -> Self {
        Keys { catalogue, architecture }
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// Whether a tensor is there.
    pub fn has(&self, tensor: &str) -> bool {
        self.catalogue.tensors.contains_key(tensor)
    }

    /// A number of at least `least`, if the key exists.
    fn bounded(&self, name: &str, least: u32) -> Result<Option<usize>> {
        let key = self.key(name);
        let Some(n) = self.catalogue.meta.opt_u32(&key)? else { return Ok(None) };
        if !(least..=MOST).contains(&n) {
            return Err(self.error(name, format!("{n} is out of range ({least} to {MOST})")));
        }
        Ok(Some(n as usize))
    }

    /// A positive count, if the key exists.
    pub fn opt_count(&self, name: &str) -> Result<Option<usize>> {
        self.bounded(name, 1)
    }

    /// A positive count.
    pub fn count(&self, name: &str) -> Result<usize> {
        self.opt_count(name)?.map_or_else(|| self.catalogue.meta.u32(&self.key(name)).map(|n| n as usize), Ok)
    }

    /// Whether the model has experts (dense files may say that there are zero).
    pub fn has_experts(&self) -> Result<bool> {
        Ok(self.bounded("expert_count", 0)?.is_some_and(|n| n > 0))
    }

    /// A positive float, or the default.
    fn positive(&self, name: &str, default: f32) -> Result<f32> {
        let x = self.catalogue.meta.opt_f32(&self.key(name))?.unwrap_or(default);
        if x <= 0.0 {
            return Err(self.error(name, format!("{x} must be greater than zero")));
        }
        Ok(x)
    }

    fn error(&self, name: &str, problem: String) -> Error {
        self.catalogue.meta.error(&self.key(name), problem)
    }

    /// The attention of layer `i` from the usual keys and the biases that are there.
    pub fn attention(&self, i: usize, pairing: Pairing, qk_norm: bool) -> Result<AttentionSpec> {
        let width = self.count("embedding_length")?;
        let heads = self.count("attention.head_count")?;
        let kv_heads = self.opt_count("attention.head_count_kv")?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(self.error("attention.head_count_kv", format!("{kv_heads} does not divide {heads} heads")));
        }
        let head_dim = match self.opt_count("attention.key_length")? {
            Some(n) => n,
            None if width.is_multiple_of(heads) => width / heads,
            None => return Err(self.error("attention.head_count", format!("{heads} does not divide width {width}"))),
        };
        let v_dim = self.opt_count("attention.value_length")?.unwrap_or(head_dim);
        let scale = (1.0 / (head_dim as f64).sqrt()) as f32;
        let window = self.window(i)?;
        let has = |part: &str| self.has(&format!("blk.{i}.attn_{part}.bias"));
        Ok(AttentionSpec {
            shape: Attention { heads, kv_heads, head_dim, v_dim, scale, window },
            rope: self.rope(head_dim, pairing)?,
            rope_factors: self.has("rope_freqs.weight"),
            qk_norm,
            bias: ProjectionBias { q: has("q"), k: has("k"), v: has("v"), o: has("output") },
        })
    }

    /// The window of layer `i`: of every layer, or of those that the pattern names.
    fn window(&self, i: usize) -> Result<Option<u32>> {
        let Some(window) = self.opt_count("attention.sliding_window")? else { return Ok(None) };
        let pattern = "attention.sliding_window_pattern";
        let here = match self.catalogue.meta.opt_bools(&self.key(pattern))? {
            None => true,
            Some(layers) => *layers.get(i).ok_or_else(|| self.error(pattern, format!("has no entry for layer {i}")))?,
        };
        Ok(here.then_some(window as u32))
    }

    /// Rotary embedding with linear or YaRN scaling.
    fn rope(&self, head_dim: usize, pairing: Pairing) -> Result<Rope> {
        let dims = self.opt_count("rope.dimension_count")?.unwrap_or(head_dim);
        if dims > head_dim || !dims.is_multiple_of(2) {
            let problem = format!("{dims} must be even and at most the head size {head_dim}");
            return Err(self.error("rope.dimension_count", problem));
        }
        let base = self.positive("rope.freq_base", 10000.0)?;
        let factor = self.positive("rope.scaling.factor", self.positive("rope.scale_linear", 1.0)?)?;
        let plain = Rope { dims, base, pairing, scale: 1.0, yarn: None };
        match self.catalogue.meta.opt_str(&self.key("rope.scaling.type"))? {
            Some("none") => Ok(plain),
            None | Some("linear") => Ok(Rope { scale: 1.0 / factor, ..plain }),
            Some("yarn") => Ok(Rope { scale: 1.0 / factor, yarn: Some(self.yarn(dims, base, factor)?), ..plain }),
            Some(other) => {
                let problem = format!("the scaling \"{other}\" is not supported; air knows none, linear and yarn");
                Err(self.error("rope.scaling.type", problem))
            }
        }
    }

    /// YaRN's ramp and magnitude (Peng et al. 2023, eq. 17 ff. and section 3.4).
    fn yarn(&self, dims: usize, base: f32, factor: f32) -> Result<Yarn> {
        let trained = self.count("context_length")?;
        let original = self.opt_count("rope.scaling.original_context_length")?.unwrap_or(trained) as f64;
        let fast = f64::from(self.positive("rope.scaling.yarn_beta_fast", 32.0)?);
        let slow = f64::from(self.positive("rope.scaling.yarn_beta_slow", 1.0)?);
        let pair_of = |rotations: f64| {
            dims as f64 * (original / (rotations * std::f64::consts::TAU)).ln() / (2.0 * f64::from(base).ln())
        };
        let low = pair_of(fast).floor().max(0.0) as f32;
        let high = pair_of(slow).ceil().min(dims as f64 - 1.0) as f32;
        let attention = self.positive("rope.scaling.attn_factor", 1.0)?;
        let magnitude = (f64::from(attention) * (0.1 * f64::from(factor).ln() + 1.0)) as f32;
        Ok(Yarn { low, high, magnitude })
    }

    /// The usual dense feed-forward part of layer `i`.
    pub fn dense_ffn(&self, i: usize) -> Result<Ffn> {
        let bias = self.has(&format!("blk.{i}.ffn_down.bias"));
        Ok(Ffn::Dense { width: self.count("feed_forward_length")?, act: Activation::Silu, bias })
    }

    /// A mixture of experts whose inner width stands under `width_key`.
    pub fn moe_ffn(&self, width_key: &str, normalise: bool) -> Result<Ffn> {
        let experts = self.count("expert_count")?;
        let used = self.count("expert_used_count")?;
        if used > experts {
            return Err(self.error("expert_used_count", format!("{used} is more than the {experts} experts")));
        }
        Ok(Ffn::Moe { experts, used, width: self.count(width_key)?, act: Activation::Silu, normalise })
    }

    /// A model whose layers are given one by one.
    pub fn model(&self, layer: impl Fn(usize) -> Result<(AttentionSpec, Ffn)>) -> Result<ModelSpec> {
        let layers = self.count("block_count")?;
        let tensors = self.catalogue.tensors.len();
        if layers.saturating_mul(LEAST_TENSORS) > tensors {
            return Err(self.error("block_count", format!("{layers} layers cannot be in {tensors} tensors")));
        }
        let layer = |i| layer(i).map(|(attention, ffn)| LayerSpec { mixer: Mixer::Attention(attention), ffn });
        let embedding = self.catalogue.tensor("token_embd.weight")?;
        Ok(ModelSpec {
            architecture: self.architecture,
            width: self.count("embedding_length")?,
            vocab: embedding.rows() as usize,
            context: self.count("context_length")? as u32,
            norm_eps: self.positive("attention.layer_norm_rms_epsilon", 1e-5)?,
            layers: (0..layers).map(layer).collect::<Result<_>>()?,
            tied: !self.has("output.weight"),
        })
    }
}
