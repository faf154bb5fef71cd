//! A job on the engine's thread: its tokens, how many of them have been read, and what becomes of the logits.

use super::request::{Command, Event, Events, FinishReason, Finished, Logits, PromptProgress, Request, Token, Usage};
use crate::error::{Error, Result};
use crate::sample::{Sampler, StopFilter};
use crate::text::{Detokenizer, Tokenizer};
use crossbeam::channel::Sender;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What a job may ask for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Positions of one sequence.
    pub context: u32,
    /// Positions of one sequence for which there are pages, if it has them all.
    pub state: u32,
    /// Tokens of the vocabulary.
    pub vocab: usize,
}

/// Whether a job goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Running,
    Ended,
    /// It was answered with an error; what its sequence holds is not to be relied on.
    Failed,
}

pub(super) struct Job {
    /// The prompt and what was generated so far.
    tokens: Vec<u32>,
    /// How many of them have been through a pass.
    read: usize,
    /// How many tokens will have been at most.
    positions: u32,
    work: Work,
}

enum Work {
    Generate(Box<Generating>),
    Evaluate(Sender<Result<Logits>>),
}

struct Generating {
    request: Request,
    events: Events,
    cancel: Arc<AtomicBool>,
    tokenizer: Arc<Tokenizer>,
    context: u32,
    sampler: Sampler,
    detokenizer: Detokenizer,
    stop: StopFilter,
    usage: Usage,
    submitted: Instant,
    admitted: Instant,
    first_token: Option<Instant>,
}

impl Job {
    /// A job from a command. A command that cannot start is answered here, and gives `None`.
    pub fn new(command: Command, bounds: Bounds, tokenizer: Arc<Tokenizer>) -> Option<Job> {
        match command {
            Command::Evaluate { tokens, rows } => match bounds.check(&tokens, 0) {
                Ok(_) if tokens.is_empty() => None,
                Ok(positions) => Some(Job { tokens, read: 0, positions, work: Work::Evaluate(rows) }),
                Err(e) => {
                    let _ = rows.send(Err(e));
                    None
                }
            },
            Command::Generate { request, events, cancel, submitted } => {
                match Generating::new(request, events.clone(), cancel, tokenizer, bounds, submitted) {
                    Ok((tokens, positions, work)) => {
                        Some(Job { tokens, read: 0, positions, work: Work::Generate(Box::new(work)) })
                    }
                    Err(e) => {
                        events.send(Err(e));
                        None
                    }
                }
            }
        }
    }

    /// Tokens that have not been through a pass; never empty between passes.
    pub fn pending(&self) -> &[u32] {
        &self.tokens[self.read..]
    }

    /// Tokens that have been through a pass: the sequence's state is theirs.
    pub fn past(&self) -> &[u32] {
        &self.tokens[..self.read]
    }

    /// How many tokens of this job an earlier text has too, from the beginning on, and whose logits are not wanted.
    pub fn shared(&self, earlier: &[u32]) -> usize {
        match &self.work {
            Work::Evaluate(_) => 0,
            Work::Generate(_) => {
                let same = self.tokens.iter().zip(earlier).take_while(|(a, b)| a == b).count();
                same.min(self.tokens.len() - 1)
            }
        }
    }

    /// Positions that its sequence will hold at most.
    pub fn positions(&self) -> u32 {
        self.positions
    }

    /// Begins, behind `n` tokens whose state is there already.
    pub fn begin(&mut self, n: usize) {
        self.read = n;
        if let Work::Generate(g) = &mut self.work {
            g.usage.kept_tokens = n as u32;
            g.admitted = Instant::now();
            g.usage.queued = g.admitted - g.submitted;
        }
    }

    /// Whether the prompt has been read.
    pub fn is_decoding(&self) -> bool {
        matches!(&self.work, Work::Generate(g) if g.first_token.is_some())
    }

    /// Whether it waits where others are refused.
    pub fn is_patient(&self) -> bool {
        matches!(&self.work, Work::Generate(g) if g.request.patient)
    }

    /// Where an evaluation's logits go. While nobody reads them it must wait, and the others must not.
    pub fn reader(&self) -> Option<&Sender<Result<Logits>>> {
        match &self.work {
            Work::Evaluate(rows) => Some(rows),
            Work::Generate(_) => None,
        }
    }

    /// Says how far the prompt is, where that was asked for: `done` of `all` launches of a pass that reads `tokens`.
    pub fn report(&self, tokens: usize, done: usize, all: usize) {
        if let Work::Generate(g) = &self.work
            && g.request.progress
        {
            let read = (self.read + tokens * done / all) as u32;
            // Whoever is gone is noticed when the pass has ended.
            g.events.send(Ok(Event::Prompt(PromptProgress { read, all: g.usage.prompt_tokens })));
        }
    }

    /// Whether the handle of a generation was cancelled or dropped.
    pub fn is_cancelled(&self) -> bool {
        matches!(&self.work, Work::Generate(g) if g.cancel.load(Ordering::Relaxed))
    }

    /// Ends a generation whose handle was cancelled or dropped.
    pub fn end_if_cancelled(&mut self) -> bool {
        let cancelled = self.is_cancelled();
        if let Work::Generate(g) = &mut self.work
            && cancelled
        {
            g.finish(FinishReason::Cancelled);
        }
        cancelled
    }

    /// Reports an error, which ends the job.
    pub fn fail(&mut self, e: Error) -> Progress {
        // A receiver that is gone needs no answer.
        match &self.work {
            Work::Generate(g) => drop(g.events.send(Err(e))),
            Work::Evaluate(rows) => drop(rows.send(Err(e))),
        }
        Progress::Failed
    }

    /// `tokens` of the pending ones went through a pass, which gave these logits.
    pub fn advance(&mut self, tokens: usize, logits: &mut [f32]) -> Progress {
        let first = self.read;
        self.read += tokens;
        match &mut self.work {
            Work::Evaluate(rows) => {
                let sent = rows.send(Ok(Logits { first, positions: tokens, values: logits.to_vec() }));
                if sent.is_err() || self.pending().is_empty() { Progress::Ended } else { Progress::Running }
            }
            Work::Generate(_) if logits.is_empty() => Progress::Running,
            Work::Generate(g) => match g.next(logits, self.read) {
                Ok(Some(token)) => {
                    self.tokens.push(token);
                    Progress::Running
                }
                Ok(None) => Progress::Ended,
                Err(e) => self.fail(e),
            },
        }
    }
}

impl Bounds {
    /// Positions that a prompt and an answer of up to `max_tokens` take: the last token is not read any more.
    fn check(self, prompt: &[u32], max_tokens: u32) -> Result<u32> {
        let Bounds { context, state, vocab } = self;
        if prompt.len() > context as usize {
            let n = prompt.len();
            let problem = format!("the prompt has {n} tokens, the context holds {context}");
            return Err(Error::Invalid(format!(
                "{problem}; shorten it, or give the context more where the model allows it"
            )));
        }
        if let Some(t) = prompt.iter().find(|&&t| t as usize >= vocab) {
            return Err(Error::Invalid(format!("token {t} is not in the vocabulary of {vocab}")));
        }
        let n = prompt.len() as u32;
        let positions = n.saturating_add(max_tokens.saturating_sub(1)).min(context);
        match state.checked_sub(n) {
            _ if positions <= state => Ok(positions),
            None => {
                Err(Error::Limit(format!("the prompt has {n} tokens, the sequence state holds {state}; shorten it")))
            }
            Some(left) => Err(Error::Limit(format!(
                "a prompt of {n} tokens and an answer of up to {max_tokens} need {positions} positions, the sequence \
                 state holds {state}; ask for at most {} tokens",
                left + 1
            ))),
        }
    }
}

impl Generating {
    fn new(
        mut request: Request,
        events: Events,
        cancel: Arc<AtomicBool>,
        tokenizer: Arc<Tokenizer>,
        bounds: Bounds,
        submitted: Instant,
    ) -> Result<(Vec<u32>, u32, Self)> {
        let mut prompt = std::mem::take(&mut request.prompt);
        if prompt.is_empty() {
            let first = tokenizer.bos().or(tokenizer.eos());
            prompt.push(first.ok_or_else(|| {
                Error::Invalid("the prompt is empty and the model has no token to start from; give a prompt".into())
            })?);
        }
        let positions = bounds.check(&prompt, request.max_tokens)?;
        let mut sampler = Sampler::new(request.sampling.clone(), bounds.vocab)?;
        prompt.iter().for_each(|&t| sampler.accept(t));
        let usage = Usage { prompt_tokens: prompt.len() as u32, ..Usage::default() };
        let work = Generating {
            detokenizer: Detokenizer::continuing(request.special),
            stop: StopFilter::new(request.stop.clone())?,
            request,
            events,
            cancel,
            tokenizer,
            context: bounds.context,
            sampler,
            usage,
            submitted,
            admitted: submitted,
            first_token: None,
        };
        Ok((prompt, positions, work))
    }

    /// Chooses the next token of a sequence of `len` tokens; `None` when the generation has ended.
    fn next(&mut self, logits: &mut [f32], len: usize) -> Result<Option<u32>> {
        if self.request.max_tokens == 0 {
            self.finish(FinishReason::Length);
            return Ok(None);
        }
        let id = self.sampler.sample(logits)?;
        self.sampler.accept(id);
        let now = Instant::now();
        self.usage.generated_tokens += 1;
        match self.first_token {
            None => {
                self.first_token = Some(now);
                self.usage.prefill = now - self.admitted;
            }
            Some(first) => self.usage.decode = now - first,
        }
        if self.tokenizer.is_eog(id) && !self.request.ignore_eos {
            self.finish(FinishReason::Stop);
            return Ok(None);
        }
        let text = self.detokenizer.push(&self.tokenizer, id);
        let text = self.stop.push(&text);
        let heard = self.events.send(Ok(Event::Token(Token { id, text })));
        let reason = if self.stop.finished().is_some() {
            FinishReason::Stop
        } else if !heard {
            FinishReason::Cancelled
        } else if self.usage.generated_tokens >= self.request.max_tokens || len >= self.context as usize {
            FinishReason::Length
        } else {
            return Ok(Some(id));
        };
        self.finish(reason);
        Ok(None)
    }

    /// Sends the last event, with the text that was held back.
    fn finish(&mut self, reason: FinishReason) {
        let rest = self.detokenizer.finish();
        let mut text = self.stop.push(&rest);
        text.push_str(&self.stop.finish());
        // A receiver that is gone needs no answer.
        self.events.send(Ok(Event::Finished(Finished { reason, text, usage: self.usage })));
    }
}
