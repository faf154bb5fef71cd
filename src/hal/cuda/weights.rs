//! Weights on the device: matrices in the blocks of the file, vectors as float32.

use super::driver::{Address, Driver};
use super::memory::Buffer;
use crate::error::{Error, Result};
use crate::hal::{Home, Supply, WeightDesc};
use crate::quant::{Format, Kind};

/// A loaded weight. Its address is looked up at each launch.
#[derive(Debug)]
pub(super) struct Weight {
    pub(super) format: &'static Format,
    pub(super) cols: usize,
    /// Rows of one expert.
    pub(super) rows: usize,
    pub(super) experts: usize,
    buffer: Buffer,
}

impl Weight {
    /// Where it begins.
    pub(super) fn at(&self) -> Address {
        self.buffer.at
    }

    /// Its memory.
    pub(super) fn buffer(&self) -> Buffer {
        self.buffer
    }

    /// Brings all panels to the device.
    ///
    /// # Errors
    /// `Unsupported` for a panel whose home is not memory; `Limit` when memory is short; what the supply returned.
    pub(super) fn load(d: &mut dyn Driver, w: &WeightDesc, supply: &dyn Supply) -> Result<Weight> {
        if let Some(p) = w.panels.iter().find(|p| p.home != Home::Memory) {
            let what = format!("tensor {} with rows {:?} on the drive, on a CUDA device", w.name, p.rows);
            return Err(Error::Unsupported { what, instead: "all weights must fit into the device's memory".into() });
        }
        let (rows, row_bytes) = (w.rows * w.experts, w.format.row_bytes(w.cols));
        let format = if w.matrix { w.format } else { Kind::F32.format() };
        let stored = format.row_bytes(w.cols);
        let buffer = Buffer::new(d, (rows * stored) as u64, w.name)?;
        let mut floats = vec![];
        let mut bytes = vec![];
        for p in w.panels {
            let to = buffer.at.offset((p.rows.start * stored) as u64);
            let mut done = Ok(());
            supply.panel(p.number, 1, &mut |panel| {
                let panel = &panel[..p.rows.len() * row_bytes];
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
        }
        Ok(Weight { format, cols: w.cols, rows: w.rows, experts: w.experts, buffer })
    }

    /// The floats of a vector, from the device.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn vector(&self, d: &mut dyn Driver) -> Result<Vec<f32>> {
        let mut bytes = vec![0; self.cols * 4];
        d.download(self.buffer.at, &mut bytes)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }
}
