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
//! to wait holds up those behind it, so that small ones cannot keep a large one out for ever.
//!
//! The state of a generation stays when it has ended, until its place or its pages are needed: a request that begins
//! as an earlier text did (the next turn of a chat) goes on from there. By the same law its result is the same. So does
//! one that begins as another does that still runs, by whole pages; while that one's prompt is just being read it waits
//! for it, since the same rows would be computed twice, and holds up nobody.
//!
//! Between passes, and while nothing comes, `relief` looks whether memory is short; new work is refused while it is
//! very short, or waits where it said so.

use super::job::{Bounds, Job, Progress};
use super::pace::Pace;
use super::pulse::{Occupancy, Pulse};
use super::relief::{Kept, Relief};
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

/// What connects the engine's thread with its handles.
pub(super) struct Queue {
    /// What waits stays in the channel, which has a bound.
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
    active: Vec<Active>,
    /// The first in the queue, while there are too few pages for it; before it those that gave their pages up.
    waiting: VecDeque<Job>,
    /// Jobs that wait for the beginning that they share with one whose prompt is being read.
    behind: Vec<Job>,
    pace: Pace,
    /// Whether something ended since it was found that they must wait.
    freed: bool,
    /// Sequences of ended generations with the tokens that they hold, those first that were used least lately. Together
    /// with those of `active` they are at most `max_sequences`.
    kept: Kept,
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
            active,
            waiting,
            behind: vec![],
            pace: Pace::default(),
            freed: false,
            kept,
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
        let waiting = self.waiting.len() + self.behind.len();
        self.queue.pulse.show(Occupancy { running: self.active.len(), waiting, pages, free_pages });
    }

    /// There is nothing to do, or all that is active is evaluations whose reader is behind: waits until one is read on,
    /// or something else comes, or it is time to see how much memory is left.
    fn wait(&self) {
        let mut select = Select::new();
        for rows in self.active.iter().filter_map(|a| a.job.reader()) {
            select.send(rows);
        }
        if self.active.len() + self.behind.len() < self.max_sequences && self.waiting.is_empty() {
            select.recv(&self.queue.commands);
        }
        // Whatever it was, the next turn finds it.
        let _ = select.ready_timeout(self.relief.pause());
    }

    /// Takes commands while there is room. False when the engine was dropped: what still runs or waits has nobody who
    /// listens.
    fn admit(&mut self) -> bool {
        for at in (0..self.behind.len()).rev() {
            if !self.follows(&self.behind[at]) {
                // They came before what is still in the channel.
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
            match self.queue.commands.try_recv() {
                Ok(command) => {
                    if let Some(mut job) = Job::new(command, self.bounds, self.tokenizer.clone()) {
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
                            Some(e) => drop(job.fail(e)),
                        }
                    }
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        !self.queue.closed.load(Ordering::Relaxed)
    }

    /// Gives a job its sequence, or the job back, which has to wait.
    fn start(&mut self, mut job: Job) -> Option<Job> {
        if job.end_if_cancelled() {
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
            } else if let Some((oldest, _)) = self.kept.pop_front() {
                kv.release(oldest);
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
            job.fail(Error::Engine("the sequence state does not hold what it was planned for".into()));
            return;
        }
        job.rewind();
        self.waiting.push_front(job);
        self.freed = false;
    }

    /// Whether another job is just reading a beginning that this one has too.
    fn follows(&self, job: &Job) -> bool {
        // Of a window's pages nothing may be left when it is read.
        if self.runner.is_windowed() {
            return false;
        }
        let pages = |tokens: &[u32]| job.shared(tokens) / PAGE;
        let now = self.active.iter().map(|a| pages(a.job.past()));
        let now = now.chain(self.kept.iter().map(|(_, tokens)| pages(tokens))).max().unwrap_or(0);
        let reading = self.active.iter().filter(|a| !a.job.is_decoding() && a.job.reader().is_none());
        reading.map(|a| pages(a.job.tokens())).max().unwrap_or(0) > now
    }

    /// The running job that shares most whole pages with a job's text, if one does, with how many positions that are.
    fn running(&self, job: &Job) -> Option<(SeqId, usize)> {
        let shared = self.active.iter().map(|a| (a.seq, job.shared(a.job.past()) / PAGE * PAGE));
        shared.filter(|x| x.1 > 0).max_by_key(|x| x.1)
    }

    /// A sequence with the pages that the job wants now, and how much of its text it holds already: a fork of the one,
    /// kept or running, that shares most with it. Other kept sequences give way, the oldest first; at last that one itself is
    /// taken. `None` when even then the jobs that run hold too much.
    fn place(&mut self, job: &Job) -> Option<(SeqId, usize)> {
        let running = self.running(job);
        let best = self.best(job, running.map_or(0, |x| x.1));
        let kv = self.runner.kv();
        loop {
            if self.active.len() + self.kept.len() + usize::from(best.is_some()) < self.max_sequences {
                let shared = |kv: &mut Kv| running.and_then(|(seq, n)| Some((kv.fork_pages(seq, n as u32)?, n)));
                let (seq, n) = match &best {
                    Some((kept, _, n)) => (kv.fork(*kept), *n),
                    None => shared(kv).unwrap_or_else(|| (kv.create(), 0)),
                };
                if kv.restore(seq, n as u32).is_ok() && kv.reserve(seq, job.wants()) {
                    self.kept.extend(best.map(|(kept, tokens, _)| (kept, tokens)));
                    return Some((seq, n));
                }
                kv.release(seq);
            }
            match self.kept.pop_front() {
                Some((oldest, _)) => kv.release(oldest),
                None => break,
            }
        }
        let (seq, mut tokens, n) = best?;
        if kv.restore(seq, n as u32).is_ok() && kv.reserve(seq, job.wants()) {
            return Some((seq, n));
        }
        tokens.truncate(n);
        self.kept.push_back((seq, tokens));
        None
    }

    /// Takes out the kept sequence that shares most with a job's text, if one shares more than `least`, with the length
    /// that is shared.
    fn best(&mut self, job: &Job, least: usize) -> Option<(SeqId, Vec<u32>, usize)> {
        let kv = self.runner.kv();
        let shared = |(seq, tokens): &(SeqId, Vec<u32>)| {
            // Of a window that has moved on, what it gave back would be seen again.
            Some(job.shared(tokens)).filter(|&n| n > least && kv.can_restore(*seq, n as u32).is_ok())
        };
        let (at, n) =
            self.kept.iter().map(shared).enumerate().filter_map(|(at, n)| Some((at, n?))).max_by_key(|x| x.1)?;
        self.kept.remove(at).map(|(seq, tokens)| (seq, tokens, n))
    }

    /// Ends cancelled jobs.
    fn sweep(&mut self) {
        for at in (0..self.active.len()).rev() {
            if self.active[at].job.end_if_cancelled() {
                self.retire(at, true);
            }
        }
        self.waiting.retain_mut(|job| !job.end_if_cancelled());
        self.behind.retain_mut(|job| !job.end_if_cancelled());
    }

    /// Takes an ended job out; its state stays if it is sound.
    fn retire(&mut self, at: usize, sound: bool) {
        let Active { job, seq } = self.active.remove(at);
        self.runner.kv().unreserve(seq);
        self.freed = true;
        match sound && job.reader().is_none() && !job.past().is_empty() && self.relief.keeps() {
            true => self.kept.push_back((seq, job.past().to_vec())),
            false => {
                self.runner.kv().release(seq);
                self.relief.ended(&mut self.runner);
            }
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
        let Scheduler { active, runner, parts, queue, pace, .. } = self;
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
