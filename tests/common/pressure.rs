//! A machine whose free memory a test sets.

use air_rs::engine::{Engine, Gauge, Reading};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The clock moves a second with every look.
#[derive(Debug, Default)]
pub struct Script {
    free: Mutex<Vec<u64>>,
    looks: AtomicU64,
}

impl Script {
    /// With so many bytes free.
    pub fn new(free: u64) -> Script {
        Script { free: Mutex::new(vec![free]), looks: AtomicU64::new(0) }
    }

    /// What is free at the next looks, one after another; the last one stays.
    pub fn set(&self, free: &[u64]) {
        *self.free.lock().unwrap() = free.iter().rev().copied().collect();
    }

    /// Waits until the engine has looked some more times.
    pub fn looked(&self, times: u64) {
        let end = self.looks.load(Ordering::SeqCst) + times;
        while self.looks.load(Ordering::SeqCst) < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Gauge for Script {
    fn read(&self) -> Reading {
        let mut free = self.free.lock().unwrap();
        let now = if free.len() > 1 { free.pop() } else { free.first().copied() };
        let at = Duration::from_secs(self.looks.fetch_add(1, Ordering::SeqCst));
        Reading { free: now.unwrap(), held: 0, at }
    }

    fn every(&self) -> Duration {
        Duration::from_micros(100)
    }
}

/// Bytes free where memory is short, and where there is plenty.
pub const SHORT: u64 = 0;
pub const PLENTY: u64 = 1 << 50;

/// Waits until the engine is at a level.
pub fn reached(engine: &Engine, level: air_rs::engine::Level) {
    while engine.pressure().level != level {
        std::thread::sleep(Duration::from_millis(1));
    }
}
