//! NVIDIA GPUs: the CUDA backend.
//!
//! Weights lie on the device in the blocks of the file and are decoded in registers by the kernels of `kernels/`;
//! activations are quantised to eight bits once for all products that read them; keys and values lie in pages. All
//! work goes into one stream, in order; nothing is allocated, and the host waits for nothing, between passes' reads.
//! Panels of weights that the device has no memory for are brought through a ring of places by a second stream, while
//! the first computes with those before them.
//!
//! `driver` is all that is asked of a device, `device` does it through NVIDIA's driver, `arena`, `staging`, `uploads`
//! and `pins`, `kernels` has a typed launcher for each kernel, `memory` says where values lie, `ring` where panels pass
//! through, `rows` what kernels must know of a batch, `state` how pages lie, `schedule` which ops run together,
//! `launch`, `products`, `positions` and `attention` by which kernels, `recorder` which launches are done at once; `ptx`
//! has the kernels as they were compiled, `gpus` what the driver shows, `libraries` what NVIDIA ships beside it (`cufile`,
//! `nccl`), `probe` what a GPU gives; `clock` and `watch` tell how long kernels take. Sums are float32 in a fixed
//! order, so a launch on the same device gives the same bits each time, wherever weights are. The tests run the same
//! kernels, compiled for the host, behind `Driver`.
//!
//! `read`, `write` and copies of pages return nothing: what fails in them is the next launch's error, and what could
//! not be read is NaN.

mod arena;
mod attention;
mod clock;
mod cufile;
mod device;
mod driver;
mod gpus;
pub mod kernels;
mod launch;
mod libraries;
mod memory;
mod nccl;
mod pins;
mod positions;
mod probe;
mod products;
pub mod ptx;
mod recorder;
mod ring;
mod rows;
mod schedule;
mod staging;
mod state;
mod uploads;
mod watch;
mod weights;

pub use device::Device;
pub use driver::{Address, Driver, Event, Graph, Grid, Properties};
pub use gpus::gpus;
pub use libraries::libraries;
pub use probe::limits;
pub use recorder::Launches;

use super::{Backend, Batch, Bindings, Launched, Panel, Pinner, ProgramId, Reservation, Supply, WeightDesc, WeightId};
use crate::error::{Error, Result};
use crate::op::{CarryId, Op, Program, Rope, Type};
use memory::{Buffer, Limits, Needs, Values};
use recorder::Recorder;
use ring::Ring;
use rows::Rows;
use schedule::Schedule;
use state::Pages;
use std::cell::RefCell;
use std::sync::Arc;
use watch::Watched;
use weights::Weight;

/// A backend on the GPU with this index, and how many bytes are free there.
///
/// # Errors
/// Those of `Device::open` and of `Cuda::new`.
pub(super) fn open(index: u32, secure: bool) -> Result<(Box<dyn Backend>, u64)> {
    let device = Device::open(index)?.secure(secure);
    let free = device.properties()?.free;
    Ok((Box::new(Cuda::new(Box::new(device))?), free))
}

/// The backend.
#[derive(Debug)]
pub struct Cuda {
    driver: RefCell<Box<Watched>>,
    properties: Properties,
    weights: Vec<Weight>,
    programs: Vec<Schedule>,
    needs: Needs,
    values: Values,
    rows: Rows,
    ring: Ring,
    state: Vec<Pages>,
    /// Angles at position 1 of each pair, in float64, for each kind of rotation that was used.
    frequencies: Vec<(Rope, Option<WeightId>, Buffer)>,
    /// What failed where there was nobody to tell.
    failed: RefCell<Option<Error>>,
}

impl Cuda {
    /// A backend on a device.
    ///
    /// # Errors
    /// `Engine` when the device is lost.
    pub fn new(driver: Box<dyn Driver>) -> Result<Cuda> {
        Ok(Cuda {
            properties: driver.properties()?,
            driver: RefCell::new(Box::new(Watched::new(Box::new(Recorder::new(driver))))),
            weights: vec![],
            programs: vec![],
            needs: Needs::default(),
            values: Values::default(),
            rows: Rows::default(),
            ring: Ring::default(),
            state: vec![],
            frequencies: vec![],
            failed: RefCell::new(None),
        })
    }

    /// Keeps an error for the next launch.
    fn keep(&self, done: Result<()>) {
        if let Err(e) = done {
            self.failed.borrow_mut().get_or_insert(e);
        }
    }

    /// What a program needs beside weights.
    ///
    /// # Errors
    /// `Unsupported` for an attention whose heads do not fit into a multiprocessor's memory.
    fn needs_of(&self, program: &Program) -> Result<Needs> {
        let mut needs = Needs { arena: program.arena_width, ..Needs::default() };
        for op in &program.ops {
            let width = |v| program.value(v).width;
            match op {
                Op::Embed { out, .. } => needs.looked_up = needs.looked_up.max(width(*out)),
                Op::MatMul { x, .. } => needs.quantised = needs.quantised.max(width(*x)),
                Op::ExpertMatMul { x, ids, weight, .. } => {
                    needs.quantised = needs.quantised.max(width(*x));
                    needs.slots = needs.slots.max(width(*ids));
                    needs.experts = needs.experts.max(program.weights[weight.0 as usize].shape[2]);
                }
                Op::Attend { attention, .. } => {
                    attention::check(attention, self.properties.shared)?;
                    needs.split = needs.split.max(attention.heads * (attention.v_dim + 2));
                }
                _ => {}
            }
        }
        Ok(needs)
    }

    /// Bytes of the words of a batch.
    fn rows_bytes(r: &Reservation) -> u64 {
        Rows::bytes(Limits::of(r).pass, r.kv.groups.iter().map(|g| g.pages))
    }
}

impl Backend for Cuda {
    fn description(&self) -> String {
        format!("cuda: {}", self.properties.name)
    }

    fn pinner(&self) -> Option<Arc<dyn Pinner>> {
        self.driver.borrow().pinner()
    }

    fn provide(&mut self, bytes: u64, weights: usize) -> Result<()> {
        self.driver.get_mut().provide(memory::with_room(bytes, weights)).map_err(|e| match e {
            Error::Limit(why) => Error::Limit(format!("weights, sequence state and workspace: {why}")),
            other => other,
        })
    }

    fn load(&mut self, weight: &WeightDesc, supply: &Arc<dyn Supply>) -> Result<WeightId> {
        self.weights.push(Weight::load(&mut **self.driver.get_mut(), weight, supply)?);
        Ok(WeightId(self.weights.len() as u32 - 1))
    }

    fn rehome(&mut self, _: WeightId, panel: &Panel) -> Result<()> {
        let what = format!("another home for panel {} on a CUDA device", panel.number);
        Err(Error::Unsupported { what, instead: "it keeps all weights".into() })
    }

    fn compile(&mut self, program: &Program) -> Result<ProgramId> {
        self.needs = self.needs.max(self.needs_of(program)?);
        self.programs.push(Schedule::new(program));
        Ok(ProgramId(self.programs.len() as u32 - 1))
    }

    fn workspace(&self, r: &Reservation) -> u64 {
        self.needs.total(r.carries, Limits::of(r)).saturating_add(Self::rows_bytes(r))
    }

    fn reserve(&mut self, r: &Reservation) -> Result<()> {
        let d = &mut **self.driver.get_mut();
        self.values.free(d)?;
        self.state.drain(..).try_for_each(|mut pages| pages.free(d))?;
        self.values = Values::new(d, self.needs, r.carries, Limits::of(r))?;
        self.rows.reserve(d, Self::rows_bytes(r))?;
        self.ring.reserve(d, r.ring, self.weights.iter().any(Weight::comes_arranged))?;
        for group in &r.kv.groups {
            self.state.push(Pages::new(d, r.kv, group)?);
        }
        Ok(())
    }

    fn launch(&mut self, program: ProgramId, bindings: &Bindings, batch: &Batch) -> Result<()> {
        self.failed()?;
        let done = launch::run(self, program, bindings, batch);
        if done.is_err() {
            // What was lent for it goes back. Another error says nothing more.
            let _ = self.driver.get_mut().wait();
        }
        done
    }

    fn read(&self, carry: CarryId, out: &mut [f32]) {
        let mut bytes = vec![0; out.len() * 4];
        let done = self.driver.borrow_mut().download(self.values.carry(carry).at, &mut bytes);
        match done {
            Ok(()) => {
                let words = out.iter_mut().zip(bytes.as_chunks::<4>().0);
                match self.values.holds(carry) {
                    Type::F32 => words.for_each(|(x, b)| *x = f32::from_le_bytes(*b)),
                    Type::Index => words.for_each(|(x, b)| *x = u32::from_le_bytes(*b) as f32),
                }
            }
            Err(_) => out.fill(f32::NAN),
        }
        self.keep(done);
    }

    fn write(&mut self, carry: CarryId, values: &[f32]) {
        let bytes: Vec<u8> = match self.values.holds(carry) {
            Type::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Type::Index => values.iter().flat_map(|x| (*x as u32).to_le_bytes()).collect(),
        };
        let done = self.driver.get_mut().upload(self.values.carry(carry).at, &bytes);
        self.keep(done);
    }

    fn copy_page(&mut self, group: usize, from: u32, to: u32) {
        let done = self.state[group].copy(&mut **self.driver.get_mut(), from, to);
        self.keep(done);
    }

    fn failed(&mut self) -> Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    fn watch(&mut self, on: bool) -> Result<Vec<Launched>> {
        self.driver.get_mut().watch(on)
    }

    /// The device's memory stays reserved.
    fn forget_pages(&mut self, _: usize, _: &[u32]) {}
}

/// All device memory goes back; a device that is lost has nothing to give.
impl Drop for Cuda {
    fn drop(&mut self) {
        let d = &mut **self.driver.get_mut();
        // What one of them fails with says nothing of the others.
        let mut given: Vec<Result<()>> = self.state.iter_mut().map(|pages| pages.free(d)).collect();
        given.extend([self.values.free(d), self.rows.free(d), self.ring.free(d)]);
        let buffers = self.frequencies.iter().map(|f| f.2).chain(self.weights.iter().map(Weight::buffer));
        given.extend(buffers.map(|buffer| buffer.free(d)));
        drop(given);
    }
}

/// The backend's one way of saying that a launch does not fit.
fn misfit(program: &Program, what: impl std::fmt::Display) -> Error {
    Error::Engine(format!("program {}: {what}", program.name))
}
