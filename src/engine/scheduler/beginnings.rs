//! Where a job begins: behind what an earlier text, or one that still runs, has in common with it.

use super::Scheduler;
use crate::engine::job::Job;
use crate::engine::relief::Past;
use crate::hal::PAGE;
use crate::kv::{Kv, SeqId};

impl Scheduler {
    /// Whether another job is just reading a beginning that this one has too.
    pub(super) fn follows(&self, job: &Job) -> bool {
        // Of a window's pages nothing may be left when it is read.
        if self.runner.is_windowed() {
            return false;
        }
        let pages = |tenant: u64, tokens: &[u32]| job.shared(tenant, tokens) / PAGE;
        let now = self.active.iter().map(|a| pages(a.job.tenant(), a.job.past()));
        let now = now.chain(self.kept.iter().map(|k| pages(k.tenant, &k.tokens))).max().unwrap_or(0);
        let reading = self.active.iter().filter(|a| !a.job.is_decoding() && a.job.reader().is_none());
        reading.map(|a| pages(a.job.tenant(), a.job.tokens())).max().unwrap_or(0) > now
    }

    /// The running job that shares most whole pages with a job's text, if one does, with how many positions that are.
    fn running(&self, job: &Job) -> Option<(SeqId, usize)> {
        let shared = self.active.iter().map(|a| (a.seq, job.shared(a.job.tenant(), a.job.past()) / PAGE * PAGE));
        shared.filter(|x| x.1 > 0).max_by_key(|x| x.1)
    }

    /// A sequence with the pages that the job wants now, and how much of its text it holds already: a fork of the one,
    /// kept or running, that shares most with it. Other kept sequences give way, the oldest first; at last that one
    /// itself is taken. `None` when even then the jobs that run hold too much.
    pub(super) fn place(&mut self, job: &Job) -> Option<(SeqId, usize)> {
        let running = self.running(job);
        let best = self.best(job, running.map_or(0, |x| x.1));
        let kv = self.runner.kv();
        loop {
            if self.kept.len() + usize::from(best.is_some()) <= self.most_kept {
                let shared = |kv: &mut Kv| running.and_then(|(seq, n)| Some((kv.fork_pages(seq, n as u32)?, n)));
                let (seq, n) = match &best {
                    Some((past, n)) => (kv.fork(past.seq), *n),
                    None => shared(kv).unwrap_or_else(|| (kv.create(), 0)),
                };
                if kv.restore(seq, n as u32).is_ok() && kv.reserve(seq, job.wants()) {
                    self.kept.extend(best.map(|(past, _)| past));
                    return Some((seq, n));
                }
                kv.release(seq);
            }
            match self.kept.pop_front() {
                Some(oldest) => kv.release(oldest.seq),
                None => break,
            }
        }
        let (mut past, n) = best?;
        if kv.restore(past.seq, n as u32).is_ok() && kv.reserve(past.seq, job.wants()) {
            return Some((past.seq, n));
        }
        past.tokens.truncate(n);
        self.kept.push_back(past);
        None
    }

    /// Takes out the kept sequence that shares most with a job's text, if one shares more than `least`, with the length
    /// that is shared.
    fn best(&mut self, job: &Job, least: usize) -> Option<(Past, usize)> {
        let kv = self.runner.kv();
        let shared = |past: &Past| {
            // Of a window that has moved on, what it gave back would be seen again.
            let n = job.shared(past.tenant, &past.tokens);
            (n > least && kv.can_restore(past.seq, n as u32).is_ok()).then_some(n)
        };
        let (at, n) =
            self.kept.iter().map(shared).enumerate().filter_map(|(at, n)| Some((at, n?))).max_by_key(|x| x.1)?;
        self.kept.remove(at).map(|past| (past, n))
    }

    /// What is kept stays within its bound, the oldest give way.
    pub(super) fn trim(&mut self) {
        while self.kept.len() > self.most_kept.max(1) {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.runner.kv().release(oldest.seq);
        }
    }
}
