//! Which ops of a program run as one kernel.
//!
//! Found when a program is compiled: a product whose result is only added to something, the two products of a gate,
//! products of one input (queries, keys and values), and what brings these to their positions. Nothing but the values
//! in between goes unwritten, so the values are those of the ops one by one.

use crate::op::{Op, Place, Program, ValueId};

/// What runs together: ops by their index in the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// One op.
    Single(usize),
    /// A product, and the op behind it that adds `other` to it.
    Added { product: usize, other: ValueId, out: ValueId },
    /// The products of a gate and of what goes through it, and the gate behind them; where a batch has many rows they
    /// run one by one.
    Gated { gate: usize, up: usize, out: ValueId },
    /// Products of one input, so many from the first on, that need nothing of each other; where a batch has many rows
    /// or their weights are not alike they run one by one.
    Joined { first: usize, count: usize },
    /// Rotations of queries and keys, and the keys' way into the state with the values behind them.
    Positioned { queries: usize, keys: usize, append: usize },
}

/// Most products of `Step::Joined`.
pub(super) const JOINED: usize = 3;

/// A program with its steps.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) program: Program,
    pub(super) steps: Vec<Step>,
}

impl Schedule {
    pub(super) fn new(program: &Program) -> Schedule {
        let mut steps = vec![];
        let mut at = 0;
        while at < program.ops.len() {
            let (step, ops) = gated(program, at)
                .or_else(|| positioned(program, at))
                .map(|s| (s, 3))
                .or_else(|| joined(program, at))
                .or_else(|| added(program, at).map(|s| (s, 2)))
                .unwrap_or((Step::Single(at), 1));
            steps.push(step);
            at += ops;
        }
        Schedule { program: program.clone(), steps }
    }

    /// Whether two values share memory; then one must not be written while the other is read.
    pub(super) fn overlap(&self, a: ValueId, b: ValueId) -> bool {
        overlap(&self.program, a, b)
    }
}

fn overlap(program: &Program, a: ValueId, b: ValueId) -> bool {
    let (a, b) = (program.value(a), program.value(b));
    match (a.place, b.place) {
        (Place::Carry(a), Place::Carry(b)) => a == b,
        (Place::Arena(x), Place::Arena(y)) => x < y + b.width && y < x + a.width,
        _ => false,
    }
}

/// Whether a value lies in the arena and one op alone reads it.
fn passes_by(program: &Program, v: ValueId) -> bool {
    let readers = program.ops.iter().filter(|op| op.operands().0.contains(&v)).count();
    readers == 1 && matches!(program.value(v).place, Place::Arena(_))
}

fn added(program: &Program, at: usize) -> Option<Step> {
    let Op::MatMul { x, out: product, .. } = program.ops[at] else { return None };
    let Op::Add { a, b, out } = *program.ops.get(at + 1)? else { return None };
    let other = match (a == product, b == product) {
        (true, false) => b,
        (false, true) => a,
        _ => return None,
    };
    // The sum may take the place of the product's input, which its op alone would not read any more.
    let apart = !overlap(program, x, out);
    (passes_by(program, product) && apart).then_some(Step::Added { product: at, other, out })
}

fn gated(program: &Program, at: usize) -> Option<Step> {
    let (first, second) = (&program.ops[at], program.ops.get(at + 1)?);
    let Op::Glu { gate, up, out, .. } = *program.ops.get(at + 2)? else { return None };
    let products = match (first, second) {
        (Op::MatMul { x, bias: None, out: g, .. }, Op::MatMul { x: y, bias: None, out: u, .. }) => {
            x == y && [*g, *u] == [gate, up]
        }
        (
            Op::ExpertMatMul { x, per_slot: p, ids, out: g, .. },
            Op::ExpertMatMul { x: y, per_slot: q, ids: i, out: u, .. },
        ) => (x, p, ids) == (y, q, i) && [*g, *u] == [gate, up],
        _ => false,
    };
    let alone = gate != up && passes_by(program, gate) && passes_by(program, up);
    (products && alone).then_some(Step::Gated { gate: at, up: at + 1, out })
}

fn joined(program: &Program, at: usize) -> Option<(Step, usize)> {
    let Op::MatMul { x, .. } = program.ops[at] else { return None };
    let out_of = |n: usize| match program.ops.get(n) {
        Some(&Op::MatMul { x: input, out, .. }) if input == x => Some(out),
        _ => None,
    };
    let joins = |n: &usize| {
        out_of(*n).is_some_and(|out| {
            // Written while the others read, and write theirs.
            let apart = !overlap(program, x, out) && (at..*n).filter_map(out_of).all(|o| !overlap(program, o, out));
            apart && gated(program, *n).is_none()
        })
    };
    let count = (at..at + JOINED).take_while(joins).count();
    (count > 1).then_some((Step::Joined { first: at, count }, count))
}

fn positioned(program: &Program, at: usize) -> Option<Step> {
    let Op::Rope { head_dim, rope, factors, out, .. } = program.ops[at] else { return None };
    let Op::Rope { x: k, head_dim: of_keys, rope: turn, factors: f, out: turned } = *program.ops.get(at + 1)? else {
        return None;
    };
    let Op::KvAppend { k: appended, v } = *program.ops.get(at + 2)? else { return None };
    let alike = (of_keys, turn, f) == (head_dim, rope, factors) && turned == appended && turned != v;
    // Queries are written while keys and values are read.
    let apart = !overlap(program, out, k) && !overlap(program, out, v);
    let step = Step::Positioned { queries: at, keys: at + 1, append: at + 2 };
    (alike && apart && passes_by(program, turned)).then_some(step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Activation, Builder, Carry, CarryId, Pairing, Rope, RowSet, Type};

    /// A feed-forward part, with what is added to its result.
    fn feed_forward(read_twice: bool) -> Schedule {
        let carries = [Carry { name: "residual", width: 8, ty: Type::F32, rows: RowSet::All }];
        let mut b = Builder::new("test", &carries);
        let (x, out) = (b.carry(CarryId(0)), b.carry(CarryId(0)));
        let (n, g, u, y, d) = (b.value("n", 8), b.value("g", 16), b.value("u", 16), b.value("y", 16), b.value("d", 8));
        let weight = b.weight("norm", &[8]);
        b.op(Op::RmsNorm { x, weight, group: 8, eps: 0.0, out: n });
        for out in [g, u] {
            let weight = b.weight("w", &[8, 16]);
            b.op(Op::MatMul { x: n, weight, bias: None, out });
        }
        b.op(Op::Glu { gate: g, up: u, act: Activation::Silu, out: y });
        let weight = b.weight("down", &[16, 8]);
        b.op(Op::MatMul { x: y, weight, bias: None, out: d });
        if read_twice {
            let more = b.value("more", 8);
            b.op(Op::Add { a: x, b: d, out: more });
            b.op(Op::Add { a: more, b: d, out });
        } else {
            b.op(Op::Add { a: x, b: d, out });
        }
        Schedule::new(&b.finish())
    }

    #[test]
    fn gates_and_sums_run_with_their_products() {
        let (once, twice) = (feed_forward(false), feed_forward(true));
        let [x, out, y] = [0, 1, 5].map(ValueId);
        let gated = Step::Gated { gate: 1, up: 2, out: y };
        assert_eq!(once.steps, [Step::Single(0), gated, Step::Added { product: 4, other: x, out }]);
        assert_eq!(twice.steps, [Step::Single(0), gated, Step::Single(4), Step::Single(5), Step::Single(6)]);
    }

    #[test]
    fn a_sum_in_the_place_of_the_input_runs_by_itself() {
        let carries = [Carry { name: "residual", width: 8, ty: Type::F32, rows: RowSet::All }];
        let mut b = Builder::new("test", &carries);
        let (x, out) = (b.carry(CarryId(0)), b.carry(CarryId(0)));
        let (y, weight) = (b.value("y", 8), b.weight("w", &[8, 8]));
        b.op(Op::MatMul { x, weight, bias: None, out: y });
        b.op(Op::Add { a: x, b: y, out });
        assert_eq!(Schedule::new(&b.finish()).steps, [Step::Single(0), Step::Single(1)]);
    }

    #[test]
    fn products_of_one_input_run_together() {
        let carries = [Carry { name: "residual", width: 8, ty: Type::F32, rows: RowSet::All }];
        let mut b = Builder::new("test", &carries);
        let (x, out) = (b.carry(CarryId(0)), b.carry(CarryId(0)));
        let mut product = |x: ValueId, out: Option<ValueId>| {
            let (out, weight) = (out.unwrap_or_else(|| b.value("y", 8)), b.weight("w", &[8, 8]));
            b.op(Op::MatMul { x, weight, bias: None, out });
            out
        };
        // Four of one input, two of another, one alone; all are read later.
        let four = [0, 1, 2, 3].map(|_| product(x, None));
        let two = [0, 1].map(|_| product(four[3], None));
        product(two[1], Some(out));
        for [a, c] in [[four[0], four[1]], [four[2], two[0]]] {
            let out = b.value("sum", 8);
            b.op(Op::Add { a, b: c, out });
        }
        let joined = |first, count| Step::Joined { first, count };
        let steps = Schedule::new(&b.finish()).steps;
        let [single, last, sum, other] = [3, 6, 7, 8].map(Step::Single);
        assert_eq!(steps, [joined(0, 3), single, joined(4, 2), last, sum, other]);
        // One that takes the place of what the other reads.
        let carries = [Carry { name: "residual", width: 8, ty: Type::F32, rows: RowSet::All }];
        let mut b = Builder::new("test", &carries);
        let (x, out) = (b.carry(CarryId(0)), b.carry(CarryId(0)));
        for out in [b.value("y", 8), out] {
            let weight = b.weight("w", &[8, 8]);
            b.op(Op::MatMul { x, weight, bias: None, out });
        }
        assert_eq!(Schedule::new(&b.finish()).steps, [0, 1].map(Step::Single), "the input is still read");
    }

    /// Projections of an attention, with norms of heads or without, in the order of `lower`.
    fn attention(norms: bool) -> Schedule {
        let carries = [Carry { name: "residual", width: 8, ty: Type::F32, rows: RowSet::All }];
        let mut b = Builder::new("test", &carries);
        let x = b.carry(CarryId(0));
        let rope = Rope { dims: 4, base: 1.0, pairing: Pairing::HalfSplit, scale: 1.0, yarn: None };
        let [q, k, v] = ["q", "k", "v"].map(|name| {
            let (out, weight) = (b.value(name, 8), b.weight("w", &[8, 8]));
            b.op(Op::MatMul { x, weight, bias: None, out });
            out
        });
        let mut norm = |x: ValueId| {
            let (out, weight) = (b.value("n", 8), b.weight("norm", &[4]));
            b.op(Op::RmsNorm { x, weight, group: 4, eps: 0.0, out });
            out
        };
        let (q, k) = if norms { (norm(q), norm(k)) } else { (q, k) };
        let mut turn = |x: ValueId| {
            let out = b.value("r", 8);
            b.op(Op::Rope { x, head_dim: 4, rope, factors: None, out });
            out
        };
        let (q, k) = (turn(q), turn(k));
        b.op(Op::KvAppend { k, v });
        let out = b.carry(CarryId(0));
        b.op(Op::Add { a: x, b: q, out });
        Schedule::new(&b.finish())
    }

    #[test]
    fn rotations_run_with_the_way_into_the_state() {
        let positioned = |queries| Step::Positioned { queries, keys: queries + 1, append: queries + 2 };
        let (joined, [a, b]) = (Step::Joined { first: 0, count: 3 }, [3, 4].map(Step::Single));
        assert_eq!(attention(false).steps, [joined, positioned(3), Step::Single(6)]);
        assert_eq!(attention(true).steps, [joined, a, b, positioned(5), Step::Single(8)]);
    }
}
