//! Which GPUs the driver shows: the CUDA driver for what can run, NVIDIA's management library for how they are.
//!
//! Both are loaded while the program runs, so that it starts on any machine. The CUDA driver must be there; the
//! management library only adds what it knows. No context is made, so that asking costs no memory of the GPU.

use super::ptx;
use crate::error::Error;
use crate::hal::gpu::{Gpu, Gpus};
use cudarc::driver::result::{self, DriverError, device};
use cudarc::driver::sys::{self, CUdevice, CUdevice_attribute, CUresult};
use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};

/// Loads and starts the driver, and gives the CUDA that it knows: 13000 for 13.0.
///
/// # Errors
/// Why there is none for air, in words.
pub(super) fn driver() -> Result<i32, String> {
    // SAFETY: opens a library by its well-known name; its constructors are the driver's own.
    if !unsafe { sys::is_culib_present() } {
        return Err("no NVIDIA driver is here (libcuda cannot be loaded)".into());
    }
    if let Some(call) = missing() {
        return Err(format!("the NVIDIA driver is none for air: libcuda lacks {call}"));
    }
    result::init().map_err(|e| match e.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => NONE.into(),
        _ => format!("the NVIDIA driver does not start ({})", words(e)),
    })?;
    let mut version = 0;
    // SAFETY: `version` is a valid place for the answer.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(words)?;
    let (major, minor) = ptx::TOOLKIT;
    if (version / 1000, version % 1000 / 10) < (major, minor) {
        let named = nvml_version().unwrap_or_else(|| "this one".into());
        let needed = match (major, minor) {
            (13, 0) => "r580 or newer".into(),
            _ => format!("one that knows CUDA {major}.{minor}"),
        };
        let known = known(version);
        return Err(format!(
            "the NVIDIA driver is older than air's kernels: {named} knows {known}; they need {needed}"
        ));
    }
    Ok(version)
}

/// Everything that air calls of the driver. A call of a function that is not there would end the program.
const CALLS: &[&str] = &[
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetPCIBusId",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime_v2",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemHostRegister_v2",
    "cuMemHostUnregister",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
];

/// The first of them that the driver lacks.
fn missing() -> Option<&'static str> {
    // SAFETY: the library is there, and is the driver's.
    let driver = unsafe { sys::culib() };
    // SAFETY: the symbol is looked up, and neither called nor read.
    let lacks = |call: &&&str| unsafe { driver.get::<*const ()>(call.as_bytes()) }.is_err();
    CALLS.iter().find(lacks).copied()
}

const NONE: &str = "the NVIDIA driver shows no GPU";

fn known(version: i32) -> String {
    format!("CUDA {}.{}", version / 1000, version % 1000 / 10)
}

fn nvml_version() -> Option<String> {
    Nvml::init().ok()?.sys_driver_version().ok()
}

/// The GPUs of this machine.
///
/// # Errors
/// Why there is none, in words: there is no driver, or too old a one, or no GPU.
pub fn gpus() -> Result<Gpus, String> {
    let version = driver()?;
    let nvml = Nvml::init().ok();
    let named = nvml.as_ref().and_then(|n| n.sys_driver_version().ok());
    let driver = named.map_or(known(version), |v| format!("{v}, {}", known(version)));
    let count = device::get_count().map_err(words)?;
    let cards = (0..count).map(|i| card(i, nvml.as_ref())).collect::<Result<Vec<_>, _>>().map_err(words)?;
    if cards.is_empty() { Err(NONE.into()) } else { Ok(Gpus { driver, cards }) }
}

fn card(index: i32, nvml: Option<&Nvml>) -> Result<Gpu, DriverError> {
    let gpu = device::get(index)?;
    // SAFETY: the device comes from the driver.
    let memory = unsafe { device::total_mem(gpu) }? as u64;
    let (name, capability) = (device::get_name(gpu)?, capability(gpu)?);
    let managed = nvml.and_then(|n| n.device_by_pci_bus_id(bus(gpu)?).ok());
    let held = managed.as_ref().and_then(|m| m.memory_info().ok());
    let ask = |f: fn(&nvml_wrapper::Device) -> Option<u32>| managed.as_ref().and_then(f);
    Ok(Gpu {
        index: index as u32,
        name,
        capability,
        memory,
        free: held.as_ref().map(|m| m.free),
        used: held.as_ref().map(|m| m.used),
        temperature: ask(|m| m.temperature(TemperatureSensor::Gpu).ok()),
        clock: ask(|m| m.clock_info(Clock::SM).ok()),
        memory_clock: ask(|m| m.clock_info(Clock::Memory).ok()),
    })
}

/// Compute capability: 90 for 9.0.
pub(super) fn capability(gpu: CUdevice) -> Result<u32, DriverError> {
    let major = attribute(gpu, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(gpu, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(10 * major + minor)
}

/// A property of a GPU that is a count.
pub(super) fn attribute(gpu: CUdevice, which: CUdevice_attribute) -> Result<u32, DriverError> {
    // SAFETY: the device comes from the driver.
    unsafe { device::get_attribute(gpu, which) }.map(|n| n as u32)
}

/// Where it sits, by which the management library knows it: the two count in different orders.
fn bus(gpu: CUdevice) -> Option<String> {
    let mut text = [0u8; 32];
    // SAFETY: the driver writes at most `text.len()` bytes, with the zero at the end.
    let asked = unsafe { sys::cuDeviceGetPCIBusId(text.as_mut_ptr().cast(), text.len() as i32, gpu) };
    asked.result().ok()?;
    Some(std::ffi::CStr::from_bytes_until_nul(&text).ok()?.to_str().ok()?.to_owned())
}

/// What the driver calls an error.
fn words(e: DriverError) -> String {
    let text = |s: Result<&std::ffi::CStr, DriverError>| s.map(|s| s.to_string_lossy().into_owned()).ok();
    let name = text(e.error_name()).unwrap_or_else(|| format!("{:?}", e.0));
    text(e.error_string()).map_or(name.clone(), |s| format!("{name}: {s}"))
}

/// The driver could not do something.
pub(super) fn failed(what: &str, e: DriverError) -> Error {
    Error::Engine(format!("the GPU's driver cannot {what}: {}", words(e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tests' driver has what air calls, or they would not end; so the list is its functions.
    #[test]
    fn every_call_is_looked_for() {
        let fake = include_str!("../../../tests/driver/fake.c");
        let name = |line: &'static str| line.strip_prefix("int ")?.split('(').next();
        let mut there: Vec<&str> = fake.lines().filter_map(name).collect();
        there.sort_unstable();
        assert_eq!(CALLS, there);
    }
}
