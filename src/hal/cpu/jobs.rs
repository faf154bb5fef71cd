//! Matrix products as jobs of the pool: quantised inputs, and how outputs are cut into tasks.
//!
//! A task is some groups of sixteen weight rows for as many activation rows as the kernels want; where the weights
//! come from a supply, for all activation rows, so that they are interleaved once. Such tasks begin in the order of
//! use; those on cached panels in the order in which the supply has them.
//! Cutting touches neither the inner dimension nor the order of any sum, so it changes no bits. Quantised inputs are
//! kept for the rest of a launch: values are written once, so a second product on the same value finds them.

use super::activation::{Block32, Block256, RowBlocks};
use super::homes::From;
use super::isa::Kernels;
use super::launch::{Scratch, lock};
use super::matmul::{Activations, Form, Output, Pair, Task};
use super::memory::Memory;
use super::pool::Pool;
use super::values::Mat;
use super::weights::Matrix;
use crate::error::{Error, Result};
use crate::hal::Wanted;
use crate::op::ValueId;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

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

/// Groups of a job that have one home, cut into tasks.
#[derive(Debug, Clone)]
struct Piece {
    /// Which job.
    job: usize,
    groups: Range<usize>,
    from: From,
    /// Groups of a task.
    step: usize,
    /// Activation rows of a task.
    rows: usize,
    /// The first task, and the one behind the last.
    tasks: Range<usize>,
}

impl Piece {
    fn over_groups(&self) -> usize {
        self.groups.len().div_ceil(self.step)
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
    plan: Pieces,
}

/// Pieces in order, and what is used to put them there.
#[derive(Debug, Default)]
struct Pieces {
    pieces: Vec<Piece>,
    unordered: Vec<Piece>,
    /// Cached panels, and the place of their pieces in `unordered`.
    wanted: Vec<Wanted>,
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
            plan: Pieces::default(),
        })
    }

    /// Bytes that `new` would take.
    pub fn bytes(width: usize, slots: usize, rows: usize) -> u64 {
        let of = |len: usize, bytes: usize| (width.div_ceil(len) + slots).saturating_mul(rows).saturating_mul(bytes);
        of(32, size_of::<Block32>()).saturating_add(of(256, size_of::<Block256>())) as u64
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
    /// `Engine` when a thread fails or a matrix cannot be multiplied with; what a supply returned.
    pub fn multiply(
        &mut self,
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
        let (work, in_order) = cut(jobs, kernels, pool.threads(), &mut self.plan)?;
        let (pieces, pairs) = (&self.plan.pieces[..], &self.pairs[..]);
        let tasks = pieces.last().map_or(0, |p| p.tasks.end);
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        let run = |thread: usize, i: usize| {
            if in_order && lock(&failed).is_some() {
                return;
            }
            let piece = &pieces[pieces.partition_point(|p| p.tasks.end <= i)];
            let job = &jobs[piece.job];
            let (i, over_groups) = (i - piece.tasks.start, piece.over_groups());
            let first = piece.groups.start + i % over_groups * piece.step;
            let groups = first..(first + piece.step).min(piece.groups.end);
            let from = job.pairs.0 + i / over_groups * piece.rows;
            let part = Part { job, groups, x, pairs: &pairs[from..(from + piece.rows).min(job.pairs.1)], kernels };
            let scratch = &mut *lock(&scratch[thread]);
            let fail = |e: Error| {
                lock(&failed).get_or_insert(e);
            };
            let within = part.groups.start - piece.groups.start..part.groups.end - piece.groups.start;
            match piece.from {
                From::Memory(start) => part.multiply(job.matrix.bytes(start, within), scratch),
                From::Host(number) | From::Stream(number) | From::Cache(number) | From::Drive(number) => {
                    let arranged = matches!(piece.from, From::Host(_));
                    let group = job.matrix.group_bytes;
                    let read = job.matrix.supply().panel(number, over_groups as u32, &mut |bytes| match arranged {
                        true => part.multiply(&bytes[within.start * group..within.end * group], scratch),
                        false => part.stream(bytes, piece.groups.start, scratch).unwrap_or_else(fail),
                    });
                    read.unwrap_or_else(fail);
                }
            }
        };
        match in_order {
            true => pool.run_in_order(tasks, &run)?,
            false => pool.run_if(work >= WORTH_SHARING, tasks, &run)?,
        }
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

/// Cuts jobs into pieces; their work (weight bytes times rows), and whether any of them waits for a supply.
fn cut(jobs: &[Job], kernels: &Kernels, threads: usize, plan: &mut Pieces) -> Result<(usize, bool)> {
    let Pieces { pieces, unordered, wanted } = plan;
    pieces.clear();
    unordered.clear();
    wanted.clear();
    let (mut work, mut in_order) = (0, false);
    for (j, job) in jobs.iter().enumerate() {
        let (matrix, pairs) = (job.matrix, job.pairs.1 - job.pairs.0);
        // A product with no rows needs no weights.
        if pairs == 0 {
            continue;
        }
        let fair = matrix.groups().div_ceil(4 * threads).max(1);
        let step = (TASK_BYTES / matrix.group_bytes.max(1)).clamp(1, fair);
        work += matrix.group_bytes * matrix.groups() * pairs;
        for part in matrix.parts(job.expert) {
            let rows = match part.from {
                From::Memory(_) | From::Host(_) => (kernels.rows)(matrix.format.kind),
                From::Stream(_) | From::Cache(_) => pairs,
                From::Drive(_) => return Err(Error::Engine("a table of rows on the drive was multiplied with".into())),
            };
            in_order |= !matches!(part.from, From::Memory(_) | From::Host(_));
            let piece = Piece { job: j, groups: part.groups.clone(), from: part.from, step, rows, tasks: 0..0 };
            match part.from {
                From::Cache(number) => {
                    wanted.push((number, unordered.len() as u32));
                    unordered.push(piece);
                }
                _ => pieces.push(piece),
            }
        }
    }
    if !wanted.is_empty() {
        jobs[unordered[0].job].matrix.supply().want(wanted);
        pieces.extend(wanted.iter().map(|w| unordered[w.1 as usize].clone()));
    }
    let mut tasks = 0;
    for piece in pieces {
        let (from, to) = jobs[piece.job].pairs;
        piece.tasks = tasks..tasks + piece.over_groups() * (to - from).div_ceil(piece.rows);
        tasks = piece.tasks.end;
    }
    Ok((work, in_order))
}

/// What one task computes.
struct Part<'a> {
    job: &'a Job<'a>,
    groups: Range<usize>,
    x: Activations<'a>,
    pairs: &'a [Pair],
    kernels: &'a Kernels,
}

impl Part<'_> {
    /// Multiplies with the interleaved groups of this part, some activation rows at a time.
    fn multiply(&self, weights: &[u8], scratch: &mut Scratch) {
        let Job { matrix, bias, out, .. } = *self.job;
        let kind = matrix.format.kind;
        for pairs in self.pairs.chunks((self.kernels.rows)(kind)) {
            let task = Task {
                weights,
                group_bytes: matrix.group_bytes,
                first: self.groups.start * super::simd::LANES,
                rows: matrix.rows,
                cols: matrix.cols,
                x: self.x,
                pairs,
                bias,
                out,
            };
            // SAFETY: the kernels are those of a set that the processor has.
            unsafe { (self.kernels.multiply)(kind)(&task, &mut scratch.room) }
        }
    }

    /// The same with rows as they are in the checkpoint, of a panel that begins at group `first`.
    fn stream(&self, panel: &[u8], first: usize, scratch: &mut Scratch) -> Result<()> {
        let matrix = self.job.matrix;
        let row_bytes = matrix.row_bytes();
        let start = (self.groups.start - first) * super::simd::LANES * row_bytes;
        let rows = &panel[start..start + matrix.rows_of(&self.groups) * row_bytes];
        let need = self.groups.len() * matrix.group_bytes;
        let mut memory = match scratch.groups.take().filter(|m| m.len() >= need) {
            Some(memory) => memory,
            None => Memory::new(need.max(TASK_BYTES), "weights on their way")?,
        };
        matrix.interleave(rows, &mut memory.bytes_mut()[..need]);
        // The padding behind the groups is that of the area, or what an earlier task left.
        self.multiply(&memory.padded()[..need], scratch);
        scratch.groups = Some(memory);
        Ok(())
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
