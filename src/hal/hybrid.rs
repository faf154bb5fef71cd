//! A device and the processor beside it, as one backend.
//!
//! Each has the weights that it can compute with: the device those in its own memory and those that can be carried to
//! it, the processor those that are not kept on the device. A program runs where its weights are. Where both could run
//! it, few rows go to the processor, since a memory is expected to be read faster than the link behind it carries, and
//! many to the device, which is expected to compute them sooner although the weights must come. Neither has been
//! measured yet. Sequence state is the device's alone.
//!
//! What programs leave to each other in carries moves with them: of each carry one side has the newest rows, and the
//! other gets them when it reads them.

use super::{
    Backend, Batch, Bindings, Home, KvLayout, Launched, Panel, Pinner, ProgramId, Reservation, Supply, WeightDesc,
    WeightId,
};
use crate::error::{Error, Result};
use crate::op::{Carry, CarryId, Op, Program, RowSet};
use crate::quant::Format;
use std::sync::Arc;

/// Most rows of a pass with which the processor computes what the device could, too: as many as decoding has elsewhere
/// (`CpuOptions::threads_batch`, a device's `matvec_*`). From how many on the link wins has not been measured yet.
pub const BESIDE: usize = 8;

/// Most rows of a launch on the processor.
const TILE: usize = 256;

/// Who computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Device,
    Processor,
}

/// A weight, where it is loaded.
#[derive(Debug, Clone, Copy)]
struct Loaded {
    device: Option<WeightId>,
    processor: Option<WeightId>,
    matrix: bool,
}

/// A vector, for the processor, should it compute at all.
#[derive(Debug)]
struct Vector {
    weight: usize,
    name: String,
    format: &'static Format,
    cols: usize,
    panels: Vec<Panel>,
    supply: Arc<dyn Supply>,
}

/// A program on either side.
#[derive(Debug)]
struct Compiled {
    device: ProgramId,
    processor: Option<ProgramId>,
    reads: Vec<CarryId>,
    writes: Vec<CarryId>,
}

/// Rows of a carry.
#[derive(Debug, Clone, Copy)]
struct Newest {
    side: Side,
    rows: usize,
}

/// Both.
pub struct Hybrid {
    device: Box<dyn Backend>,
    processor: Box<dyn Backend>,
    weights: Vec<Loaded>,
    vectors: Vec<Vector>,
    programs: Vec<Compiled>,
    /// Whether any has experts, which only the processor may have.
    experts: bool,
    /// Rows of a tile, where passes may have several.
    tile: usize,
    carries: Vec<(Carry, Newest)>,
    /// What is on its way from one side to the other.
    moved: Vec<f32>,
}

impl Hybrid {
    /// A device with a processor.
    pub fn new(device: Box<dyn Backend>, processor: Box<dyn Backend>) -> Hybrid {
        let (weights, vectors, programs, carries, moved) = Default::default();
        Hybrid { device, processor, weights, vectors, programs, experts: false, tile: usize::MAX, carries, moved }
    }

    /// Whether a processor can compute a program beside a device: it uses no sequence state, and is neither the model's
    /// beginning nor its end, which the device keeps.
    pub fn may_compute(program: &Program) -> bool {
        let stays = |op: &Op| {
            matches!(op, Op::KvAppend { .. } | Op::Attend { .. } | Op::Embed { .. } | Op::SelectOutputs { .. })
        };
        !program.ops.iter().any(stays)
    }

    /// Whether the processor has anything to compute with.
    fn has_two(&self) -> bool {
        self.weights.iter().any(|w| w.matrix && w.processor.is_some())
    }

    /// Who runs a program: the same one for all tiles of a pass, or some of its rows would be here and some there.
    /// Fewer rows than a tile has, with none before them, are all that there are.
    fn side(&self, program: &Compiled, bindings: &Bindings, batch: &Batch) -> Result<Side> {
        let rows = batch.rows.len();
        let few = rows <= BESIDE && batch.first == 0 && rows < self.tile;
        let bound = || bindings.weights.iter().map(|w| &self.weights[w.0 as usize]);
        let device = bound().all(|w| w.device.is_some());
        let processor = program.processor.is_some() && bound().all(|w| w.processor.is_some());
        match (device, processor) {
            (true, true) if few && bound().any(|w| w.matrix) => Ok(Side::Processor),
            (true, _) => Ok(Side::Device),
            (false, true) => Ok(Side::Processor),
            (false, false) => Err(Error::Engine("a program has weights that no one side has".into())),
        }
    }

    /// Has the newest rows of what a program reads brought to its side.
    ///
    /// # Errors
    /// What failed on the way.
    fn hand_over(&mut self, program: usize, side: Side) -> Result<()> {
        for &id in &self.programs[program].reads {
            let (carry, newest) = &mut self.carries[id.0 as usize];
            if newest.side == side || newest.rows == 0 {
                continue;
            }
            self.moved.resize(newest.rows * carry.width, 0.0);
            let (from, to) = match side {
                Side::Device => (&mut self.processor, &mut self.device),
                Side::Processor => (&mut self.device, &mut self.processor),
            };
            from.read(id, &mut self.moved);
            to.write(id, &self.moved);
            newest.side = side;
            self.device.failed()?;
        }
        Ok(())
    }

    /// A program has written rows of a pass, up to `end`; with the first of them a pass begins.
    fn wrote(&mut self, program: usize, side: Side, batch: &Batch) {
        for &id in &self.programs[program].writes {
            let (carry, newest) = &mut self.carries[id.0 as usize];
            let end = if carry.rows == RowSet::All { batch.first + batch.rows.len() } else { batch.outputs() };
            let rows = if batch.first == 0 { end } else { newest.rows.max(end) };
            *newest = Newest { side, rows };
        }
    }
}

impl Backend for Hybrid {
    fn description(&self) -> String {
        let device = self.device.description();
        if self.has_two() { format!("{device} and {}", self.processor.description()) } else { device }
    }

    fn pinner(&self) -> Option<Arc<dyn Pinner>> {
        self.device.pinner()
    }

    fn beside(&self, r: &Reservation) -> Option<u64> {
        let rows = if self.experts { r.pass_rows } else { r.pass_rows.min(BESIDE) };
        Some(self.processor.workspace(&of_processor(rows, &without_outputs(r.carries), &no_state(r.kv))))
    }

    fn provide(&mut self, bytes: u64, weights: usize) -> Result<()> {
        self.device.provide(bytes, weights)
    }

    fn load(&mut self, w: &WeightDesc, supply: &Arc<dyn Supply>) -> Result<WeightId> {
        let has = |homes: &[Home]| w.panels.iter().any(|p| homes.contains(&p.home));
        // Of experts that are cached the device has none, and of what it keeps itself the processor has none.
        let beside = w.arranged && w.matrix && !has(&[Home::Memory, Home::Drive]);
        let both = WeightDesc { arranged: beside, ..*w };
        let device = if has(&[Home::Cache]) { None } else { Some(self.device.load(&both, supply)?) };
        let processor = if beside { Some(self.processor.load(&both, supply)?) } else { None };
        if !w.matrix {
            let &WeightDesc { name, format, cols, .. } = w;
            let (weight, name, panels, supply) = (self.weights.len(), name.into(), w.panels.to_vec(), supply.clone());
            self.vectors.push(Vector { weight, name, format, cols, panels, supply });
        }
        self.weights.push(Loaded { device, processor, matrix: w.matrix });
        Ok(WeightId(self.weights.len() as u32 - 1))
    }

    fn arrange(&self, weight: WeightId, rows: &[u8], out: &mut [u8]) -> bool {
        self.weights[weight.0 as usize].processor.is_some_and(|w| self.processor.arrange(w, rows, out))
    }

    fn rehome(&mut self, weight: WeightId, panel: &Panel) -> Result<()> {
        let Loaded { device, .. } = self.weights[weight.0 as usize];
        let none = || Error::Engine(format!("panel {} is not on the device", panel.number));
        self.device.rehome(device.ok_or_else(none)?, panel)
    }

    fn compile(&mut self, program: &Program) -> Result<ProgramId> {
        let device = self.device.compile(program)?;
        let may = Hybrid::may_compute(program);
        let processor = if may { Some(self.processor.compile(program)?) } else { None };
        let (mut reads, mut writes) = (vec![], vec![]);
        for op in &program.ops {
            let (r, w) = op.operands();
            // What was written here is not read from before.
            reads.extend(r.iter().filter_map(|&v| program.value(v).carry()).filter(|c| !writes.contains(c)));
            writes.extend(w.iter().filter_map(|&v| program.value(v).carry()));
        }
        self.experts |= program.ops.iter().any(|op| matches!(op, Op::ExpertMatMul { .. }));
        self.programs.push(Compiled { device, processor, reads, writes });
        Ok(ProgramId(self.programs.len() as u32 - 1))
    }

    fn workspace(&self, r: &Reservation) -> u64 {
        self.device.workspace(r)
    }

    fn reserve(&mut self, r: &Reservation) -> Result<()> {
        self.device.reserve(r)?;
        let newest = Newest { side: Side::Device, rows: 0 };
        self.tile = if r.max_rows < r.pass_rows { r.max_rows } else { usize::MAX };
        self.carries = r.carries.iter().map(|c| (c.clone(), newest)).collect();
        if !self.has_two() {
            return Ok(());
        }
        for v in std::mem::take(&mut self.vectors) {
            let again: Arc<dyn Supply> = Arc::new(Again(v.supply, v.panels.clone(), v.format.row_bytes(v.cols)));
            let Vector { ref name, format, cols, ref panels, .. } = v;
            let desc = WeightDesc { name, format, cols, rows: 1, experts: 1, matrix: false, panels, arranged: false };
            self.weights[v.weight].processor = Some(self.processor.load(&desc, &again)?);
        }
        // All rows of a pass come where the device cannot compute.
        let alone = self.weights.iter().any(|w| w.device.is_none());
        let rows = if alone { r.pass_rows } else { r.pass_rows.min(BESIDE) };
        self.processor.reserve(&of_processor(rows, &without_outputs(r.carries), &no_state(r.kv)))
    }

    fn launch(&mut self, program: ProgramId, bindings: &Bindings, batch: &Batch) -> Result<()> {
        let n = program.0 as usize;
        let side = self.side(&self.programs[n], bindings, batch)?;
        self.hand_over(n, side)?;
        let compiled = &self.programs[n];
        let weights = bindings.weights.iter().map(|w| &self.weights[w.0 as usize]);
        match (side, compiled.processor) {
            (Side::Processor, Some(program)) => {
                let bindings = Bindings { weights: weights.filter_map(|w| w.processor).collect(), layer: None };
                for (i, rows) in batch.rows.chunks(TILE).enumerate() {
                    let tile = Batch { rows, first: batch.first + i * TILE, tables: batch.tables };
                    self.processor.launch(program, &bindings, &tile)?;
                }
            }
            _ => {
                let layer = bindings.layer;
                let bindings = Bindings { weights: weights.filter_map(|w| w.device).collect(), layer };
                self.device.launch(compiled.device, &bindings, batch)?;
            }
        }
        self.wrote(n, side, batch);
        Ok(())
    }

    fn read(&self, carry: CarryId, out: &mut [f32]) {
        match self.carries[carry.0 as usize].1.side {
            Side::Device => self.device.read(carry, out),
            Side::Processor => self.processor.read(carry, out),
        }
    }

    fn write(&mut self, id: CarryId, values: &[f32]) {
        let (carry, newest) = &mut self.carries[id.0 as usize];
        *newest = Newest { side: Side::Device, rows: values.len() / carry.width };
        self.device.write(id, values);
    }

    fn copy_page(&mut self, group: usize, from: u32, to: u32) {
        self.device.copy_page(group, from, to);
    }

    fn forget_pages(&mut self, group: usize, pages: &[u32]) {
        self.device.forget_pages(group, pages);
    }

    fn failed(&mut self) -> Result<()> {
        self.device.failed()
    }

    fn watch(&mut self, on: bool) -> Result<Vec<Launched>> {
        self.device.watch(on)
    }
}

/// State of no layer.
fn no_state(kv: &KvLayout) -> KvLayout {
    KvLayout { groups: vec![], ..kv.clone() }
}

/// Carries, but none of the rows whose logits are wanted.
fn without_outputs(carries: &[Carry]) -> Vec<Carry> {
    let all = |c: &Carry| if c.rows == RowSet::All { c.clone() } else { Carry { width: 0, ..c.clone() } };
    carries.iter().map(all).collect()
}

/// What the processor reserves for passes of so many rows.
fn of_processor<'a>(rows: usize, carries: &'a [Carry], kv: &'a KvLayout) -> Reservation<'a> {
    let tile = rows.min(TILE);
    Reservation { carries, pass_rows: rows, max_rows: tile, max_outputs: tile, kv, ring: (0, 0) }
}

/// Panels that a supply has handed out already: read once more, by their bytes. All are vectors' and small.
#[derive(Debug)]
struct Again(Arc<dyn Supply>, Vec<Panel>, usize);

impl Supply for Again {
    fn want(&self, panels: &mut [super::Wanted]) {
        self.0.want(panels);
    }

    fn panel(&self, number: u32, _: u32, f: &mut dyn FnMut(&[u8])) -> Result<()> {
        let rows = self.1.iter().find(|p| p.number == number).map_or(0, |p| p.rows.len());
        let mut bytes = vec![0; rows * self.2];
        self.0.bytes(number, 0, &mut bytes)?;
        f(&bytes);
        Ok(())
    }

    fn bytes(&self, number: u32, at: usize, out: &mut [u8]) -> Result<()> {
        self.0.bytes(number, at, out)
    }
}
