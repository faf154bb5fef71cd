//! Which device runs a model: the one that was asked for, or the best that can.

use super::load::LoadOptions;
use super::memory;
use crate::config::Device;
use crate::error::{Error, Result};
use crate::hal::Backend;
use crate::hal::cpu::{Cpu, CpuOptions};
use crate::hal::exact::Exact;
use crate::hal::gpus;

/// The backend that the options ask for. Where they leave the choice and no GPU can be taken, a program that was built for
/// one says why.
///
/// # Errors
/// `Unsupported` where a GPU was asked for and cannot be had, `Invalid` where one was asked to interpret; those of the
/// backend.
pub(super) fn backend(options: &LoadOptions) -> Result<Box<dyn Backend>> {
    match options.device {
        Device::Cuda(_) if options.exact => {
            Err(Error::Invalid("the interpreter (--exact) runs on the CPU: use --device cpu".into()))
        }
        Device::Cuda(wanted) => cuda(wanted).map_err(|why| {
            let what = wanted.map_or("--device cuda".into(), |n| format!("--device cuda:{n}"));
            Error::Unsupported { what, instead: format!("{why}; use --device cpu") }
        }),
        Device::Auto if !options.exact && cfg!(feature = "cuda") => cuda(None).or_else(|why| {
            (options.say)(&format!("not on a GPU: {why}"));
            cpu(options)
        }),
        Device::Auto | Device::Cpu => cpu(options),
    }
}

fn cpu(options: &LoadOptions) -> Result<Box<dyn Backend>> {
    if options.exact {
        return Ok(Box::new(Exact::new(options.threads.unwrap_or_else(memory::cores))));
    }
    let LoadOptions { threads, threads_batch, .. } = *options;
    Ok(Box::new(Cpu::new(CpuOptions { threads, threads_batch, isa: None })?))
}

/// A GPU, or why not.
fn cuda(wanted: Option<u32>) -> Result<Box<dyn Backend>, String> {
    let gpus = gpus()?;
    let gpu = gpus.choose(wanted)?;
    Err(format!("{} could run it, but air's kernels for it are still being written", gpu.name))
}
