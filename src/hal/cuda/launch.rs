//! One launch: the kernels of each op of a program, one after another.
//!
//! What a batch or a binding could get wrong (a token beyond the table, a page that is not there, a weight of another
//! shape) is checked here and is an error, so kernels may rely on shapes. Weights' addresses are looked up each time.

use super::driver::{Address, Driver};
use super::kernels::{self, FEW_ROWS, MatmulArgs, MatvecArgs, TILE_INPUTS};
use super::memory::{Buffer, Values};
use super::rows::{Rows, TILE};
use super::schedule::{Schedule, Step};
use super::state::Pages;
use super::weights::Weight;
use super::{Cuda, misfit};
use crate::error::{Error, Result};
use crate::hal::{Batch, Bindings, KvLayerId, ProgramId, WeightId};
use crate::op::{Activation, Attention, Op, Pairing, Program, Rope, RowSet, ValueId, WeightSlot};

/// How a block of attention's threads is used: query heads of a chunk, and positions at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blocks {
    pub(super) chunk: u32,
    pub(super) span: u32,
}

/// Shared memory that every device gives without being asked.
const COMMON_SHARED: u32 = 48 << 10;

/// Queries of a block, at most.
const MOST_QUERIES: u32 = 32;

impl Blocks {
    /// For tiles of up to `rows` rows: as many heads together as fit, many positions at a time before many heads.
    ///
    /// # Errors
    /// `Unsupported` where not even one head fits into `most` bytes.
    pub(super) fn of(a: &Attention, rows: u32, most: u32) -> Result<Blocks> {
        let group = (a.heads / a.kv_heads) as u32;
        for room in [COMMON_SHARED, most] {
            for chunk in (1..=group.min((MOST_QUERIES / rows).max(1))).rev() {
                for span in [32, 16, 8] {
                    if kernels::attend_shared(rows, chunk, span, a.head_dim as u32, a.v_dim as u32) <= room {
                        return Ok(Blocks { chunk, span });
                    }
                }
            }
        }
        let what = format!("attention with heads of {} and {} elements on this device", a.head_dim, a.v_dim);
        Err(Error::Unsupported { what, instead: "run the model on the CPU".into() })
    }
}

struct Launch<'a> {
    d: &'a mut dyn Driver,
    weights: &'a [Weight],
    schedule: &'a Schedule,
    program: &'a Program,
    values: &'a Values,
    rows: &'a Rows,
    state: &'a [Pages],
    frequencies: &'a mut Vec<(Rope, Option<WeightId>, Buffer)>,
    shared: u32,
    bindings: &'a Bindings,
    batch: &'a Batch<'a>,
    outputs: usize,
    /// The value whose eight bits are in `values.quants`.
    quantised: Option<ValueId>,
    /// The experts by which `values.order` is sorted.
    sorted: Option<ValueId>,
}

/// What a product does beside multiplying; zero where it does not.
#[derive(Debug, Clone, Copy, Default)]
struct Extra {
    /// Added to each row.
    bias: Address,
    /// Added to the result.
    residual: Address,
    /// The product is a gate for that of this weight with the same input.
    up: Address,
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
        state,
        frequencies: &mut cuda.frequencies,
        shared: cuda.properties.shared,
        bindings,
        batch,
        outputs: batch.outputs(),
        quantised: None,
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

impl Launch<'_> {
    fn weight(&self, slot: WeightSlot) -> &Weight {
        &self.weights[self.bindings.weights[slot.0 as usize].0 as usize]
    }

    fn vector(&self, slot: Option<WeightSlot>) -> Address {
        slot.map_or(Address(0), |slot| self.weight(slot).at())
    }

    fn at(&self, v: ValueId) -> Result<Address> {
        self.values.place(self.program, v, self.batch)
    }

    fn width(&self, v: ValueId) -> usize {
        self.program.value(v).width
    }

    fn row_count(&self, v: ValueId) -> usize {
        if self.program.value(v).rows == RowSet::All { self.batch.rows.len() } else { self.outputs }
    }

    /// Elements of a value.
    fn count(&self, v: ValueId) -> u32 {
        (self.row_count(v) * self.width(v)) as u32
    }

    fn state(&self) -> Result<(&Pages, KvLayerId)> {
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
                self.mat_mul(x, weight, Extra { bias: self.vector(bias), residual, ..Extra::default() }, out)
            }
            Step::Gated { gate, up, out } => self.gated(gate, up, out),
        }
    }

    /// A gate's two products and the gate: one kernel where few rows read weights of one format.
    fn gated(&mut self, gate: usize, up: usize, out: ValueId) -> Result<()> {
        let ops = &self.schedule.program.ops;
        let (Op::MatMul { x, weight: first, .. } | Op::ExpertMatMul { x, weight: first, .. }) = ops[gate] else {
            return self.op(&ops[gate]);
        };
        let (Op::MatMul { weight: second, .. } | Op::ExpertMatMul { weight: second, .. }) = ops[up] else {
            return self.op(&ops[up]);
        };
        let (a, b, n) = (self.weight(first), self.weight(second), self.row_count(x));
        // A product of floats reads the input while others write, of eight bits a copy of it.
        let apart = a.format.block_len > 1 || !self.schedule.overlap(x, out);
        if a.format != b.format || n > FEW_ROWS || n == 0 || !apart {
            return ops[gate..up + 2].iter().try_for_each(|op| self.op(op));
        }
        let extra = Extra { up: b.at(), ..Extra::default() };
        match ops[gate] {
            Op::ExpertMatMul { per_slot, ids, .. } => self.experts(x, per_slot, ids, first, extra, out),
            _ => self.mat_mul(x, first, extra, out),
        }
    }

    fn op(&mut self, op: &Op) -> Result<()> {
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
            Op::RmsNorm { x, weight, group, eps, out } => {
                let (weight, groups) = (self.weight(weight).at(), self.count(x) / group as u32);
                let (x, out, group) = (self.at(x)?, self.at(out)?, group as u32);
                kernels::norm(self.d, &kernels::NormArgs { x, weight, out, groups, group, eps, unused: 0 })
            }
            Op::MatMul { x, weight, bias, out } => {
                let extra = Extra { bias: self.vector(bias), ..Extra::default() };
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
                self.experts(x, per_slot, ids, weight, Extra::default(), out)
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
        let (table, kind, cols) = (w.at(), w.format.kind, w.cols as u32);
        let (tokens, rows) = (self.rows.at(self.rows.tokens), self.batch.rows.len() as u32);
        let args = kernels::EmbedArgs { table, tokens, out: self.at(out)?, cols, rows };
        kernels::embed(self.d, kind, &args)
    }

    /// The addresses of what a product reads: floats, or eight bits and scales, which are made if they are not there.
    fn inputs(&mut self, x: ValueId, format_is_plain: bool) -> Result<[Address; 3]> {
        let (at, q, scales) = (self.at(x)?, self.values.quants.at, self.values.scales.at);
        if !format_is_plain && self.quantised != Some(x) {
            let blocks = self.count(x) / 32;
            kernels::quantise(self.d, &kernels::QuantiseArgs { x: at, q, scales, blocks, unused: 0 })?;
            self.quantised = Some(x);
        }
        Ok([at, q, scales])
    }

    fn mat_mul(&mut self, x: ValueId, weight: WeightSlot, extra: Extra, out: ValueId) -> Result<()> {
        let (w, Extra { bias, residual, up }) = (self.weight(weight), extra);
        let (at, format, cols, rows) = (w.at(), w.format, w.cols as u32, w.rows as u32);
        let (n, y) = (self.row_count(x), self.at(out)?);
        let [x, q, scales] = self.inputs(x, format.block_len == 1)?;
        let (none, weight, kind) = (Address(0), at, format.kind);
        if n <= FEW_ROWS {
            let n = n as u32;
            let ids = none;
            let args = MatvecArgs { weight, up, x, q, scales, bias, residual, ids, y, cols, rows, n, share: 1 };
            return kernels::matvec(self.d, kind, &args, 1);
        }
        let (n, tiles, order) = (n as u32, none, none);
        let args = MatmulArgs { weight, x, q, scales, bias, residual, tiles, order, y, cols, rows, n, share: 1 };
        kernels::matmul(self.d, kind, &args, n.div_ceil(TILE_INPUTS))
    }

    fn experts(
        &mut self,
        x: ValueId,
        per_slot: bool,
        ids: ValueId,
        weight: WeightSlot,
        extra: Extra,
        out: ValueId,
    ) -> Result<()> {
        let w = self.weight(weight);
        let (at, format, cols, rows, experts) = (w.at(), w.format, w.cols as u32, w.rows as u32, w.experts as u32);
        let (n, slots, y) = (self.row_count(x), self.count(ids), self.at(out)?);
        let share = if per_slot { 1 } else { self.width(ids) as u32 };
        let [x, q, scales] = self.inputs(x, format.block_len == 1)?;
        let (weight, kind, chosen) = (at, format.kind, self.at(ids)?);
        let Extra { bias, residual, up } = extra;
        if n <= FEW_ROWS {
            let ids = chosen;
            let args = MatvecArgs { weight, up, x, q, scales, bias, residual, ids, y, cols, rows, n: 1, share };
            return kernels::matvec(self.d, kind, &args, slots);
        }
        let (counts, order, tiles) = (self.values.counts.at, self.values.order.at, self.values.tiles.at);
        let most_tiles = slots.div_ceil(TILE_INPUTS) + experts;
        if self.sorted != Some(ids) {
            let count = kernels::ExpertCountArgs { ids: chosen, counts, slots, unused: 0 };
            kernels::expert_count(self.d, &count, experts)?;
            let tile = TILE_INPUTS;
            let args = kernels::ExpertPlaceArgs { ids: chosen, counts, order, tiles, slots, experts, most_tiles, tile };
            kernels::expert_place(self.d, &args)?;
            self.sorted = Some(ids);
        }
        let args = MatmulArgs { weight, x, q, scales, bias, residual, tiles, order, y, cols, rows, n: slots, share };
        kernels::matmul(self.d, kind, &args, most_tiles)
    }

    fn rope(
        &mut self,
        x: ValueId,
        head_dim: usize,
        rope: &Rope,
        factors: Option<WeightSlot>,
        out: ValueId,
    ) -> Result<()> {
        let frequencies = self.frequencies(rope, factors)?;
        let args = kernels::RopeArgs {
            x: self.at(x)?,
            frequencies,
            positions: self.rows.at(self.rows.positions),
            out: self.at(out)?,
            heads: (self.width(x) / head_dim) as u32,
            head_dim: head_dim as u32,
            dims: rope.dims as u32,
            half_split: u32::from(rope.pairing == Pairing::HalfSplit),
            magnitude: rope.magnitude(),
            unused: 0,
        };
        let rows = self.row_count(x) as u32;
        kernels::rope(self.d, &args, rows)
    }

    /// Angles are proportional to positions, so those at position 1 say all.
    fn frequencies(&mut self, rope: &Rope, factors: Option<WeightSlot>) -> Result<Address> {
        let id = factors.map(|f| self.bindings.weights[f.0 as usize]);
        if let Some((_, _, buffer)) = self.frequencies.iter().find(|(r, f, _)| r == rope && *f == id) {
            return Ok(buffer.at);
        }
        let factors = match id {
            Some(id) => self.weights[id.0 as usize].vector(self.d)?,
            None => vec![1.0; rope.dims / 2],
        };
        let angles = factors.iter().enumerate().map(|(i, f)| rope.angle(1, i, *f));
        let bytes: Vec<u8> = angles.flat_map(f64::to_le_bytes).collect();
        let buffer = Buffer::new(self.d, bytes.len() as u64, "rotary frequencies")?;
        self.frequencies.push((*rope, id, buffer));
        self.d.upload(buffer.at, &bytes)?;
        Ok(buffer.at)
    }

    fn kv_append(&mut self, k: ValueId, v: ValueId) -> Result<()> {
        let (pages, id) = self.state()?;
        let (layer, k_offset, v_offset) = pages.layer(id.layer);
        let (start, page_bytes, formats) = (pages.start(), pages.page_bytes, [pages.k.kind, pages.v.kind]);
        let row_pages = self.rows.at(self.rows.groups[id.group].row_pages);
        let positions = self.rows.at(self.rows.positions);
        let (rows, heads) = (self.batch.rows.len() as u32, layer.kv_heads as u32);
        let parts = [(k, k_offset, layer.head_dim), (v, v_offset, layer.v_dim)];
        for ((x, offset, dim), kind) in parts.into_iter().zip(formats) {
            if self.width(x) != layer.kv_heads * dim {
                return Err(misfit(self.program, format!("{} elements for {heads} heads of {dim}", self.width(x))));
            }
            let (x, pages, dim) = (self.at(x)?, start, dim as u32);
            let args = kernels::KvAppendArgs { x, pages, row_pages, positions, page_bytes, offset, heads, dim };
            kernels::kv_append(self.d, kind, &args, rows)?;
        }
        Ok(())
    }

    fn attend(&mut self, q: ValueId, a: &Attention, out: ValueId) -> Result<()> {
        let (pages, id) = self.state()?;
        let (layer, k_offset, v_offset) = pages.layer(id.layer);
        if (layer.kv_heads, layer.head_dim, layer.v_dim) != (a.kv_heads, a.head_dim, a.v_dim)
            || pages.window != a.window
        {
            return Err(misfit(self.program, format!("{a:?} over the state of {layer:?}")));
        }
        let (start, page_bytes, k, v) = (pages.start(), pages.page_bytes, pages.k.kind, pages.v.kind);
        let (q, out, partials) = (self.at(q)?, self.at(out)?, self.values.partials.at);
        let parts = self.rows.groups[id.group];
        let (heads, v_dim) = (a.heads as u32, a.v_dim as u32);
        for (work, rows) in [(parts.single, 1), (parts.tiles, TILE as u32)] {
            if work.count == 0 {
                continue;
            }
            let Blocks { chunk, span } = Blocks::of(a, rows, self.shared)?;
            let args = kernels::AttendArgs {
                q,
                out,
                partials,
                pages: start,
                work: self.rows.at(work),
                order: self.rows.at(self.rows.order),
                positions: self.rows.at(self.rows.positions),
                tables: self.rows.at(parts.tables),
                page_bytes,
                k_offset,
                v_offset,
                heads,
                kv_heads: a.kv_heads as u32,
                head_dim: a.head_dim as u32,
                v_dim,
                rows,
                chunk,
                span,
                window: a.window.unwrap_or(0),
                scale: a.scale,
                unused: 0,
            };
            kernels::attend(self.d, k, v, &args, work.count as u32)?;
        }
        if parts.joins.count > 0 {
            let args = kernels::AttendJoinArgs { partials, work: self.rows.at(parts.joins), out, heads, v_dim };
            kernels::attend_join(self.d, &args, parts.joins.count as u32)?;
        }
        Ok(())
    }
}
