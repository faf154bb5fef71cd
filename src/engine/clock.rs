//! The scheduler's time. Tests turn it by hand: whole days of a server pass in a moment, and each run is the same.

use std::time::Instant;

/// What says how late it is.
#[derive(Debug, Clone)]
pub(super) enum Clock {
    /// The machine's.
    Machine,
    /// One that stands still until somebody turns it.
    #[cfg(test)]
    ByHand(std::sync::Arc<ByHand>),
}

/// A clock that is turned by hand.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct ByHand {
    begun: Instant,
    micros: std::sync::atomic::AtomicU64,
}

#[cfg(test)]
impl ByHand {
    /// One that shows its beginning.
    pub fn new() -> Self {
        ByHand { begun: Instant::now(), micros: 0.into() }
    }

    /// When it began.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// So much later.
    pub fn turn(&self, time: std::time::Duration) {
        self.micros.fetch_add(time.as_micros() as u64, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Clock {
    /// How late it is.
    pub fn now(&self) -> Instant {
        match self {
            Clock::Machine => Instant::now(),
            #[cfg(test)]
            Clock::ByHand(hand) => {
                hand.begun + std::time::Duration::from_micros(hand.micros.load(std::sync::atomic::Ordering::Relaxed))
            }
        }
    }
}
