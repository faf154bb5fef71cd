//! One launch: the steps of a schedule on all rows of a batch.
//!
//! Everything that a batch or a binding could get wrong (a token beyond the table, a page that is not there, a weight
//! of another shape) is checked here and is an error, so the kernels below may rely on shapes. Rows are independent of
//! each other in every step; work goes to the pool when there is enough of it.

use super::attend::{Attend, Queries};
use super::isa::Kernels;
use super::jobs::{Inputs, Job};
use super::matmul::{Form, Output, Pair, Room};
use super::memory::Memory;
use super::pages::{Pages, Place};
use super::pool::Pool;
use super::rope;
use super::schedule::{Product, Schedule, Step};
use super::values::{Mat, Values};
use super::weights::{Matrix, Weight};
use super::{Cpu, misfit};
use crate::error::{Error, Result};
use crate::hal::{Batch, Bindings, KvLayerId, NO_PAGE, PAGE, ProgramId};
use crate::op::{Activation, Attention, Op, Program, RowSet, ValueId, WeightSlot};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What one thread reuses.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Of a product's task.
    pub room: Room,
    /// Queries of an attention's task.
    pub queries: Queries,
    /// Interleaved groups of a streamed panel.
    pub groups: Option<Memory>,
    bytes: Vec<u8>,
    chosen: Vec<bool>,
    floats: Vec<f32>,
}

/// Bytes of a thread's scratch, about: groups of a streamed panel, sums, queries.
pub const SCRATCH: usize = 1 << 20;

/// A thread's scratch; a panic of an earlier task leaves nothing in it that matters.
pub fn lock<T>(scratch: &Mutex<T>) -> MutexGuard<'_, T> {
    scratch.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Elements below which other threads are not woken for a pass over rows.
pub const WORTH_SHARING: usize = 16 << 10;

/// Elements of a row that an element-wise task takes.
const SPAN: usize = 2048;

struct Launch<'a> {
    kernels: &'static Kernels,
    pool: &'a mut Pool,
    weights: &'a [Weight],
    program: &'a Program,
    values: &'a Values,
    inputs: &'a mut Inputs,
    kv: &'a mut [Pages],
    turns: &'a mut rope::Tables,
    partials: &'a mut Vec<f32>,
    scratch: &'a [Mutex<Scratch>],
    bindings: &'a Bindings,
    batch: &'a Batch<'a>,
    outputs: usize,
}

/// Runs a program on a batch.
pub fn run(cpu: &mut Cpu, program: ProgramId, bindings: &Bindings, batch: &Batch) -> Result<()> {
    let Some(Schedule { program, steps, whole }) = cpu.programs.get(program.0 as usize) else {
        return Err(Error::Engine("a program was launched that was not compiled".into()));
    };
    let (first, rows, outputs) = (batch.first, batch.rows.len(), batch.outputs());
    let limits = cpu.values.limits();
    if rows > limits.pass.saturating_sub(first) || (rows > limits.rows && !whole) || outputs > limits.outputs {
        let what = format!("a batch of {rows} rows from {first} on, {outputs} of them outputs, is too large");
        return Err(misfit(program, what));
    }
    if first > 0 && program.values.iter().any(|v| v.rows == RowSet::Outputs) {
        return Err(misfit(program, "output rows are those of a whole pass"));
    }
    if batch.rows.iter().any(|r| r.seq as usize >= batch.tables.len()) {
        return Err(misfit(program, "a row has no page tables"));
    }
    cpu.values.check(program)?;
    cpu.inputs.begin();
    let mut launch = Launch {
        kernels: cpu.kernels,
        pool: cpu.pools.of(rows),
        weights: &cpu.weights,
        program,
        values: &cpu.values,
        inputs: &mut cpu.inputs,
        kv: &mut cpu.kv,
        turns: &mut cpu.turns,
        partials: &mut cpu.partials,
        scratch: &cpu.scratch,
        bindings,
        batch,
        outputs,
    };
    steps.iter().try_for_each(|step| launch.step(step))
}

impl<'a> Launch<'a> {
    fn mat(&self, id: ValueId) -> Mat {
        self.values.mat(self.program, id, self.batch.first, self.batch.rows.len(), self.outputs)
    }

    fn weight(&self, slot: WeightSlot) -> Result<(&'a Weight, &'static str)> {
        let name = self.program.weights.get(slot.0 as usize).map_or("?", |d| d.name);
        let bound = self.bindings.weights.get(slot.0 as usize).and_then(|id| self.weights.get(id.0 as usize));
        bound.map(|w| (w, name)).ok_or_else(|| misfit(self.program, format!("no weight is bound to {name}")))
    }

    fn matrix(&self, slot: WeightSlot, cols: usize, rows: Option<usize>) -> Result<&'a Matrix> {
        match self.weight(slot)? {
            (Weight::Matrix(m), _) if m.cols == cols && rows.is_none_or(|r| r == m.rows) => Ok(m),
            (_, name) => Err(misfit(self.program, format!("the matrix bound to {name} has another shape"))),
        }
    }

    fn vector(&self, slot: WeightSlot, len: usize) -> Result<&'a [f32]> {
        match self.weight(slot)? {
            (Weight::Vector(v), _) if v.len() == len => Ok(v),
            (_, name) => Err(misfit(self.program, format!("the vector bound to {name} has another length"))),
        }
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::MatMuls { x, products } => self.mat_muls(*x, products),
            Step::Experts { x, per_slot, ids, products } => self.experts(*x, *per_slot, *ids, products),
            Step::Op(op) => self.op(op),
        }
    }

    fn op(&mut self, op: &Op) -> Result<()> {
        match *op {
            Op::Embed { table, out } => self.embed(table, out),
            Op::SelectOutputs { x, out } => self.select(x, out),
            Op::RmsNorm { x, weight, group, eps, out } => {
                let weight = self.vector(weight, group)?;
                let norm = self.kernels.rms_norm;
                // SAFETY: the kernel is of a set that the processor has.
                self.by_rows(x, out, |_, _, x, out| unsafe { norm(x, weight, eps, out) })
            }
            Op::Rope { x, head_dim, rope, factors, out } => self.rope(x, head_dim, &rope, factors, out),
            Op::KvAppend { k, v } => self.kv_append(k, v),
            Op::Attend { q, attention, out } => self.attend(q, &attention, out),
            Op::Add { a, b, out } => self.add(a, b, out),
            Op::Glu { gate, up, act: Activation::Silu, out } => self.silu_glu(gate, up, out),
            Op::Route { logits, k, normalise, ids, weights } => self.route(logits, k, normalise, ids, weights),
            Op::ExpertSum { x, weights, out } => self.expert_sum(x, weights, out),
            Op::MatMul { .. } | Op::ExpertMatMul { .. } => unreachable!("products are steps of their own"),
        }
    }

    /// `f(thread, row, x, out)` for every row of `out`.
    fn by_rows(&mut self, x: ValueId, out: ValueId, f: impl Fn(usize, usize, &[f32], &mut [f32]) + Sync) -> Result<()> {
        let (x, out) = (self.mat(x), self.mat(out));
        self.pool.run_if(x.rows * x.width >= WORTH_SHARING, x.rows, &|thread, r| {
            // SAFETY: values outlive the launch, inputs and outputs of an op do not overlap, and each task has its
            // own row.
            let (x, out) = unsafe { (x.row(r), out.row_mut(r)) };
            f(thread, r, x, out);
        })
    }

    fn embed(&mut self, table: WeightSlot, out: ValueId) -> Result<()> {
        let table = self.matrix(table, self.program.value(out).width, None)?;
        let rows = self.batch.rows;
        if let Some(row) = rows.iter().find(|r| r.token as usize >= table.rows) {
            return Err(misfit(self.program, format!("token {} is beyond the {} embeddings", row.token, table.rows)));
        }
        let (out, scratch) = (self.mat(out), self.scratch);
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        self.pool.run_if(out.rows * out.width >= WORTH_SHARING, out.rows, &|thread, r| {
            // SAFETY: as in `by_rows`.
            let out = unsafe { out.row_mut(r) };
            let token = rows[r].token as usize;
            if let Err(e) = table.decode_row(token, &mut lock(&scratch[thread]).bytes, out) {
                *lock(&failed) = Some(e);
            }
        })?;
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn select(&mut self, x: ValueId, out: ValueId) -> Result<()> {
        let (x, out) = (self.mat(x), self.mat(out));
        let chosen = self.batch.rows.iter().enumerate().filter(|(_, row)| row.output);
        for (to, (from, _)) in chosen.enumerate() {
            // SAFETY: values outlive the launch, and the two do not overlap.
            unsafe { out.row_mut(to).copy_from_slice(x.row(from)) };
        }
        Ok(())
    }

    fn rope(
        &mut self,
        x: ValueId,
        head_dim: usize,
        rope: &crate::op::Rope,
        factors: Option<WeightSlot>,
        out: ValueId,
    ) -> Result<()> {
        let factors = match factors {
            Some(slot) => Some((self.bindings.weights[slot.0 as usize], self.vector(slot, rope.dims / 2)?)),
            None => None,
        };
        let (x, out) = (self.mat(x), self.mat(out));
        let turns = self.turns.get(rope, factors, self.batch, self.pool)?;
        self.pool.run_if(x.rows * x.width >= WORTH_SHARING, x.rows, &|_, r| {
            let turns = &turns[r * rope.dims..][..rope.dims];
            // SAFETY: as in `by_rows`.
            let (x, out) = unsafe { (x.row(r), out.row_mut(r)) };
            rope::rotate(rope, head_dim, turns, x, out);
        })
    }

    fn add(&mut self, a: ValueId, b: ValueId, out: ValueId) -> Result<()> {
        let (a, b, out) = (self.mat(a), self.mat(b), self.mat(out));
        let n = out.width * out.rows;
        self.pool.run_if(n >= WORTH_SHARING, n.div_ceil(SPAN), &|_, task| {
            for i in task * SPAN..(task * SPAN + SPAN).min(n) {
                // SAFETY: `i` lies in all three, which have one shape, and each task has its own elements.
                unsafe { out.add(&a, &b, i) };
            }
        })
    }

    fn silu_glu(&mut self, gate: ValueId, up: ValueId, out: ValueId) -> Result<()> {
        let (gate, up, out) = (self.mat(gate), self.mat(up), self.mat(out));
        let (spans, kernel) = (out.width.div_ceil(SPAN), self.kernels.silu_glu);
        self.pool.run_if(out.width * out.rows >= WORTH_SHARING, out.rows * spans, &|_, task| {
            let (r, from) = (task / spans, task % spans * SPAN);
            let to = (from + SPAN).min(out.width);
            // SAFETY: as in `by_rows`; tasks of one row have their own elements of it. The kernel is of a set that the
            // processor has.
            unsafe {
                let part = out.part_mut(r * out.width + from, to - from);
                kernel(&gate.row(r)[from..to], &up.row(r)[from..to], part);
            }
        })
    }

    fn mat_muls(&mut self, x: ValueId, products: &[Product]) -> Result<()> {
        let input = self.mat(x);
        let mut jobs = Vec::with_capacity(products.len());
        for p in products {
            let out = self.mat(p.out);
            let matrix = self.matrix(p.weight, input.width, Some(out.width))?;
            let bias = p.bias.map(|b| self.vector(b, out.width)).transpose()?;
            let out = Output { start: out.start, stride: out.width };
            jobs.push(Job { matrix, expert: 0, bias, pairs: (0, input.rows), out });
        }
        self.inputs.pairs.clear();
        self.inputs.pairs.extend((0..input.rows as u32).map(|r| Pair { input: r, output: r }));
        self.multiply(x, input, &jobs)
    }

    fn multiply(&mut self, id: ValueId, x: Mat, jobs: &[Job]) -> Result<()> {
        let forms = jobs.iter().map(|j| Form::of(j.matrix.format.kind));
        self.inputs.prepare(id, x, forms, self.kernels, self.pool)?;
        self.inputs.multiply(x, jobs, self.kernels, self.pool, self.scratch)
    }

    fn experts(&mut self, x: ValueId, per_slot: bool, ids: ValueId, products: &[Product]) -> Result<()> {
        let (mut input, ids) = (self.mat(x), self.mat(ids));
        let k = ids.width;
        if per_slot {
            input = Mat { width: input.width / k, rows: input.rows * k, ..input };
        }
        let experts = match products.first() {
            Some(p) => self.matrix(p.weight, input.width, None)?.experts,
            None => return Ok(()),
        };
        // SAFETY: values outlive the launch, and nobody writes the choice now.
        let chosen = unsafe { ids.all() };
        if chosen.iter().any(|&e| !(e >= 0.0 && (e as usize) < experts)) {
            return Err(misfit(self.program, "a row chose an expert that does not exist"));
        }
        // Rows in order of their expert, so that each expert that is needed is read once.
        let pair = |i: usize| Pair { input: (if per_slot { i } else { i / k }) as u32, output: i as u32 };
        self.inputs.pairs.clear();
        let mut ranges = vec![];
        for expert in 0..experts {
            let from = self.inputs.pairs.len();
            let mine = chosen.iter().enumerate().filter(|&(_, &e)| e as usize == expert);
            self.inputs.pairs.extend(mine.map(|(i, _)| pair(i)));
            if self.inputs.pairs.len() > from {
                ranges.push((expert, (from, self.inputs.pairs.len())));
            }
        }
        let mut jobs = Vec::with_capacity(ranges.len() * products.len());
        for p in products {
            let out = self.mat(p.out);
            let matrix = self.matrix(p.weight, input.width, Some(out.width / k))?;
            if matrix.experts != experts {
                return Err(misfit(self.program, "two matrices have different numbers of experts"));
            }
            let out = Output { start: out.start, stride: matrix.rows };
            jobs.extend(ranges.iter().map(|&(expert, pairs)| Job { matrix, expert, bias: None, pairs, out }));
        }
        self.multiply(x, input, &jobs)
    }

    /// Chosen experts are kept as floats: they are far fewer than 2^24.
    fn route(&mut self, logits: ValueId, k: usize, normalise: bool, ids: ValueId, weights: ValueId) -> Result<()> {
        let (weights, softmax, scratch) = (self.mat(weights), self.kernels.softmax, self.scratch);
        self.by_rows(logits, ids, |thread, r, logits, ids| {
            let Scratch { chosen, floats: p, .. } = &mut *lock(&scratch[thread]);
            chosen.clear();
            chosen.resize(logits.len(), false);
            p.clear();
            p.resize(logits.len(), 0.0);
            // SAFETY: the kernel is of a set that the processor has.
            unsafe { softmax(logits, p) };
            // SAFETY: as in `by_rows`.
            let weights = unsafe { weights.row_mut(r) };
            for j in 0..k {
                // A NaN is never larger; where all are NaN, the lowest numbers are chosen.
                let free = (0..p.len()).filter(|&e| !chosen[e]);
                let better =
                    |best: usize, e: usize| if p[e] > p[best] || p[best].is_nan() && !p[e].is_nan() { e } else { best };
                let best = free.reduce(better).expect("k is at most the number of experts");
                chosen[best] = true;
                ids[j] = best as f32;
                weights[j] = p[best];
            }
            if normalise {
                let sum: f32 = weights.iter().fold(0.0, |sum, w| sum + w);
                weights.iter_mut().for_each(|w| *w /= sum);
            }
        })
    }

    fn expert_sum(&mut self, x: ValueId, weights: ValueId, out: ValueId) -> Result<()> {
        let (weights, width) = (self.mat(weights), self.program.value(out).width);
        self.by_rows(x, out, |_, r, x, out| {
            out.fill(0.0);
            // SAFETY: as in `by_rows`.
            let weights = unsafe { weights.row(r) };
            for (w, x) in weights.iter().zip(x.chunks_exact(width)) {
                out.iter_mut().zip(x).for_each(|(y, x)| *y += w * x);
            }
        })
    }

    fn layer(&self) -> Result<KvLayerId> {
        let id = self.bindings.layer.ok_or_else(|| misfit(self.program, "no sequence state is bound"))?;
        let exists = self.kv.get(id.group).is_some_and(|g| g.has(id.layer));
        if exists { Ok(id) } else { Err(misfit(self.program, "the bound sequence state does not exist")) }
    }

    fn kv_append(&mut self, k: ValueId, v: ValueId) -> Result<()> {
        let id = self.layer()?;
        let (k, v) = (self.mat(k), self.mat(v));
        let pages = &self.kv[id.group];
        let l = pages.layer(id.layer);
        if k.width != l.kv_heads * l.head_dim || v.width != l.kv_heads * l.v_dim {
            return Err(misfit(self.program, "keys or values do not fit the sequence state"));
        }
        let mut places = Vec::with_capacity(k.rows);
        for row in self.batch.rows {
            let page = page(self.batch, id.group, row.seq, row.pos as usize / PAGE, pages.count());
            places.push((page.ok_or_else(|| missing_page(row.pos))?, row.pos as usize % PAGE));
        }
        // A task is one head of all rows: rows may share a page, but heads share nothing.
        self.pool.run_if(k.rows * (k.width + v.width) >= WORTH_SHARING, l.kv_heads, &|_, head| {
            for (r, &(page, slot)) in places.iter().enumerate() {
                let place = Place { layer: id.layer, page, slot, head };
                // SAFETY: values outlive the launch, nobody writes them now, and each task has its own head.
                unsafe {
                    let (k, v) = (&k.row(r)[head * l.head_dim..], &v.row(r)[head * l.v_dim..]);
                    pages.store(place, &k[..l.head_dim], &v[..l.v_dim]);
                }
            }
        })
    }

    fn attend(&mut self, q: ValueId, a: &Attention, out: ValueId) -> Result<()> {
        let id = self.layer()?;
        let pages = &self.kv[id.group];
        let l = pages.layer(id.layer);
        if (l.kv_heads, l.head_dim, l.v_dim) != (a.kv_heads, a.head_dim, a.v_dim) {
            return Err(misfit(self.program, "the attention does not fit the sequence state"));
        }
        let (q, out) = (self.mat(q), self.mat(out));
        let work = Attend::new(pages, id, a, (q, out), self.batch, self.kernels, self.pool.threads());
        if work.run(self.pool, self.partials, self.scratch)? {
            return Ok(());
        }
        Err(misfit(self.program, "a page that a row sees is missing from its table"))
    }
}

fn missing_page(pos: u32) -> Error {
    Error::Engine(format!("there is no page for position {pos}"))
}

/// The page that holds positions `index * PAGE ..` of a sequence, if it is there.
pub fn page(batch: &Batch, group: usize, seq: u32, index: usize, count: usize) -> Option<usize> {
    let page = *batch.tables[seq as usize].get(group)?.get(index)?;
    (page != NO_PAGE && (page as usize) < count).then_some(page as usize)
}
