//! A sign of life of the engine's thread, for whoever must know whether it still works.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When the thread was last seen at work.
#[derive(Debug)]
pub(super) struct Pulse {
    begun: Instant,
    /// Milliseconds since then.
    last: AtomicU64,
}

impl Pulse {
    /// One that beats now.
    pub fn new() -> Pulse {
        Pulse { begun: Instant::now(), last: AtomicU64::new(0) }
    }

    /// The thread is at work.
    pub fn beat(&self) {
        self.last.store(self.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Time since the last beat.
    pub fn silent_for(&self) -> Duration {
        self.begun.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}
