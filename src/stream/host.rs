//! Panels that the host keeps for a device with memory of its own: read once, and lent in each pass.
//!
//! They and the ring are pinned where the device offers it. Where a processor computes beside the device they lie in its
//! layout: it reads them far more often than they are carried.

use super::{Streamer, lock};
use crate::error::Result;
use crate::hal::{BEHIND, Home, Supply};
use crate::io::{self, Slot};
use crate::plan::Plan;
use std::sync::Arc;

/// Panels by their numbers; empty where none are kept.
#[derive(Debug, Default)]
pub(super) struct Kept(Vec<Option<Panel>>);

/// A panel that is kept.
#[derive(Debug, Clone)]
pub(super) struct Panel {
    /// Its bytes are the first of it.
    pub slot: Arc<Slot>,
    /// How many they are, in a processor's layout; none where they are rows as in the file.
    pub arranged: Option<usize>,
}

impl Kept {
    pub fn get(&self, number: u32) -> Option<&Panel> {
        self.0.get(number as usize)?.as_ref()
    }
}

/// Arranges the rows of a unit's panel, as `Backend::arrange`.
pub type Arrange<'a> = dyn Fn(usize, &[u8], &mut [u8]) -> bool + 'a;

impl Streamer {
    /// Reads the panels that the host keeps and arranges them. Comes behind the backend's `load` of all weights; `read` is
    /// told the bytes of each.
    ///
    /// # Errors
    /// Those of reading; `Limit` when memory is short.
    pub fn keep(&mut self, plan: &Plan, arrange: &Arrange, read: &mut dyn FnMut(u64)) -> Result<()> {
        let numbers: Vec<u32> =
            (0u32..).zip(&plan.parts).filter(|(_, p)| p.home == Home::Host).map(|(n, _)| n).collect();
        let arranged: Vec<usize> = numbers.iter().map(|&n| plan.in_groups(n) as usize).collect();
        let sizes: Vec<usize> = arranged.iter().map(|len| len + BEHIND).collect();
        let slots = io::slots_of(&sizes)?;
        self.pin(&slots);
        let mut kept = Kept(vec![None; plan.parts.len()]);
        for ((&n, mut slot), len) in numbers.iter().zip(slots).zip(arranged) {
            let part = &plan.parts[n as usize];
            let mut is_arranged = false;
            if let Some(mine) = Arc::get_mut(&mut slot) {
                let room = mine.bytes_mut();
                self.shared.panel(n, 1, &mut |rows| {
                    is_arranged = arrange(part.unit, rows, &mut room[..len]);
                    if !is_arranged {
                        room[..rows.len()].copy_from_slice(rows);
                    }
                })?;
            }
            kept.0[n as usize] = Some(Panel { slot, arranged: is_arranged.then_some(len) });
            read(part.extent.len);
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
