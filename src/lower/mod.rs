//! From a model's description to what a backend runs: programs, and stages that bind them to weights.
//!
//! Each distinct shape of layer is lowered once; equal layers share the program and differ in their bindings. A
//! `Stage` is the launch boundary: a program all of whose weights are known before it starts. A layer is two: what needs
//! sequence state, and what does not, which any processor can compute that has the weights. Of a layer with experts the
//! first ends with the routing, since which experts are read is known only then. Between stages values live in carries:
//! the residual stream, a routing, the logits.

mod layer;

use crate::arch::{LayerSpec, Mixer, ModelSpec};
use crate::hal::{KvLayer, KvLayerId};
use crate::op::{Builder, Carry, CarryId, Op, Program, RowSet, Type, WeightSlot};
use std::collections::HashMap;

/// A weight that the model needs: the tensor and the shape that it must have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WeightNeed {
    /// GGUF name.
    pub tensor: String,
    /// `[cols]`, `[cols, rows]` or `[cols, rows, experts]`.
    pub shape: Vec<usize>,
}

/// A program bound to weights and state.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// For messages: `layer 3`, `layer 3 feed-forward`, `layer 3 experts`, `head`.
    pub name: String,
    /// Index into `Lowered::programs`.
    pub program: usize,
    /// Indices into `Lowered::weights`, one for each slot.
    pub weights: Vec<usize>,
    /// State of the layer.
    pub layer: Option<KvLayerId>,
}

/// A stage that guesses which experts a layer will choose. Nothing depends on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Guess {
    /// Index of the layer's first stage, before which it may run.
    pub before: usize,
    /// It leaves its guess in the carry `EXPERT_IDS`, which the layer overwrites. Its weights are the layer's.
    pub stage: Stage,
    /// Index into `Lowered::weights` of a matrix of the experts.
    pub experts: usize,
}

/// Layers that keep their state alike.
#[derive(Debug, Clone, PartialEq)]
pub struct StateGroup {
    /// Positions that a row sees.
    pub window: Option<u32>,
    /// Keys and values of each layer.
    pub layers: Vec<KvLayer>,
}

/// A model ready for a backend.
#[derive(Debug, Clone)]
pub struct Lowered {
    /// Buffers between stages.
    pub carries: Vec<Carry>,
    /// Distinct programs.
    pub programs: Vec<Program>,
    /// In order of execution.
    pub stages: Vec<Stage>,
    /// Those of the layers with experts, in order.
    pub guesses: Vec<Guess>,
    /// Distinct weights in order of first use.
    pub weights: Vec<WeightNeed>,
    /// Groups of sequence state.
    pub groups: Vec<StateGroup>,
    /// Places in `weights`: a file may name any number of layers, so nothing here may be searched one by one.
    places: HashMap<WeightNeed, usize>,
}

/// The residual stream's carry.
pub const RESIDUAL: CarryId = CarryId(0);
/// The logits' carry.
pub const LOGITS: CarryId = CarryId(1);
/// The carry of chosen experts, where a layer has any.
pub const EXPERT_IDS: CarryId = layer::EXPERT_IDS;

/// Lowers a model.
pub fn lower(spec: &ModelSpec) -> Lowered {
    let all = |name, width, ty| Carry { name, width, ty, rows: RowSet::All };
    let mut out = Lowered {
        carries: vec![
            all("residual", spec.width, Type::F32),
            Carry { name: "logits", width: spec.vocab, ty: Type::F32, rows: RowSet::Outputs },
        ],
        programs: vec![],
        stages: vec![],
        guesses: vec![],
        weights: vec![],
        groups: vec![],
        places: HashMap::new(),
    };
    if let Some(used) = layer::most_experts_used(spec) {
        out.carries.push(all("ffn_input", spec.width, Type::F32));
        out.carries.push(all("expert_ids", used, Type::Index));
        out.carries.push(all("expert_weights", used, Type::F32));
    }
    out.embed(spec);
    for (i, l) in spec.layers.iter().enumerate() {
        let (state, before) = (out.state_of(l), out.stages.len());
        let bind = |out: &mut Lowered, (name, program, tensors): layer::Part| {
            let tensors = tensors.iter().map(|t| if t.layer { format!("blk.{i}.{}", t.name) } else { t.name.clone() });
            out.bind(format!("layer {i}{name}"), program, tensors.collect(), Some(state))
        };
        for part in layer::programs(spec, l, &out.carries) {
            let stage = bind(&mut out, part);
            out.stages.push(stage);
        }
        if let Some(part) = layer::guess(spec, l, &out.carries) {
            let stage = bind(&mut out, part);
            let experts = out.stages[out.stages.len() - 1].weights[0];
            out.guesses.push(Guess { before, stage, experts });
        }
    }
    out.head(spec);
    out
}

impl Lowered {
    /// Token embedding into the residual stream.
    fn embed(&mut self, spec: &ModelSpec) {
        let carries = self.carries.clone();
        let mut b = Builder::new("embed", &carries);
        let table = b.weight("token_embd", &[spec.width, spec.vocab]);
        let out = b.carry(RESIDUAL);
        b.op(Op::Embed { table, out });
        let stage = self.bind("embed".into(), b.finish(), vec!["token_embd.weight".into()], None);
        self.stages.push(stage);
    }

    /// Final norm and logits of the rows that want them.
    fn head(&mut self, spec: &ModelSpec) {
        let carries = self.carries.clone();
        let mut b = Builder::new("head", &carries);
        let norm = b.weight("output_norm", &[spec.width]);
        let weight = b.weight("output", &[spec.width, spec.vocab]);
        let x = b.carry(RESIDUAL);
        let picked = b.output_value("last", spec.width);
        let normed = b.output_value("output_norm", spec.width);
        let logits = b.carry(LOGITS);
        b.op(Op::SelectOutputs { x, out: picked });
        b.op(Op::RmsNorm { x: picked, weight: norm, group: spec.width, eps: spec.norm_eps, out: normed });
        b.op(Op::MatMul { x: normed, weight, bias: None, out: logits });
        let output = if spec.tied { "token_embd.weight" } else { "output.weight" };
        let stage = self.bind("head".into(), b.finish(), vec!["output_norm.weight".into(), output.into()], None);
        self.stages.push(stage);
    }

    /// The state of a layer, in the group of its kind.
    fn state_of(&mut self, l: &LayerSpec) -> KvLayerId {
        let Mixer::Attention(a) = &l.mixer;
        let a = &a.shape;
        let group = self.groups.iter().position(|g| g.window == a.window).unwrap_or_else(|| {
            self.groups.push(StateGroup { window: a.window, layers: vec![] });
            self.groups.len() - 1
        });
        let layers = &mut self.groups[group].layers;
        layers.push(KvLayer { kv_heads: a.kv_heads, head_dim: a.head_dim, v_dim: a.v_dim });
        KvLayerId { group, layer: layers.len() - 1 }
    }

    /// A stage that shares program and weights with earlier ones where they are equal.
    fn bind(&mut self, name: String, program: Program, tensors: Vec<String>, layer: Option<KvLayerId>) -> Stage {
        let needs: Vec<WeightNeed> = tensors
            .into_iter()
            .zip(&program.weights)
            .map(|(tensor, decl)| WeightNeed { tensor, shape: decl.shape.clone() })
            .collect();
        assert_eq!(needs.len(), program.weights.len(), "{name}: a tensor for each slot");
        let weights = needs.into_iter().map(|need| self.need(need)).collect();
        let program = self.programs.iter().position(|p| *p == program).unwrap_or_else(|| {
            self.programs.push(program);
            self.programs.len() - 1
        });
        Stage { name, program, weights, layer }
    }

    fn need(&mut self, need: WeightNeed) -> usize {
        *self.places.entry(need).or_insert_with_key(|need| {
            self.weights.push(need.clone());
            self.weights.len() - 1
        })
    }

    /// Whether a weight is a matrix operand (or a table), not a vector that is added or multiplied.
    pub fn is_matrix(&self, weight: usize) -> bool {
        self.weights[weight].shape.len() > 1
    }

    /// Elements of the logits' rows.
    pub fn vocab(&self) -> usize {
        self.carries[LOGITS.0 as usize].width
    }
}

/// A tensor that a slot is bound to.
#[derive(Debug, Clone)]
struct TensorName {
    name: String,
    /// Whether it stands under the layer's prefix.
    layer: bool,
}

/// Declares weights together with the tensors that they are bound to.
struct LayerBuilder<'m> {
    b: Builder<'m>,
    tensors: Vec<TensorName>,
}

impl LayerBuilder<'_> {
    fn weight(&mut self, name: &'static str, shape: &[usize]) -> WeightSlot {
        self.tensors.push(TensorName { name: format!("{name}.weight"), layer: true });
        self.b.weight(name, shape)
    }

    fn bias(&mut self, name: &'static str, len: usize) -> WeightSlot {
        self.tensors.push(TensorName { name: format!("{name}.bias"), layer: true });
        self.b.weight(name, &[len])
    }

    fn global(&mut self, name: &'static str, shape: &[usize]) -> WeightSlot {
        self.tensors.push(TensorName { name: format!("{name}.weight"), layer: false });
        self.b.weight(name, shape)
    }
}
