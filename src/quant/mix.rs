//! Mixes: which tensor of a model gets which format when the model is quantised.
//!
//! A mix has a base format for the matrices and rules for the tensors that suffer more from rounding: the output
//! matrix, the values of attention and the down projection in the first and last eighth of the layers and every third
//! one between. The names and rules are those of llama.cpp's quantiser without an importance matrix (its `_M` and
//! `_S` mixes), so that a file of either program has the same formats under the same name; `Q4_K` and `Q5_K` here are
//! pure: that format for every matrix. Vectors, norms, routers and other small tensors stay as they are.
//!
//! A pure function of names, shapes and a few facts; it knows nothing of the data or of files.

use super::{Format, Kind};
use crate::error::{Error, Result};
use crate::meta::{Meta, Value};

/// A mix: one row of [`MIXES`].
#[derive(Debug)]
pub struct Mix {
    /// As typed and printed.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// `general.file_type` of files with this mix (llama.cpp's numbers).
    pub file_type: u32,
    base: Kind,
    recipe: Recipe,
}

/// How a mix departs from its base format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recipe {
    /// Not at all.
    Pure,
    /// A finer output matrix; finer keys and values in models of eight experts.
    Plain,
    /// As plain, and Q5_K for the values of the first four layers and the down projections of the first eighth.
    Small,
    /// As plain, and Q6_K for values and down projections of the layers that matter most.
    Medium,
}

const fn row(name: &'static str, about: &'static str, file_type: u32, base: Kind, recipe: Recipe) -> Mix {
    Mix { name, about, file_type, base, recipe }
}

/// All mixes, from the finest to the coarsest.
pub static MIXES: &[Mix] = &[
    row("F32", "float32", 0, Kind::F32, Recipe::Pure),
    row("F16", "float16", 1, Kind::F16, Recipe::Pure),
    row("BF16", "bfloat16", 32, Kind::BF16, Recipe::Pure),
    row("Q8_0", "8.5 bits", 7, Kind::Q8_0, Recipe::Plain),
    row("Q6_K", "6.6 bits", 18, Kind::Q6_K, Recipe::Plain),
    row("Q5_K_M", "5.7 bits: Q5_K, half of values and down projections in Q6_K", 17, Kind::Q5_K, Recipe::Medium),
    row("Q5_K_S", "5.5 bits: Q5_K, output in Q6_K", 16, Kind::Q5_K, Recipe::Plain),
    row("Q5_K", "5.5 bits, every matrix", 16, Kind::Q5_K, Recipe::Pure),
    row("Q4_K_M", "4.8 bits: Q4_K, half of values and down projections in Q6_K", 15, Kind::Q4_K, Recipe::Medium),
    row("Q4_K_S", "4.6 bits: Q4_K, a few layers in Q5_K", 14, Kind::Q4_K, Recipe::Small),
    row("Q4_K", "4.5 bits, every matrix", 14, Kind::Q4_K, Recipe::Pure),
    row("Q4_0", "4.5 bits, the simplest of that size", 2, Kind::Q4_0, Recipe::Plain),
];

/// What the rules ask of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Number of layers.
    pub layers: u32,
    /// Number of experts; zero or one in a dense model.
    pub experts: u32,
    /// Whether the output matrix is the token embedding.
    pub tied: bool,
    /// Whether it is a Llama-2-70B-like model, whose value matrices are small and are given more bits.
    pub small_values: bool,
}

impl Facts {
    /// Reads the facts from a model's metadata; `tied` when it has no `output.weight`.
    ///
    /// # Errors
    /// `File` when the architecture or the number of layers is missing or no number.
    pub fn new(meta: &Meta, tied: bool) -> Result<Facts> {
        let architecture = meta.str("general.architecture")?;
        let key = |name: &str| format!("{architecture}.{name}");
        let layers = meta.u32(&key("block_count"))?;
        let experts = meta.opt_u32(&key("expert_count"))?.unwrap_or(0);
        let heads = |name: &str| meta.get(&key(name)).and_then(Value::integer);
        let query = heads("attention.head_count");
        let shared = query != heads("attention.head_count_kv").or(query);
        let small_values = match architecture {
            "llama" => layers == 80 && shared,
            "qwen2" | "deci" | "olmo" => layers == 80,
            _ => false,
        };
        Ok(Facts { layers, experts, tied, small_values })
    }
}

impl Mix {
    /// The mix of a name, in any case.
    ///
    /// # Errors
    /// `Invalid`, with the names that exist.
    pub fn by_name(name: &str) -> Result<&'static Mix> {
        MIXES.iter().find(|m| m.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
            let names = MIXES.iter().map(|m| m.name).collect::<Vec<_>>().join(", ");
            Error::Invalid(format!("`{name}` is not a type to quantise to; there are {names}"))
        })
    }

    /// The format of a tensor of a name and shape (fastest dimension first); `None` where it is kept as it is.
    ///
    /// Rows that the format's blocks do not divide get a format with blocks of 32, and F16 where that fails too.
    pub fn format(&self, model: &Facts, name: &str, shape: &[u64]) -> Option<&'static Format> {
        let matrix = shape.iter().skip(1).any(|d| *d > 1);
        if !matrix || !name.ends_with("weight") || KEPT.iter().any(|k| name.contains(k)) {
            return None;
        }
        let fits = |kind: Kind| shape[0].is_multiple_of(kind.format().block_len as u64);
        let wanted = match role(name) {
            _ if self.recipe == Recipe::Pure => self.base,
            Role::Output => self.output(fits(self.base)),
            Role::Embedding if model.tied => self.output(fits(self.base)),
            role => self.inner(model, role, layer(name)),
        };
        let kind = [wanted, narrower(wanted)].into_iter().find(|k| fits(*k)).unwrap_or(Kind::F16);
        Some(kind.format())
    }

    /// The output matrix, where the base format fits its rows or not.
    fn output(&self, fits: bool) -> Kind {
        if fits && self.base != Kind::Q8_0 { Kind::Q6_K } else { Kind::Q8_0 }
    }

    /// Any other matrix, in a layer if it is in one.
    fn inner(&self, model: &Facts, role: Role, layer: Option<u32>) -> Kind {
        let eight = model.experts == 8;
        let matters = layer.is_some_and(|i| matters(i, model.layers));
        let first = |n: u32| layer.is_some_and(|i| i < n);
        match (role, self.recipe) {
            (Role::Values | Role::Keys, _) if eight => Kind::Q8_0,
            (Role::Values | Role::Down, Recipe::Medium) if matters => Kind::Q6_K,
            (Role::Values, Recipe::Small) if first(4) => Kind::Q5_K,
            (Role::Down, Recipe::Small) if first(model.layers / 8) => Kind::Q5_K,
            (Role::Values, _) if model.small_values && self.base == Kind::Q4_K => Kind::Q5_K,
            (Role::AttentionOutput, _) if eight && self.base == Kind::Q4_K => Kind::Q5_K,
            _ => self.base,
        }
    }
}

/// Parts of names of matrices that are small or delicate, and stay as they are. (Of `time_mix_`, llama.cpp keeps only
/// the small ones.)
const KEPT: &[&str] = &[
    "_norm.weight",
    "ffn_gate_inp.weight",
    "position_embd",
    "token_types",
    "attn_rel_b.weight",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "time_mix_",
    "altup",
    "laurel",
    "per_layer_model_proj",
];

/// What a tensor does, as far as the rules care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Output,
    Embedding,
    Values,
    Keys,
    AttentionOutput,
    Down,
    Other,
}

fn role(name: &str) -> Role {
    let has = |parts: &[&str]| parts.iter().any(|p| name.contains(p));
    match name {
        "output.weight" => Role::Output,
        "token_embd.weight" | "per_layer_token_embd.weight" => Role::Embedding,
        _ if has(&["attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight"]) => Role::Values,
        _ if has(&["attn_k.weight"]) => Role::Keys,
        _ if has(&["attn_output.weight"]) => Role::AttentionOutput,
        _ if has(&["ffn_down"]) => Role::Down,
        _ => Role::Other,
    }
}

/// The layer in `blk.LAYER.…`.
fn layer(name: &str) -> Option<u32> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

/// Whether layer `i` of `n` is one of those whose rounding shows most.
fn matters(i: u32, n: u32) -> bool {
    let eighth = n / 8;
    i < eighth || u64::from(i) >= 7 * u64::from(n) / 8 || (i - eighth) % 3 == 2
}

/// A format of about the same size with smaller blocks.
fn narrower(kind: Kind) -> Kind {
    match kind {
        Kind::Q4_K => Kind::Q5_0,
        Kind::Q5_K => Kind::Q5_1,
        Kind::Q6_K => Kind::Q8_0,
        kind => kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Letters that stand for formats in the golden.
    const LETTERS: &str = "F32=f F16=h BF16=b Q8_0=8 Q6_K=6 Q5_K=5 Q4_K=4 Q4_0=0 Q5_0=s Q5_1=t";

    /// Every tensor of synthetic models, under every mix, against llama.cpp's choice (`scripts/goldens/mixes.py`).
    #[test]
    fn choices_are_those_of_llama_cpp() {
        let letters: HashMap<_, _> = LETTERS.split(' ').map(|p| p.split_once('=').unwrap()).collect();
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/quant/mixes.tsv");
        let golden = std::fs::read_to_string(golden).unwrap();
        let (mut facts, mut seen) = (None, 0);
        for line in golden.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            match fields[..] {
                ["model", architecture, layers, experts, heads, kv_heads, tied] => {
                    let mut meta = Meta::new("golden");
                    let mut set = |key: &str, value: &str| {
                        meta.insert(&format!("{architecture}.{key}"), Value::U32(value.parse().unwrap()), None)
                    };
                    set("block_count", layers);
                    set("expert_count", experts);
                    set("attention.head_count", heads);
                    set("attention.head_count_kv", kv_heads);
                    meta.insert("general.architecture", Value::String(architecture.into()), None);
                    facts = Some(Facts::new(&meta, tied == "tied").unwrap());
                }
                [mix, tensor, shape, expected] => {
                    let layers = if tensor.contains('*') { facts.unwrap().layers as usize } else { 1 };
                    let expected = match expected.strip_suffix('+') {
                        Some(letter) => letter.repeat(layers),
                        None => expected.to_string(),
                    };
                    assert_eq!(expected.len(), layers, "{line}");
                    let shape: Vec<u64> = shape.split('x').map(|d| d.parse().unwrap()).collect();
                    for (i, expected) in expected.chars().enumerate() {
                        let name = tensor.replace('*', &i.to_string());
                        let got = Mix::by_name(mix).unwrap().format(&facts.unwrap(), &name, &shape);
                        // The models are F32, so that is what a tensor is that was kept.
                        let got = letters[got.map_or("F32", |f| f.name)];
                        assert_eq!(got, expected.to_string(), "{facts:?} {mix} {name}");
                        seen += 1;
                    }
                }
                _ => panic!("{line}"),
            }
        }
        assert!(seen > 5000, "the golden has {seen} choices");
    }

    #[test]
    fn every_choice_can_be_encoded() {
        for mix in MIXES {
            assert!(mix.base.format().encode.is_some() && narrower(mix.base).format().encode.is_some(), "{}", mix.name);
            assert_eq!(Mix::by_name(&mix.name.to_lowercase()).unwrap().name, mix.name);
        }
        let names = Mix::by_name("Q3_K_M").unwrap_err().to_string();
        assert!(names.contains("Q4_K_M") && names.contains("Q3_K_M"), "{names}");
    }
}
