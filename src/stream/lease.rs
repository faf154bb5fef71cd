//! The stream as backends see it: panels are lent while they are computed with, and come back in any case. What a device
//! still copies from may come back after its pass.

use super::{Shared, Taken, lock};
use crate::error::Result;
use crate::hal::{Loan, Supply, Wanted};
use crate::io::Slot;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

impl Supply for Shared {
    fn want(&self, panels: &mut [Wanted]) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        state.cache.want(panels, &mut state.clock.counters);
        self.freed.notify_one();
    }

    fn panel(&self, number: u32, uses: u32, f: &mut dyn FnMut(&[u8])) -> Result<()> {
        f(lease(self, number, uses)?.bytes());
        Ok(())
    }

    fn lend(self: Arc<Self>, number: u32) -> Result<Box<dyn Loan>> {
        Ok(Box::new(lease(self, number, 1)?))
    }

    fn bytes(&self, number: u32, at: usize, out: &mut [u8]) -> Result<()> {
        let place = self.places[number as usize];
        let kept = lock(&self.state).kept.get(number).cloned();
        if let Some(kept) = kept.filter(|k| k.arranged.is_none()) {
            out.copy_from_slice(&kept.slot.bytes()[at..at + out.len()]);
            return Ok(());
        }
        self.rows.read(place.source, place.offset + at as u64, out)
    }
}

/// A panel in use, of a pass; given back also where its user panics.
struct Lease<S: Deref<Target = Shared>> {
    shared: S,
    number: u32,
    pass: u64,
    uses: u32,
    slot: Option<Arc<Slot>>,
    start: usize,
    len: usize,
}

fn lease<S: Deref<Target = Shared>>(shared: S, number: u32, uses: u32) -> Result<Lease<S>> {
    let Taken { slot, start, pass, len } = shared.acquire(number)?;
    let len = len.unwrap_or(shared.places[number as usize].len);
    Ok(Lease { shared, number, pass, uses, slot: Some(slot), start, len })
}

impl<S: Deref<Target = Shared>> Lease<S> {
    fn bytes(&self) -> &[u8] {
        self.slot.as_ref().map_or(&[], |slot| &slot.bytes()[self.start..self.start + self.len])
    }
}

impl<S: Deref<Target = Shared> + Send> Loan for Lease<S> {
    fn bytes(&self) -> &[u8] {
        Lease::bytes(self)
    }
}

impl<S: Deref<Target = Shared>> fmt::Debug for Lease<S> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Lease").field("number", &self.number).field("pass", &self.pass).finish_non_exhaustive()
    }
}

impl<S: Deref<Target = Shared>> Drop for Lease<S> {
    fn drop(&mut self) {
        // Before the place may be filled again: whoever fills it must hold it alone.
        self.slot = None;
        self.shared.release(self.number, self.pass, self.uses);
    }
}
