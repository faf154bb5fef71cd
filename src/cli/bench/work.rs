//! What passes carry and compute, counted from the checkpoint's tensors and the lengths of a run: nothing is estimated.
//!
//! A decode pass reads every weight that it touches once, for all sequences together, and the keys and values of each
//! sequence. Which experts several rows touch together depends on the router, so a batch over experts is not
//! counted. A multiplication and its addition are two operations, as vendors count them.

use super::runs::Lengths;
use crate::arch::{Ffn, Mixer, ModelSpec};
use crate::engine::LoadOptions;
use crate::format::{Catalogue, TensorInfo};
use crate::quant::Kind;

/// Of one run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Bytes read from memory for one token of the answers; none for a batch over experts.
    pub decode_bytes: Option<u64>,
    /// Those of them that are keys and values.
    pub state_bytes: u64,
    /// Operations of matrix products (weights, and keys and values) for one token of the prompts, on average.
    pub prefill_ops: f64,
    /// The same for one token of the answers.
    pub decode_ops: f64,
    /// What most of these multiply.
    pub numbers: Numbers,
}

/// What a processor can multiply for the format of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    /// 8-bit integers, for all quantised formats.
    Int8,
    Bf16,
    F32,
}

impl Numbers {
    /// All kinds.
    const ALL: [Numbers; 3] = [Numbers::Int8, Numbers::Bf16, Numbers::F32];

    fn of(kind: Kind) -> Numbers {
        match kind {
            Kind::F32 | Kind::F16 => Numbers::F32,
            Kind::BF16 => Numbers::Bf16,
            _ => Numbers::Int8,
        }
    }

    /// For programs.
    pub fn name(self) -> &'static str {
        match self {
            Numbers::Int8 => "int8",
            Numbers::Bf16 => "bf16",
            Numbers::F32 => "f32",
        }
    }
}

impl Work {
    /// Counts.
    pub fn count(
        catalogue: &Catalogue,
        spec: &ModelSpec,
        touched_bytes: u64,
        options: &LoadOptions,
        lengths: &Lengths,
    ) -> Work {
        let experts = spec.layers.iter().any(|l| matches!(l.ffn, Ffn::Moe { .. }));
        let batch = u64::from(lengths.batch);
        // The cache at the middle of the answer.
        let seen = u64::from(lengths.depth) + u64::from(lengths.prompt) + u64::from(lengths.answer) / 2;
        let state = state_bytes(spec, options, seen);
        let elements = |numbers: &Numbers| -> u64 {
            let mine = |t: &&TensorInfo| t.name.starts_with("blk.") && Numbers::of(t.format.kind) == *numbers;
            catalogue.tensors.values().filter(mine).map(|t| t.shape.iter().product::<u64>()).sum()
        };
        // The head works for the last row of each prompt only.
        let (layers, head) = (layer_ops(catalogue, spec), 2.0 * spec.width as f64 * spec.vocab as f64);
        let middle = u64::from(lengths.depth) + u64::from(lengths.prompt) / 2;
        Work {
            decode_bytes: (!experts || batch == 1).then(|| touched_bytes / batch + state),
            state_bytes: state,
            prefill_ops: layers + head / f64::from(lengths.prompt) + attention_ops(spec, middle),
            decode_ops: layers + head + attention_ops(spec, seen),
            numbers: Numbers::ALL.into_iter().max_by_key(elements).unwrap_or(Numbers::F32),
        }
    }
}

/// Bytes of keys and values that a row reads after `positions` of them.
fn state_bytes(spec: &ModelSpec, options: &LoadOptions, positions: u64) -> u64 {
    let (k, v) = options.state_formats();
    let layer = |l: &crate::arch::LayerSpec| {
        let Mixer::Attention(a) = &l.mixer;
        let row = k.row_bytes(a.shape.head_dim) + v.row_bytes(a.shape.v_dim);
        seen(positions, a.shape.window) * (a.shape.kv_heads * row) as u64
    };
    spec.layers.iter().map(layer).sum()
}

fn seen(positions: u64, window: Option<u32>) -> u64 {
    window.map_or(positions, |w| positions.min(w.into()))
}

/// Operations of the layers' matrices on a row.
fn layer_ops(catalogue: &Catalogue, spec: &ModelSpec) -> f64 {
    let share = |layer: usize| match spec.layers.get(layer).map(|l| &l.ffn) {
        Some(&Ffn::Moe { experts, used, .. }) => used as f64 / experts as f64,
        _ => 1.0,
    };
    let mut ops = 0.0;
    for t in catalogue.tensors.values().filter(|t| t.shape.len() > 1) {
        let products = 2.0 * t.shape.iter().product::<u64>() as f64;
        let layer = t.name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        ops += match layer {
            Some(n) if t.name.contains("_exps.") => products * share(n),
            Some(_) => products,
            None => 0.0,
        };
    }
    ops
}

/// Operations on keys and values for a row after `positions` of them.
fn attention_ops(spec: &ModelSpec, positions: u64) -> f64 {
    let layer = |l: &crate::arch::LayerSpec| {
        let Mixer::Attention(a) = &l.mixer;
        (2 * a.shape.heads * (a.shape.head_dim + a.shape.v_dim)) as f64 * seen(positions, a.shape.window) as f64
    };
    spec.layers.iter().map(layer).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{ModelInfo, demo, load};

    #[test]
    fn a_batch_reads_the_weights_once_and_every_state() {
        let catalogue = demo().unwrap();
        let options = LoadOptions::default();
        let (spec, runner) = load(&catalogue, &options, &mut |_, _| ()).unwrap();
        let info = ModelInfo::new(&catalogue, spec, &runner, std::time::Duration::ZERO).unwrap();
        let count = |depth, batch| {
            let lengths = Lengths { depth, prompt: 8, answer: 8, batch };
            Work::count(&catalogue, &info.spec, info.touched_bytes, &options, &lengths)
        };
        let (one, deep, four) = (count(0, 1), count(100, 1), count(0, 4));
        let row = state_bytes(&info.spec, &options, 1);
        assert_eq!(one.decode_bytes, Some(info.touched_bytes + 12 * row));
        assert_eq!(deep.decode_bytes, Some(info.touched_bytes + 112 * row));
        assert_eq!(four.decode_bytes, Some(info.touched_bytes / 4 + 12 * row));
        assert!(deep.prefill_ops > one.prefill_ops && one.prefill_ops == four.prefill_ops);
        // The head works for every token of an answer, for one of eight of a prompt; four positions of 12 come later.
        let (head, spec) = (2.0 * (info.spec.width * info.spec.vocab) as f64, &info.spec);
        let more = head * 7.0 / 8.0 + attention_ops(spec, 12) - attention_ops(spec, 4);
        assert!((one.decode_ops - one.prefill_ops - more).abs() < 1.0, "{one:?}");
        assert_eq!(one.decode_ops, four.decode_ops);
        assert_eq!(one.numbers, Numbers::Int8, "the demo model is Q8_0 and a few vectors");
    }
}
