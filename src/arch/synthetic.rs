//! Models of a shape with random weights: their metadata, and for each tensor how it is drawn.
//!
//! The weights are such that activations keep their scale: a matrix of fan-in n has standard deviation 1/sqrt(n), norm
//! weights are one, so after each norm every projection has unit variance. What a layer adds to the residual
//! stream is a fraction of the embedding, so that the stream grows by a small factor over 80 layers and rounding errors
//! do not feed on themselves. The head's gain gives logits the spread of a trained model's. Routers are sharp, so that
//! the last expert chosen carries little weight and a rounding error that exchanges it does little harm.
//!
//! It knows nothing of files and quant mixes; the caller picks a format for each tensor.

use super::shapes::{SHAPES, Shape};
use crate::error::{Error, Result};
use crate::meta::{Meta, Value};

/// What a projection adds to the residual stream, as a share of the embedding's standard deviation.
const BRANCH: f32 = 0.25;
/// Gain of the head: the standard deviation of logits.
const HEAD: f32 = 4.0;
/// Gain of routers.
const ROUTER: f32 = 4.0;
/// Standard deviation of biases.
const BIAS: f32 = 0.1;

/// How a tensor's values are made.
#[derive(Debug, Clone, PartialEq)]
pub enum Draw {
    /// Random with mean zero and this standard deviation.
    Random(f32),
    /// These values.
    Given(Vec<f32>),
}

/// A tensor of a synthetic model.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// GGUF's name.
    pub name: String,
    /// Dimensions, fastest first.
    pub shape: Vec<u64>,
    /// Its values.
    pub draw: Draw,
}

impl Shape {
    /// The shape of a name.
    ///
    /// # Errors
    /// `Invalid`, with the names that exist.
    pub fn by_name(name: &str) -> Result<&'static Shape> {
        SHAPES.iter().find(|s| s.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
            let names: Vec<_> = SHAPES.iter().map(|s| s.name).collect();
            Error::Invalid(format!("`{name}` is not a shape; there are {}", names.join(", ")))
        })
    }

    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        self.tensors().iter().map(|t| t.shape.iter().product::<u64>()).sum()
    }

    /// The model's own metadata; the tokenizer's comes on top.
    pub fn metadata(&self) -> Meta {
        let mut meta = Meta::new(self.name);
        let mut set = |key: String, value: Value| assert!(meta.insert(&key, value, None), "{key} is set once");
        set("general.architecture".into(), Value::String(self.architecture.into()));
        set("general.name".into(), Value::String(format!("{}, random weights", self.name).into()));
        set("general.quantization_version".into(), Value::U32(2));
        let numbers = [
            ("vocab_size", self.vocab),
            ("context_length", self.context),
            ("embedding_length", self.width),
            ("block_count", self.layers),
            ("feed_forward_length", self.ffn),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("attention.key_length", self.head_dim),
            ("attention.value_length", self.head_dim),
            ("rope.dimension_count", self.head_dim),
        ];
        let experts = self.experts.map(|(all, used)| [("expert_count", all), ("expert_used_count", used)]);
        let inner = (self.architecture == "qwen3moe").then_some(("expert_feed_forward_length", self.ffn));
        for (key, n) in numbers.into_iter().chain(experts.into_iter().flatten()).chain(inner) {
            set(format!("{}.{key}", self.architecture), Value::U32(n));
        }
        let eps = if self.architecture.starts_with("qwen") { 1e-6 } else { 1e-5 };
        set(format!("{}.attention.layer_norm_rms_epsilon", self.architecture), Value::F32(eps));
        set(format!("{}.rope.freq_base", self.architecture), Value::F32(self.rope_base));
        meta
    }

    /// All tensors, in the order of a file.
    pub fn tensors(&self) -> Vec<Tensor> {
        let mut out = Vec::new();
        random(&mut out, "token_embd.weight", &[self.width, self.vocab], self.embedding());
        if let Some(factor) = self.rope_stretch {
            let values = stretch(self.head_dim, self.rope_base, factor);
            out.push(Tensor {
                name: "rope_freqs.weight".into(),
                shape: vec![values.len() as u64],
                draw: Draw::Given(values),
            });
        }
        for i in 0..self.layers {
            self.attention(&mut out, i);
            self.feed_forward(&mut out, i);
        }
        ones(&mut out, "output_norm.weight", self.width);
        if !self.tied {
            random(&mut out, "output.weight", &[self.width, self.vocab], HEAD * spread(self.width));
        }
        out
    }

    /// Standard deviation of the embedding.
    fn embedding(&self) -> f32 {
        if self.tied { HEAD * spread(self.width) } else { 1.0 }
    }

    /// Standard deviation of a projection to the residual stream.
    fn branch(&self, fan_in: u32) -> f32 {
        BRANCH * self.embedding() * spread(fan_in)
    }

    fn attention(&self, out: &mut Vec<Tensor>, i: u32) {
        let name = |part: &str| format!("blk.{i}.attn_{part}");
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        ones(out, &name("norm.weight"), self.width);
        for (part, rows) in [("q", q), ("k", kv), ("v", kv)] {
            random(out, &name(&format!("{part}.weight")), &[self.width, rows], spread(self.width));
            if self.architecture == "qwen2" {
                random(out, &name(&format!("{part}.bias")), &[rows], BIAS);
            }
        }
        if self.architecture.starts_with("qwen3") {
            ones(out, &name("q_norm.weight"), self.head_dim);
            ones(out, &name("k_norm.weight"), self.head_dim);
        }
        random(out, &name("output.weight"), &[q, self.width], self.branch(q));
    }

    fn feed_forward(&self, out: &mut Vec<Tensor>, i: u32) {
        let name = |part: &str| format!("blk.{i}.ffn_{part}.weight");
        let (w, f) = (self.width, self.ffn);
        let (inner, outer) = (spread(w), self.branch(f));
        ones(out, &name("norm"), w);
        match self.experts {
            None => {
                random(out, &name("gate"), &[w, f], inner);
                random(out, &name("up"), &[w, f], inner);
                random(out, &name("down"), &[f, w], outer);
            }
            Some((n, _)) => {
                random(out, &name("gate_inp"), &[w, n], ROUTER * inner);
                random(out, &name("gate_exps"), &[w, f, n], inner);
                random(out, &name("up_exps"), &[w, f, n], inner);
                random(out, &name("down_exps"), &[f, w, n], outer);
            }
        }
    }
}

/// The standard deviation that keeps the variance over a sum of `fan_in` products.
fn spread(fan_in: u32) -> f32 {
    1.0 / (fan_in as f32).sqrt()
}

fn random(out: &mut Vec<Tensor>, name: &str, shape: &[u32], std: f32) {
    let shape = shape.iter().map(|&d| d.into()).collect();
    out.push(Tensor { name: name.into(), shape, draw: Draw::Random(std) });
}

fn ones(out: &mut Vec<Tensor>, name: &str, n: u32) {
    out.push(Tensor { name: name.into(), shape: vec![n.into()], draw: Draw::Given(vec![1.0; n as usize]) });
}

/// Llama 3.1's divisors of the rotary frequencies: waves longer than the original context of 8192 positions are
/// stretched by `factor`, those shorter than a quarter of it stay, with a linear ramp between (`rope_scaling` of type
/// `llama3` in transformers).
fn stretch(head_dim: u32, base: f32, factor: f32) -> Vec<f32> {
    let (original, low, high) = (8192.0f64, 1.0, 4.0);
    let divisor = |pair: u32| {
        let frequency = f64::from(base).powf(-2.0 * f64::from(pair) / f64::from(head_dim));
        let waves = original * frequency / std::f64::consts::TAU;
        let smooth = ((waves - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 / (smooth + (1.0 - smooth) / f64::from(factor))) as f32
    };
    (0..head_dim / 2).map(divisor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameter counts as published (in units of a million, rounded).
    #[test]
    fn parameter_counts() {
        let published = [
            ("llama-3.2-1b", 1236),
            ("llama-3.2-3b", 3213),
            ("llama-3.1-8b", 8030),
            ("llama-3.1-70b", 70_554),
            ("llama-2-7b", 6738),
            ("llama-2-13b", 13_016),
            ("llama-2-70b", 68_977),
            ("mistral-7b", 7248),
            ("mixtral-8x7b", 46_703),
            ("qwen2.5-0.5b", 494),
            ("qwen2.5-1.5b", 1544),
            ("qwen2.5-3b", 3086),
            ("qwen2.5-7b", 7616),
            ("qwen2.5-14b", 14_770),
            ("qwen2.5-32b", 32_764),
            ("qwen2.5-72b", 72_706),
            ("qwen3-0.6b", 596),
            ("qwen3-1.7b", 1721),
            ("qwen3-4b", 4022),
            ("qwen3-8b", 8191),
            ("qwen3-14b", 14_768),
            ("qwen3-32b", 32_762),
            ("qwen3-30b-a3b", 30_532),
        ];
        for (name, millions) in published {
            let n = Shape::by_name(name).unwrap().parameters();
            assert_eq!((n as f64 / 1e6).round() as u64, millions, "{name}: {n}");
        }
    }

    #[test]
    fn shapes_are_of_families_that_run() {
        for (i, shape) in SHAPES.iter().enumerate() {
            assert!(super::super::ARCHITECTURES.iter().any(|a| a.name == shape.architecture), "{}", shape.name);
            assert!(SHAPES[..i].iter().all(|s| s.name != shape.name), "{} is there twice", shape.name);
        }
        assert!(Shape::by_name("none").unwrap_err().to_string().contains("llama-3.1-8b"));
    }

    /// transformers' `ROPE_INIT_FUNCTIONS["llama3"]` for factor 8, base 500 000, heads of 128: the first frequencies
    /// stay, the last are divided by 8.
    #[test]
    fn stretching() {
        let divisors = stretch(128, 500_000.0, 8.0);
        assert_eq!((divisors[0], divisors[28], divisors[63]), (1.0, 1.0, 8.0));
        assert!(divisors.windows(2).all(|d| d[0] <= d[1]) && divisors[31] > 1.0 && divisors[31] < 8.0);
    }
}
