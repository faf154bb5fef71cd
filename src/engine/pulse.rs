//! What the engine's thread shows of itself: that it lives, and how full it is.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
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
    /// How many of them are free. What is kept of ended texts is not, though it gives way.
    pub free_pages: usize,
}

/// Written by the engine's thread, read by whoever asks.
#[derive(Debug)]
pub(super) struct Pulse {
    begun: Instant,
    /// Milliseconds since then.
    last: AtomicU64,
    running: AtomicUsize,
    waiting: AtomicUsize,
    pages: AtomicUsize,
    free_pages: AtomicUsize,
}

impl Pulse {
    /// One that beats now.
    pub fn new() -> Pulse {
        let zero = || AtomicUsize::new(0);
        let (running, waiting, pages, free_pages) = (zero(), zero(), zero(), zero());
        Pulse { begun: Instant::now(), last: AtomicU64::new(0), running, waiting, pages, free_pages }
    }

    /// The thread is at work.
    pub fn beat(&self) {
        self.last.store(self.begun.elapsed().as_millis() as u64, Relaxed);
    }

    /// And so full it is.
    pub fn show(&self, now: Occupancy) {
        self.beat();
        self.running.store(now.running, Relaxed);
        self.waiting.store(now.waiting, Relaxed);
        self.pages.store(now.pages, Relaxed);
        self.free_pages.store(now.free_pages, Relaxed);
    }

    /// Time since the last beat.
    pub fn silent_for(&self) -> Duration {
        self.begun.elapsed().saturating_sub(Duration::from_millis(self.last.load(Relaxed)))
    }

    /// As it was shown last.
    pub fn occupancy(&self) -> Occupancy {
        Occupancy {
            running: self.running.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
            pages: self.pages.load(Relaxed),
            free_pages: self.free_pages.load(Relaxed),
        }
    }
}
