//! Weights in memory: matrices as interleaved groups, vectors as float32.
//!
//! Loading reads panels of about a mebibyte on all threads at once and interleaves each straight to its place,
//! so the peak is the weights themselves and one panel a thread. A panel never crosses experts.

use super::isa::Isa;
use super::layout::{Layout, groups};
use super::memory::Memory;
use super::pool::Pool;
use super::simd::LANES;
use crate::error::{Error, Result};
use crate::hal::{ReadRows, WeightDesc};
use crate::quant::Format;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Bytes that are read at once (at least sixteen rows).
const PANEL: usize = 1 << 20;

/// A loaded weight.
#[derive(Debug)]
pub enum Weight {
    /// Rows that are multiplied with activations, or looked up.
    Matrix(Matrix),
    /// Elements that are added or multiplied.
    Vector(Vec<f32>),
}

/// One matrix, or one for each expert.
#[derive(Debug)]
pub struct Matrix {
    /// Element format.
    pub format: &'static Format,
    /// Elements of a row.
    pub cols: usize,
    /// Rows (of one expert).
    pub rows: usize,
    /// Experts.
    pub experts: usize,
    /// Bytes of sixteen rows.
    pub group_bytes: usize,
    layout: Layout,
    memory: Memory,
}

impl Matrix {
    /// Groups of sixteen rows (of one expert).
    pub fn groups(&self) -> usize {
        groups(self.rows)
    }

    /// Some groups of one expert.
    pub fn bytes(&self, expert: usize, range: Range<usize>) -> &[u8] {
        let first = expert * self.groups();
        &self.memory.padded()[(first + range.start) * self.group_bytes..(first + range.end) * self.group_bytes]
    }

    /// Decodes one row of the first expert; `scratch` takes its bytes.
    pub fn decode_row(&self, row: usize, scratch: &mut Vec<u8>, out: &mut [f32]) {
        let group = self.bytes(0, row / LANES..row / LANES + 1);
        scratch.resize(self.layout.row_bytes(), 0);
        self.layout.gather_row(group, row % LANES, scratch);
        (self.format.decode)(scratch, out);
    }
}

/// Reads a weight.
///
/// # Errors
/// What `read` returned; `Limit` when memory is short.
pub fn load(pool: &mut Pool, isa: Isa, weight: &WeightDesc, read: &ReadRows) -> Result<Weight> {
    let format = weight.format;
    let row_bytes = format.row_bytes(weight.cols);
    if !weight.matrix {
        let rows = weight.rows * weight.experts;
        let mut bytes = vec![0; rows * row_bytes];
        read(0, &mut bytes)?;
        let mut out = vec![0.0; rows * weight.cols];
        (format.decode)(&bytes, &mut out);
        return Ok(Weight::Vector(out));
    }
    let layout = Layout::new(isa, format, weight.cols);
    let group_bytes = layout.group_bytes();
    let groups = groups(weight.rows);
    let total = group_bytes.checked_mul(groups).and_then(|n| n.checked_mul(weight.experts));
    let total = total.ok_or_else(|| Error::Limit(format!("tensor {} does not fit in memory", weight.name)))?;
    let memory = Memory::new(total, &format!("tensor {}", weight.name))?;
    let panel = (PANEL / group_bytes.max(1)).max(1);
    let panels = groups.div_ceil(panel);
    let staging: Vec<Mutex<Vec<u8>>> = (0..pool.threads()).map(|_| Mutex::default()).collect();
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let start = Start(memory.as_ptr());
    pool.run(panels * weight.experts, &|thread, i| {
        if failed.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return;
        }
        let (expert, first) = (i / panels, i % panels * panel);
        let last = (first + panel).min(groups);
        let rows = first * LANES..(last * LANES).min(weight.rows);
        let mut bytes = staging[thread].lock().unwrap_or_else(PoisonError::into_inner);
        bytes.resize(rows.len() * row_bytes, 0);
        if let Err(e) = read(expert * weight.rows + rows.start, &mut bytes) {
            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
            return;
        }
        for (source, group) in bytes.chunks(LANES * row_bytes).zip(first..last) {
            // SAFETY: group `expert * groups + group` lies in the area, and only this task has it.
            let target = unsafe { start.slice((expert * groups + group) * group_bytes, group_bytes) };
            layout.interleave(source, target);
        }
    })?;
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(e) => Err(e),
        None => Ok(Weight::Matrix(Matrix {
            format,
            cols: weight.cols,
            rows: weight.rows,
            experts: weight.experts,
            group_bytes,
            layout,
            memory,
        })),
    }
}

/// The area that tasks fill, each its own part.
struct Start(*mut u8);

// SAFETY: tasks take disjoint parts.
unsafe impl Sync for Start {}

impl Start {
    /// # Safety
    /// The part lies in the area and belongs to the caller alone.
    #[expect(clippy::mut_from_ref, reason = "the caller promises that parts are disjoint")]
    unsafe fn slice(&self, at: usize, len: usize) -> &mut [u8] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }
}
