//! Panels that the host keeps for a device with memory of its own: read once, and lent in each pass.
//!
//! They and the ring are pinned where the device offers it.

use super::{Streamer, lock};
use crate::error::Result;
use crate::hal::{Home, Supply};
use crate::io::{self, Slot};
use crate::plan::Plan;
use std::sync::Arc;

/// Panels by their numbers; empty where none are kept.
#[derive(Debug, Default)]
pub(super) struct Kept(Vec<Option<Arc<Slot>>>);

impl Kept {
    /// A panel's memory: its bytes are the first of it.
    pub fn get(&self, number: u32) -> Option<&Arc<Slot>> {
        self.0.get(number as usize)?.as_ref()
    }
}

impl Streamer {
    /// Reads the panels that the host keeps. Comes behind the backend's `load` of all weights; `read` is told the bytes
    /// of each.
    ///
    /// # Errors
    /// Those of reading; `Limit` when memory is short.
    pub fn keep(&mut self, plan: &Plan, read: &mut dyn FnMut(u64)) -> Result<()> {
        let numbers: Vec<u32> =
            (0u32..).zip(&plan.parts).filter(|(_, p)| p.home == Home::Host).map(|(n, _)| n).collect();
        let sizes: Vec<usize> = numbers.iter().map(|&n| plan.parts[n as usize].extent.len as usize).collect();
        let slots = io::slots_of(&sizes)?;
        self.pin(&slots);
        let mut kept = Kept(vec![None; plan.parts.len()]);
        for (&n, mut slot) in numbers.iter().zip(slots) {
            let bytes = plan.parts[n as usize].extent.len;
            if let Some(mine) = Arc::get_mut(&mut slot) {
                self.shared.panel(n, 1, &mut |panel| mine.bytes_mut()[..panel.len()].copy_from_slice(panel))?;
            }
            kept.0[n as usize] = Some(slot);
            read(bytes);
        }
        lock(&self.shared.state).kept = kept;
        Ok(())
    }

    /// Pins the memory of slots that were made together; where that is refused, that is said, and copies are slower.
    pub(super) fn pin(&mut self, slots: &[Arc<Slot>]) {
        let Some(pinner) = &self.pinner else { return };
        if let Err(why) = io::pin(slots, |start, len| pinner.pin(start, len)) {
            self.note.get_or_insert(format!("memory for weights is not pinned, copies to the GPU are slower: {why}"));
        }
    }
}
