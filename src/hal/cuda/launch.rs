//! One launch: the kernels of each op of a program, one after another.
//!
//! What a batch or a binding could get wrong (a token beyond the table, a page that is not there, a weight of another
//! shape) is checked here and is an error, so kernels may rely on shapes. Weights' addresses are looked up each time.
//! `products` has the ops that multiply with a matrix.

use super::driver::{Address, Driver};
use super::kernels::{self, NARROW};
use super::memory::{Buffer, Values};
use super::products::{Extra, Form};
use super::ring::Ring;
use super::rows::Rows;
use super::schedule::{Schedule, Step};
use super::state::Pages;
use super::weights::Weight;
use super::{Cuda, attention, misfit};
use crate::error::Result;
use crate::hal::{Batch, Bindings, KvLayerId, ProgramId, WeightId};
use crate::op::{Activation, Attention, Op, Program, Rope, RowSet, ValueId, WeightSlot};

pub(super) struct Launch<'a> {
    pub(super) d: &'a mut dyn Driver,
    pub(super) weights: &'a [Weight],
    pub(super) schedule: &'a Schedule,
    pub(super) program: &'a Program,
    pub(super) values: &'a Values,
    pub(super) rows: &'a Rows,
    pub(super) ring: &'a mut Ring,
    pub(super) state: &'a [Pages],
    pub(super) frequencies: &'a mut Vec<(Rope, Option<WeightId>, Buffer)>,
    pub(super) shared: u32,
    pub(super) multiprocessors: u32,
    pub(super) bindings: &'a Bindings,
    pub(super) batch: &'a Batch<'a>,
    pub(super) outputs: usize,
    /// The value whose eight bits are in `values.quants`, or whose powers of two are in `values.scales`.
    pub(super) made: Option<(ValueId, Form)>,
    /// The experts by which `values.order` is sorted, and the size of the tiles in `values.tiles`.
    pub(super) sorted: Option<(ValueId, u32)>,
}

/// Runs a program on all rows of a batch.
pub(super) fn run(cuda: &mut Cuda, program: ProgramId, bindings: &Bindings, batch: &Batch) -> Result<()> {
    let schedule = &cuda.programs[program.0 as usize];
    let program = &schedule.program;
    if batch.rows.is_empty() {
        return Ok(());
    }
    let d = &mut **cuda.driver.get_mut();
    check(program, bindings, batch, &cuda.weights)?;
    let state: &[Pages] = if bindings.layer.is_some() { &cuda.state } else { &[] };
    cuda.rows.set(d, batch, state)?;
    let mut launch = Launch {
        d,
        weights: &cuda.weights,
        schedule,
        program,
        values: &cuda.values,
        rows: &cuda.rows,
        ring: &mut cuda.ring,
        state,
        frequencies: &mut cuda.frequencies,
        shared: cuda.properties.shared,
        multiprocessors: cuda.properties.multiprocessors,
        bindings,
        batch,
        outputs: batch.outputs(),
        made: None,
        sorted: None,
    };
    schedule.steps.iter().try_for_each(|step| launch.step(step))
}

/// Whether weights have the shapes that the program declares, and every row a sequence.
fn check(program: &Program, bindings: &Bindings, batch: &Batch, weights: &[Weight]) -> Result<()> {
    if bindings.weights.len() != program.weights.len() {
        return Err(misfit(program, format!("{} weights are bound", bindings.weights.len())));
    }
    for (id, decl) in bindings.weights.iter().zip(&program.weights) {
        let w = &weights[id.0 as usize];
        let have = [w.cols, w.rows, w.experts];
        let fits = decl.shape.iter().zip(have).all(|(a, b)| *a == b);
        if !fits || have[decl.shape.len()..].iter().any(|n| *n != 1) {
            return Err(misfit(program, format!("{} is {have:?} and not {:?}", decl.name, decl.shape)));
        }
    }
    let sequences = batch.tables.len();
    if let Some(r) = batch.rows.iter().find(|r| r.seq as usize >= sequences) {
        return Err(misfit(program, format!("sequence {} of {sequences}", r.seq)));
    }
    Ok(())
}

impl<'a> Launch<'a> {
    pub(super) fn weight(&self, slot: WeightSlot) -> &'a Weight {
        &self.weights[self.bindings.weights[slot.0 as usize].0 as usize]
    }

    pub(super) fn vector(&self, slot: Option<WeightSlot>) -> Result<Address> {
        slot.map_or(Ok(Address(0)), |slot| self.weight(slot).at())
    }

    pub(super) fn at(&self, v: ValueId) -> Result<Address> {
        self.values.place(self.program, v, self.batch)
    }

    pub(super) fn width(&self, v: ValueId) -> usize {
        self.program.value(v).width
    }

    pub(super) fn row_count(&self, v: ValueId) -> usize {
        if self.program.value(v).rows == RowSet::All { self.batch.rows.len() } else { self.outputs }
    }

    /// Elements of a value.
    pub(super) fn count(&self, v: ValueId) -> u32 {
        (self.row_count(v) * self.width(v)) as u32
    }

    pub(super) fn state(&self) -> Result<(&Pages, KvLayerId)> {
        let id = self.bindings.layer.ok_or_else(|| misfit(self.program, "no state is bound"))?;
        Ok((&self.state[id.group], id))
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        let ops = &self.schedule.program.ops;
        match *step {
            Step::Single(at) => self.op(&ops[at]),
            Step::Added { product, other, out } => {
                let Op::MatMul { x, weight, bias, .. } = ops[product] else { return self.op(&ops[product]) };
                if self.row_count(x) == 0 {
                    return Ok(());
                }
                let residual = self.at(other)?;
                self.mat_mul(x, weight, Extra { bias: self.vector(bias)?, residual, ..Extra::NONE }, out)
            }
            Step::Gated { gate, up, out } => self.gated(gate, up, out),
            Step::Joined { first, count } => self.joined(first, count),
            Step::Positioned { queries, keys, append } => self.position(queries, keys, append),
        }
    }

    pub(super) fn op(&mut self, op: &Op) -> Result<()> {
        let (reads, writes) = op.operands();
        if reads.iter().chain(&writes).any(|&v| self.row_count(v) == 0) {
            return Ok(());
        }
        match *op {
            Op::Embed { table, out } => self.embed(table, out),
            Op::SelectOutputs { x, out } => {
                let (rows, width) = (self.outputs as u32, self.width(x) as u32);
                let picked = self.rows.at(self.rows.picked);
                let args = kernels::SelectArgs { x: self.at(x)?, picked, out: self.at(out)?, rows, width };
                kernels::select_rows(self.d, &args)
            }
            Op::RmsNorm { x, weight, group, eps, out } => self.norm(x, weight, group, eps, out),
            Op::MatMul { x, weight, bias, out } => {
                let extra = Extra { bias: self.vector(bias)?, ..Extra::NONE };
                self.mat_mul(x, weight, extra, out)
            }
            Op::Rope { x, head_dim, rope, factors, out } => self.rope(x, head_dim, &rope, factors, out),
            Op::KvAppend { k, v } => self.kv_append(k, v),
            Op::Attend { q, attention, out } => self.attend(q, &attention, out),
            Op::Add { a, b, out } => {
                let count = self.count(out);
                let (a, b, out) = (self.at(a)?, self.at(b)?, self.at(out)?);
                kernels::add(self.d, &kernels::AddArgs { a, b, out, count, unused: 0 })
            }
            Op::Glu { gate, up, act: Activation::Silu, out } => {
                let count = self.count(out);
                let (gate, up, out) = (self.at(gate)?, self.at(up)?, self.at(out)?);
                kernels::glu_silu(self.d, &kernels::GluArgs { gate, up, out, count, unused: 0 })
            }
            Op::Route { logits, k, normalise, ids, weights } => {
                let (rows, experts) = (self.row_count(logits) as u32, self.width(logits) as u32);
                let (logits, ids, weights) = (self.at(logits)?, self.at(ids)?, self.at(weights)?);
                let (k, normalise) = (k as u32, u32::from(normalise));
                kernels::route(self.d, &kernels::RouteArgs { logits, ids, weights, rows, experts, k, normalise })
            }
            Op::ExpertMatMul { x, per_slot, ids, weight, out } => {
                self.experts(x, per_slot, ids, weight, Extra::NONE, out)
            }
            Op::ExpertSum { x, weights, out } => {
                let (rows, k, width) = (self.row_count(x) as u32, self.width(weights) as u32, self.width(out) as u32);
                let (x, weights, out) = (self.at(x)?, self.at(weights)?, self.at(out)?);
                kernels::expert_sum(self.d, &kernels::ExpertSumArgs { x, weights, out, rows, k, width, unused: 0 })
            }
        }
    }

    fn embed(&mut self, table: WeightSlot, out: ValueId) -> Result<()> {
        let w = self.weight(table);
        if let Some(r) = self.batch.rows.iter().find(|r| r.token as usize >= w.rows) {
            return Err(misfit(self.program, format!("token {} of {}", r.token, w.rows)));
        }
        let (kind, cols) = (w.format.kind, w.cols as u32);
        let (tokens, rows) = (self.rows.at(self.rows.tokens), self.batch.rows.len() as u32);
        let (table, tokens) = match w.whole() {
            Some(table) => (table, tokens),
            None => {
                let table = self.values.table.at;
                w.gather(self.d, self.batch.rows.iter().map(|r| r.token as usize), table)?;
                (table, Address(0))
            }
        };
        let args = kernels::EmbedArgs { table, tokens, out: self.at(out)?, cols, rows };
        kernels::embed(self.d, kind, &args)
    }

    /// A norm; where a product of eight bits reads it, these are made with it.
    fn norm(&mut self, x: ValueId, weight: WeightSlot, group: usize, eps: f32, value: ValueId) -> Result<()> {
        let (weight, groups) = (self.weight(weight).at()?, self.count(x) / group as u32);
        let (x, out, group) = (self.at(x)?, self.at(value)?, group as u32);
        let whole = group as usize == self.width(value) && group.is_multiple_of(32) && group > NARROW;
        let (mut q, mut scales) = (Address(0), Address(0));
        if whole && self.made != Some((value, Form::Bytes)) && self.wanted_in_eight_bits(value) {
            (q, scales) = (self.values.quants.at, self.values.scales.at);
            self.made = Some((value, Form::Bytes));
        }
        let unused = 0;
        kernels::norm(self.d, &kernels::NormArgs { x, weight, out, q, scales, groups, group, eps, unused })
    }

    /// Whether a product reads a value in eight bits.
    fn wanted_in_eight_bits(&self, value: ValueId) -> bool {
        self.program.ops.iter().any(|op| match op {
            Op::MatMul { x, weight, .. } | Op::ExpertMatMul { x, weight, .. } => {
                *x == value && self.weight(*weight).format.block_len > 1
            }
            _ => false,
        })
    }

    fn attend(&mut self, q: ValueId, a: &Attention, out: ValueId) -> Result<()> {
        let (pages, id) = self.state()?;
        let (layer, k_offset, v_offset) = pages.layer(id.layer);
        if (layer.kv_heads, layer.head_dim, layer.v_dim) != (a.kv_heads, a.head_dim, a.v_dim)
            || pages.window != a.window
        {
            return Err(misfit(self.program, format!("{a:?} over the state of {layer:?}")));
        }
        let place = attention::Place {
            q: self.at(q)?,
            out: self.at(out)?,
            partials: self.values.partials.at,
            pages: pages.start(),
            page_bytes: pages.page_bytes,
            k_offset,
            v_offset,
            k: pages.k.kind,
            v: pages.v.kind,
        };
        attention::attend(self.d, a, self.rows, self.rows.groups[id.group], place, self.shared)
    }
}
