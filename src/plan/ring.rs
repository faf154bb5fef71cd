//! The ring: how many places streamed panels pass through.
//!
//! A pass that is a single batch needs a few: some to read from, some to fill. A pass of several tiles runs stage by
//! stage, and within a stage tile by tile, so that each stage's panels are read once; then the ring holds all that any
//! stage streams, and still has places for what is read ahead. A larger ring leaves less room for weights that are
//! kept, so more of them are streamed; a few turns settle it. What output rows use (the head) is used once in a pass
//! of any length, and needs no more.

use super::{Plan, Unit};
use crate::error::Result;
use crate::hal::Home;

/// The ring's bytes, by what the budget allows.
const RING: std::ops::RangeInclusive<u64> = 16 << 20..=64 << 20;

/// Places of a ring at least: one to read from, one to fill, and one to spare.
const LEAST_SLOTS: usize = 3;

/// The most that a ring takes on a device but for its least number of places.
pub(super) fn most(budget: u64) -> u64 {
    (budget / 32).min(*RING.end())
}

/// Places of a ring that panels pass through once. On a device, whose link answers at once, a few will do.
pub(super) fn places(budget: u64, slot_bytes: u64, panels: usize, on_device: bool) -> usize {
    let least = if on_device { 0 } else { *RING.start() };
    let ring = (budget / 32).clamp(least, *RING.end());
    ((ring / slot_bytes) as usize).clamp(LEAST_SLOTS, panels.max(LEAST_SLOTS))
}

impl Plan {
    /// Bytes of the ring.
    pub fn ring(&self) -> u64 {
        (self.slots as u64).saturating_mul(self.slot_bytes)
    }

    /// Those that it takes of the budget: a device that holds all has none.
    pub fn ring_used(&self) -> u64 {
        if self.host.is_some() && self.carried() == 0 { 0 } else { self.ring() }
    }

    /// Places of the ring while memory is short: those of a small budget. Fewer would leave the drive waiting, which
    /// costs more than the weights that their bytes could keep.
    pub fn small_ring(&self) -> usize {
        places(0, self.slot_bytes, self.parts.len(), false).min(self.slots)
    }

    /// Bytes of all but weights.
    pub fn fixed(&self) -> u64 {
        self.needs.total().saturating_add(self.ring())
    }

    /// Whether a pass may have several tiles: a ring of so many places holds all panels that any stage streams, and one
    /// more to read ahead.
    pub fn holds_stages(&self, slots: usize, units: &[Unit]) -> bool {
        slots > self.widest(units)
    }

    /// Most panels that one stage streams for all rows of a pass.
    fn widest(&self, units: &[Unit]) -> usize {
        let (mut most, mut count, mut stage) = (0, 0, usize::MAX);
        for part in self.parts.iter().filter(|p| p.home == Home::Stream && !p.outputs) {
            count = if units[part.unit].stage == stage { count + 1 } else { 1 };
            stage = units[part.unit].stage;
            most = most.max(count);
        }
        most
    }

    /// Gives panels their homes beside a ring that holds what any stage streams, and a quarter of what it would have
    /// otherwise to read ahead: a tile takes long, and what the ring takes is streamed in every pass.
    pub(super) fn widen(&mut self, units: &[Unit], budget: u64) -> Result<()> {
        let (ahead, experts) = ((self.slots / 4).max(2), self.cache.places);
        loop {
            self.cache.places = experts;
            self.spread(units, budget, &super::anywhere)?;
            let need = self.widest(units) + ahead;
            if need <= self.slots {
                return Ok(());
            }
            self.slots = need;
        }
    }
}
