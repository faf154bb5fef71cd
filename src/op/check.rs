//! What must hold between an op and its operands, so that a backend need not ask.
//!
//! A program that breaks one of these was lowered wrongly: that is a mistake in air, not in a file, so it is an
//! assertion. Files are held to the shapes of the weights when they are bound.

use super::{Op, Program, RowSet, Type, ValueId, WeightSlot};

/// Refuses an op whose operands do not fit each other.
pub(super) fn op(p: &Program, op: &Op) {
    let width = |v: ValueId| p.value(v).width;
    let shape = |w: WeightSlot| &p.weights[w.0 as usize].shape[..];
    let fits = match *op {
        Op::Embed { table, out } => matches!(shape(table), [cols, _] if *cols == width(out)),
        Op::SelectOutputs { x, out } => width(x) == width(out),
        Op::RmsNorm { x, weight, group, out, .. } => {
            shape(weight) == [group] && width(x) == width(out) && width(x).is_multiple_of(group)
        }
        Op::MatMul { x, weight, bias, out } => {
            shape(weight) == [width(x), width(out)] && bias.is_none_or(|b| shape(b) == [width(out)])
        }
        Op::Rope { x, head_dim, rope, factors, out } => {
            let heads = width(x) == width(out) && width(x).is_multiple_of(head_dim);
            let dims = rope.dims.is_multiple_of(2) && rope.dims <= head_dim;
            heads && dims && factors.is_none_or(|f| shape(f) == [rope.dims / 2])
        }
        Op::KvAppend { .. } => true,
        Op::Attend { q, attention: a, out } => {
            let heads = width(q) == a.heads * a.head_dim && width(out) == a.heads * a.v_dim;
            heads && a.heads.is_multiple_of(a.kv_heads)
        }
        Op::Add { a, b, out } => width(a) == width(out) && width(b) == width(out),
        Op::Glu { gate, up, out, .. } => width(gate) == width(out) && width(up) == width(out),
        Op::Route { logits, k, ids, weights, .. } => {
            k <= width(logits) && width(ids) == k && width(weights) == k && is_index(p, ids)
        }
        Op::ExpertMatMul { x, per_slot, ids, weight, out } => {
            let (k, inputs) = (width(ids), if per_slot { width(ids) } else { 1 });
            let matrix =
                matches!(*shape(weight), [cols, rows, _] if width(x) == inputs * cols && width(out) == k * rows);
            matrix && is_index(p, ids)
        }
        Op::ExpertSum { x, weights, out } => width(x) == width(weights) * width(out),
    };
    assert!(fits, "{}: the widths of {op:?} do not agree", p.name);
    assert!(rows(p, op), "{}: the rows of {op:?} do not agree", p.name);
}

fn is_index(p: &Program, v: ValueId) -> bool {
    p.value(v).ty == Type::Index
}

/// Whether all operands have the same rows, but for the op that selects them.
fn rows(p: &Program, op: &Op) -> bool {
    if let Op::SelectOutputs { x, out } = *op {
        return p.value(x).rows == RowSet::All && p.value(out).rows == RowSet::Outputs;
    }
    let (reads, writes) = op.operands();
    let mut sets = reads.iter().chain(&writes).map(|&v| p.value(v).rows);
    let first = sets.next();
    sets.all(|set| Some(set) == first)
}
