//! Matrix products as jobs of the pool: quantised inputs, and how outputs are cut into tasks.
//!
//! A task is some groups of sixteen weight rows for as many activation rows as the kernels want. Cutting touches
//! neither the inner dimension nor the order of any sum, so it changes no bits. Quantised inputs are kept for the rest
//! of a launch: values are written once, so a second product on the same value finds them.

use super::activation::{Block32, Block256, RowBlocks};
use super::isa::Kernels;
use super::launch::{Scratch, lock};
use super::matmul::{Activations, Form, Output, Pair, Task};
use super::memory::Memory;
use super::pool::Pool;
use super::values::Mat;
use super::weights::Matrix;
use crate::error::{Error, Result};
use crate::op::ValueId;
use std::sync::Mutex;

/// Bytes of weights that a task reads at least, where there are so many.
const TASK_BYTES: usize = 128 << 10;

/// Work (weight bytes times rows) below which waking other threads costs more than it saves.
const WORTH_SHARING: usize = 64 << 10;

/// One product: a matrix (of one expert) for some rows.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// The matrix.
    pub matrix: &'a Matrix,
    /// Which expert's.
    pub expert: usize,
    /// `[rows]`
    pub bias: Option<&'a [f32]>,
    /// Range of the pairs.
    pub pairs: (usize, usize),
    /// Outputs.
    pub out: Output,
}

impl Job<'_> {
    /// Groups of weight rows in a task, and tasks over groups and over activation rows (up to `rows` each).
    fn cut(&self, threads: usize, rows: usize) -> (usize, usize, usize) {
        let groups = self.matrix.groups();
        let fair = groups.div_ceil(4 * threads).max(1);
        let step = (TASK_BYTES / self.matrix.group_bytes.max(1)).clamp(1, fair);
        (step, groups.div_ceil(step), (self.pairs.1 - self.pairs.0).div_ceil(rows))
    }
}

/// Quantised inputs and lists of rows, reused from launch to launch.
#[derive(Debug, Default)]
pub struct Inputs {
    blocks32: Option<Memory>,
    blocks256: Option<Memory>,
    /// Whose blocks these are, as rows of how many elements.
    held32: Option<(ValueId, usize)>,
    held256: Option<(ValueId, usize)>,
    /// Which inputs go to which outputs.
    pub pairs: Vec<Pair>,
}

impl Inputs {
    /// Room for inputs of up to `width` elements (in all slots) for `rows` rows.
    ///
    /// # Errors
    /// `Limit` when memory is short.
    pub fn new(width: usize, slots: usize, rows: usize) -> Result<Self> {
        let room = |len: usize, bytes: usize| {
            // Each slot's part of an input is a row of its own, with a last block of its own.
            let blocks = width.div_ceil(len).saturating_add(slots);
            let total = blocks.checked_mul(rows).and_then(|n| n.checked_mul(bytes));
            let total = total.ok_or_else(|| Error::Limit(format!("no memory for {rows} rows of {width} elements")))?;
            Memory::new(total, "quantised activations")
        };
        Ok(Inputs {
            blocks32: Some(room(32, size_of::<Block32>())?),
            blocks256: Some(room(256, size_of::<Block256>())?),
            held32: None,
            held256: None,
            pairs: vec![],
        })
    }

    /// Forgets what is held: a new launch begins.
    pub fn begin(&mut self) {
        self.held32 = None;
        self.held256 = None;
    }

    /// Quantises `x` (as rows of `cols` elements) in the forms that are wanted.
    ///
    /// # Errors
    /// `Engine` when `x` is larger than what was reserved, or a thread fails.
    pub fn prepare(
        &mut self,
        id: ValueId,
        x: Mat,
        forms: impl Iterator<Item = Form>,
        kernels: &Kernels,
        pool: &mut Pool,
    ) -> Result<()> {
        let id = (id, x.width);
        for form in forms {
            match form {
                Form::Plain => {}
                Form::Blocks32 if self.held32 == Some(id) => {}
                Form::Blocks32 => {
                    self.held32 = Some(id);
                    fill(x, 32, &self.blocks32, kernels.quantise32, pool)?;
                }
                Form::Blocks256 if self.held256 == Some(id) => {}
                Form::Blocks256 => {
                    self.held256 = Some(id);
                    fill(x, 256, &self.blocks256, kernels.quantise256, pool)?;
                }
            }
        }
        Ok(())
    }

    /// Runs products of `x` (prepared before, as rows of the same length).
    ///
    /// # Errors
    /// `Engine` when a thread fails.
    pub fn multiply(
        &self,
        x: Mat,
        jobs: &[Job],
        kernels: &Kernels,
        pool: &mut Pool,
        scratch: &[Mutex<Scratch>],
    ) -> Result<()> {
        // SAFETY: `prepare` wrote all blocks of `x` in the forms that the jobs' formats read (zeroed memory
        // is a valid block anyway), and `x` is not written while its products run.
        let (plain, blocks32, blocks256) = unsafe { (x.all(), slice(&self.blocks32), slice(&self.blocks256)) };
        let x = Activations { plain, blocks32, blocks256, rows: x.rows };
        let threads = pool.threads();
        let rows = |job: &Job| (kernels.rows)(job.matrix.format.kind);
        let mut ends = Vec::with_capacity(jobs.len());
        let (mut tasks, mut work) = (0, 0);
        for job in jobs {
            let (_, over_groups, over_rows) = job.cut(threads, rows(job));
            tasks += over_groups * over_rows;
            work += job.matrix.group_bytes * job.matrix.groups() * (job.pairs.1 - job.pairs.0);
            ends.push(tasks);
        }
        let run = |thread: usize, i: usize| {
            let j = ends.partition_point(|&end| end <= i);
            let job = &jobs[j];
            let i = i - if j == 0 { 0 } else { ends[j - 1] };
            let (step, over_groups, _) = job.cut(threads, rows(job));
            let first = i % over_groups * step;
            let last = (first + step).min(job.matrix.groups());
            let from = job.pairs.0 + i / over_groups * rows(job);
            let task = Task {
                weights: job.matrix.bytes(job.expert, first..last),
                group_bytes: job.matrix.group_bytes,
                first: first * super::simd::LANES,
                rows: job.matrix.rows,
                cols: job.matrix.cols,
                x,
                pairs: &self.pairs[from..(from + rows(job)).min(job.pairs.1)],
                bias: job.bias,
                out: job.out,
            };
            // SAFETY: the kernels are those of a set that the processor has.
            unsafe { (kernels.multiply)(job.matrix.format.kind)(&task, &mut lock(&scratch[thread]).room) }
        };
        pool.run_if(work >= WORTH_SHARING, tasks, &run)
    }
}

/// # Safety
/// The area holds blocks, or zeros.
unsafe fn slice<T: super::activation::Block>(memory: &Option<Memory>) -> &[T] {
    let Some(memory) = memory else { return &[] };
    // SAFETY: the area is aligned to a page, and the caller's promise.
    unsafe { std::slice::from_raw_parts(memory.as_ptr().cast(), memory.len() / size_of::<T>()) }
}

/// Quantises all rows.
fn fill<B: super::activation::Block>(
    x: Mat,
    len: usize,
    memory: &Option<Memory>,
    quantise: unsafe fn(&[f32], RowBlocks<B>),
    pool: &mut Pool,
) -> Result<()> {
    let blocks = x.width / len * x.rows;
    let Some(memory) = memory.as_ref().filter(|m| blocks * size_of::<B>() <= m.len()) else {
        return Err(Error::Engine("an input is larger than what was reserved".into()));
    };
    let start = RowBlocks { start: memory.as_ptr().cast::<B>(), stride: x.rows };
    let work = x.width * x.rows;
    let step = x.rows.div_ceil(4 * pool.threads()).max(1);
    let start = Shared(start);
    pool.run_if(work >= WORTH_SHARING, x.rows.div_ceil(step), &|_, task| {
        for r in task * step..(task * step + step).min(x.rows) {
            let out = start.row(r);
            // SAFETY: nobody writes `x` now; row r's blocks lie in the area and belong to this task; the kernel
            // is of a set that the processor has.
            unsafe { quantise(x.row(r), out) };
        }
    })
}

/// Blocks that tasks fill, each its own rows.
struct Shared<B>(RowBlocks<B>);

// SAFETY: tasks take disjoint rows.
unsafe impl<B> Sync for Shared<B> {}

impl<B> Shared<B> {
    fn row(&self, r: usize) -> RowBlocks<B> {
        RowBlocks { start: self.0.start.wrapping_add(r), stride: self.0.stride }
    }
}
