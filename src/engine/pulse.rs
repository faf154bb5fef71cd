//! What the engine's thread shows of itself: that it lives, and how full it is.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How full an engine is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Generations that have a sequence.
    pub running: usize,
    /// Those that wait for one.
    pub waiting: usize,
    /// Pages of sequence state, of the layers that have most of them in use.
    pub pages: usize,
    /// How many of them are free.
    pub free_pages: usize,
    /// How many of them only ended texts hold, which give way when they are wanted.
    pub kept_pages: usize,
}

/// Written by the engine's thread, read by whoever asks.
#[derive(Debug)]
pub(super) struct Pulse {
    begun: Instant,
    /// Milliseconds since then.
    last: AtomicU64,
    /// One thing, so that nobody sees the pages of one group and the free ones of another. Held for a copy only.
    now: Mutex<Occupancy>,
}

impl Pulse {
    /// One that beats now.
    pub fn new() -> Pulse {
        Pulse { begun: Instant::now(), last: AtomicU64::new(0), now: Mutex::default() }
    }

    /// The thread is at work.
    pub fn beat(&self) {
        self.last.store(self.begun.elapsed().as_millis() as u64, Relaxed);
    }

    /// And so full it is.
    pub fn show(&self, now: Occupancy) {
        self.beat();
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Time since the last beat.
    pub fn silent_for(&self) -> Duration {
        self.begun.elapsed().saturating_sub(Duration::from_millis(self.last.load(Relaxed)))
    }

    /// As it was shown last.
    pub fn occupancy(&self) -> Occupancy {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
