//! What streaming has carried, and how long the cores have waited for it.

use std::time::{Duration, Instant};

/// Totals since the stream was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes of panels that have arrived.
    pub bytes: u64,
    /// Time during which at least one thread waited for a panel.
    pub stalled: Duration,
    /// Experts that a pass wanted and that were there, each once in a pass.
    pub hits: u64,
    /// Those that had to come.
    pub misses: u64,
    /// Bytes of experts among `bytes`.
    pub missed: u64,
    /// Experts of which something was read on a guess, before the step that might want them was known.
    pub foreseen: u64,
    /// Those of them that the next step did want; they count as misses too.
    pub foreseen_used: u64,
    /// Bytes of the others that were read on a guess: among `missed`, and for nothing.
    pub read_for_nothing: u64,
}

impl Counters {
    /// The share of wanted experts that were there.
    pub fn hit_rate(&self) -> Option<f64> {
        let all = self.hits + self.misses;
        (all > 0).then(|| self.hits as f64 / all as f64)
    }
}

impl std::ops::Sub for Counters {
    type Output = Counters;

    /// What has been counted since.
    fn sub(self, before: Counters) -> Counters {
        Counters {
            bytes: self.bytes - before.bytes,
            stalled: self.stalled - before.stalled,
            hits: self.hits - before.hits,
            misses: self.misses - before.misses,
            missed: self.missed - before.missed,
            foreseen: self.foreseen - before.foreseen,
            foreseen_used: self.foreseen_used - before.foreseen_used,
            read_for_nothing: self.read_for_nothing - before.read_for_nothing,
        }
    }
}

/// Counters and those who wait.
#[derive(Debug, Default)]
pub(super) struct Clock {
    pub counters: Counters,
    waiting: u32,
    since: Option<Instant>,
}

impl Clock {
    /// Somebody begins to wait.
    pub fn wait(&mut self) {
        self.waiting += 1;
        self.since.get_or_insert_with(Instant::now);
    }

    /// Somebody goes on.
    pub fn go(&mut self) {
        self.waiting -= 1;
        if self.waiting == 0
            && let Some(since) = self.since.take()
        {
            self.counters.stalled += since.elapsed();
        }
    }
}
