//! Hardware: one trait, one folder for each kind of device.
//!
//! A `Backend` owns memory on its device: weights in a layout of its choice, the carries, one arena for the values
//! of programs, and the pages of sequence state. It compiles a program once and launches it many times; a launch
//! runs all rows of a batch. It decides nothing: which page belongs to whom is the `kv` module's knowledge, what
//! to run next the engine's.
//!
//! Two backends run on the CPU. `exact` interprets programs in plain Rust (weights decoded to float32, float32
//! activations, float64 sums): it is the specification. `cpu` is the fast one; it is judged against `exact`. `cuda`
//! runs on NVIDIA GPUs, where the feature of that name is on; `gpu` says which there are, or why none can be had. `hybrid`
//! is a device and a processor beside it, as one. `fake` computes nothing, for what stands around a model.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod exact;
pub mod fake;
mod gpu;
mod hybrid;
pub mod probe;
mod supply;

pub use gpu::{Found, Gpu, GpuLimits, Gpus, Library, Opened, gpu_limits, gpus, libraries, open_gpu};
pub use hybrid::{BESIDE, Hybrid};
pub use supply::{BEHIND, Home, LOANS, Loan, Panel, Pinner, Supply, Wanted};

use crate::error::{Error, Result};
use crate::op::{Carry, CarryId, Program};
use crate::quant::Format;
use std::sync::Arc;

/// Positions of one page of sequence state. Attention reduces page by page, so this is part of the arithmetic.
pub const PAGE: usize = 32;

/// A page table entry whose page was given back (all of it left the window).
pub const NO_PAGE: u32 = u32::MAX;

/// A weight as it comes from the checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct WeightDesc<'a> {
    /// Tensor name, for messages.
    pub name: &'a str,
    /// Element format.
    pub format: &'static Format,
    /// Elements of a row: a multiple of the format's block.
    pub cols: usize,
    /// Rows (of one expert).
    pub rows: usize,
    /// Experts; 1 for a plain matrix or vector. Expert e has rows `e * rows .. (e + 1) * rows`.
    pub experts: usize,
    /// Whether it is used as a matrix operand (else: a vector that is added or multiplied, kept as float32).
    pub matrix: bool,
    /// Its parts and their homes. A vector is one panel in memory.
    pub panels: &'a [Panel],
    /// Whether a processor beside a device may compute with it: panels that the host keeps then lie as that one has them
    /// (`Backend::arrange`).
    pub arranged: bool,
}

/// A loaded weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WeightId(pub u32);

/// A compiled program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProgramId(pub u32);

/// A kernel that ran on a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Launched {
    /// Its name.
    pub kernel: &'static str,
    /// How long it took, on the device's clock.
    pub seconds: f64,
    /// Bytes of weights that it read, where its arguments say so.
    pub bytes: Option<u64>,
}

/// What a launch binds to the program's slots.
#[derive(Debug, Clone, PartialEq)]
pub struct Bindings {
    /// One for each weight slot.
    pub weights: Vec<WeightId>,
    /// The state that `KvAppend` and `Attend` use.
    pub layer: Option<KvLayerId>,
}

/// A layer's place in the `KvLayout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvLayerId {
    /// Index of the group.
    pub group: usize,
    /// Index in the group's `layers`.
    pub layer: usize,
}

/// Keys and values of one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KvLayer {
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of a key head.
    pub head_dim: usize,
    /// Elements of a value head.
    pub v_dim: usize,
}

/// Layers whose pages are given and taken together: a page of a group holds `PAGE` positions of all its layers.
#[derive(Debug, Clone, PartialEq)]
pub struct KvGroup {
    /// The layers.
    pub layers: Vec<KvLayer>,
    /// Positions that a row sees; pages before it are given back.
    pub window: Option<u32>,
    /// Pages in memory.
    pub pages: usize,
}

/// The sequence state of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct KvLayout {
    /// Format of keys: F32, F16, Q8_0 or Q4_0 (head sizes are a multiple of its block).
    pub k: &'static Format,
    /// Format of values.
    pub v: &'static Format,
    /// Groups.
    pub groups: Vec<KvGroup>,
}

impl KvLayout {
    /// Bytes of one page of a group.
    pub fn page_bytes(&self, group: usize) -> usize {
        let layer = |l: &KvLayer| l.kv_heads * (self.k.row_bytes(l.head_dim) + self.v.row_bytes(l.v_dim)) * PAGE;
        self.groups[group].layers.iter().map(layer).sum()
    }
}

/// One token of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Token id.
    pub token: u32,
    /// Index into `Batch::tables`.
    pub seq: u32,
    /// Position in its sequence.
    pub pos: u32,
    /// Whether its logits are wanted.
    pub output: bool,
}

/// What one launch works on: the rows of a pass, or one tile of them. Rows of a sequence stand in order of position;
/// sequences mix freely.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// The rows.
    pub rows: &'a [Row],
    /// The row of the carries that the first of them has: how many rows of the pass stand before this tile.
    pub first: usize,
    /// For each sequence, for each group, the page of each `PAGE` positions from 0 on.
    pub tables: &'a [&'a [Vec<u32>]],
}

impl Batch<'_> {
    /// Number of rows whose logits are wanted.
    pub fn outputs(&self) -> usize {
        self.rows.iter().filter(|r| r.output).count()
    }
}

/// What is reserved at start and reused for ever.
#[derive(Debug, Clone)]
pub struct Reservation<'a> {
    /// Buffers between programs.
    pub carries: &'a [Carry],
    /// Most rows of a pass: the carries are as long. At least `max_rows`.
    pub pass_rows: usize,
    /// Most rows of a batch, but for programs that run whole (`Program::runs_whole`).
    pub max_rows: usize,
    /// Most rows of a pass whose logits are wanted.
    pub max_outputs: usize,
    /// Sequence state.
    pub kv: &'a KvLayout,
    /// Places on the device through which panels go that it does not keep, and bytes of each.
    pub ring: (usize, u64),
}

/// A device and its memory. Used by one thread; may use many.
pub trait Backend: Send {
    /// What runs, for people: `cpu: AVX-512 VNNI, 2 threads`.
    fn description(&self) -> String;

    /// What pins memory that this device reads while it works; none where the host computes.
    fn pinner(&self) -> Option<Arc<dyn Pinner>> {
        None
    }

    /// Bytes that `reserve` would take for a processor beside the device, of the host's memory; none where there is no such
    /// processor.
    fn beside(&self, _: &Reservation) -> Option<u64> {
        None
    }

    /// Takes a device's memory for all that `load` and `reserve` will ask for, so many bytes and weights, so that what
    /// is missing is known before anything is read.
    ///
    /// # Errors
    /// `Limit` when it is short.
    fn provide(&mut self, _bytes: u64, _weights: usize) -> Result<()> {
        Ok(())
    }

    /// Brings a weight's panels whose home is memory into the device's memory and layout, and remembers where the
    /// others come from.
    ///
    /// # Errors
    /// What the supply returned; `Limit` when memory is short; `Unsupported` for the format or a home.
    fn load(&mut self, weight: &WeightDesc, supply: &Arc<dyn Supply>) -> Result<WeightId>;

    /// Writes the rows of a panel that the host keeps as this backend's processor computes with them: in whole groups of
    /// sixteen rows, for which `out` has room. False, and nothing is written, where none computes with that weight.
    fn arrange(&self, _weight: WeightId, _rows: &[u8], _out: &mut [u8]) -> bool {
        false
    }

    /// Moves a panel of a loaded weight to another home, between launches: gives its memory back to the system, or
    /// brings it to its old place again through the supply.
    ///
    /// # Errors
    /// What the supply returned, and then it stays where it was; `Unsupported` for what was not kept when the weight
    /// was loaded, or cannot be moved.
    fn rehome(&mut self, weight: WeightId, panel: &Panel) -> Result<()>;

    /// Prepares a program for launches.
    ///
    /// # Errors
    /// `Unsupported`, naming the op.
    fn compile(&mut self, program: &Program) -> Result<ProgramId>;

    /// Bytes that `reserve` would take besides sequence state, and what launches use on top.
    fn workspace(&self, reservation: &Reservation) -> u64;

    /// Reserves carries, the arena (for the programs compiled so far) and sequence state.
    ///
    /// # Errors
    /// `Limit` when memory is short.
    fn reserve(&mut self, reservation: &Reservation) -> Result<()>;

    /// Runs a program on all rows of a batch. What programs leave in carries for the other tiles of a pass stays.
    ///
    /// # Errors
    /// `Engine` when the device failed.
    fn launch(&mut self, program: ProgramId, bindings: &Bindings, batch: &Batch) -> Result<()>;

    /// Copies the first rows of a carry out, as many as `out` holds. Indices are floats.
    fn read(&self, carry: CarryId, out: &mut [f32]);

    /// Fills the first rows of a carry: what a program starts from where no other wrote it before.
    fn write(&mut self, carry: CarryId, values: &[f32]);

    /// Copies one page of a group to another (copy on write).
    fn copy_page(&mut self, group: usize, from: u32, to: u32);

    /// Says that nobody needs what is in some pages of a group (ascending), so that their memory may go back to the
    /// system until they are written again.
    fn forget_pages(&mut self, group: usize, pages: &[u32]);

    /// What failed where nothing could be returned, which would else be the next launch's error.
    ///
    /// # Errors
    /// That.
    fn failed(&mut self) -> Result<()> {
        Ok(())
    }

    /// The kernels that ran since the last call, if they were watched; `on` says whether to watch from now on.
    ///
    /// # Errors
    /// `Unsupported` where nothing is launched on a device of its own; `Engine` when it is lost.
    fn watch(&mut self, _on: bool) -> Result<Vec<Launched>> {
        let what = format!("a list of kernels of {}", self.description());
        Err(Error::Unsupported { what, instead: "GPUs have one: use --device cuda".into() })
    }
}
