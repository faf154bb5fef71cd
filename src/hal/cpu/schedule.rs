//! From a program to this backend's schedule: products that read the same value become one step.
//!
//! The ops of a step run as one job of the pool over one quantised copy of their input (query, key and value; gate
//! and up). Only neighbours are joined, so the order of everything else, and with it the placement of values, holds.
//! Shapes are checked here as far as the program knows them; weights are checked when they are bound.

use crate::error::{Error, Result};
use crate::op::{Op, Place, Program, ValueId, WeightSlot};

/// One product of a step.
#[derive(Debug, Clone, Copy)]
pub struct Product {
    /// The matrix.
    pub weight: WeightSlot,
    /// Added to the output.
    pub bias: Option<WeightSlot>,
    /// The output.
    pub out: ValueId,
}

/// What runs between two synchronisations, or a single op.
#[derive(Debug, Clone)]
pub enum Step {
    /// Matrices times the rows of `x`.
    MatMuls {
        /// Input.
        x: ValueId,
        /// Matrices and outputs.
        products: Vec<Product>,
    },
    /// Experts' matrices times the rows that chose them.
    Experts {
        /// Input.
        x: ValueId,
        /// Whether each slot has its own input.
        per_slot: bool,
        /// Chosen experts.
        ids: ValueId,
        /// Matrices and outputs.
        products: Vec<Product>,
    },
    /// Anything else.
    Op(Op),
}

/// A compiled program.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// What was compiled.
    pub program: Program,
    /// In order.
    pub steps: Vec<Step>,
    /// Whether it runs on all rows of a pass at once (`Program::runs_whole`).
    pub whole: bool,
}

impl Schedule {
    /// Compiles a program.
    ///
    /// # Errors
    /// `Engine` for an op whose shapes make no sense.
    pub fn new(program: &Program) -> Result<Self> {
        let mut steps: Vec<Step> = vec![];
        for op in &program.ops {
            check(program, op)?;
            match (steps.last_mut(), op) {
                (Some(Step::MatMuls { x, products }), &Op::MatMul { x: input, weight, bias, out }) if *x == input => {
                    products.push(Product { weight, bias, out });
                }
                (
                    Some(Step::Experts { x, per_slot, ids, products }),
                    &Op::ExpertMatMul { x: input, per_slot: slots, ids: chosen, weight, out },
                ) if (*x, *per_slot, *ids) == (input, slots, chosen) => {
                    products.push(Product { weight, bias: None, out });
                }
                (_, &Op::MatMul { x, weight, bias, out }) => {
                    steps.push(Step::MatMuls { x, products: vec![Product { weight, bias, out }] });
                }
                (_, &Op::ExpertMatMul { x, per_slot, ids, weight, out }) => {
                    let products = vec![Product { weight, bias: None, out }];
                    steps.push(Step::Experts { x, per_slot, ids, products });
                }
                (_, op) => steps.push(Step::Op(op.clone())),
            }
        }
        Ok(Schedule { program: program.clone(), steps, whole: program.runs_whole() })
    }

    /// Most elements of quantised activations that one row of a batch needs.
    pub fn widest_input(&self) -> usize {
        let width = |step: &Step| match step {
            Step::MatMuls { x, .. } | Step::Experts { x, .. } => self.program.value(*x).width,
            Step::Op(_) => 0,
        };
        self.steps.iter().map(width).max().unwrap_or(0)
    }

    /// Most experts that a row chooses in this program.
    pub fn most_slots(&self) -> usize {
        let slots = |step: &Step| match step {
            Step::Experts { ids, .. } => self.program.value(*ids).width,
            _ => 0,
        };
        self.steps.iter().map(slots).max().unwrap_or(0)
    }
}

fn check(program: &Program, op: &Op) -> Result<()> {
    let width = |v: ValueId| program.value(v).width;
    let right = match *op {
        Op::SelectOutputs { x, out } => width(x) == width(out),
        Op::RmsNorm { x, group, out, .. } => group > 0 && width(x) % group == 0 && width(x) == width(out),
        Op::Rope { x, head_dim, rope, out, .. } => {
            let heads = head_dim > 0 && width(x) % head_dim == 0 && width(x) == width(out);
            heads && rope.dims % 2 == 0 && rope.dims <= head_dim
        }
        Op::Attend { q, attention: a, out } => {
            let heads = a.kv_heads > 0 && a.heads % a.kv_heads == 0 && a.window != Some(0);
            heads && width(q) == a.heads * a.head_dim && width(out) == a.heads * a.v_dim
        }
        Op::Add { a, b, out } => width(a) == width(out) && width(b) == width(out),
        Op::Glu { gate, up, out, .. } => width(gate) == width(out) && width(up) == width(out),
        Op::Route { logits, k, ids, weights, .. } => k <= width(logits) && width(ids) == k && width(weights) == k,
        Op::ExpertMatMul { x, per_slot, ids, out, .. } => {
            let k = width(ids);
            k > 0 && width(out) % k == 0 && (!per_slot || width(x) % k == 0)
        }
        Op::ExpertSum { x, weights, out } => width(x) == width(weights) * width(out),
        Op::Embed { .. } | Op::MatMul { .. } | Op::KvAppend { .. } => true,
    };
    let (reads, writes) = op.operands();
    let carry = |v: &ValueId| match program.value(*v).place {
        Place::Carry(id) => Some(id),
        Place::Arena(_) => None,
    };
    let in_place = |w: &ValueId| carry(w).is_some() && reads.iter().any(|r| carry(r) == carry(w));
    let aliased = !matches!(op, Op::Add { .. }) && writes.iter().any(in_place);
    if right && !aliased {
        return Ok(());
    }
    let what = if aliased { "writes the carry that it reads" } else { "has shapes that do not fit" };
    Err(Error::Engine(format!("program {}: {} {what}", program.name, op.name())))
}
