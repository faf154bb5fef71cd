//! Reads by threads that wait for one read each.
//!
//! Works wherever there are files. A thread takes a read, stays with it until its end and takes the next; so the number
//! of threads is the number of reads at once. The queues hold no more than there are slots.

use super::target::{Target, how};
use super::transfer::Transfer;
use super::{Done, Faults, Read, Reader, Slot};
use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Threads and what goes between them and the caller.
pub(super) struct Pread {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    in_flight: usize,
}

struct Shared {
    targets: Arc<[Target]>,
    faults: Option<Arc<Faults>>,
    queues: Mutex<Queues>,
    /// There is something to read, or an end.
    work: Condvar,
    /// Something is done.
    done: Condvar,
}

#[derive(Default)]
struct Queues {
    waiting: VecDeque<Transfer>,
    done: VecDeque<Done>,
    closed: bool,
}

impl Pread {
    pub fn new(targets: Arc<[Target]>, depth: usize, faults: Option<Arc<Faults>>) -> Result<Pread> {
        let queues = Mutex::default();
        let shared = Arc::new(Shared { targets, faults, queues, work: Condvar::new(), done: Condvar::new() });
        let mut threads = vec![];
        for _ in 0..depth {
            let shared = Arc::clone(&shared);
            match std::thread::Builder::new().name("air-read".into()).spawn(move || shared.serve()) {
                Ok(thread) => threads.push(thread),
                Err(e) if threads.is_empty() => return Err(Error::io("threads that read", "cannot start one", &e)),
                Err(_) => break, // fewer will do; the description says how many there are
            }
        }
        Ok(Pread { shared, threads, in_flight: 0 })
    }
}

impl Shared {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread's life.
    fn serve(&self) {
        let mut queues = self.queues();
        while !queues.closed {
            let Some(transfer) = queues.waiting.pop_front() else {
                queues = self.work.wait(queues).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(queues);
            let target = &self.targets[transfer.read.source];
            let done = finish(transfer, target, self.faults.as_deref());
            queues = self.queues();
            queues.done.push_back(done);
            self.done.notify_one();
        }
    }
}

/// Stays with a read until its end.
pub(super) fn finish(mut transfer: Transfer, target: &Target, faults: Option<&Faults>) -> Done {
    loop {
        let (offset, window) = transfer.window();
        let answer = target.read_at(window, offset);
        let answer = match faults {
            Some(faults) => faults.answer(window, answer),
            None => answer,
        };
        if let Some(result) = transfer.answer(target, answer) {
            return transfer.done(target, result);
        }
        std::thread::sleep(transfer.pause());
    }
}

impl Reader for Pread {
    fn description(&self) -> String {
        let n = self.threads.len();
        format!("pread, {n} thread{}, {}", if n == 1 { "" } else { "s" }, how(&self.shared.targets))
    }

    fn submit(&mut self, read: Read, slot: Arc<Slot>) {
        let transfer = Transfer::new(read, slot, &self.shared.targets[read.source]);
        self.in_flight += 1;
        let mut queues = self.shared.queues();
        match transfer {
            Ok(transfer) => {
                queues.waiting.push_back(transfer);
                self.shared.work.notify_one();
            }
            Err(done) => queues.done.push_back(done),
        }
    }

    fn wait_for(&mut self, time: Duration) -> Option<Done> {
        assert!(self.in_flight > 0, "nothing is being read");
        let end = Instant::now() + time;
        let mut queues = self.shared.queues();
        loop {
            if let Some(done) = queues.done.pop_front() {
                self.in_flight -= 1;
                return Some(done);
            }
            let left = end.checked_duration_since(Instant::now())?;
            queues = self.shared.done.wait_timeout(queues, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }
}

impl Drop for Pread {
    fn drop(&mut self) {
        let mut queues = self.shared.queues();
        queues.closed = true;
        queues.waiting.clear();
        drop(queues);
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // it has ended, one way or the other
        }
    }
}
