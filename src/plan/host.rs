//! What a device with memory of its own has no room for, and the host has.
//!
//! It comes over the link in each pass, and need not come from the drive before. As between the device's memory and the
//! rest, the two take turns along a pass, so that the drive brings its panels while the link carries the host's.

use super::Plan;
use crate::hal::Home;

impl Plan {
    /// Keeps panels that would be streamed in the host's memory, as many as there is room for beside the ring.
    pub(super) fn keep_on_host(&mut self) {
        let Some(host) = self.host else { return };
        let all = self.streamed();
        let mut left = host.saturating_sub(self.ring()).saturating_sub(self.cache.bytes());
        let room = left;
        left = left.min(all);
        let (share, mut due) = (left as f64 / all.max(1) as f64, 0.0);
        for part in self.parts.iter_mut().filter(|p| p.home == Home::Stream) {
            let bytes = part.extent.len;
            due += bytes as f64 * share;
            if due >= bytes as f64 / 2.0 && bytes <= left {
                due -= bytes as f64;
                left -= bytes;
                part.home = Home::Host;
            }
        }
        self.cache.grow(room - self.hosted());
        for panel in self.panels.iter_mut().flatten() {
            panel.home = self.parts[panel.number as usize].home;
        }
    }
}
