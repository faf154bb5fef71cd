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
//! job that came last, before it those that said that they can wait: it gives its pages up and reads its text again when
//! there is room, which by the law of equal bits nobody can tell but by the time. So the oldest of the others always goes on. Jobs are admitted in order of arrival: one that has
//! to wait holds up those behind it, so that small ones cannot keep a large one out for ever. Where several tenants ask,
//! arrival (and before it `Request::priority`) counts among one's own, and between them who was served least (`fair`).
//!
//! The state of a generation stays when it has ended (`kv::Prefixes`), until its pages are needed: a request that begins
//! as an earlier text did (the next turn of a chat) goes on from there. By the same law its result is the same. So does
//! one that begins as another does that still runs; while that one's prompt is just being read it waits for it, since
//! the same rows would be computed twice, and takes no pages meanwhile.
//!
//! Between passes, and while nothing comes, `relief` looks whether memory is short; new work is refused while it is
//! very short, or waits where it said so.

mod admission;
mod beginnings;
#[cfg(test)]
mod simulation;

use super::QUEUE;
use super::clock::Clock;
use super::fair::Fair;
use super::job::{Bounds, Job, Progress};
use super::pace::Pace;
use super::pulse::{Occupancy, Pulse};
use super::relief::Relief;
use super::request::{Command, Logits};
use super::runner::{Chunk, Outputs, Runner};
use crate::error::{Error, Result};
use crate::kv::{Prefixes, SeqId};
use crate::text::Tokenizer;
use crossbeam::channel::{Receiver, Select, Sender, TryRecvError};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How old what is shown may be.
const SHOWN_EVERY: Duration = Duration::from_millis(20);

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
    clock: Clock,
    /// What was not admitted yet.
    arrived: Fair<Job>,
    active: Vec<Active>,
    /// The first in the queue, while there are too few pages for it; before it those that gave their pages up.
    waiting: VecDeque<Job>,
    /// Jobs that wait for the beginning that they share with one whose prompt is being read.
    behind: Vec<Job>,
    pace: Pace,
    shown: Option<Instant>,
    /// Whether something ended since it was found that they must wait.
    freed: bool,
    /// What ended generations left.
    kept: Prefixes,
    max_sequences: usize,
    /// How many gave their pages up.
    #[cfg(test)]
    preempted: usize,
    /// Reused.
    parts: Vec<Part>,
}

/// What came of a turn.
#[derive(Debug, PartialEq)]
enum Turn {
    /// A pass.
    Worked,
    /// There was nothing to run.
    Idle,
    /// Every handle of the engine is gone.
    Over,
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
    /// Of what ended texts leave, at most `most_kept` bytes stay.
    pub fn new(
        runner: Runner,
        relief: Relief,
        tokenizer: Arc<Tokenizer>,
        queue: Queue,
        max_sequences: usize,
        most_kept: u64,
    ) -> Self {
        let (active, waiting, parts) = (vec![], VecDeque::new(), vec![]);
        let bounds = Bounds::of(&runner);
        Scheduler {
            runner,
            relief,
            tokenizer,
            queue,
            bounds,
            clock: Clock::Machine,
            arrived: Fair::new(),
            active,
            waiting,
            behind: vec![],
            pace: Pace::default(),
            shown: None,
            freed: false,
            kept: Prefixes::new(most_kept),
            max_sequences,
            #[cfg(test)]
            preempted: 0,
            parts,
        }
    }

    /// Works until every handle of the engine is gone.
    pub fn run(mut self) {
        loop {
            match self.turn() {
                Turn::Worked => {}
                Turn::Idle => self.wait(),
                Turn::Over => break,
            }
        }
    }

    /// Admits what may be admitted and runs one pass, if there is anything to run.
    fn turn(&mut self) -> Turn {
        self.sweep();
        self.relief.look(&mut self.runner, &mut self.kept);
        if !self.admit() {
            return Turn::Over;
        }
        self.grow();
        self.plan();
        self.show();
        match self.parts.is_empty() {
            true => Turn::Idle,
            false => {
                self.pass();
                Turn::Worked
            }
        }
    }

    /// Shows that it lives, and, now and then while it works, how full it is: that takes a look at each page.
    fn show(&mut self) {
        let now = self.clock.now();
        if !self.parts.is_empty() && self.shown.is_some_and(|at| now - at < SHOWN_EVERY) {
            return self.queue.pulse.beat();
        }
        self.shown = Some(now);
        let [pages, free_pages, kept_pages] = self.runner.kv().fullest(&self.kept);
        let waiting = self.arrived.len() + self.waiting.len() + self.behind.len();
        self.queue.pulse.show(Occupancy { running: self.active.len(), waiting, pages, free_pages, kept_pages });
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
                        self.arrived.push(job.tenant(), job.priority(), job);
                    }
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        true
    }

    /// Ends jobs for which nobody waits any more.
    fn sweep(&mut self) {
        let now = self.clock.now();
        for at in (0..self.active.len()).rev() {
            if self.active[at].job.end_if_unwanted(now) {
                self.retire(at, true);
            }
        }
        self.arrived.drop_if(|job| job.end_if_unwanted(now));
        let mut stays = |job: &mut Job| {
            let ended = job.end_if_unwanted(now);
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
                self.kept.keep(self.runner.kv(), job.tenant(), job.past(), seq);
            }
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
                let (pending, all) = (job.pending().len(), job.wants_all());
                let most = if decoding { rows } else { rows.min(prompts) };
                // Whose logits are all wanted leaves those behind it one each.
                let behind = self.active.len() - at - 1;
                let mine = if all { outputs.saturating_sub(behind).max(1).min(outputs) } else { usize::MAX };
                let mut tokens = pending.min(most).min(mine);
                if tokens == pending && outputs == 0 {
                    // The last row has to wait, the others need not.
                    tokens -= 1;
                }
                if tokens == 0 {
                    continue;
                }
                let ends = tokens == pending;
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
        let Scheduler { active, runner, parts, queue, pace, arrived, clock, .. } = self;
        parts.iter().for_each(|p| arrived.serve(active[p.job].job.tenant(), p.tokens as u64));
        let prompts = parts.iter().filter(|p| !active[p.job].job.is_decoding()).map(|p| p.tokens).sum();
        let begun = clock.now();
        match run(active, runner, parts, queue, clock) {
            Ok(()) => pace.took(prompts, (clock.now() - begun).as_secs_f64()),
            // What was given up stays as it was; the next turn ends what was cancelled.
            Err(Error::Cancelled) => {}
            Err(_) => {
                for p in parts.iter_mut() {
                    match run(active, runner, std::slice::from_mut(p), queue, clock) {
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
fn run(active: &mut [Active], runner: &mut Runner, parts: &mut [Part], queue: &Queue, clock: &Clock) -> Result<()> {
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
            wanted += u32::from(!job.is_unwanted(clock.now()));
        }
        let unwanted = prompts > 0 && wanted == 0;
        if unwanted || queue.closed.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    })?;
    let (vocab, now) = (runner.vocab(), clock.now());
    let mut logits = runner.logits();
    for p in parts {
        let rows = match p.outputs {
            Outputs::None => 0,
            Outputs::Last => 1,
            Outputs::All => p.tokens,
        };
        let (mine, rest) = logits.split_at_mut(rows * vocab);
        logits = rest;
        p.progress = active[p.job].job.advance(p.tokens, mine, now);
    }
    Ok(())
}
