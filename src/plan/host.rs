//! What a device with memory of its own has no room for, and the host has.
//!
//! It comes over the link in each pass, and need not come from the drive before. As between the device's memory and the
//! rest, the two take turns along a pass, so that the drive brings its panels while the link carries the host's.

use super::turns::Turns;
use super::{ALIGN, GROUP, Plan};
use crate::hal::{BEHIND, Home};

impl Plan {
    /// Bytes of a panel in a processor's layout, which has whole groups of rows.
    pub fn in_groups(&self, number: u32) -> u64 {
        let (_, panel) = self.panel(number);
        let rows = panel.rows.len();
        self.parts[number as usize].extent.len / rows.max(1) as u64 * rows.next_multiple_of(GROUP) as u64
    }

    /// Bytes of memory that a panel takes where the host keeps it: room for that layout, and whole pages.
    pub(super) fn on_host(&self, number: u32) -> u64 {
        (self.in_groups(number) + BEHIND as u64).next_multiple_of(ALIGN)
    }

    /// Keeps panels that would be streamed in the host's memory, as many as there is room for beside the ring.
    pub(super) fn keep_on_host(&mut self) {
        let Some(host) = self.host else { return };
        let room = host.saturating_sub(self.ring()).saturating_sub(self.cache.bytes());
        let streamed = (0u32..).zip(&self.parts).filter(|(_, p)| p.home == Home::Stream);
        let sizes: Vec<(u32, u64)> = streamed.map(|(n, _)| (n, self.on_host(n))).collect();
        let all: u64 = sizes.iter().map(|(_, bytes)| bytes).sum();
        let mut turns = Turns::new(room.min(all), all);
        for (number, bytes) in sizes {
            if turns.takes(bytes) {
                self.parts[number as usize].home = Home::Host;
            }
        }
        self.cache.grow(room.saturating_sub(all) + turns.left());
        for panel in self.panels.iter_mut().flatten() {
            panel.home = self.parts[panel.number as usize].home;
        }
    }
}
