//! What to run next: the engine's thread.
//!
//! Each turn admits jobs while there are free sequences, builds one batch and runs it: first the next token of every
//! job that is generating, then prompts in order of arrival, up to the rows of a pass. Jobs of all kinds mix in one
//! batch; by the backend's law a row's result does not depend on its neighbours. Every admitted sequence has its
//! pages reserved for the whole context, so a pass never runs out of state.
//!
//! The state of a generation stays when it has ended, until its place is needed: a request that begins as an earlier
//! text did (the next turn of a chat) goes on from there. By the same law its result is the same.

use super::job::{Job, Progress};
use super::request::{Command, Logits};
use super::runner::{Chunk, Outputs, Runner};
use crate::error::Result;
use crate::kv::SeqId;
use crate::text::Tokenizer;
use crossbeam::channel::{Receiver, Select, Sender, TryRecvError};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) struct Scheduler {
    runner: Runner,
    tokenizer: Arc<Tokenizer>,
    /// What waits stays in the channel, which has a bound.
    commands: Receiver<Command>,
    /// Set when nobody listens any more.
    closed: Arc<AtomicBool>,
    active: Vec<Active>,
    /// Sequences of ended generations with the tokens that they hold, the oldest first. Together with those of
    /// `active` they are at most `max_sequences`.
    kept: VecDeque<(SeqId, Vec<u32>)>,
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
    pub fn new(
        runner: Runner,
        tokenizer: Arc<Tokenizer>,
        commands: Receiver<Command>,
        closed: Arc<AtomicBool>,
        max_sequences: usize,
    ) -> Self {
        let (active, kept, parts) = (vec![], VecDeque::new(), vec![]);
        Scheduler { runner, tokenizer, commands, closed, active, kept, max_sequences, parts }
    }

    /// Works until every handle of the engine is gone.
    pub fn run(mut self) {
        while self.admit() {
            self.sweep();
            self.plan();
            match self.parts.is_empty() {
                true => self.wait(),
                false => self.pass(),
            }
        }
    }

    /// All that is active is evaluations whose reader is behind: waits until one is read on, or something else comes.
    fn wait(&self) {
        let mut select = Select::new();
        for rows in self.active.iter().filter_map(|a| a.job.reader()) {
            select.send(rows);
        }
        if self.active.len() < self.max_sequences {
            select.recv(&self.commands);
        }
        select.ready();
    }

    /// Takes commands while there is room; waits for one when there is nothing to do. False when the engine was
    /// dropped: what still runs or waits has nobody who listens.
    fn admit(&mut self) -> bool {
        while self.active.len() < self.max_sequences && !self.closed.load(Ordering::Relaxed) {
            let command = match self.active.is_empty() {
                true => self.commands.recv().map_err(|_| TryRecvError::Disconnected),
                false => self.commands.try_recv(),
            };
            match command {
                Ok(command) => self.start(command),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        !self.closed.load(Ordering::Relaxed)
    }

    fn start(&mut self, command: Command) {
        let (context, vocab) = (self.runner.context(), self.runner.vocab());
        if let Some(mut job) = Job::new(command, context, vocab, self.tokenizer.clone()) {
            let seq = self.resume(&mut job).unwrap_or_else(|| self.create());
            self.active.push(Active { job, seq });
        }
    }

    /// A sequence with what a kept one shares with the job's text, if one shares anything: a fork where there is
    /// room for one, else the kept one itself.
    fn resume(&mut self, job: &mut Job) -> Option<SeqId> {
        let shared = |(_, tokens): &(SeqId, Vec<u32>)| job.shared(tokens);
        let (at, n) = self.kept.iter().map(shared).enumerate().max_by_key(|&(_, n)| n).filter(|&(_, n)| n > 0)?;
        let seq = if self.is_full() { self.kept.remove(at)?.0 } else { self.runner.kv().fork(self.kept[at].0) };
        if self.runner.kv().restore(seq, n as u32).is_err() {
            // A window has moved on: what it gave back would be seen again.
            self.runner.kv().release(seq);
            return None;
        }
        job.resume(n);
        Some(seq)
    }

    fn create(&mut self) -> SeqId {
        if self.is_full()
            && let Some((oldest, _)) = self.kept.pop_front()
        {
            self.runner.kv().release(oldest);
        }
        self.runner.kv().create()
    }

    fn is_full(&self) -> bool {
        self.active.len() + self.kept.len() >= self.max_sequences
    }

    /// Ends cancelled jobs.
    fn sweep(&mut self) {
        for at in (0..self.active.len()).rev() {
            if self.active[at].job.end_if_cancelled() {
                self.retire(at, true);
            }
        }
    }

    /// Takes an ended job out; its state stays if it is sound.
    fn retire(&mut self, at: usize, sound: bool) {
        let Active { job, seq } = self.active.remove(at);
        match sound && job.reader().is_none() && !job.past().is_empty() {
            true => self.kept.push_back((seq, job.past().to_vec())),
            false => self.runner.kv().release(seq),
        }
    }

    /// Which rows of which jobs go into the next pass.
    fn plan(&mut self) {
        let (mut rows, mut outputs) = (self.runner.max_rows(), self.runner.max_outputs());
        self.parts.clear();
        for decoding in [true, false] {
            for (at, Active { job, .. }) in
                self.active.iter().enumerate().filter(|(_, a)| a.job.is_decoding() == decoding)
            {
                if job.reader().is_some_and(is_behind) {
                    continue;
                }
                let (pending, all) = (job.pending().len(), job.reader().is_some());
                let tokens = pending.min(rows).min(if all { outputs } else { usize::MAX });
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
                self.parts.push(Part { job: at, tokens, outputs: wanted, progress: Progress::Running });
            }
        }
    }

    /// Runs one pass and hands its logits to the jobs. Where it fails, each job has a pass of its own: a text whose
    /// numbers overflow must not end its neighbours.
    fn pass(&mut self) {
        let Scheduler { active, runner, parts, .. } = self;
        if run(active, runner, parts).is_err() {
            for p in parts.iter_mut() {
                if let Err(e) = run(active, runner, std::slice::from_mut(p)) {
                    p.progress = active[p.job].job.fail(e);
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

fn run(active: &mut [Active], runner: &mut Runner, parts: &mut [Part]) -> Result<()> {
    runner.run(parts.iter().map(|p| {
        let Active { job, seq } = &active[p.job];
        Chunk { seq: *seq, tokens: &job.pending()[..p.tokens], outputs: p.outputs }
    }))?;
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
