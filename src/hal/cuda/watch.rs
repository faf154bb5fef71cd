//! A device whose launches are watched: how long each took on the device's clock, and the weights that it read.
//!
//! It stands between the backend and every device and passes all on. Unless it watches it does nothing else. While it
//! does, two events stand around each launch, so the times are a little longer than without, and there are no graphs.

use super::driver::{Address, Driver, Event, Graph, Grid, Properties};
use super::kernels;
use super::recorder::Launches;
use crate::error::Result;
use crate::hal::{Launched, Loan, Pinner};
use std::sync::Arc;

/// A device.
#[derive(Debug)]
pub(super) struct Watched {
    device: Box<dyn Driver>,
    /// Launches since it was told to watch: kernel and bytes.
    launches: Option<Vec<(&'static str, Option<u64>)>>,
}

impl Watched {
    pub fn new(device: Box<dyn Driver>) -> Watched {
        Watched { device, launches: None }
    }

    /// What was launched since the last call, if it was watched then. `on` says whether to watch from now on.
    ///
    /// # Errors
    /// `Engine` when the device is lost.
    pub fn watch(&mut self, on: bool) -> Result<Vec<Launched>> {
        let launches = std::mem::replace(&mut self.launches, on.then(Vec::new)).unwrap_or_default();
        // A launch stands between two stamps; every second interval is the time between launches.
        let seconds = self.device.intervals()?.into_iter().step_by(2);
        Ok(launches
            .into_iter()
            .zip(seconds)
            .map(|((kernel, bytes), s)| Launched { kernel, bytes, seconds: s })
            .collect())
    }
}

impl Driver for Watched {
    fn launch(&mut self, kernel: &'static str, grid: Grid, args: &[u8]) -> Result<()> {
        let Some(launches) = &mut self.launches else { return self.device.launch(kernel, grid, args) };
        launches.push((kernel, kernels::weight_bytes(kernel, grid, args)));
        self.device.stamp()?;
        self.device.launch(kernel, grid, args)?;
        self.device.stamp()
    }

    fn properties(&self) -> Result<Properties> {
        self.device.properties()
    }

    fn provide(&mut self, bytes: u64) -> Result<()> {
        self.device.provide(bytes)
    }

    fn alloc(&mut self, bytes: u64) -> Result<Address> {
        self.device.alloc(bytes)
    }

    fn free(&mut self, at: Address) -> Result<()> {
        self.device.free(at)
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<()> {
        self.device.upload(to, bytes)
    }

    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.device.download(from, bytes)
    }

    fn copy(&mut self, from: Address, to: Address, bytes: u64) -> Result<()> {
        self.device.copy(from, to, bytes)
    }

    fn pinner(&self) -> Option<Arc<dyn Pinner>> {
        self.device.pinner()
    }

    fn event(&mut self) -> Result<Event> {
        self.device.event()
    }

    fn mark(&mut self, event: Event) -> Result<()> {
        self.device.mark(event)
    }

    fn bring(&mut self, to: Address, panel: Box<dyn Loan>, free: Event, arrived: Event) -> Result<()> {
        self.device.bring(to, panel, free, arrived)
    }

    fn follow(&mut self, event: Event) -> Result<()> {
        self.device.follow(event)
    }

    fn graph(&mut self, launches: &Launches) -> Result<Graph> {
        self.device.graph(launches)
    }

    fn replay(&mut self, graph: Graph) -> Result<()> {
        self.device.replay(graph)
    }

    fn forget(&mut self, graph: Graph) -> Result<()> {
        self.device.forget(graph)
    }

    fn stamp(&mut self) -> Result<()> {
        self.device.stamp()
    }

    fn intervals(&mut self) -> Result<Vec<f64>> {
        self.device.intervals()
    }

    fn wait(&mut self) -> Result<()> {
        self.device.wait()
    }
}
