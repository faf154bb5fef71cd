//! Programs: ops over values, checked as they are built, with values placed in one arena by liveness.
//!
//! Invariants after `Builder::finish`: every value is written once, before it is read; the operands of an op fit each
//! other (`check`); two values that are alive at the same time do not overlap in the arena. Values that pass between
//! stages are `Carry`s: fixed buffers of the model that a program reads at its start or writes before its end.

use super::{Op, check};

/// Index of a value of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ValueId(pub u32);

/// Index of a weight that is bound when a program is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WeightSlot(pub u32);

/// Index of a carry of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CarryId(pub u32);

/// Element type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// float32
    F32,
    /// uint32, such as expert numbers
    Index,
}

/// Which rows of a batch a value has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowSet {
    /// All.
    All,
    /// Those whose logits are wanted.
    Outputs,
}

/// A value: for each of its rows `width` elements of four bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// For messages and taps: `q`, `ffn_norm` …
    pub name: &'static str,
    /// Elements of a row.
    pub width: usize,
    /// Element type.
    pub ty: Type,
    /// Rows.
    pub rows: RowSet,
    /// Where it lies.
    pub place: Place,
}

impl Value {
    /// The carry that holds it, if one does.
    pub fn carry(&self) -> Option<CarryId> {
        match self.place {
            Place::Carry(id) => Some(id),
            Place::Arena(_) => None,
        }
    }
}

/// Where a value lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the arena, from this element of a row on: the value's first element is at `offset * max_rows`.
    Arena(usize),
    /// In a carry's buffer.
    Carry(CarryId),
}

/// A buffer that outlives a program: the residual stream between layers, a routing, the logits.
#[derive(Debug, Clone, PartialEq)]
pub struct Carry {
    /// For messages.
    pub name: &'static str,
    /// Elements of a row.
    pub width: usize,
    /// Element type.
    pub ty: Type,
    /// Rows.
    pub rows: RowSet,
}

/// What a program expects of a weight slot.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightDecl {
    /// For messages: `attn_q`.
    pub name: &'static str,
    /// `[cols]`, `[cols, rows]` or `[cols, rows, experts]`.
    pub shape: Vec<usize>,
}

/// Straight-line code over values.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    /// For messages and timings: `dense_layer`, `head` …
    pub name: &'static str,
    /// In order of execution.
    pub ops: Vec<Op>,
    /// All values.
    pub values: Vec<Value>,
    /// All weight slots.
    pub weights: Vec<WeightDecl>,
    /// Elements per row of the arena.
    pub arena_width: usize,
}

impl Program {
    /// Whether it runs on all rows of a pass at once, however many: it only looks tokens up, or computes for the rows
    /// whose logits are wanted, which count from the beginning of the pass. What it has for other rows lies in carries,
    /// which are as long as a pass; the arena is not.
    pub fn runs_whole(&self) -> bool {
        let fits = |v: &Value| v.rows == RowSet::Outputs || v.carry().is_some();
        let for_outputs = |op: &Op| {
            let writes = op.operands().1;
            !writes.is_empty() && writes.iter().all(|&v| self.value(v).rows == RowSet::Outputs)
        };
        self.values.iter().all(fits) && self.ops.iter().all(|op| matches!(op, Op::Embed { .. }) || for_outputs(op))
    }

    /// A value by its id.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }
}

/// Builds a program op by op.
#[derive(Debug)]
pub struct Builder<'m> {
    name: &'static str,
    carries: &'m [Carry],
    ops: Vec<Op>,
    values: Vec<Value>,
    weights: Vec<WeightDecl>,
}

impl<'m> Builder<'m> {
    /// An empty program over the model's carries.
    pub fn new(name: &'static str, carries: &'m [Carry]) -> Self {
        Builder { name, carries, ops: vec![], values: vec![], weights: vec![] }
    }

    /// Declares a weight.
    pub fn weight(&mut self, name: &'static str, shape: &[usize]) -> WeightSlot {
        self.weights.push(WeightDecl { name, shape: shape.to_vec() });
        WeightSlot(self.weights.len() as u32 - 1)
    }

    /// A value that lives in a carry: a live-in when it is read, a live-out when it is written.
    pub fn carry(&mut self, id: CarryId) -> ValueId {
        let c = &self.carries[id.0 as usize];
        self.push(Value { name: c.name, width: c.width, ty: c.ty, rows: c.rows, place: Place::Carry(id) })
    }

    /// A new float value over all rows.
    pub fn value(&mut self, name: &'static str, width: usize) -> ValueId {
        self.push(Value { name, width, ty: Type::F32, rows: RowSet::All, place: Place::Arena(0) })
    }

    /// A new float value over the output rows.
    pub fn output_value(&mut self, name: &'static str, width: usize) -> ValueId {
        self.push(Value { name, width, ty: Type::F32, rows: RowSet::Outputs, place: Place::Arena(0) })
    }

    /// Elements of a row of a value.
    pub fn width(&self, id: ValueId) -> usize {
        self.values[id.0 as usize].width
    }

    fn push(&mut self, v: Value) -> ValueId {
        self.values.push(v);
        ValueId(self.values.len() as u32 - 1)
    }

    /// Appends an op.
    pub fn op(&mut self, op: Op) {
        self.ops.push(op);
    }

    /// Checks the program and places its values.
    ///
    /// # Panics
    /// When an invariant does not hold: a mistake in air, which the tests of every family meet.
    pub fn finish(self) -> Program {
        let Builder { name, carries: _, ops, values, weights } = self;
        let mut program = Program { name, ops, values, weights, arena_width: 0 };
        program.ops.iter().for_each(|op| check::op(&program, op));
        place(&mut program);
        program
    }
}

/// Gives every arena value a range that no value alive at the same time uses: first fit, in order of definition.
fn place(program: &mut Program) {
    let n = program.values.len();
    let (mut first, mut last) = (vec![usize::MAX; n], vec![0usize; n]);
    let mut overwritten: Vec<(CarryId, ValueId)> = vec![];
    for (at, op) in program.ops.iter().enumerate() {
        let (reads, writes) = op.operands();
        for v in &writes {
            let v = v.0 as usize;
            assert!(first[v] == usize::MAX, "{}: {} is written twice", program.name, program.values[v].name);
            first[v] = at;
            last[v] = last[v].max(at);
        }
        for id in reads {
            let (v, value) = (id.0 as usize, program.value(id));
            let carry = value.carry();
            assert!(carry.is_some() || first[v] < at, "{}: {} is read before it is written", program.name, value.name);
            let stale = overwritten.iter().any(|&(c, by)| carry == Some(c) && by != id);
            assert!(!stale, "{}: {} is read after its carry was overwritten", program.name, value.name);
            last[v] = at;
        }
        overwritten.extend(writes.iter().filter_map(|&v| program.value(v).carry().map(|c| (c, v))));
    }
    let mut order: Vec<usize> = (0..n).filter(|&v| matches!(program.values[v].place, Place::Arena(_))).collect();
    order.sort_by_key(|&v| first[v]);
    let mut placed: Vec<(usize, usize, usize)> = vec![]; // (offset, end, last use)
    for v in order {
        placed.retain(|&(_, _, end_of_life)| end_of_life >= first[v]);
        placed.sort_unstable();
        let width = program.values[v].width;
        let mut offset = 0;
        for &(start, end, _) in &placed {
            if offset + width <= start {
                break;
            }
            offset = offset.max(end);
        }
        program.values[v].place = Place::Arena(offset);
        program.arena_width = program.arena_width.max(offset + width);
        placed.push((offset, offset + width, last[v]));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Pairing, Rope};
    use super::*;

    /// Every op of a chain with a long-lived value: no two values that live together may overlap.
    #[test]
    fn placement_keeps_live_values_apart() {
        let carry = Carry { name: "residual", width: 8, ty: Type::F32, rows: RowSet::All };
        let carries = [carry];
        let mut b = Builder::new("test", &carries);
        let x = b.carry(CarryId(0));
        let widths = [8, 8, 8, 8, 8];
        let v: Vec<ValueId> = widths.iter().map(|&w| b.value("v", w)).collect();
        b.op(Op::Add { a: x, b: x, out: v[0] });
        b.op(Op::Add { a: x, b: v[0], out: v[1] });
        b.op(Op::Add { a: v[0], b: v[1], out: v[2] });
        b.op(Op::Add { a: v[2], b: v[1], out: v[3] });
        b.op(Op::Add { a: v[3], b: v[3], out: v[4] });
        let out = b.carry(CarryId(0));
        b.op(Op::Add { a: v[0], b: v[4], out });
        let p = b.finish();
        // v0 lives to the end, v1 and v2 overlap in time, v3 can reuse neither of its inputs, v4 reuses v1's place.
        assert_eq!(p.arena_width, 32);
        let place = |i: usize| match p.value(v[i]).place {
            Place::Arena(o) => o,
            Place::Carry(_) => unreachable!("v are arena values"),
        };
        assert_eq!([place(0), place(1), place(2), place(3), place(4)], [0, 8, 16, 24, 8]);
    }

    #[test]
    #[should_panic(expected = "read before it is written")]
    fn reading_an_unwritten_value_is_refused() {
        let mut b = Builder::new("test", &[]);
        let (x, y) = (b.value("x", 4), b.value("y", 4));
        b.op(Op::Add { a: x, b: x, out: y });
        b.finish();
    }

    #[test]
    #[should_panic(expected = "is written twice")]
    fn writing_a_value_twice_is_refused() {
        let carries = [Carry { name: "residual", width: 4, ty: Type::F32, rows: RowSet::All }];
        let mut b = Builder::new("test", &carries);
        let (x, y) = (b.carry(CarryId(0)), b.value("y", 4));
        b.op(Op::Add { a: x, b: x, out: y });
        b.op(Op::Add { a: x, b: x, out: y });
        b.finish();
    }

    /// Each of these differs by one number from a program that is accepted.
    #[test]
    fn operands_that_do_not_fit_are_refused() {
        let finish = |dims: [usize; 6], select: bool| {
            let [x, cols, bias, group, head, out] = dims;
            let carries = [Carry { name: "residual", width: x, ty: Type::F32, rows: RowSet::All }];
            let mut b = Builder::new("test", &carries);
            let x = b.carry(CarryId(0));
            let (y, z) = (b.value("y", 8), b.output_value("z", 8));
            let (weight, bias) = (b.weight("w", &[cols, 8]), Some(b.weight("b", &[bias])));
            let (norm, turned) = (b.weight("n", &[group]), b.value("turned", 8));
            let (normed, picked) = (b.output_value("normed", out), b.output_value("picked", 8));
            let rope = Rope { dims: 2, base: 1.0, pairing: Pairing::HalfSplit, scale: 1.0, yarn: None };
            b.op(Op::MatMul { x, weight, bias, out: y });
            b.op(Op::Rope { x: y, head_dim: head, rope, factors: None, out: turned });
            b.op(Op::SelectOutputs { x: turned, out: z });
            b.op(Op::RmsNorm { x: z, weight: norm, group: 4, eps: 0.0, out: normed });
            b.op(Op::Add { a: z, b: if select { z } else { y }, out: picked });
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| b.finish())).is_ok()
        };
        let good = [16, 16, 8, 4, 4, 8];
        assert!(finish(good, true));
        assert!(!finish(good, false), "rows differ");
        for i in 0..good.len() {
            let mut dims = good;
            dims[i] += 1;
            assert!(!finish(dims, true), "number {i}");
        }
    }

    /// Embeddings and heads run whole, layers do not, and nothing does that has values of all rows in the arena, which
    /// is only as long as a batch.
    #[test]
    fn what_runs_whole_has_all_rows_in_carries_alone() {
        let carry = |name, rows| Carry { name, width: 4, ty: Type::F32, rows };
        let carries = [carry("residual", RowSet::All), carry("logits", RowSet::Outputs)];
        let whole = |build: &dyn Fn(&mut Builder, ValueId, ValueId)| {
            let mut b = Builder::new("test", &carries);
            let (residual, logits) = (b.carry(CarryId(0)), b.carry(CarryId(1)));
            build(&mut b, residual, logits);
            b.finish().runs_whole()
        };
        let embed = |b: &mut Builder, out| {
            let table = b.weight("table", &[4, 10]);
            b.op(Op::Embed { table, out });
        };
        assert!(whole(&|b, residual, _| embed(b, residual)));
        assert!(whole(&|b, x, out| b.op(Op::SelectOutputs { x, out })));
        assert!(!whole(&|b, x, _| {
            let out = b.carry(CarryId(0));
            b.op(Op::Add { a: x, b: x, out });
        }));
        assert!(!whole(&|b, _, out| {
            let x = b.value("x", 4);
            embed(b, x);
            b.op(Op::SelectOutputs { x, out });
        }));
    }

    #[test]
    #[should_panic(expected = "after its carry was overwritten")]
    fn reading_a_stale_carry_is_refused() {
        let carries = [Carry { name: "residual", width: 4, ty: Type::F32, rows: RowSet::All }];
        let mut b = Builder::new("test", &carries);
        let (x, y) = (b.carry(CarryId(0)), b.carry(CarryId(0)));
        let z = b.value("z", 4);
        b.op(Op::Add { a: x, b: x, out: y });
        b.op(Op::Add { a: x, b: x, out: z });
        b.finish();
    }
}
