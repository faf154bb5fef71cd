//! What of a loaded model gives memory back while it runs, and takes it again: all between passes.

use super::Runner;
use crate::engine::pressure::Stock;
use crate::error::Result;

impl Runner {
    /// What there is to give back, and what was given.
    pub(in crate::engine) fn stock(&self) -> Stock {
        let super::Residence { plan, units, .. } = &self.residence;
        let places = if plan.streams() { (plan.slots - plan.small_ring()) as u64 } else { 0 };
        Stock {
            ring: places * plan.slot_bytes,
            panels: if self.residence.movable() { plan.may_give(units) } else { 0 },
            given: self.given.bytes(plan, units),
        }
    }

    /// Gives the memory of free sequence state back to the system.
    pub fn give_state_back(&mut self) {
        self.kv.forget_free(&mut *self.backend);
    }

    /// The ring has the places of a small budget, or all that were planned.
    ///
    /// # Errors
    /// Those of opening a reader: no pass runs then until `read_again` could.
    pub fn shrink_ring(&mut self, small: bool) -> Result<()> {
        let plan = &self.residence.plan;
        self.stream.resize(if small { plan.small_ring() } else { plan.slots })?;
        self.fit_passes();
        Ok(())
    }

    /// A long pass needs a ring that holds all that a stage streams; without one a prompt is read batch by batch.
    fn fit_passes(&mut self) {
        let super::Residence { plan, units, pass_rows, .. } = &self.residence;
        let holds = plan.holds_stages(self.stream.places(), units);
        self.pass_rows = if holds { *pass_rows } else { (*pass_rows).min(self.max_rows) };
    }

    /// Gives weights of so many bytes back to the system, or all that may go, and as much as the ring takes where there
    /// was none; from now on they come from the drive. How many bytes they were.
    ///
    /// # Errors
    /// Those of opening a reader, where none was needed so far: no pass runs then until `read_again` could.
    pub fn give_weights(&mut self, bytes: u64) -> Result<u64> {
        let super::Residence { plan, units, .. } = &mut self.residence;
        let before = plan.kept;
        let ring = if plan.brings() { 0 } else { plan.small_ring() as u64 * plan.slot_bytes };
        for n in self.given.give(plan, units, bytes.saturating_add(ring)) {
            let (unit, panel) = plan.panel(n);
            self.backend.rehome(self.weights[unit], panel)?;
        }
        let given = before - plan.kept;
        // The ring's memory is there only now.
        self.read_again()?;
        self.fit_passes();
        Ok(given)
    }

    /// The panels that are streamed now come, pass after pass.
    ///
    /// # Errors
    /// Those of opening a reader.
    pub fn read_again(&mut self) -> Result<()> {
        self.stream.stream(&self.residence.plan)
    }

    /// Reads weights of at most so many bytes that were given back, to keep them again. How many bytes they were.
    ///
    /// # Errors
    /// Those of reading; what was not read stays away.
    pub fn take_weights(&mut self, bytes: u64) -> Result<u64> {
        let super::Residence { plan, units, .. } = &mut self.residence;
        let before = plan.kept;
        let panels = self.given.take(plan, units, bytes);
        if panels.is_empty() {
            return Ok(0);
        }
        let mut result = self.stream.load(&panels);
        for n in panels {
            if result.is_ok() {
                let (unit, panel) = plan.panel(n);
                result = self.backend.rehome(self.weights[unit], panel);
            }
            if result.is_err() {
                self.given.leave(plan, units, n);
            }
        }
        let taken = plan.kept - before;
        self.read_again()?;
        self.fit_passes();
        result.map(|()| taken)
    }
}
