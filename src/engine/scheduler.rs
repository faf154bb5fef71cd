//! What to run next: the engine's thread.
//!
//! Each turn takes new commands, admits jobs while there are free sequences, builds one batch and runs it: first the
//! next token of every job that is generating, then prompts in order of arrival, up to the rows of a pass. Jobs
//! of all kinds mix in one batch; by the backend's law a row's result does not depend on its neighbours. Every
//! admitted sequence has its pages reserved for the whole context, so a pass never runs out of state.

use super::job::{Job, Progress};
use super::request::Command;
use super::runner::{Chunk, Outputs, Runner};
use crate::text::Tokenizer;
use crossbeam::channel::{Receiver, TryRecvError};
use std::collections::VecDeque;
use std::sync::Arc;

pub(super) struct Scheduler {
    runner: Runner,
    tokenizer: Arc<Tokenizer>,
    commands: Receiver<Command>,
    waiting: VecDeque<Command>,
    active: Vec<Job>,
    max_sequences: usize,
}

/// One job's part of a pass.
struct Part {
    job: usize,
    tokens: usize,
    outputs: Outputs,
}

impl Scheduler {
    pub fn new(runner: Runner, tokenizer: Arc<Tokenizer>, commands: Receiver<Command>, max_sequences: usize) -> Self {
        Scheduler { runner, tokenizer, commands, waiting: VecDeque::new(), active: vec![], max_sequences }
    }

    /// Works until every handle of the engine is gone.
    pub fn run(mut self) {
        while self.receive() {
            self.admit();
            self.sweep();
            if !self.active.is_empty() {
                self.pass();
            }
        }
    }

    /// Takes what has arrived; waits when there is nothing to do. False when nobody can send any more.
    fn receive(&mut self) -> bool {
        if self.active.is_empty() && self.waiting.is_empty() {
            match self.commands.recv() {
                Ok(c) => self.waiting.push_back(c),
                Err(_) => return false,
            }
        }
        loop {
            match self.commands.try_recv() {
                Ok(c) => self.waiting.push_back(c),
                Err(TryRecvError::Empty) => return true,
                // The engine was dropped: what is still running has nobody who listens.
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn admit(&mut self) {
        while self.active.len() < self.max_sequences
            && let Some(command) = self.waiting.pop_front()
        {
            let seq = self.runner.kv().create();
            match Job::new(command, seq, self.runner.context(), self.runner.vocab(), self.tokenizer.clone()) {
                Some(job) => self.active.push(job),
                None => self.runner.kv().release(seq),
            }
        }
    }

    /// Ends cancelled jobs.
    fn sweep(&mut self) {
        let runner = &mut self.runner;
        self.active.retain_mut(|job| {
            let cancelled = job.end_if_cancelled();
            if cancelled {
                runner.kv().release(job.seq);
            }
            !cancelled
        });
    }

    /// Which rows of which jobs go into the next pass.
    fn plan(&self) -> Vec<Part> {
        let (mut rows, mut outputs) = (self.runner.max_rows(), self.runner.max_outputs());
        let (decoding, reading): (Vec<usize>, Vec<usize>) =
            (0..self.active.len()).partition(|&i| self.active[i].is_decoding());
        let mut parts = vec![];
        for job in decoding.into_iter().chain(reading) {
            let pending = self.active[job].pending().len();
            let all = self.active[job].wants_all();
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
            parts.push(Part { job, tokens, outputs: wanted });
        }
        parts
    }

    /// Runs one pass and hands its logits to the jobs.
    fn pass(&mut self) {
        let parts = self.plan();
        let chunk = |p: &Part| {
            let job = &self.active[p.job];
            Chunk { seq: job.seq, tokens: &job.pending()[..p.tokens], outputs: p.outputs }
        };
        let chunks: Vec<Chunk> = parts.iter().map(chunk).collect();
        let result = self.runner.run(&chunks);
        let vocab = self.runner.vocab();
        let mut ended = vec![];
        let mut logits = self.runner.logits();
        for p in &parts {
            let job = &mut self.active[p.job];
            let progress = match &result {
                Err(e) => job.fail(e.clone()),
                Ok(()) => {
                    let rows = match p.outputs {
                        Outputs::None => 0,
                        Outputs::Last => 1,
                        Outputs::All => p.tokens,
                    };
                    let (mine, rest) = logits.split_at_mut(rows * vocab);
                    logits = rest;
                    job.advance(p.tokens, mine)
                }
            };
            if progress == Progress::Ended {
                ended.push(p.job);
            }
        }
        ended.sort_unstable_by(|a, b| b.cmp(a));
        for job in ended {
            let job = self.active.remove(job);
            self.runner.kv().release(job.seq);
        }
    }
}
