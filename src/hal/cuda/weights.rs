//! Weights on the device: matrices in the blocks of the file, vectors as float32.
//!
//! Panels that are kept lie one behind another in the weight's own memory; neighbours are one part, so that a weight
//! that is kept whole is one product. Of the others only names are kept: they are brought when they are multiplied with.

use super::driver::{Address, Driver};
use super::memory::Buffer;
use crate::error::{Error, Result};
use crate::hal::{Home, Supply, WeightDesc};
use crate::quant::{Format, Kind};
use std::ops::Range;
use std::sync::Arc;

/// A loaded weight. Its addresses are looked up at each launch.
#[derive(Debug)]
pub(super) struct Weight {
    pub(super) name: String,
    pub(super) format: &'static Format,
    pub(super) cols: usize,
    /// Rows of one expert.
    pub(super) rows: usize,
    pub(super) experts: usize,
    buffer: Buffer,
    parts: Vec<Part>,
    pub(super) supply: Arc<dyn Supply>,
}

/// Some rows and where they are.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Part {
    /// Counted over all experts.
    pub(super) rows: Range<usize>,
    pub(super) from: From,
}

/// Where rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// Here.
    Memory(Address),
    /// In this panel of the supply.
    Supply(u32),
    /// In this panel of the supply, as a processor has it.
    Arranged(u32),
    /// In this panel of the supply, never as a whole.
    Drive(u32),
}

impl Weight {
    /// Where it begins, if it is kept whole.
    pub(super) fn whole(&self) -> Option<Address> {
        match self.parts[..] {
            [Part { from: From::Memory(at), .. }] => Some(at),
            _ => None,
        }
    }

    /// Where it begins.
    ///
    /// # Errors
    /// `Engine` for a weight that is not kept whole, which its use asks for.
    pub(super) fn at(&self) -> Result<Address> {
        self.whole().ok_or_else(|| Error::Engine(format!("tensor {} is not on the device", self.name)))
    }

    /// Its parts, in order.
    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Whether any of it comes in a processor's layout.
    pub(super) fn comes_arranged(&self) -> bool {
        self.parts.iter().any(|p| matches!(p.from, From::Arranged(_)))
    }

    /// Its memory.
    pub(super) fn buffer(&self) -> Buffer {
        self.buffer
    }

    /// Brings the panels to the device whose home is its memory.
    ///
    /// # Errors
    /// `Unsupported` for cached panels; `Limit` when memory is short; what the supply returned.
    pub(super) fn load(d: &mut dyn Driver, w: &WeightDesc, supply: &Arc<dyn Supply>) -> Result<Weight> {
        if let Some(p) = w.panels.iter().find(|p| p.home == Home::Cache) {
            let what = format!("tensor {} with rows {:?} in a cache of experts, on a CUDA device", w.name, p.rows);
            return Err(Error::Unsupported { what, instead: "all experts must fit into the device's memory".into() });
        }
        let format = if w.matrix { w.format } else { Kind::F32.format() };
        let stored = format.row_bytes(w.cols);
        let kept = w.panels.iter().filter(|p| p.home == Home::Memory);
        let rows: usize = kept.clone().map(|p| p.rows.len()).sum();
        let buffer = match rows {
            0 => Buffer::default(),
            _ => Buffer::new(d, (rows * stored) as u64, w.name)?,
        };
        let mut weight = Weight {
            name: w.name.into(),
            format,
            cols: w.cols,
            rows: w.rows,
            experts: w.experts,
            buffer,
            parts: vec![],
            supply: supply.clone(),
        };
        let done = weight.fill(d, w, stored as u64);
        if done.is_err() {
            buffer.free(d)?;
        }
        done.map(|()| weight)
    }

    fn fill(&mut self, d: &mut dyn Driver, w: &WeightDesc, stored: u64) -> Result<()> {
        let (mut floats, mut bytes, mut row) = (vec![], vec![], 0);
        for p in w.panels {
            let from = match p.home {
                Home::Memory => {
                    let to = self.buffer.at.offset(row as u64 * stored);
                    let mut done = Ok(());
                    self.supply.panel(p.number, 1, &mut |panel| {
                        let panel = &panel[..p.rows.len() * w.format.row_bytes(w.cols)];
                        done = if w.matrix {
                            d.upload(to, panel)
                        } else {
                            floats.resize(p.rows.len() * w.cols, 0.0f32);
                            (w.format.decode)(panel, &mut floats);
                            bytes.clear();
                            bytes.extend(floats.iter().flat_map(|x| x.to_le_bytes()));
                            d.upload(to, &bytes)
                        };
                    })?;
                    done?;
                    row += p.rows.len();
                    From::Memory(to)
                }
                Home::Host if w.arranged => From::Arranged(p.number),
                Home::Stream | Home::Host | Home::Cache => From::Supply(p.number),
                Home::Drive => From::Drive(p.number),
            };
            match (self.parts.last_mut(), from) {
                (Some(Part { rows, from: From::Memory(_) }), From::Memory(_)) => rows.end = p.rows.end,
                _ => self.parts.push(Part { rows: p.rows.clone(), from }),
            }
        }
        Ok(())
    }

    /// Puts the rows of these numbers one behind another, of a weight that is not kept whole.
    ///
    /// # Errors
    /// What the supply or the device returned.
    pub(super) fn gather(
        &self,
        d: &mut dyn Driver,
        rows: impl ExactSizeIterator<Item = usize> + Clone,
        to: Address,
    ) -> Result<()> {
        let row_bytes = self.format.row_bytes(self.cols);
        let place = |row: usize| {
            let part = &self.parts[self.parts.partition_point(|p| p.rows.end <= row)];
            (part.from, (row - part.rows.start) * row_bytes)
        };
        let mut bytes = vec![0; rows.len() * row_bytes];
        for (row, out) in rows.clone().zip(bytes.chunks_exact_mut(row_bytes)) {
            if let (From::Supply(number) | From::Arranged(number) | From::Drive(number), at) = place(row) {
                self.supply.bytes(number, at, out)?;
            }
        }
        d.upload(to, &bytes)?;
        for (row, n) in rows.zip(0..) {
            if let (From::Memory(start), at) = place(row) {
                d.copy(start.offset(at as u64), to.offset(n * row_bytes as u64), row_bytes as u64)?;
            }
        }
        Ok(())
    }

    /// The floats of a vector, from the device.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn vector(&self, d: &mut dyn Driver) -> Result<Vec<f32>> {
        let mut bytes = vec![0; self.cols * 4];
        d.download(self.at()?, &mut bytes)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }
}
