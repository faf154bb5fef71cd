//! The stream as backends see it: panels are lent while they are computed with, and come back in any case.

use super::{Shared, lock};
use crate::error::Result;
use crate::hal::{Supply, Wanted};
use crate::io::Slot;
use std::sync::Arc;

impl Supply for Shared {
    fn want(&self, panels: &mut [Wanted]) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        state.cache.want(panels, &mut state.clock.counters);
        self.freed.notify_one();
    }

    fn panel(&self, number: u32, uses: u32, f: &mut dyn FnMut(&[u8])) -> Result<()> {
        let (slot, start) = self.acquire(number)?;
        let lease = Lease { shared: self, number, uses, slot: Some(slot) };
        f(&lease.bytes()[start..start + self.places[number as usize].len]);
        Ok(())
    }

    fn bytes(&self, number: u32, at: usize, out: &mut [u8]) -> Result<()> {
        let place = self.places[number as usize];
        self.rows.read(place.source, place.offset + at as u64, out)
    }
}

/// A panel in use; given back also where its user panics.
struct Lease<'a> {
    shared: &'a Shared,
    number: u32,
    uses: u32,
    slot: Option<Arc<Slot>>,
}

impl Lease<'_> {
    fn bytes(&self) -> &[u8] {
        self.slot.as_ref().map_or(&[], |slot| slot.bytes())
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // Before the place may be filled again: whoever fills it must hold it alone.
        self.slot = None;
        self.shared.release(self.number, self.uses);
    }
}
