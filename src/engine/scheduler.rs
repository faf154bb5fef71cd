//! What to run next: the engine's thread.
//!
//! Each turn admits jobs while there are free sequences, builds one batch and runs it: first the next token of every
//! job that is generating, then prompts in order of arrival, up to the rows of a pass. Jobs of all kinds mix in one
//! batch; by the backend's law a row's result does not depend on its neighbours.
//!
//! Where weights are streamed a pass may have thousands of rows and last a minute. It is given up, and nothing changes,
//! as soon as nobody wants the prompts that make it long; who was generating in it goes on with a short one.
//!
//! A job is admitted when the pages are free that its prompt and a stretch of its answer take; they are reserved, so a
//! pass never runs out of state. Stretch by stretch it reserves more; where there is none, kept texts give way, then the
//! job that came last: it gives its pages up and reads its text again when there is room, which by the law of equal bits
//! nobody can tell but by the time. So the oldest always goes on. Jobs are admitted in order of arrival: one that has
//! to wait holds up those behind it, so that small ones cannot keep a large one out for ever. Where several tenants ask,
//! arrival counts among one's own, and between them who was served least (`fair`).
//!
//! The state of a generation stays when it has ended, until its place or its pages are needed: a request that begins
//! as an earlier text did (the next turn of a chat) goes on from there. By the same law its result is the same. So does
//! one that begins as another does that still runs, by whole pages; while that one's prompt is just being read it waits
//! for it, since the same rows would be computed twice, and holds up nobody.
//!
//! Between passes, and while nothing comes, `relief` looks whether memory is short; new work is refused while it is
//! very short, or waits where it said so.

use super::QUEUE;
use super::fair::Fair;
use super::job::{Bounds, Job, Progress};
use super::pace::Pace;
use super::pulse::{Occupancy, Pulse};
use super::relief::{Kept, Past, Relief};
use super::request::{Command, Logits};
use super::runner::{Chunk, Outputs, Runner};
use crate::error::{Error, Result};
use crate::hal::PAGE;
use crate::kv::{Kv, SeqId};
use crate::text::Tokenizer;
use crossbeam::channel::{Receiver, Select, Sender, TryRecvError};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Ended texts that are kept at most: each is compared with every request that comes. They take pages only that nobody
/// else wants.
const MAX_KEPT: usize = 256;

/// What connects the engine's thread with its handles.
pub(super) struct Queue {
    /// Has a bound; what is taken out of it waits in `Scheduler::arrived`, which has one too.
    pub commands: Receiver<Command>,
    /// Set when nobody listens any more.
    pub closed: Arc<AtomicBool>,
    /// Shows that the thread lives.
    pub pulse: Arc<Pulse>,
}

pub(super) struct Scheduler {
    runner: Runner,
    relief: Relief,
    tokenizer: Arc<Tokenizer>,
    queue: Queue,
    bounds: Bounds,
    /// What was not admitted yet.
    arrived: Fair<Job>,
    active: Vec<Active>,
    /// The first in the queue, while there are too few pages for it; before it those that gave their pages up.
    waiting: VecDeque<Job>,
    /// Jobs that wait for the beginning that they share with one whose prompt is being read.
    behind: Vec<Job>,
    pace: Pace,
    /// Whether something ended since it was found that they must wait.
    freed: bool,
    /// What ended generations left, at most `most_kept`.
    kept: Kept,
    most_kept: usize,
    max_sequences: usize,
    /// Reused.
    parts: Vec<Part>,
}

/// A job and its sequence.
struct Active {
    job: Job,
    seq: SeqId,
}

/// One job's part of a pass.
struct Part {
    job: usize,
    tokens: usize,
    outputs: Outputs,
    /// What the pass made of the job.
    progress: Progress,
}

impl Scheduler {
    pub fn new(runner: Runner, relief: Relief, tokenizer: Arc<Tokenizer>, queue: Queue, max_sequences: usize) -> Self {
        let (active, waiting, kept, parts) = (vec![], VecDeque::new(), VecDeque::new(), vec![]);
        let bounds = Bounds::of(&runner);
        Scheduler {
            runner,
            relief,
            tokenizer,
            queue,
            bounds,
            arrived: Fair::new(),
            active,
            waiting,
            behind: vec![],
            pace: Pace::default(),
            freed: false,
            kept,
            // Whoever runs one after another has the last one to go on from, which is taken over.
            most_kept: if max_sequences > 1 { MAX_KEPT } else { 0 },
            max_sequences,
            parts,
        }
    }

    /// Works until every handle of the engine is gone.
    pub fn run(mut self) {
        loop {
            self.sweep();
            self.relief.look(&mut self.runner, &mut self.kept);
            if !self.admit() {
                break;
            }
            self.grow();
            self.show();
            self.plan();
            match self.parts.is_empty() {
                true => self.wait(),
                false => self.pass(),
            }
        }
    }

    /// Shows that it lives, and how full it is.
    fn show(&mut self) {
        let (pages, free_pages) = self.runner.kv().fullest();
        let waiting = self.arrived.len() + self.waiting.len() + self.behind.len();
        self.queue.pulse.show(Occupancy { running: self.active.len(), waiting, pages, free_pages });
    }

    /// There is nothing to do, or all that is active is evaluations whose reader is behind: waits until one is read on,
    /// or something else comes, or it is time to see how much memory is left.
    fn wait(&self) {
        let mut select = Select::new();
        for rows in self.active.iter().filter_map(|a| a.job.reader()) {
            select.send(rows);
        }
        if self.arrived.len() < QUEUE {
            select.recv(&self.queue.commands);
        }
        // Whatever it was, the next turn finds it.
        let _ = select.ready_timeout(self.relief.pause());
    }

    /// Takes what has come out of the channel, as much as may wait. False when nothing can come any more.
    fn receive(&mut self) -> bool {
        while self.arrived.len() < QUEUE {
            match self.queue.commands.try_recv() {
                Ok(command) => {
                    if let Some(job) = Job::new(command, self.bounds, self.tokenizer.clone()) {
                        self.arrived.push(job.tenant(), job);
                    }
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        true
    }

    /// Admits jobs while there is room. False when the engine was dropped: what still runs or waits has nobody who
    /// listens.
    fn admit(&mut self) -> bool {
        if !self.receive() {
            return false;
        }
        let mut at = 0;
        while at < self.behind.len() {
            if self.follows(&self.behind[at]) {
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
                None if self.follows(&job) => self.behind.push(job),
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
        if job.end_if_cancelled() {
            self.arrived.left(job.tenant());
            return None;
        }
        let Some((seq, kept)) = self.place(&job) else {
            self.freed = false;
            return Some(job);
        };
        job.begin(kept);
        self.active.push(Active { job, seq });
        None
    }

    /// Reserves the next stretch for whoever is at the end of the last one, the oldest first. What is kept gives way,
    /// then those that came last.
    fn grow(&mut self) {
        let mut at = 0;
        while let Some(Active { job, seq }) = self.active.get(at) {
            let (seq, needs, wants) = (*seq, job.needs(), job.wants());
            let kv = self.runner.kv();
            if kv.reserved(seq) >= needs || kv.reserve(seq, wants) {
                at += 1;
            } else if let Some(oldest) = self.kept.pop_front() {
                kv.release(oldest.seq);
            } else {
                self.preempt();
            }
        }
    }

    /// The generation that came last gives its pages up, and waits before all others. An evaluation, which has told
    /// what it has read, keeps them: it has all that it needs.
    fn preempt(&mut self) {
        let Some(at) = self.active.iter().rposition(|a| a.job.reader().is_none()) else { return };
        let Active { mut job, seq } = self.active.remove(at);
        self.runner.kv().release(seq);
        if self.active.is_empty() {
            // Alone it has all pages, and what needs more is not admitted.
            self.arrived.left(job.tenant());
            job.fail(Error::Engine("the sequence state does not hold what it was planned for".into()));
            return;
        }
        // Where it goes on from is found when it has a sequence again.
        self.waiting.push_front(job);
        self.freed = false;
    }

    /// Whether another job is just reading a beginning that this one has too.
    fn follows(&self, job: &Job) -> bool {
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
    fn place(&mut self, job: &Job) -> Option<(SeqId, usize)> {
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

    /// Ends cancelled jobs.
    fn sweep(&mut self) {
        for at in (0..self.active.len()).rev() {
            if self.active[at].job.end_if_cancelled() {
                self.retire(at, true);
            }
        }
        self.arrived.drop_if(Job::end_if_cancelled);
        let mut stays = |job: &mut Job| {
            let ended = job.end_if_cancelled();
            if ended {
                self.arrived.left(job.tenant());
            }
            !ended
        };
        self.waiting.retain_mut(&mut stays);
        self.behind.retain_mut(&mut stays);
    }

    /// Takes an ended job out; its state stays if it is sound.
    fn retire(&mut self, at: usize, sound: bool) {
        let Active { job, seq } = self.active.remove(at);
        self.runner.kv().unreserve(seq);
        self.arrived.left(job.tenant());
        self.freed = true;
        match sound && job.reader().is_none() && !job.past().is_empty() && self.relief.keeps() {
            true => {
                self.kept.push_back(Past { seq, tenant: job.tenant(), tokens: job.past().to_vec() });
                self.trim();
            }
            false => {
                self.runner.kv().release(seq);
                self.relief.ended(&mut self.runner);
            }
        }
    }

    /// What is kept stays within its bound, the oldest give way.
    fn trim(&mut self) {
        while self.kept.len() > self.most_kept.max(1) {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.runner.kv().release(oldest.seq);
        }
    }

    /// Which rows of which jobs go into the next pass.
    fn plan(&mut self) {
        let (mut rows, mut outputs) = (self.runner.pass_rows(), self.runner.max_outputs());
        self.parts.clear();
        let generates = self.active.iter().any(|a| a.job.is_decoding());
        let mut prompts = if generates { self.pace.rows() } else { usize::MAX };
        for decoding in [true, false] {
            for (at, Active { job, .. }) in
                self.active.iter().enumerate().filter(|(_, a)| a.job.is_decoding() == decoding)
            {
                if job.reader().is_some_and(is_behind) {
                    continue;
                }
                let (pending, all) = (job.pending().len(), job.reader().is_some());
                let most = if decoding { rows } else { rows.min(prompts) };
                let tokens = pending.min(most).min(if all { outputs } else { usize::MAX });
                let ends = tokens == pending;
                if tokens == 0 || (ends && outputs == 0) {
                    continue;
                }
                let (wanted, used) = match (all, ends) {
                    (true, _) => (Outputs::All, tokens),
                    (false, true) => (Outputs::Last, 1),
                    (false, false) => (Outputs::None, 0),
                };
                rows -= tokens;
                outputs -= used;
                prompts -= if decoding { 0 } else { tokens };
                self.parts.push(Part { job: at, tokens, outputs: wanted, progress: Progress::Running });
            }
        }
    }

    /// Runs one pass and hands its logits to the jobs. Where it fails, each job has a pass of its own: a text whose
    /// numbers overflow must not end its neighbours.
    fn pass(&mut self) {
        let Scheduler { active, runner, parts, queue, pace, arrived, .. } = self;
        parts.iter().for_each(|p| arrived.serve(active[p.job].job.tenant(), p.tokens as u64));
        let prompts = parts.iter().filter(|p| !active[p.job].job.is_decoding()).map(|p| p.tokens).sum();
        let begun = Instant::now();
        match run(active, runner, parts, queue) {
            Ok(()) => pace.took(prompts, begun.elapsed().as_secs_f64()),
            // What was given up stays as it was; the next turn ends what was cancelled.
            Err(Error::Cancelled) => {}
            Err(_) => {
                for p in parts.iter_mut() {
                    match run(active, runner, std::slice::from_mut(p), queue) {
                        Ok(()) | Err(Error::Cancelled) => {}
                        Err(e) => p.progress = active[p.job].job.fail(e),
                    }
                }
            }
        }
        // From the back, so that places do not move.
        self.parts.retain(|p| p.progress != Progress::Running);
        self.parts.sort_unstable_by_key(|p| p.job);
        while let Some(p) = self.parts.pop() {
            self.retire(p.job, p.progress == Progress::Ended);
        }
    }
}

/// Whether an evaluation's reader has yet to take what was computed. One that is gone is not: its job may end.
fn is_behind(rows: &Sender<Result<Logits>>) -> bool {
    // Not `is_full`: that stays true for ever once the reader of a full channel is gone.
    let mut select = Select::new();
    select.send(rows);
    select.try_ready().is_err()
}

/// Runs a pass of some parts; `Cancelled` when it was given up.
fn run(active: &mut [Active], runner: &mut Runner, parts: &mut [Part], queue: &Queue) -> Result<()> {
    let chunk = |p: &Part| {
        let Active { job, seq } = &active[p.job];
        Chunk { seq: *seq, tokens: &job.pending()[..p.tokens], outputs: p.outputs }
    };
    runner.run_watched(parts.iter().map(chunk), &mut |done, all| {
        queue.pulse.beat();
        let (mut prompts, mut wanted) = (0, 0);
        for (job, tokens) in parts.iter().map(|p| (&active[p.job].job, p.tokens)).filter(|(job, _)| !job.is_decoding())
        {
            job.report(tokens, done, all);
            prompts += 1;
            wanted += u32::from(!job.is_cancelled());
        }
        let unwanted = prompts > 0 && wanted == 0;
        if unwanted || queue.closed.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    })?;
    let vocab = runner.vocab();
    let mut logits = runner.logits();
    for p in parts {
        let rows = match p.outputs {
            Outputs::None => 0,
            Outputs::Last => 1,
            Outputs::All => p.tokens,
        };
        let (mine, rest) = logits.split_at_mut(rows * vocab);
        logits = rest;
        p.progress = active[p.job].job.advance(p.tokens, mine);
    }
    Ok(())
}
