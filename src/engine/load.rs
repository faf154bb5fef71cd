//! From a checkpoint to a runner: spec, programs, weights in the backend's memory, reserved state.
//!
//! Every weight is checked against the shape that the programs expect before a byte of it is read, and a tensor
//! that no program uses is refused: it means that the file is a variant whose meaning air does not know.

use super::device::{self, Place, Room};
use super::relief::Gauge;
use super::residence::{self, Residence};
use super::runner::{MAX_SEQUENCES, Runner};
use crate::arch::{self, ModelSpec};
use crate::config::{Device, Size};
use crate::error::{Error, Result};
use crate::format::{Catalogue, TensorInfo};
use crate::hal::{Backend, Home, KvGroup, KvLayout, PAGE, Panel, ProgramId, Reservation, WeightDesc};
use crate::io;
use crate::kv::pages_for;
use crate::lower::{self, Lowered, WeightNeed};
use crate::plan::Unit;
use crate::quant::{Format, Kind};
use crate::stream::Streamer;
use std::sync::Arc;

/// How a model is loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Run the plain interpreter, the specification, instead of the fast kernels.
    pub exact: bool,
    /// Overwrite a GPU's memory with zeros before it is given back. What the machine's programs give back the system clears.
    pub secure: bool,
    /// Where to compute. Not every device gives the same bits; the CPU, by default, does everywhere.
    pub device: Device,
    /// Threads; the machine's (and its cgroup's) cores when not given.
    pub threads: Option<usize>,
    /// Threads of passes with more than eight rows (prompts, batches), where they differ; not for the interpreter.
    pub threads_batch: Option<usize>,
    /// Positions of one sequence; the model's, as far as memory allows, when not given.
    pub context: Option<u32>,
    /// Sequences that may run at once: 1 to [`MAX_SEQUENCES`].
    pub max_sequences: usize,
    /// How much state they share.
    pub state: StateSize,
    /// Most bytes of sequence state that ended texts hold, for those that begin alike, or their share of it; all that
    /// nobody else wants, when not given.
    pub prefix_cache: Option<Size>,
    /// Memory for everything; what the machine and its cgroup leave, when not given. Weights that do not fit
    /// are streamed from the drive in each pass.
    pub ram_budget: Option<Size>,
    /// Memory of the GPU for everything; what is free there, when not given. Weights that do not fit are kept in the
    /// machine's, as far as `ram_budget` goes, and carried to it in each pass.
    pub vram_budget: Option<Size>,
    /// How the drive is read.
    pub reader: io::Options,
    /// Bytes per second of the drive, to plan for another one; the drive is not asked then.
    pub drive_rate: Option<f64>,
    /// Rows of one batch: longer prompts are read in chunks.
    pub max_rows: usize,
    /// Rows of one pass whose logits are wanted, at most: whoever evaluates texts wants many; never fewer than
    /// sequences.
    pub max_outputs: usize,
    /// Format of keys in the sequence state (F32, F16, Q8_0, Q4_0); F16, or F32 when `exact`, if not given.
    pub k_type: Option<Kind>,
    /// Format of values.
    pub v_type: Option<Kind>,
    /// Where to learn how much memory is free while running, instead of from the machine, for tests.
    pub gauge: Option<Arc<dyn Gauge>>,
    /// Is told, a line each: which device is not taken, and why; then, on the engine's thread, what becomes of memory
    /// while running.
    pub say: fn(&str),
}

/// Positions of sequence state in all. A request is admitted when its prompt and its longest answer fit into what is
/// free, so many short sequences take the place of a few long ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StateSize {
    /// The context for each of `max_sequences`.
    #[default]
    Each,
    /// This many, in whole pages; more than `Each` is cut to that. The context may be longer than any request can be.
    Positions(u64),
    /// This many if they fit into half of the memory that the weights leave, or, where the weights do not fit, into half
    /// of all: a further sequence then spares more passes than the bytes that it takes from the weights lengthen. Else
    /// what fits; at least a context for one sequence. The context may be longer than that only if it was asked for.
    UpTo(u64),
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            exact: false,
            secure: false,
            device: Device::default(),
            threads: None,
            threads_batch: None,
            context: None,
            max_sequences: 1,
            state: StateSize::default(),
            prefix_cache: None,
            ram_budget: None,
            vram_budget: None,
            reader: io::Options::default(),
            drive_rate: None,
            max_rows: 256,
            max_outputs: MAX_OUTPUTS,
            k_type: None,
            v_type: None,
            gauge: None,
            say: |_| (),
        }
    }
}

impl LoadOptions {
    /// Formats of keys and of values in the sequence state.
    pub fn state_formats(&self) -> (&'static Format, &'static Format) {
        let default = if self.exact { Kind::F32 } else { Kind::F16 };
        (self.k_type.unwrap_or(default).format(), self.v_type.unwrap_or(default).format())
    }
}

/// Bytes of weights loaded so far, and in all. Called from the loading thread.
pub type Progress<'a> = dyn FnMut(u64, u64) + 'a;

/// Rows whose logits one pass can give, where nothing else is asked for.
pub const MAX_OUTPUTS: usize = 64;

/// Where more than one in so many bytes of weights would be carried to a GPU for each token, from a memory that holds them
/// all, nobody is put on that GPU unasked: the processor reads them faster than the link carries them.
const CARRIED: u64 = 16;

/// Tensors that old files carry and nobody reads.
const IGNORED: [&str; 2] = [".attn_rot_embd", ".rotary_emb.inv_freq"];

/// A model before its weights are read: everything that can be refused was.
pub(super) struct Prepared {
    spec: ModelSpec,
    pub(super) lowered: Lowered,
    backend: Box<dyn Backend>,
    programs: Vec<ProgramId>,
    state: State,
    max_rows: usize,
    max_outputs: usize,
    residence: Residence,
}

fn prepare(catalogue: &Catalogue, options: &LoadOptions) -> Result<Prepared> {
    device::first(options, &mut |place| prepare_on(place, catalogue, options))
}

pub(super) fn prepare_on(place: Place, catalogue: &Catalogue, options: &LoadOptions) -> Result<Prepared> {
    let n = options.max_sequences;
    if !(1..=MAX_SEQUENCES).contains(&n) {
        return Err(Error::Invalid(format!("{n} sequences cannot run at once; 1 to {MAX_SEQUENCES} can")));
    }
    let spec = arch::spec(catalogue)?;
    let lowered = lower::lower(&spec);
    let tensors = check(catalogue, &lowered)?;
    let Place { mut backend, room } = place;
    let programs = lowered.programs.iter().map(|p| backend.compile(p)).collect::<Result<Vec<_>>>()?;
    let mut max_rows = options.max_rows.max(1);
    let max_outputs = options.max_outputs.min(max_rows).max(n);
    let mut size = options.state;
    let (mut state, mut residence) = loop {
        let state = layout(&spec, &lowered, options, room, size, weight_bytes(&tensors))?;
        let (carries, kv) = (&lowered.carries[..], &state.layout);
        let reservation = Reservation { carries, pass_rows: max_rows, max_rows, max_outputs, kv, ring: (0, 0) };
        let units = residence::units(&lowered, &tensors);
        match Residence::plan(catalogue, units, &*backend, room, &reservation, options) {
            // Beside the ring and the activations of a small budget there is less.
            Err(Error::Limit(_)) if matches!(size, StateSize::UpTo(_)) && state.positions > state.context.into() => {
                size = StateSize::UpTo(state.positions / 2);
            }
            residence => break (state, residence?),
        }
    };
    if let Room::Gpu { .. } = room
        && options.device == Device::Auto
        && residence.plan.streamed() == 0
        && residence.plan.traffic(&residence.units, 1).link > weight_bytes(&tensors) / CARRIED
    {
        let what = "carrying attention and head to the GPU for each token".into();
        let instead = "the machine's own memory holds them: the CPU is likely faster (--device cuda tries)".into();
        return Err(Error::Unsupported { what, instead });
    }
    for pass_rows in residence::longer_passes(max_rows, state.positions) {
        let layout = state.pages(&lowered, options, pass_rows);
        // A GPU takes a pass as one batch, so that what is carried to it is carried once.
        let rows = if room == Room::Machine { max_rows } else { pass_rows };
        let carries = &lowered.carries[..];
        let reservation = Reservation { carries, pass_rows, max_rows: rows, max_outputs, kv: &layout, ring: (0, 0) };
        if residence.lengthen(&*backend, &reservation) {
            (state.layout, max_rows) = (layout, rows);
            break;
        }
    }
    Ok(Prepared { spec, lowered, backend, programs, state, max_rows, max_outputs, residence })
}

/// What lives where if the model is loaded like this; nothing is loaded. Also the device, in words, and the context.
///
/// # Errors
/// Those of `load` that do not come from reading weights.
pub fn outlook(catalogue: &Catalogue, options: &LoadOptions) -> Result<Outlook> {
    let p = prepare(catalogue, options)?;
    let touched_bytes = touched_bytes(catalogue, &p.spec);
    let device = p.backend.description();
    let (context, max_rows) = (p.state.context, p.max_rows);
    Ok(Outlook { device, context, max_rows, touched_bytes, spec: p.spec, residence: p.residence })
}

/// What `outlook` found.
#[derive(Debug)]
pub struct Outlook {
    /// The device, in words.
    pub device: String,
    /// Positions of one sequence.
    pub context: u32,
    /// Most rows of a batch: a pass has one, or, where weights are streamed, several (`Residence::pass_rows`).
    pub max_rows: usize,
    /// Bytes of weights that a pass with one token touches.
    pub touched_bytes: u64,
    /// The model's description.
    pub spec: ModelSpec,
    /// What lives where.
    pub residence: Residence,
}

/// Loads a model onto a backend.
///
/// # Errors
/// `Unsupported` for the architecture or a format, `File` for a tensor that is missing, unknown or of the wrong
/// shape, `Limit` for memory.
pub fn load(catalogue: &Catalogue, options: &LoadOptions, progress: &mut Progress) -> Result<(ModelSpec, Runner)> {
    finish(prepare(catalogue, options)?, catalogue, progress)
}

/// Reads a model's weights to their places.
pub(super) fn finish(
    prepared: Prepared,
    catalogue: &Catalogue,
    progress: &mut Progress,
) -> Result<(ModelSpec, Runner)> {
    let Prepared { spec, lowered, mut backend, programs, state, max_rows, max_outputs, residence } = prepared;
    if residence.on_gpu {
        backend.provide(residence.plan.memory(), residence.units.len())?;
    }
    let pinner = backend.pinner();
    let mut stream = Streamer::open(&catalogue.sources, &residence.plan, &residence.reader, pinner)?;
    let supply = stream.supply();
    let units = &residence.units;
    let total = units.iter().map(|u| u.extent.len).sum();
    let mut done = 0;
    progress(0, total);
    let mut weights = vec![];
    for (unit, panels) in units.iter().zip(&residence.plan.panels) {
        let &Unit { format, cols, rows, experts, matrix, .. } = unit;
        let desc = WeightDesc { name: &unit.name, format, cols, rows, experts, matrix, panels, arranged: unit.beside };
        weights.push(backend.load(&desc, &supply)?);
        let hosted = |p: &&Panel| p.home == Home::Host;
        let later: usize = panels.iter().filter(hosted).map(|p| p.rows.len()).sum();
        done += unit.extent.len - later as u64 * unit.row_bytes();
        progress(done, total);
    }
    let arrange = |unit: usize, rows: &[u8], out: &mut [u8]| backend.arrange(weights[unit], rows, out);
    stream.keep(&residence.plan, &arrange, &mut |bytes| {
        done += bytes;
        progress(done, total);
    })?;
    let (carries, pass_rows) = (&lowered.carries[..], residence.pass_rows);
    let reservation =
        Reservation { carries, pass_rows, max_rows, max_outputs, kv: &state.layout, ring: residence.ring() };
    backend.reserve(&reservation)?;
    stream.stream(&residence.plan)?;
    let memory = (stream, residence);
    let runner = Runner::new(
        backend,
        memory,
        &lowered,
        &programs,
        &weights,
        &state.layout,
        max_rows,
        max_outputs,
        state.context,
    );
    Ok((spec, runner))
}

/// Bytes that one decode step reads: every weight once, but one row of an untied embedding and the used experts.
pub(super) fn touched_bytes(catalogue: &Catalogue, spec: &ModelSpec) -> u64 {
    let used = spec.layers.iter().find_map(|l| match l.ffn {
        arch::Ffn::Moe { experts, used, .. } => Some((used as u64, experts as u64)),
        arch::Ffn::Dense { .. } => None,
    });
    let touched = |t: &TensorInfo| match used {
        _ if t.name == "token_embd.weight" && !spec.tied => t.row_bytes(),
        Some((used, experts)) if t.name.contains("_exps.") => t.extent.len / experts * used,
        _ => t.extent.len,
    };
    catalogue.tensors.values().map(touched).sum()
}

fn weight_bytes(tensors: &[&TensorInfo]) -> u64 {
    tensors.iter().map(|t| t.extent.len).sum()
}

/// The tensor of each weight, with the right shape; and no tensor that is not used.
fn check<'a>(catalogue: &'a Catalogue, lowered: &Lowered) -> Result<Vec<&'a TensorInfo>> {
    let found = lowered.weights.iter().map(|need| shaped(catalogue, need)).collect::<Result<Vec<_>>>()?;
    let used: std::collections::HashSet<&str> = lowered.weights.iter().map(|w| w.tensor.as_str()).collect();
    let stray = |name: &&String| !used.contains(name.as_str()) && !IGNORED.iter().any(|i| name.contains(i));
    if let Some(name) = catalogue.tensors.keys().find(stray) {
        let problem = "this tensor is not part of the architecture as air knows it; the file may be of a newer variant";
        return Err(Error::File {
            file: catalogue.file().into(),
            field: format!("tensor {name}"),
            offset: None,
            problem: problem.into(),
        });
    }
    Ok(found)
}

fn shaped<'a>(catalogue: &'a Catalogue, need: &WeightNeed) -> Result<&'a TensorInfo> {
    let tensor = catalogue.tensor(&need.tensor)?;
    let mut have: Vec<usize> = tensor.shape.iter().map(|&d| d as usize).collect();
    have.resize(have.len().max(need.shape.len()), 1);
    if have != need.shape {
        return Err(Error::File {
            file: catalogue.file().into(),
            field: format!("tensor {}", need.tensor),
            offset: Some(tensor.extent.offset),
            problem: format!("the shape is {:?}, by the metadata it must be {:?}", tensor.shape, need.shape),
        });
    }
    Ok(tensor)
}

/// Sequence state: its formats, and as much of it as was asked for or fits.
struct State {
    layout: KvLayout,
    /// Of all sequences together.
    positions: u64,
    /// Of one.
    context: u32,
}

impl State {
    /// The layout where a pass has up to `rows` rows: what windows hold depends on it.
    fn pages(&self, lowered: &Lowered, options: &LoadOptions, rows: usize) -> KvLayout {
        kv_layout(lowered, options, self.context, self.positions, rows)
    }
}

fn kv_layout(lowered: &Lowered, options: &LoadOptions, context: u32, positions: u64, rows: usize) -> KvLayout {
    let (k, v) = options.state_formats();
    let group = |g: &lower::StateGroup| {
        let each = pages_for(g.window, context.into(), rows) * options.max_sequences;
        let pages = each.min(usize::try_from(positions.div_ceil(PAGE as u64)).unwrap_or(usize::MAX));
        KvGroup { layers: g.layers.clone(), window: g.window, pages }
    };
    KvLayout { k, v, groups: lowered.groups.iter().map(group).collect() }
}

fn layout(
    spec: &ModelSpec,
    lowered: &Lowered,
    options: &LoadOptions,
    room: Room,
    size: StateSize,
    weights: u64,
) -> Result<State> {
    let (k, v) = options.state_formats();
    for l in lowered.groups.iter().flat_map(|g| &g.layers) {
        for (f, what, dim) in [(k, "keys", l.head_dim), (v, "values", l.v_dim)] {
            state_format(f, what, dim)?;
        }
    }
    let sequences = options.max_sequences as u64;
    let rows = options.max_rows.max(1);
    let pages = |context: u32, positions: u64| kv_layout(lowered, options, context, positions, rows);
    // What a context needs at least: whole pages for each sequence.
    let least = |context: u32| match size {
        StateSize::Each => u64::from(context).next_multiple_of(PAGE as u64) * sequences,
        StateSize::Positions(n) => n,
        StateSize::UpTo(_) => context.into(),
    };
    let bytes =
        |l: &KvLayout| -> u64 { (0..l.groups.len()).map(|g| l.page_bytes(g) as u64 * l.groups[g].pages as u64).sum() };
    // Where the weights do not fit, each byte of state is one that is read from the drive in each pass.
    let budget = residence::budget(options, room);
    let room = budget.checked_sub(weights).filter(|&room| room > budget / 4).unwrap_or(budget / 4);
    let mut context = match options.context {
        Some(0) => return Err(Error::Invalid("the context size must be at least 1".into())),
        Some(n) if n > spec.context => {
            let most = spec.context;
            return Err(Error::Invalid(format!(
                "the model was trained for {most} positions; the context cannot be {n}"
            )));
        }
        Some(n) => n,
        None => {
            let mut n = spec.context;
            while n > 512 && bytes(&pages(n, least(n))) > room / 2 {
                n = n.div_ceil(2);
            }
            n
        }
    };
    let mut positions = least(context);
    if positions == 0 {
        return Err(Error::Invalid("the sequence state must hold at least 1 position".into()));
    }
    if let StateSize::UpTo(wanted) = size {
        let most = if weights > budget { budget / 2 } else { room / 2 };
        // In pages; more than a context for each is of no use.
        let pages_of = |n: u64| n.div_ceil(PAGE as u64);
        let (mut low, mut high) =
            (pages_of(positions), pages_of(wanted).min(pages_of(spec.context.into()) * sequences));
        while low < high {
            let middle = (low + high).div_ceil(2);
            match bytes(&pages(spec.context, middle * PAGE as u64)) > most {
                true => high = middle - 1,
                false => low = middle,
            }
        }
        positions = low * PAGE as u64;
        if options.context.is_none() {
            context = spec.context.min(u32::try_from(positions).unwrap_or(u32::MAX));
        }
    }
    let layout = pages(context, positions);
    Ok(State { layout, positions, context })
}

fn state_format(format: &'static Format, what: &str, dim: usize) -> Result<()> {
    if !matches!(format.kind, Kind::F32 | Kind::F16 | Kind::Q8_0 | Kind::Q4_0) {
        let what = format!("{} as the format of {what}", format.name);
        return Err(Error::Unsupported { what, instead: "use f16, q8_0 or q4_0".into() });
    }
    if !dim.is_multiple_of(format.block_len) {
        let problem =
            format!("{what} of {dim} elements a head cannot be {} (blocks of {})", format.name, format.block_len);
        return Err(Error::Invalid(format!("{problem}; use f16")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
