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
    /// Those of opening a reader: no pass runs then until `read_again` could. A larger ring is not tried again by that:
    /// there was memory for the smaller one.
    pub fn shrink_ring(&mut self, small: bool) -> Result<()> {
        let plan = &self.residence.plan;
        let (before, places) = (self.stream.places(), if small { plan.small_ring() } else { plan.slots });
        let resized = self.stream.resize(places);
        if resized.is_err() {
            // Where nothing is read this only says how many there are to be.
            self.stream.resize(before.min(places))?;
        }
        self.fit_passes();
        resized
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
        self.fit_passes();
        // The ring's memory is there only now.
        self.read_again()?;
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
        self.fit_passes();
        self.read_again()?;
        result.map(|()| taken)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Chunk, Outputs};
    use super::*;
    use crate::engine::load::{LoadOptions, load};
    use crate::io;
    use std::sync::Arc;

    /// The bits of the logits behind a prompt that is longer than a batch.
    fn read(runner: &mut Runner) -> Result<Vec<u32>> {
        let text: Vec<u32> = (0..60).map(|i| 3 + i * 7 % 60).collect();
        let seq = runner.kv().create();
        let pass = runner.pass_rows();
        let read = text.chunks(pass).try_for_each(|tokens| runner.run([Chunk { seq, tokens, outputs: Outputs::Last }]));
        runner.kv().release(seq);
        read.map(|()| runner.logits().iter().map(|x| x.to_bits()).collect())
    }

    /// Where a reader is refused while the ring changes, passes fit into the places that the next one has.
    #[test]
    fn behind_a_reader_that_was_refused_passes_fit_its_ring() {
        // The first loads, the second is there where weights are streamed; then one fails whenever the ring changes.
        let faults = Arc::new(io::Faults::parse("open@3,open@5").unwrap());
        let reader = io::Options { faults: Some(faults), ..io::Options::default() };
        let options = LoadOptions { context: Some(128), max_rows: 16, reader, ..LoadOptions::default() };
        let mut runner = load(&crate::engine::demo().unwrap(), &options, &mut |_, _| ()).unwrap().1;
        let want = read(&mut runner).unwrap();
        runner.give_weights(u64::MAX).unwrap();
        // As if the plan had larger panels, and a ring for passes of two tiles: a small one has three places.
        (runner.residence.plan.slot_bytes, runner.residence.pass_rows) = (16 << 20, 32);
        runner.fit_passes();
        assert_eq!((runner.pass_rows(), runner.residence.plan.small_ring()), (32, 3));

        assert!(runner.shrink_ring(true).is_err() && read(&mut runner).is_err());
        runner.read_again().unwrap();
        assert_eq!((runner.stream.places(), runner.pass_rows()), (3, 16));
        assert!(read(&mut runner).unwrap() == want);

        assert!(runner.shrink_ring(false).is_err() && read(&mut runner).is_err());
        runner.read_again().unwrap();
        assert_eq!((runner.stream.places(), runner.pass_rows()), (3, 16), "as many as there was memory for");
        assert!(read(&mut runner).unwrap() == want);
        runner.shrink_ring(false).unwrap();
        assert_eq!(runner.pass_rows(), 32);
    }
}
