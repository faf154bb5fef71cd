//! Weights: matrices as interleaved groups, in memory or coming from a supply, and vectors as float32.
//!
//! Panels that live in memory are interleaved straight to their place as they are loaded, on all threads, so the peak
//! is the weights themselves and what the supply holds. Of the other panels only the names are kept: a task interleaves
//! its part of such a panel into its thread's scratch, which stays in the cache. A panel never crosses experts.

use super::homes::{From, Homes, Part};
use super::isa::Isa;
use super::layout::{Layout, groups};
use super::memory::Memory;
use super::pool::Pool;
use super::simd::LANES;
use crate::error::{Error, Result};
use crate::hal::{Home, Panel, Supply, WeightDesc};
use crate::quant::Format;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// A loaded weight.
#[derive(Debug)]
pub enum Weight {
    /// Rows that are multiplied with activations, or looked up.
    Matrix(Box<Matrix>),
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
    homes: Homes,
    supply: Arc<dyn Supply>,
}

impl Matrix {
    /// Groups of sixteen rows (of one expert).
    pub fn groups(&self) -> usize {
        groups(self.rows)
    }

    /// The parts of an expert, in order.
    pub fn parts(&self, expert: usize) -> &[Part] {
        let parts = self.homes.parts();
        let first = parts.partition_point(|p| p.expert < expert);
        let len = parts[first..].partition_point(|p| p.expert == expert);
        &parts[first..first + len]
    }

    /// Some groups that lie in memory from a byte on.
    pub fn bytes(&self, start: usize, groups: Range<usize>) -> &[u8] {
        &self.memory.padded()[start + groups.start * self.group_bytes..start + groups.end * self.group_bytes]
    }

    /// Where its streamed parts come from.
    pub fn supply(&self) -> &dyn Supply {
        &*self.supply
    }

    /// Bytes of a row in the checkpoint.
    pub fn row_bytes(&self) -> usize {
        self.layout.row_bytes()
    }

    /// Rows of some groups of one expert.
    pub fn rows_of(&self, groups: &Range<usize>) -> usize {
        (groups.end * LANES).min(self.rows) - groups.start * LANES
    }

    /// Interleaves some groups (from `first` on) out of the bytes of rows.
    pub fn interleave(&self, rows: &[u8], out: &mut [u8]) {
        self.layout.interleave_all(rows, out);
    }

    /// Gives a panel another home. Its memory goes back to the system, or is filled again from the supply.
    ///
    /// # Errors
    /// What the supply returned, and then it stays where it was; `Unsupported` for a panel that was never kept.
    pub fn rehome(&mut self, panel: &Panel) -> Result<()> {
        let Some(place) = self.homes.place(panel) else {
            let what = format!("a home in memory for panel {}, which never had one", panel.number);
            return Err(Error::Unsupported { what, instead: "load the model with more memory".into() });
        };
        match panel.home {
            Home::Memory => {
                self.memory.bring_back(place.clone());
                let target = &mut self.memory.bytes_mut()[place];
                self.supply.panel(panel.number, 1, &mut |bytes| self.layout.interleave_all(bytes, target))?;
            }
            Home::Stream | Home::Host | Home::Cache | Home::Drive => self.memory.put_away(place),
        }
        self.homes.set(panel);
        Ok(())
    }

    /// Decodes one row of the first expert; `scratch` takes its bytes.
    ///
    /// # Errors
    /// What the supply returned.
    pub fn decode_row(&self, row: usize, scratch: &mut Vec<u8>, out: &mut [f32]) -> Result<()> {
        let group = row / LANES;
        let parts = self.homes.parts();
        let part = &parts[parts.partition_point(|p| p.expert == 0 && p.groups.end <= group)];
        scratch.resize(self.row_bytes(), 0);
        match part.from {
            From::Memory(start) => {
                let at = group - part.groups.start;
                self.layout.gather_row(self.bytes(start, at..at + 1), row % LANES, scratch);
            }
            From::Stream(panel) | From::Host(panel) | From::Cache(panel) | From::Drive(panel) => {
                let at = (row - part.groups.start * LANES) * self.row_bytes();
                self.supply.bytes(panel, at, scratch)?;
            }
        }
        (self.format.decode)(scratch, out);
        Ok(())
    }
}

/// Loads a weight's panels that live in memory.
///
/// # Errors
/// What the supply returned; `Limit` when memory is short.
pub fn load(pool: &mut Pool, isa: Isa, weight: &WeightDesc, supply: &Arc<dyn Supply>) -> Result<Weight> {
    let format = weight.format;
    let row_bytes = format.row_bytes(weight.cols);
    if !weight.matrix {
        let mut out = vec![0.0; weight.rows * weight.experts * weight.cols];
        for p in weight.panels {
            let out = &mut out[p.rows.start * weight.cols..p.rows.end * weight.cols];
            supply.panel(p.number, 1, &mut |bytes| (format.decode)(bytes, out))?;
        }
        return Ok(Weight::Vector(out));
    }
    let layout = Layout::new(isa, format, weight.cols);
    let group_bytes = layout.group_bytes();
    let (homes, total) = Homes::new(weight, group_bytes);
    let total = total.ok_or_else(|| Error::Limit(format!("tensor {} does not fit in memory", weight.name)))?;
    let memory = Memory::new(total, &format!("tensor {}", weight.name))?;
    let matrix = Matrix {
        format,
        cols: weight.cols,
        rows: weight.rows,
        experts: weight.experts,
        group_bytes,
        layout,
        memory,
        homes,
        supply: supply.clone(),
    };
    let places = matrix.homes.kept();
    let start = Start(matrix.memory.as_ptr());
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    pool.run_in_order(places.len(), &|_, i| {
        if failed.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return;
        }
        let (panel, at) = &places[i];
        let len = groups(panel.rows.len()) * group_bytes;
        let read = supply.panel(panel.number, 1, &mut |bytes| {
            assert_eq!(bytes.len(), panel.rows.len() * row_bytes, "a panel has its rows' bytes");
            // SAFETY: the panel's groups lie in the area, and only this task has them.
            let target = unsafe { start.slice(*at, len) };
            matrix.interleave(bytes, target);
        });
        if let Err(e) = read {
            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
        }
    })?;
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(e) => Err(e),
        None => Ok(Weight::Matrix(Box::new(matrix))),
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
