//! Who gets a sequence, who waits for one, and who has to give its own up.

use super::{Active, Scheduler};
use crate::engine::job::Job;
use crate::error::Error;
use crate::hal::PAGE;
use std::sync::atomic::Ordering;

/// Tokens that another one must be about to read for a job to wait for them, a pass or more: fewer are soon read twice.
const WORTH_WAITING: usize = PAGE;

impl Scheduler {
    /// Admits jobs while there is room. False when the engine was dropped: what still runs or waits has nobody who
    /// listens.
    pub(super) fn admit(&mut self) -> bool {
        if !self.receive() {
            return false;
        }
        let mut at = 0;
        while at < self.behind.len() {
            if self.follows(&self.behind[at], 1) {
                at += 1;
            } else {
                // They came before what is still to be admitted, in this order.
                self.waiting.push_back(self.behind.remove(at));
                self.freed = true;
            }
        }
        while self.active.len() + self.behind.len() < self.max_sequences && !self.queue.closed.load(Ordering::Relaxed) {
            if !self.waiting.is_empty() {
                if !self.freed || self.relief.refusal().is_some() {
                    break;
                }
                // It is not empty, and a turn that places nothing ends this.
                let Some(job) = self.waiting.pop_front() else { break };
                match self.start(job) {
                    Some(waits) => {
                        self.waiting.push_front(waits);
                        break;
                    }
                    None => continue,
                }
            }
            let Some(mut job) = self.arrived.pop() else { break };
            match self.relief.refusal() {
                None if self.follows(&job, WORTH_WAITING) => self.behind.push(job),
                None => {
                    let waits = self.start(job);
                    self.waiting.extend(waits);
                }
                Some(_) if job.is_patient() => {
                    self.waiting.push_back(job);
                    self.freed = true;
                }
                Some(e) => {
                    job.fail(e);
                    self.arrived.left(job.tenant());
                }
            }
        }
        !self.queue.closed.load(Ordering::Relaxed)
    }

    /// Gives a job its sequence, or the job back, which has to wait.
    fn start(&mut self, mut job: Job) -> Option<Job> {
        if job.end_if_unwanted(self.clock.now()) {
            self.arrived.left(job.tenant());
            return None;
        }
        let Some((seq, kept)) = self.place(&job) else {
            self.freed = false;
            return Some(job);
        };
        job.begin(kept, self.clock.now());
        self.active.push(Active { job, seq });
        None
    }

    /// Reserves the next stretch for whoever is at the end of the last one, the oldest first. What is kept gives way; then
    /// the next page has to do; then others give way.
    pub(super) fn grow(&mut self) {
        let mut at = 0;
        while let Some(Active { job, seq }) = self.active.get(at) {
            let (seq, needs, wants) = (*seq, job.needs(), job.wants());
            let kv = self.runner.kv();
            if kv.reserved(seq) >= needs || kv.reserve(seq, wants) {
                at += 1;
            } else if !self.kept.evict(kv, None) {
                if kv.reserve(seq, needs) {
                    continue;
                }
                self.preempt();
                // Whoever went, nobody is passed over.
                at = 0;
            }
        }
    }

    /// The generation that came last gives its pages up, before it those that say that they can wait, and waits before
    /// all others. An evaluation, which has told what it has read, keeps them: it has all that it needs.
    fn preempt(&mut self) {
        let gives = self.active.iter().enumerate().filter(|(_, a)| a.job.reader().is_none());
        // Nobody takes from others by calling oneself urgent.
        let Some((at, _)) = gives.max_by_key(|(at, a)| (a.job.priority().max(0), *at)) else { return };
        let Active { mut job, seq } = self.active.remove(at);
        self.runner.kv().release(seq);
        if self.active.is_empty() {
            // Alone it has all pages, and what needs more is not admitted.
            self.arrived.left(job.tenant());
            job.fail(Error::Engine("the sequence state does not hold what it was planned for".into()));
            return;
        }
        #[cfg(test)]
        {
            self.preempted += 1;
        }
        // Where it goes on from is found when it has a sequence again.
        self.waiting.push_front(job);
        self.freed = false;
    }
}
