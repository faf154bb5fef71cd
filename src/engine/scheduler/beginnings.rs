//! Where a job begins: behind what an ended text, or one that still runs, has in common with it.

use super::Scheduler;
use crate::engine::job::Job;
use crate::kv::SeqId;

impl Scheduler {
    /// Whether another job is just reading a beginning that this one has too, at least so many tokens more than are there
    /// already.
    pub(super) fn follows(&self, job: &Job, least: usize) -> bool {
        // Of a window's pages nothing may be left when it is read.
        if self.runner.is_windowed() {
            return false;
        }
        let reading = self.active.iter().filter(|a| !a.job.is_decoding() && a.job.reader().is_none());
        let to_come = reading.map(|a| job.shared(a.job.tenant(), a.job.tokens())).max().unwrap_or(0);
        if to_come < least {
            return false;
        }
        let running = self.running(job).map_or(0, |x| x.1);
        let kept = self.kept.look(self.runner.state(), job.tenant(), job.shareable()).len;
        to_come >= running.max(kept) + least
    }

    /// The running job that shares most of a job's text, if one shares anything, with how many positions that are.
    fn running(&self, job: &Job) -> Option<(SeqId, usize)> {
        let shared = self.active.iter().map(|a| (a.seq, job.shared(a.job.tenant(), a.job.past())));
        shared.filter(|x| x.1 > 0).max_by_key(|x| x.1)
    }

    /// A sequence with the pages that the job wants now, and how much of its text it holds already: it shares the pages of
    /// the text, ended or running, that has most in common with it. What else is kept gives way, the oldest first; at last
    /// that text itself. `None` when even then the jobs that run hold too much.
    pub(super) fn place(&mut self, job: &Job) -> Option<(SeqId, usize)> {
        let running = self.running(job);
        let kv = self.runner.kv();
        let mut found = self.kept.find(kv, job.tenant(), job.shareable());
        let running = running.filter(|x| x.1 > found.len);
        loop {
            if let Some((seq, n)) = running.and_then(|(seq, n)| Some((kv.fork_at(seq, n as u32)?, n))) {
                if kv.reserve(seq, job.wants()) {
                    return Some((seq, n));
                }
                // Both would copy a page, for which there may be no room; alone it may fit.
                kv.release(seq);
            }
            let seq = self.kept.go_on(kv, &found);
            if kv.reserve(seq, job.wants()) {
                return Some((seq, found.len));
            }
            kv.release(seq);
            if !self.kept.evict(kv, Some(&found)) {
                break;
            }
        }
        if !self.active.is_empty() {
            return None;
        }
        // Nobody else has a page. What it does not share it need not copy, and gets back from a window.
        let seq = self.kept.go_on(kv, &found);
        while !kv.reserve(seq, job.wants()) {
            if !self.kept.hand_over(kv, &mut found) {
                kv.release(seq);
                return None;
            }
        }
        Some((seq, found.len))
    }
}
