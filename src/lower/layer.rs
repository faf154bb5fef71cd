//! Lowering of one layer: attention, then a dense feed-forward part or experts.

use super::{LayerBuilder, RESIDUAL, TensorName};
use crate::arch::{AttentionSpec, Ffn, LayerSpec, Mixer, ModelSpec};
use crate::op::{Activation, Builder, Carry, CarryId, Op, Program, ValueId, WeightSlot};

const FFN_INPUT: CarryId = CarryId(2);
pub(super) const EXPERT_IDS: CarryId = CarryId(3);
const EXPERT_WEIGHTS: CarryId = CarryId(4);

/// The widest routing of the model, if a layer has experts.
pub(super) fn most_experts_used(spec: &ModelSpec) -> Option<usize> {
    let used = |l: &LayerSpec| match l.ffn {
        Ffn::Moe { used, .. } => Some(used),
        Ffn::Dense { .. } => None,
    };
    spec.layers.iter().filter_map(used).max()
}

pub(super) type Part = (&'static str, Program, Vec<TensorName>);

/// The programs of a layer, with the suffix of the stage's name and the tensors of their slots.
pub(super) fn programs(spec: &ModelSpec, l: &LayerSpec, carries: &[Carry]) -> Vec<Part> {
    let Mixer::Attention(attention) = &l.mixer;
    let lowering = |name| Lowering { spec, l: LayerBuilder { b: Builder::new(name, carries), tensors: vec![] } };
    let mut at = lowering("attention");
    let x = at.l.b.carry(RESIDUAL);
    let h = at.l.b.carry(RESIDUAL);
    at.attention(x, attention, h);
    match l.ffn {
        Ffn::Dense { width, act, bias } => {
            let mut then = lowering("feed-forward");
            let h = then.l.b.carry(RESIDUAL);
            then.dense(h, width, act, bias);
            vec![at.part(""), then.part(" feed-forward")]
        }
        Ffn::Moe { experts, used, width, act, normalise } => {
            at.route(h, experts, used, normalise);
            let mut then = lowering("experts");
            then.experts(experts, used, width, act);
            vec![at.part(""), then.part(" experts")]
        }
    }
}

/// A layer's router as it would choose for the rows that come into the layer: the routing stage without its attention.
/// It writes the carries of the routing, which mean nothing then.
pub(super) fn guess(spec: &ModelSpec, l: &LayerSpec, carries: &[Carry]) -> Option<Part> {
    let Ffn::Moe { experts, used, normalise, .. } = l.ffn else { return None };
    let mut at = Lowering { spec, l: LayerBuilder { b: Builder::new("guess", carries), tensors: vec![] } };
    let x = at.l.b.carry(RESIDUAL);
    at.route(x, experts, used, normalise);
    Some(at.part(" guess"))
}

struct Lowering<'m> {
    spec: &'m ModelSpec,
    l: LayerBuilder<'m>,
}

impl Lowering<'_> {
    fn part(self, name: &'static str) -> Part {
        (name, self.l.b.finish(), self.l.tensors)
    }

    fn norm(&mut self, x: ValueId, weight: WeightSlot, group: usize, out: ValueId) -> ValueId {
        self.l.b.op(Op::RmsNorm { x, weight, group, eps: self.spec.norm_eps, out });
        out
    }

    /// A projection of `x` into a new value.
    fn project(&mut self, x: ValueId, name: &'static str, width: usize, bias: bool) -> ValueId {
        let weight = self.l.weight(name, &[self.l.b.width(x), width]);
        let bias = bias.then(|| self.l.bias(name, width));
        let out = self.l.b.value(name, width);
        self.l.b.op(Op::MatMul { x, weight, bias, out });
        out
    }

    /// The norm of each head of queries or keys, where the model has one.
    fn norm_heads(&mut self, x: ValueId, a: &AttentionSpec, heads: usize, norm: &'static str) -> ValueId {
        if !a.qk_norm {
            return x;
        }
        let head_dim = a.shape.head_dim;
        let weight = self.l.weight(norm, &[head_dim]);
        let out = self.l.b.value(norm, heads * head_dim);
        self.norm(x, weight, head_dim, out)
    }

    /// Queries or keys, turned to their positions.
    fn turn(&mut self, x: ValueId, a: &AttentionSpec, heads: usize) -> ValueId {
        let head_dim = a.shape.head_dim;
        let factors = a.rope_factors.then(|| self.l.global("rope_freqs", &[a.rope.dims / 2]));
        let out = self.l.b.value("rope", heads * head_dim);
        self.l.b.op(Op::Rope { x, head_dim, rope: a.rope, factors, out });
        out
    }

    /// `h = x + attention(norm(x))`
    fn attention(&mut self, x: ValueId, a: &AttentionSpec, h: ValueId) {
        let width = self.spec.width;
        let s = a.shape;
        let weight = self.l.weight("attn_norm", &[width]);
        let out = self.l.b.value("attn_norm", width);
        let n = self.norm(x, weight, width, out);
        let q = self.project(n, "attn_q", s.heads * s.head_dim, a.bias.q);
        let k = self.project(n, "attn_k", s.kv_heads * s.head_dim, a.bias.k);
        let v = self.project(n, "attn_v", s.kv_heads * s.v_dim, a.bias.v);
        let q = self.norm_heads(q, a, s.heads, "attn_q_norm");
        let k = self.norm_heads(k, a, s.kv_heads, "attn_k_norm");
        // Side by side, with the way into the state behind them: a backend may do the three as one.
        let q = self.turn(q, a, s.heads);
        let k = self.turn(k, a, s.kv_heads);
        self.l.b.op(Op::KvAppend { k, v });
        let mixed = self.l.b.value("attn", s.heads * s.v_dim);
        self.l.b.op(Op::Attend { q, attention: s, out: mixed });
        let o = self.project(mixed, "attn_output", width, a.bias.o);
        self.l.b.op(Op::Add { a: x, b: o, out: h });
    }

    /// `residual = h + down(act(gate(n)) * up(n))`, `n = norm(h)`
    fn dense(&mut self, h: ValueId, inner: usize, act: Activation, bias: bool) {
        let width = self.spec.width;
        let weight = self.l.weight("ffn_norm", &[width]);
        let out = self.l.b.value("ffn_norm", width);
        let n = self.norm(h, weight, width, out);
        let gate = self.project(n, "ffn_gate", inner, bias);
        let up = self.project(n, "ffn_up", inner, bias);
        let glu = self.l.b.value("ffn_glu", inner);
        self.l.b.op(Op::Glu { gate, up, act, out: glu });
        let down = self.project(glu, "ffn_down", width, bias);
        let out = self.l.b.carry(RESIDUAL);
        self.l.b.op(Op::Add { a: h, b: down, out });
    }

    /// The routing stage's end: leaves the normalised input, the experts and their weights in carries.
    fn route(&mut self, h: ValueId, experts: usize, used: usize, normalise: bool) {
        let width = self.spec.width;
        let weight = self.l.weight("ffn_norm", &[width]);
        let n = self.l.b.carry(FFN_INPUT);
        self.norm(h, weight, width, n);
        let logits = self.project(n, "ffn_gate_inp", experts, false);
        let (ids, weights) = (self.l.b.carry(EXPERT_IDS), self.l.b.carry(EXPERT_WEIGHTS));
        self.l.b.op(Op::Route { logits, k: used, normalise, ids, weights });
    }

    /// The expert stage: `residual += sum of weights[j] * expert_j(input)`.
    fn experts(&mut self, experts: usize, used: usize, inner: usize, act: Activation) {
        let width = self.spec.width;
        let x = self.l.b.carry(FFN_INPUT);
        let (ids, weights) = (self.l.b.carry(EXPERT_IDS), self.l.b.carry(EXPERT_WEIGHTS));
        let shape = [width, inner, experts];
        let gate = self.expert_mat_mul(x, ids, "ffn_gate_exps", shape, false);
        let up = self.expert_mat_mul(x, ids, "ffn_up_exps", shape, false);
        let glu = self.l.b.value("ffn_glu", used * inner);
        self.l.b.op(Op::Glu { gate, up, act, out: glu });
        let down = self.expert_mat_mul(glu, ids, "ffn_down_exps", [inner, width, experts], true);
        let sum = self.l.b.value("ffn_sum", width);
        self.l.b.op(Op::ExpertSum { x: down, weights, out: sum });
        let (residual, out) = (self.l.b.carry(RESIDUAL), self.l.b.carry(RESIDUAL));
        self.l.b.op(Op::Add { a: residual, b: sum, out });
    }

    fn expert_mat_mul(
        &mut self,
        x: ValueId,
        ids: ValueId,
        name: &'static str,
        shape: [usize; 3],
        per_slot: bool,
    ) -> ValueId {
        let weight = self.l.weight(name, &shape);
        let out = self.l.b.value(name, self.l.b.width(ids) * shape[1]);
        self.l.b.op(Op::ExpertMatMul { x, per_slot, ids, weight, out });
        out
    }
}
