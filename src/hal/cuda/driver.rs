//! What the CUDA backend needs of a device: memory, copies, kernels, all in the order of one stream; and a second one for
//! weights that are brought meanwhile, which events hold together.
//!
//! Two implement it: `device` over the CUDA driver, and the tests' emulator, which runs the same kernel sources
//! compiled for the host. So everything above this line runs in the tests of a machine without a GPU.

use super::recorder::Launches;
use crate::error::Result;
use crate::hal::{Loan, Pinner};
use std::sync::Arc;

/// An address in the device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Address(pub u64);

/// A point in the work of a device, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Event(pub u32);

/// Launches that are done at once, by their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Graph(pub u32);

/// Blocks and threads of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grid {
    /// Blocks in each dimension; 65535 at most in the second and third.
    pub blocks: [u32; 3],
    /// Threads of a block, a multiple of 32.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

/// What kernels are chosen and sized by.
#[derive(Debug, Clone, PartialEq)]
pub struct Properties {
    /// `NVIDIA H200`
    pub name: String,
    /// Compute capability: 90 for 9.0.
    pub capability: u32,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Most bytes of shared memory that a block may ask for.
    pub shared: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// How many of them are free.
    pub free: u64,
}

/// A device. Work is done in the order in which it is asked for; an error may concern earlier work.
pub trait Driver: Send + std::fmt::Debug {
    /// What the device is.
    ///
    /// # Errors
    /// `Engine` when it is lost; so do all others.
    fn properties(&self) -> Result<Properties>;
    /// Takes memory at once for `bytes` of what will be asked for; it goes back with the last piece of it. A device
    /// that gives every piece memory of its own need not.
    ///
    /// # Errors
    /// As `alloc`.
    fn provide(&mut self, _bytes: u64) -> Result<()> {
        Ok(())
    }
    /// Memory, aligned to 256 bytes, filled with zeros.
    ///
    /// # Errors
    /// `Limit` when there is not so much.
    fn alloc(&mut self, bytes: u64) -> Result<Address>;
    /// Gives memory of `alloc` back, once the work before it has ended.
    ///
    /// # Errors
    /// As `properties`.
    fn free(&mut self, at: Address) -> Result<()>;
    /// Copies to the device; `bytes` may change as soon as this returns.
    ///
    /// # Errors
    /// As `properties`.
    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<()>;
    /// Copies from the device, after all work before it. All loans whose arrival that work followed have ended then.
    ///
    /// # Errors
    /// As `properties`, and those of that work.
    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<()>;
    /// Copies between two places of the device that do not overlap.
    ///
    /// # Errors
    /// As `properties`.
    fn copy(&mut self, from: Address, to: Address, bytes: u64) -> Result<()>;
    /// `kernel` is a symbol of `kernels/*.cu`; its only parameter is a struct, passed by value, whose bytes are `args`.
    ///
    /// # Errors
    /// As `properties`; `Unsupported` where the device cannot run it.
    fn launch(&mut self, kernel: &'static str, grid: Grid, args: &[u8]) -> Result<()>;
    /// What pins memory of the host, for panels that are brought from it.
    fn pinner(&self) -> Option<Arc<dyn Pinner>> {
        None
    }
    /// An event that has happened; it lasts as long as the device.
    ///
    /// # Errors
    /// As `properties`.
    fn event(&mut self) -> Result<Event>;
    /// The event happens when the work before it has ended.
    ///
    /// # Errors
    /// As `properties`.
    fn mark(&mut self, event: Event) -> Result<()>;
    /// Brings a panel while other work goes on: after `free`, behind the panels before it, and then `arrived` happens.
    /// Waits where `LOANS` panels are on their way. The loan ends when the copy has.
    ///
    /// # Errors
    /// As `properties`.
    fn bring(&mut self, to: Address, panel: Box<dyn Loan>, free: Event, arrived: Event) -> Result<()>;
    /// The work from here on begins when the event has happened.
    ///
    /// # Errors
    /// As `properties`.
    fn follow(&mut self, event: Event) -> Result<()>;
    /// Notes on the device's clock when the work so far ends.
    ///
    /// # Errors
    /// As `properties`.
    fn stamp(&mut self) -> Result<()>;
    /// Waits for the work before the last noted moment, and gives the seconds from each to the next; they are forgotten.
    ///
    /// # Errors
    /// As `properties`, and those of the work.
    fn intervals(&mut self) -> Result<Vec<f64>>;
    /// Prepares launches, each of a kernel that has run before, to be done at once.
    ///
    /// # Errors
    /// As `launch`.
    fn graph(&mut self, launches: &Launches) -> Result<Graph>;
    /// Does the launches of a graph.
    ///
    /// # Errors
    /// As `properties`.
    fn replay(&mut self, graph: Graph) -> Result<()>;
    /// Gives a graph back.
    ///
    /// # Errors
    /// As `properties`.
    fn forget(&mut self, graph: Graph) -> Result<()>;
    /// Waits for everything; all loans have ended then.
    ///
    /// # Errors
    /// As `properties`, and those of the work.
    fn wait(&mut self) -> Result<()>;
}
