//! The fast CPU backend.
//!
//! One arithmetic definition for each format, the same bits under every instruction set, number of rows, chunking and
//! number of threads (`matmul`, `activation`, `math`, `attention` say which): `simd` has the sixteen-lane
//! primitives, `isa` the kernels compiled for each set, `layout` how weights lie, `interleave` what moves them there,
//! `pages` how keys and values lie, `schedule` what of a program runs together, `launch` how it runs, `pool` the
//! threads.
//! It does not know model families, files or requests.

mod activation;
mod attend;
mod attention;
mod homes;
mod interleave;
mod isa;
mod jobs;
mod launch;
mod layout;
mod math;
mod matmul;
mod memory;
mod pages;
mod pool;
mod read;
mod rope;
mod schedule;
mod simd;
mod values;
mod weights;

#[cfg(test)]
mod tests;

pub use isa::Isa;
pub use layout::Layout;
pub(super) use memory::Memory;
#[cfg(target_arch = "x86_64")]
pub(super) use simd::amx;

use super::{Backend, Batch, Bindings, Panel, ProgramId, Reservation, Supply, WeightDesc, WeightId};
use crate::error::{Error, Result};
use crate::op::{CarryId, Program};
use isa::Kernels;
use jobs::Inputs;
use launch::Scratch;
use pages::Pages;
use pool::Pools;
use schedule::Schedule;
use std::sync::{Arc, Mutex};
use values::{Limits, Values};
use weights::Weight;

/// What of the machine to use.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuOptions {
    /// Threads; by default as many as the process may run at once (its affinity and its cgroup's quota).
    pub threads: Option<usize>,
    /// Threads of passes with more than eight rows; by default the same.
    pub threads_batch: Option<usize>,
    /// Instruction set; by default `AIR_CPU`, else the best one.
    pub isa: Option<Isa>,
}

/// The backend.
#[derive(Debug)]
pub struct Cpu {
    isa: Isa,
    kernels: &'static Kernels,
    pools: Pools,
    weights: Vec<Weight>,
    programs: Vec<Schedule>,
    values: Values,
    inputs: Inputs,
    kv: Vec<Pages>,
    turns: rope::Tables,
    partials: Vec<f32>,
    scratch: Vec<Mutex<Scratch>>,
}

impl Cpu {
    /// A backend on this machine's processor.
    ///
    /// # Errors
    /// `Invalid` or `Unsupported` for an instruction set that is unknown or absent; `Limit` where the system
    /// refuses threads.
    pub fn new(options: CpuOptions) -> Result<Self> {
        let named = std::env::var("AIR_CPU").ok();
        let isa = Isa::choose(options.isa, named.as_deref())?;
        let available = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = options.threads.unwrap_or_else(available).max(1);
        let batch = options.threads_batch.unwrap_or(threads).max(1);
        Ok(Cpu {
            isa,
            kernels: isa.kernels(),
            pools: Pools::new(threads, batch)?,
            weights: vec![],
            programs: vec![],
            values: Values::new(0, &[], Limits::default())?,
            inputs: Inputs::default(),
            kv: vec![],
            turns: rope::Tables::default(),
            partials: vec![],
            scratch: (0..threads.max(batch)).map(|_| Mutex::default()).collect(),
        })
    }

    /// Elements of the arena's rows and of the widest input, and most slots, over all programs.
    fn widths(&self) -> (usize, usize, usize) {
        let widest = |f: fn(&Schedule) -> usize| self.programs.iter().map(f).max().unwrap_or(0);
        (widest(|p| p.program.arena_width), widest(Schedule::widest_input), widest(Schedule::most_slots))
    }
}

impl Backend for Cpu {
    fn description(&self) -> String {
        let (n, batch) = self.pools.threads();
        let more = if n == batch { String::new() } else { format!(", {batch} in batches") };
        format!("cpu: {}, {n} thread{}{more}", self.isa.title(), if n == 1 { "" } else { "s" })
    }

    fn load(&mut self, weight: &WeightDesc, supply: &Arc<dyn Supply>) -> Result<WeightId> {
        let loaded = weights::load(self.pools.largest(), self.isa, weight, supply)?;
        self.weights.push(loaded);
        Ok(WeightId(self.weights.len() as u32 - 1))
    }

    fn arrange(&self, weight: WeightId, rows: &[u8], out: &mut [u8]) -> bool {
        match &self.weights[weight.0 as usize] {
            Weight::Matrix(matrix) => matrix.interleave(rows, out),
            Weight::Vector(_) => return false,
        }
        true
    }

    fn rehome(&mut self, weight: WeightId, panel: &Panel) -> Result<()> {
        match &mut self.weights[weight.0 as usize] {
            Weight::Matrix(matrix) => matrix.rehome(panel),
            Weight::Vector(_) => {
                let what = "a vector on the drive".into();
                Err(Error::Unsupported { what, instead: "vectors are kept".into() })
            }
        }
    }

    fn compile(&mut self, program: &Program) -> Result<ProgramId> {
        self.programs.push(Schedule::new(program)?);
        Ok(ProgramId(self.programs.len() as u32 - 1))
    }

    fn workspace(&self, r: &Reservation) -> u64 {
        let (arena, input, slots) = self.widths();
        let limits = Limits::of(r);
        let values = Values::bytes(arena, r.carries, limits);
        let inputs = Inputs::bytes(input, slots, limits.rows);
        let turns = rope::Tables::bytes(self.programs.iter().map(|p| &p.program), limits.pass);
        values.saturating_add(inputs).saturating_add(turns + (self.scratch.len() * launch::SCRATCH) as u64)
    }

    fn reserve(&mut self, r: &Reservation) -> Result<()> {
        let (arena, input, slots) = self.widths();
        let limits = Limits::of(r);
        self.values = Values::new(arena, r.carries, limits)?;
        self.inputs = Inputs::new(input, slots, limits.rows)?;
        self.kv = (0..r.kv.groups.len()).map(|g| Pages::new(r.kv, g)).collect::<Result<_>>()?;
        self.turns.clear();
        Ok(())
    }

    fn launch(&mut self, program: ProgramId, bindings: &Bindings, batch: &Batch) -> Result<()> {
        launch::run(self, program, bindings, batch)
    }

    fn read(&self, carry: CarryId, out: &mut [f32]) {
        out.copy_from_slice(&self.values.carry(carry)[..out.len()]);
    }

    fn write(&mut self, carry: CarryId, values: &[f32]) {
        self.values.carry_mut(carry)[..values.len()].copy_from_slice(values);
    }

    fn copy_page(&mut self, group: usize, from: u32, to: u32) {
        self.kv[group].copy(from as usize, to as usize);
    }

    fn forget_pages(&mut self, group: usize, pages: &[u32]) {
        self.kv[group].forget(pages);
    }
}

/// The backend's one way of saying that a launch does not fit.
fn misfit(program: &Program, what: impl std::fmt::Display) -> Error {
    Error::Engine(format!("program {}: {what}", program.name))
}
