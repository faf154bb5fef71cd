//! When a panel has had its uses: its place is free, or the panel stays for the next tile of the pass.
//!
//! A long pass runs stage by stage, and each stage tile by tile. What a stage streams is read once: until its last tile
//! its panels stay, and each of them begins its uses again. So the ring must have places for all that a stage streams;
//! the plan sees to it (`Plan::holds_stages`). Meanwhile what is left of the ring is read into.

use super::{Content, Entry, Shared, Streamer, lock};

impl Streamer {
    /// Whether the panels that are used from now on are used once more, by another tile. No panel is in use.
    pub fn again(&self, again: bool) {
        lock(&self.shared.state).again = again;
    }
}

impl Shared {
    /// A user is through with a panel; after `uses` of them its place is free, or it waits for the next tile.
    pub(super) fn release(&self, number: u32, pass: u64, uses: u32) {
        let mut state = lock(&self.state);
        if state.kept.get(number).is_some() {
            return;
        }
        if state.cache.has(number) {
            if state.cache.give_back(number, uses) {
                drop(state);
                self.freed.notify_one();
            }
            return;
        }
        let Some(at) = state.find(number, pass) else { return };
        let over = pass < state.pass;
        let entry = &mut state.queue[at];
        entry.users -= 1;
        entry.done += 1;
        if if over { entry.users > 0 } else { entry.done < uses } {
            return;
        }
        entry.done = 0;
        if (over || !state.again)
            && let Some(Entry { content: Content::Ready { slot, .. }, .. }) = state.queue.remove(at)
        {
            state.free.push(slot);
            drop(state);
            self.freed.notify_one();
        }
    }
}
