//! Which device runs a model: the one that was asked for, or the best that can.

use super::load::LoadOptions;
use super::memory;
use crate::config::{Device, Size};
use crate::error::{Error, Result};
use crate::hal::cpu::{Cpu, CpuOptions};
use crate::hal::exact::Exact;
use crate::hal::fake::Fake;
use crate::hal::{Backend, Batch, Hybrid, Opened, open_gpu};
use std::time::Duration;

/// A device, and the memory that a model on it lives in.
pub(super) struct Place {
    pub backend: Box<dyn Backend>,
    pub room: Room,
}

/// The memory of weights, state and workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// The machine's, from which weights may be streamed to the cores.
    Machine,
    /// A GPU's, to which weights may be carried from the machine's.
    Gpu {
        /// Bytes that are free.
        free: u64,
        /// Bytes that other programs hold, where it is known, more than `LITTLE`, and what is free all that may be had.
        others: u64,
    },
}

impl Room {
    /// Bytes of it that other programs hold.
    pub fn others(self) -> u64 {
        if let Room::Gpu { others, .. } = self { others } else { 0 }
    }
}

/// What others hold of a GPU is not told below one in so many bytes that are free: drivers keep some for themselves.
const LITTLE: u64 = 50;

/// Prepares a model on the device that the options ask for. Where they leave the choice, and no GPU can be taken or the
/// model does not fit there, the CPU runs it, and a program that was built for GPUs says why.
///
/// # Errors
/// `Unsupported` where a GPU was asked for and cannot be had, `Invalid` where one was asked to interpret; those of
/// `prepare`.
pub(super) fn first<T>(options: &LoadOptions, prepare: &mut dyn FnMut(Place) -> Result<T>) -> Result<T> {
    let refused = match options.device {
        Device::Cuda(_) | Device::Fake(_) if options.exact => {
            return Err(Error::Invalid("the interpreter (--exact) runs on the CPU: use --device cpu".into()));
        }
        Device::Cuda(wanted) => {
            let what = wanted.map_or("--device cuda".into(), |n| format!("--device cuda:{n}"));
            let instead = |why| Error::Unsupported { what, instead: format!("{why}; use --device cpu") };
            return on_gpu(cuda(wanted, options).map_err(instead)?, prepare);
        }
        Device::Auto if !options.exact && cfg!(feature = "cuda") => {
            match cuda(None, options).map(|place| on_gpu(place, prepare)) {
                Err(why) => why,
                Ok(Err(e @ (Error::Unsupported { .. } | Error::Limit(_) | Error::Engine(_)))) => e.to_string(),
                Ok(done) => return done,
            }
        }
        Device::Fake(pause) => {
            let pause = Duration::from_millis(pause.into());
            let work = Box::new(move |_: &Batch| {
                std::thread::sleep(pause);
                Ok(())
            });
            return prepare(Place { backend: Box::new(Fake::new(work)), room: Room::Machine });
        }
        Device::Auto | Device::Cpu => return prepare(cpu(options)?),
    };
    (options.say)(&format!("not on a GPU: {refused}"));
    prepare(cpu(options)?)
}

/// Prepares on a GPU. What is short there may be so because of others: the error says then what they hold.
fn on_gpu<T>(place: Place, prepare: &mut dyn FnMut(Place) -> Result<T>) -> Result<T> {
    let others = place.room.others() >> 20;
    prepare(place).map_err(|e| match e {
        Error::Limit(why) if others > 0 => {
            Error::Limit(format!("{why}; other programs hold {others} MiB of the GPU's memory"))
        }
        other => other,
    })
}

/// A GPU with the processor beside it, or why not.
fn cuda(wanted: Option<u32>, options: &LoadOptions) -> Result<Place, String> {
    let Opened { backend: gpu, free, others } = open_gpu(wanted, options.secure)?;
    let beside = cpu(options).map_err(|e| e.to_string())?.backend;
    let asked_for_less = matches!(options.vram_budget, Some(Size::Bytes(n)) if n < free);
    let others = others.filter(|&n| n > free / LITTLE && !asked_for_less).unwrap_or(0);
    Ok(Place { backend: Box::new(Hybrid::new(gpu, beside)), room: Room::Gpu { free, others } })
}

fn cpu(options: &LoadOptions) -> Result<Place> {
    let LoadOptions { threads, threads_batch, .. } = *options;
    let backend: Box<dyn Backend> = match options.exact {
        true => Box::new(Exact::new(threads.unwrap_or_else(memory::cores))),
        false => Box::new(Cpu::new(CpuOptions { threads, threads_batch, isa: None })?),
    };
    Ok(Place { backend, room: Room::Machine })
}
