//! What a GPU gives: the limits that figures on it are measured against.
//!
//! Copies within its memory (read and written, so each byte counts twice), copies between it and pinned memory of the
//! host, and the time of a kernel that does nothing, in a graph of them, as programs are launched. Of several tries the
//! fastest counts. Nothing that is copied is zero: memory may be better with zeros.
//!
//! Peaks of the arithmetic are not here: no kernel does nothing else.

use super::device::Device;
use super::driver::{Address, Driver};
use super::gpus::failed;
use super::kernels;
use super::recorder::Recorder;
use crate::error::Result;
use crate::hal::gpu::GpuLimits;
use cudarc::driver::result;

/// Bytes of a copy within the device, or a quarter of what is free.
const COPY: u64 = 1 << 30;

/// Bytes of a copy over the link.
const LINK: usize = 64 << 20;

/// Bytes that are sent, and then copied on until the source is full.
const PATTERN: usize = 1 << 20;

const TRIES: usize = 10;

/// Launches of a graph.
const LAUNCHES: usize = 1000;

/// Measures the GPU with this index, where nothing else of this program is on it.
///
/// # Errors
/// Those of `Device::open`; `Limit` when there is no memory to copy; `Engine` when the device is lost.
pub fn limits(index: u32) -> Result<GpuLimits> {
    let mut device = Device::open(index)?;
    let free = device.properties()?.free;
    let bytes = COPY.min(free / 4) / PATTERN as u64 * PATTERN as u64;
    let from = device.alloc(bytes.max(LINK as u64))?;
    let to = device.alloc(bytes.max(1))?;
    fill(&mut device, from, bytes)?;
    let copied = fastest(&mut device, |d| d.copy(from, to, bytes))?;
    device.free(to)?;
    let (up, down) = link(&mut device, from)?;
    device.free(from)?;
    // The first tries are no graph yet.
    let mut device = Recorder::new(Box::new(device));
    let launched = fastest(&mut device, |d| (0..LAUNCHES).try_for_each(|_| kernels::nothing(d)))?;
    Ok(GpuLimits { copy: 2.0 * bytes as f64 / copied, up, down, launch: launched / LAUNCHES as f64 })
}

/// Bytes that repeat nowhere near.
fn fill(device: &mut Device, at: Address, bytes: u64) -> Result<()> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let pattern: Vec<u8> = (0..PATTERN).map(|_| next()).collect();
    device.upload(at, &pattern)?;
    let mut full = PATTERN as u64;
    while full < bytes {
        let more = full.min(bytes - full);
        device.copy(at, Address(at.0 + full), more)?;
        full += more;
    }
    Ok(())
}

/// Bytes per second to and from pinned memory.
fn link(device: &mut Device, at: Address) -> Result<(f64, f64)> {
    // SAFETY: it is filled before it is read. No flags: cached, and of this context.
    let memory = unsafe { result::malloc_host(LINK, 0) }.map_err(|e| failed("reserve pinned memory", e))?;
    // SAFETY: all of it was just reserved, and is nobody else's until it is given back below.
    let pinned = unsafe {
        memory.cast::<u8>().write_bytes(0x5A, LINK);
        std::slice::from_raw_parts_mut(memory.cast::<u8>(), LINK)
    };
    let up = fastest(device, |d| {
        // SAFETY: the memory stays until the copies have ended, which `fastest` waits for.
        unsafe { result::memcpy_htod_async(at.0, pinned, d.stream()) }.map_err(|e| failed("copy to the GPU", e))
    });
    let down = fastest(device, |d| {
        // SAFETY: as above; nobody reads it meanwhile.
        unsafe { result::memcpy_dtoh_async(pinned, at.0, d.stream()) }.map_err(|e| failed("copy from the GPU", e))
    });
    // Before the memory goes, whatever went wrong.
    let done = device.wait();
    // SAFETY: it came from `malloc_host`, and no copy is under way.
    let given = unsafe { result::free_host(memory) }.map_err(|e| failed("give pinned memory back", e));
    let (up, down) = (up?, down?);
    done.and(given)?;
    Ok((LINK as f64 / up, LINK as f64 / down))
}

/// Seconds of the fastest try; the first does not count.
fn fastest<D: Driver>(device: &mut D, mut work: impl FnMut(&mut D) -> Result<()>) -> Result<f64> {
    work(device)?;
    device.stamp()?;
    for _ in 0..TRIES {
        work(device)?;
        device.stamp()?;
    }
    Ok(device.intervals()?.into_iter().fold(f64::INFINITY, f64::min))
}
