//! The specification: programs interpreted in plain Rust.
//!
//! Weights are decoded to float32 as they are used, activations are float32, and every sum, norm, softmax and
//! activation is computed in float64 and rounded once. Values live in their own vectors, so the placement of
//! values in an arena is not trusted here but tested against this. Nothing is fast; rows of a weight are spread over
//! threads, which changes no sum.

mod ops;
mod pages;

use super::{Backend, Batch, Bindings, Home, Panel, ProgramId, Reservation, Supply, WeightDesc, WeightId};
use crate::error::{Error, Result};
use crate::op::{Carry, CarryId, Place, Program, RowSet, Value, ValueId, WeightSlot};
use crate::quant::Format;
use pages::Pages;
use std::sync::Arc;

/// The interpreter.
#[derive(Debug)]
pub struct Exact {
    threads: usize,
    weights: Vec<Weight>,
    programs: Vec<Program>,
    carries: Vec<(Carry, Vec<f32>)>,
    kv: Vec<Pages>,
}

/// A weight in the file's own bytes.
#[derive(Debug)]
struct Weight {
    format: &'static Format,
    cols: usize,
    rows: usize,
    bytes: Vec<u8>,
}

impl Weight {
    /// Decodes one row (of all experts' rows).
    fn row(&self, r: usize, out: &mut [f32]) {
        let n = self.format.row_bytes(self.cols);
        (self.format.decode)(&self.bytes[r * n..(r + 1) * n], out);
    }

    fn vector(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.cols];
        self.row(0, &mut out);
        out
    }
}

/// The values of one launch. Indices are held as floats: experts are far fewer than 2^24.
type Values = Vec<Vec<f32>>;

impl Exact {
    /// An interpreter on `threads` threads.
    pub fn new(threads: usize) -> Self {
        Exact { threads: threads.max(1), weights: vec![], programs: vec![], carries: vec![], kv: vec![] }
    }

    fn bound<'a>(&'a self, bindings: &Bindings, slot: WeightSlot) -> &'a Weight {
        &self.weights[bindings.weights[slot.0 as usize].0 as usize]
    }
}

impl Backend for Exact {
    fn description(&self) -> String {
        format!("cpu: exact interpreter, {} thread{}", self.threads, if self.threads == 1 { "" } else { "s" })
    }

    fn load(&mut self, weight: &WeightDesc, supply: &Arc<dyn Supply>) -> Result<WeightId> {
        let rows = weight.rows * weight.experts;
        let row_bytes = weight.format.row_bytes(weight.cols);
        let mut bytes = Vec::new();
        let total = rows * row_bytes;
        bytes
            .try_reserve_exact(total)
            .map_err(|_| Error::Limit(format!("no memory for the {total} bytes of tensor {}", weight.name)))?;
        bytes.resize(total, 0);
        for p in weight.panels {
            if p.home != Home::Memory {
                let what = format!("the exact interpreter with tensor {} on the drive", weight.name);
                return Err(Error::Unsupported { what, instead: "give it the memory for the whole model".into() });
            }
            let place = &mut bytes[p.rows.start * row_bytes..p.rows.end * row_bytes];
            supply.panel(p.number, 1, &mut |bytes| place.copy_from_slice(bytes))?;
        }
        self.weights.push(Weight { format: weight.format, cols: weight.cols, rows: weight.rows, bytes });
        Ok(WeightId(self.weights.len() as u32 - 1))
    }

    fn rehome(&mut self, _: WeightId, panel: &Panel) -> Result<()> {
        let what = format!("another home for panel {} in the exact interpreter", panel.number);
        Err(Error::Unsupported { what, instead: "it keeps all weights".into() })
    }

    fn compile(&mut self, program: &Program) -> Result<ProgramId> {
        self.programs.push(program.clone());
        Ok(ProgramId(self.programs.len() as u32 - 1))
    }

    fn workspace(&self, r: &Reservation) -> u64 {
        let rows = |c: &Carry| if c.rows == RowSet::All { r.pass_rows } else { r.max_outputs };
        let carries: usize = r.carries.iter().map(|c| c.width * rows(c)).sum();
        let values = |p: &Program| p.values.iter().map(|v| v.width * r.max_rows).sum::<usize>();
        let largest = self.programs.iter().map(values).max().unwrap_or(0);
        ((carries + largest) * size_of::<f32>()) as u64
    }

    fn reserve(&mut self, r: &Reservation) -> Result<()> {
        let rows = |c: &Carry| if c.rows == RowSet::All { r.pass_rows } else { r.max_outputs };
        self.carries = r.carries.iter().map(|c| (c.clone(), vec![0.0; c.width * rows(c)])).collect();
        self.kv = r.kv.groups.iter().map(|g| Pages::new(r.kv.k, r.kv.v, g)).collect();
        Ok(())
    }

    fn launch(&mut self, program: ProgramId, bindings: &Bindings, batch: &Batch) -> Result<()> {
        let program = self.programs[program.0 as usize].clone();
        let rows = |set: RowSet| if set == RowSet::All { batch.rows.len() } else { batch.outputs() };
        let mut values: Values = program.values.iter().map(|v| vec![0.0; v.width * rows(v.rows)]).collect();
        let start = |v: &Value| if v.rows == RowSet::All { batch.first * v.width } else { 0 };
        for (v, data) in program.values.iter().zip(&mut values) {
            if let Place::Carry(id) = v.place {
                let len = data.len();
                data.copy_from_slice(&self.carries[id.0 as usize].1[start(v)..][..len]);
            }
        }
        for op in &program.ops {
            self.run(op, &program, bindings, batch, &mut values);
            for ValueId(v) in op.operands().1 {
                let value = &program.values[v as usize];
                if let Place::Carry(id) = value.place {
                    let data = &values[v as usize];
                    self.carries[id.0 as usize].1[start(value)..][..data.len()].copy_from_slice(data);
                }
            }
        }
        Ok(())
    }

    fn read(&self, carry: CarryId, out: &mut [f32]) {
        out.copy_from_slice(&self.carries[carry.0 as usize].1[..out.len()]);
    }

    fn write(&mut self, carry: CarryId, values: &[f32]) {
        self.carries[carry.0 as usize].1[..values.len()].copy_from_slice(values);
    }

    fn copy_page(&mut self, group: usize, from: u32, to: u32) {
        self.kv[group].copy(from as usize, to as usize);
    }

    /// Its pages are parts of one vector, which stays.
    fn forget_pages(&mut self, _: usize, _: &[u32]) {}
}
