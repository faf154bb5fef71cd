//! Places on the device through which the panels go that it does not keep.
//!
//! Panels take the places in turn. A place is filled again when the work that reads it has ended, and read when the copy
//! has: both are the device's to wait for, so the host runs ahead as far as there are places and loans, and neither the
//! link nor the multiprocessors rest for its sake.

use super::driver::{Address, Driver, Event};
use super::kernels;
use super::memory::Buffer;
use crate::error::{Error, Result};
use crate::hal::Supply;
use crate::quant::Format;
use std::sync::Arc;

/// One place.
#[derive(Debug)]
struct Place {
    buffer: Buffer,
    /// The panel in it is there.
    arrived: Event,
    /// Nobody reads it any more.
    free: Event,
}

/// All places.
#[derive(Debug, Default)]
pub(super) struct Ring {
    places: Vec<Place>,
    /// Events of the places that were given back.
    events: Vec<[Event; 2]>,
    next: usize,
    /// Where panels that come in a processor's layout are put in the file's.
    restored: Buffer,
}

/// A panel on the device: its place, and where it begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Here {
    place: usize,
    pub(super) at: Address,
}

impl Ring {
    /// Reserves so many places of so many bytes; one of them is for panels in a processor's layout, where such come.
    ///
    /// # Errors
    /// `Limit` when memory is short.
    pub(super) fn reserve(&mut self, d: &mut dyn Driver, (places, bytes): (usize, u64), arranged: bool) -> Result<()> {
        self.free(d)?;
        let one = places > 1 && arranged;
        if one {
            self.restored = Buffer::new(d, bytes, "places for streamed weights")?;
        }
        for _ in usize::from(one)..places {
            let [arrived, free] = match self.events.pop() {
                Some(events) => events,
                None => [d.event()?, d.event()?],
            };
            match Buffer::new(d, bytes, "places for streamed weights") {
                Ok(buffer) => self.places.push(Place { buffer, arrived, free }),
                Err(e) => {
                    self.events.push([arrived, free]);
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    /// Gives the memory back.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn free(&mut self, d: &mut dyn Driver) -> Result<()> {
        self.next = 0;
        std::mem::take(&mut self.restored).free(d)?;
        for place in self.places.drain(..) {
            self.events.push([place.arrived, place.free]);
            place.buffer.free(d)?;
        }
        Ok(())
    }

    /// Brings a panel, for the work from here on.
    ///
    /// # Errors
    /// What the supply returned; `Engine` for a panel without a place; those of the device.
    pub(super) fn bring(&mut self, d: &mut dyn Driver, supply: &Arc<dyn Supply>, number: u32) -> Result<Here> {
        let panel = supply.clone().lend(number)?;
        let bytes = panel.bytes().len() as u64;
        let Some(Place { buffer, arrived, free }) = self.places.get(self.next).filter(|p| p.buffer.bytes >= bytes)
        else {
            let places = self.places.len();
            return Err(Error::Engine(format!("panel {number} of {bytes} bytes fits into none of {places} places")));
        };
        d.bring(buffer.at, panel, *free, *arrived)?;
        d.follow(*arrived)?;
        let here = Here { place: self.next, at: buffer.at };
        self.next = (self.next + 1) % self.places.len();
        Ok(here)
    }

    /// The work so far was the last that reads the panel.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn used(&self, d: &mut dyn Driver, here: Here) -> Result<()> {
        d.mark(self.places[here.place].free)
    }

    /// Brings a panel in a processor's layout and puts its rows in the file's, where they stay until the next one comes.
    ///
    /// # Errors
    /// As `bring`.
    pub(super) fn restore(
        &mut self,
        d: &mut dyn Driver,
        supply: &Arc<dyn Supply>,
        number: u32,
        format: &Format,
        cols: usize,
        rows: u32,
    ) -> Result<Address> {
        let here = self.bring(d, supply, number)?;
        let (to, row_bytes) = (self.restored, format.row_bytes(cols));
        if (row_bytes * rows as usize) as u64 > to.bytes {
            return Err(Error::Engine(format!("there is no place for panel {number} in the file's layout")));
        }
        kernels::restore(d, format, [here.at, to.at], row_bytes as u32, rows)?;
        self.used(d, here)?;
        Ok(to.at)
    }
}
