//! The instruction set: what a model is made of once its family is forgotten.
//!
//! A `Program` is straight-line code over values. A value is a matrix with one row for each row of the batch (or for
//! each row whose logits are wanted) and a fixed width; an op reads values and weights and writes one value. There
//! is no control flow and no in-place update: the interpreter, the fast backends, the tests and the cost model
//! all read the same list. Programs name weights by slot, not by tensor, so layers of one shape share a
//! program and differ only in what is bound.
//!
//! It knows nothing of model families, files, devices or memory.

mod check;
mod program;

pub use program::{Builder, Carry, CarryId, Place, Program, RowSet, Type, Value, ValueId, WeightDecl, WeightSlot};

/// One instruction. Widths are in elements of a row; every value is float32 unless said.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// `out = decode(table[token])`: the embedding row of each row's token.
    Embed {
        /// The embedding table, `[width, vocab]`.
        table: WeightSlot,
        /// `[width]`
        out: ValueId,
    },
    /// Keeps the rows whose logits are wanted: `out` has `RowSet::Outputs`.
    SelectOutputs {
        /// All rows.
        x: ValueId,
        /// The selected rows.
        out: ValueId,
    },
    /// Root-mean-square norm over groups of `group` elements: `x / sqrt(mean(x^2) + eps) * weight`
    /// (Zhang and Sennrich 2019). A head norm is the same with `group = head_dim`.
    RmsNorm {
        /// Input.
        x: ValueId,
        /// `[group]`
        weight: WeightSlot,
        /// Elements that share one mean; divides the width.
        group: usize,
        /// Added to the mean.
        eps: f32,
        /// Same width as `x`.
        out: ValueId,
    },
    /// `out = W x (+ bias)`, W of shape `[width(x), width(out)]`.
    MatMul {
        /// Input.
        x: ValueId,
        /// `[width(x), width(out)]`
        weight: WeightSlot,
        /// `[width(out)]`
        bias: Option<WeightSlot>,
        /// Output.
        out: ValueId,
    },
    /// Rotary position embedding (Su et al. 2021) of every head.
    Rope {
        /// `[heads * head_dim]`
        x: ValueId,
        /// Elements of a head.
        head_dim: usize,
        /// How angles come from positions.
        rope: Rope,
        /// Divisors of the frequencies, `[rope.dims / 2]` (Llama 3's `rope_freqs`).
        factors: Option<WeightSlot>,
        /// Same width as `x`.
        out: ValueId,
    },
    /// Writes this batch's keys and values into the layer's pages, at each row's position.
    KvAppend {
        /// `[kv_heads * head_dim]`
        k: ValueId,
        /// `[kv_heads * v_dim]`
        v: ValueId,
    },
    /// Softmax attention of each row over the keys at or before its position (and inside the window), as they
    /// stand in the pages, this batch's among them.
    Attend {
        /// `[heads * head_dim]`
        q: ValueId,
        /// Heads and scale.
        attention: Attention,
        /// `[heads * v_dim]`
        out: ValueId,
    },
    /// `out = a + b`
    Add {
        /// First.
        a: ValueId,
        /// Second.
        b: ValueId,
        /// Same width.
        out: ValueId,
    },
    /// Gated linear unit: `out = act(gate) * up` (Shazeer 2020).
    Glu {
        /// Goes through the activation.
        gate: ValueId,
        /// Multiplies it.
        up: ValueId,
        /// Which activation.
        act: Activation,
        /// Same width.
        out: ValueId,
    },
    /// Chooses experts: softmax over the logits, the `k` largest (ties to the lower index), their
    /// probabilities, divided by their sum if `normalise`.
    Route {
        /// `[experts]`
        logits: ValueId,
        /// How many are chosen.
        k: usize,
        /// Whether the chosen probabilities are made to add up to one.
        normalise: bool,
        /// `[k]`, `Type::Index`: experts, largest probability first.
        ids: ValueId,
        /// `[k]`: their weights.
        weights: ValueId,
    },
    /// For each chosen expert e of slot j: `out[j] = W[e] x` where x is the row itself, or its j-th part when
    /// `per_slot` (x is then `[k * width]`).
    ExpertMatMul {
        /// `[width]`, or `[k * width]` when `per_slot`.
        x: ValueId,
        /// Whether each slot has its own input.
        per_slot: bool,
        /// `[k]`, `Type::Index`.
        ids: ValueId,
        /// `[width, rows, experts]`
        weight: WeightSlot,
        /// `[k * rows]`
        out: ValueId,
    },
    /// `out = sum over slots j, in order, of weights[j] * x[j]`.
    ExpertSum {
        /// `[k * width]`
        x: ValueId,
        /// `[k]`
        weights: ValueId,
        /// `[width]`
        out: ValueId,
    },
}

/// Which elements of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pairing {
    /// `(0,1), (2,3) …`: Llama as GGUF stores it.
    Interleaved,
    /// `(0, d/2), (1, d/2 + 1) …`: NeoX, Qwen.
    HalfSplit,
}

/// Rotary embedding: pair i of a head turns by `angle_i(position)`.
///
/// `theta_i = base^(-2i/dims) / factor_i`. Interpolated angles are `position * scale * theta_i`; YaRN
/// (Peng et al. 2023) mixes interpolated and plain angles by a ramp over i and multiplies the result by `magnitude`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Elements of a head that turn (the rest passes); even.
    pub dims: usize,
    /// Frequency base.
    pub base: f32,
    /// Which elements turn together.
    pub pairing: Pairing,
    /// `1 / factor` of linear scaling (1 where there is none).
    pub scale: f32,
    /// YaRN, if used.
    pub yarn: Option<Yarn>,
}

/// YaRN's ramp: pairs up to `low` keep their plain angle, pairs from `high` on are interpolated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    /// Pair index where the ramp starts.
    pub low: f32,
    /// Pair index where it ends.
    pub high: f32,
    /// Multiplies sine and cosine.
    pub magnitude: f32,
}

impl Rope {
    /// Angle of pair `i` at `position`, in radians, in float64; `factor` divides the frequency.
    ///
    /// Backends tabulate sine and cosine from this one definition. Its power is the pure Rust one: a C library's bits
    /// vary.
    pub fn angle(&self, position: u32, i: usize, factor: f32) -> f64 {
        let theta = libm::pow(f64::from(self.base), -2.0 * i as f64 / self.dims as f64) / f64::from(factor);
        let plain = f64::from(position) * theta;
        let interpolated = plain * f64::from(self.scale);
        match self.yarn {
            None => interpolated,
            Some(y) => {
                let width = f64::from((y.high - y.low).max(0.001));
                let ramp = ((i as f64 - f64::from(y.low)) / width).clamp(0.0, 1.0);
                plain * (1.0 - ramp) + interpolated * ramp
            }
        }
    }

    /// What sine and cosine are multiplied by.
    pub fn magnitude(&self) -> f32 {
        self.yarn.map_or(1.0, |y| y.magnitude)
    }
}

/// Shape of an attention: `heads` query heads share `kv_heads` key and value heads in groups.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements of a query or key head.
    pub head_dim: usize,
    /// Elements of a value head.
    pub v_dim: usize,
    /// Multiplies the scores.
    pub scale: f32,
    /// A row sees only this many positions, its own among them.
    pub window: Option<u32>,
}

/// Activation functions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `x / (1 + exp(-x))`
    Silu,
}

impl Op {
    /// The values that the op reads and those that it writes.
    pub fn operands(&self) -> (Vec<ValueId>, Vec<ValueId>) {
        match *self {
            Op::Embed { out, .. } => (vec![], vec![out]),
            Op::SelectOutputs { x, out } | Op::RmsNorm { x, out, .. } => (vec![x], vec![out]),
            Op::MatMul { x, out, .. } | Op::Rope { x, out, .. } => (vec![x], vec![out]),
            Op::KvAppend { k, v } => (vec![k, v], vec![]),
            Op::Attend { q, out, .. } => (vec![q], vec![out]),
            Op::Add { a, b, out } => (vec![a, b], vec![out]),
            Op::Glu { gate, up, out, .. } => (vec![gate, up], vec![out]),
            Op::Route { logits, ids, weights, .. } => (vec![logits], vec![ids, weights]),
            Op::ExpertMatMul { x, ids, out, .. } => (vec![x, ids], vec![out]),
            Op::ExpertSum { x, weights, out } => (vec![x, weights], vec![out]),
        }
    }

    /// The op's name, for messages and timings.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Embed { .. } => "Embed",
            Op::SelectOutputs { .. } => "SelectOutputs",
            Op::RmsNorm { .. } => "RmsNorm",
            Op::MatMul { .. } => "MatMul",
            Op::Rope { .. } => "Rope",
            Op::KvAppend { .. } => "KvAppend",
            Op::Attend { .. } => "Attend",
            Op::Add { .. } => "Add",
            Op::Glu { .. } => "Glu",
            Op::Route { .. } => "Route",
            Op::ExpertMatMul { .. } => "ExpertMatMul",
            Op::ExpertSum { .. } => "ExpertSum",
        }
    }
}
