//! A job on the engine's thread: its tokens, how many of them have been read, and what becomes of the logits.

use super::request::{Command, Event, FinishReason, Finished, Logits, PromptProgress, Request, Sink, Token, Usage};
use super::runner::Runner;
use crate::error::{Error, Result};
use crate::sample::{Logprobs, Sampler, StopFilter};
use crate::text::{Detokenizer, Tokenizer};
use crossbeam::channel::Sender;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Positions that are reserved for a job at once. Longer stretches are reserved for fewer jobs that run longer undisturbed,
/// shorter ones for more of them.
const STRETCH: u32 = 256;

/// What a job may ask for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Positions of one sequence.
    pub context: u32,
    /// Positions of one sequence for which there are pages, if it has them all.
    pub state: u32,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Positions beyond what a job has that are reserved for it at once.
    pub stretch: u32,
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
    stretch: u32,
    work: Work,
}

enum Work {
    Generate(Box<Generating>),
    Evaluate(Sender<Result<Logits>>),
}

struct Generating {
    request: Request,
    events: Sink,
    cancel: Arc<AtomicBool>,
    tokenizer: Arc<Tokenizer>,
    context: u32,
    vocab: usize,
    sampler: Sampler,
    detokenizer: Detokenizer,
    stop: StopFilter,
    usage: Usage,
    /// Tokens of the prompt of which it was told how probable they were.
    told: usize,
    submitted: Instant,
    /// When it was given a sequence first.
    admitted: Option<Instant>,
    first_token: Option<Instant>,
}

impl Job {
    /// A job from a command. A command that cannot start is answered here, and gives `None`.
    pub fn new(command: Command, bounds: Bounds, tokenizer: Arc<Tokenizer>) -> Option<Job> {
        let stretch = bounds.stretch;
        match command {
            Command::Evaluate { tokens, rows } => match bounds.check(&tokens, 0) {
                Ok(_) if tokens.is_empty() => None,
                Ok(positions) => Some(Job { tokens, read: 0, positions, stretch, work: Work::Evaluate(rows) }),
                Err(e) => {
                    let _ = rows.send(Err(e));
                    None
                }
            },
            Command::Generate { request, events, cancel, submitted } => {
                match Generating::new(request, events.clone(), cancel, tokenizer, bounds, submitted) {
                    Ok((tokens, positions, work)) => {
                        Some(Job { tokens, read: 0, positions, stretch, work: Work::Generate(Box::new(work)) })
                    }
                    Err(e) => {
                        (*events)(Err(e));
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

    /// Its tokens whose logits are not wanted: what they have in common with an earlier text need not be read again.
    pub fn shareable(&self) -> &[u32] {
        match &self.work {
            Work::Evaluate(_) => &[],
            Work::Generate(g) if g.tells(&self.tokens) => &[],
            Work::Generate(_) => &self.tokens[..self.tokens.len() - 1],
        }
    }

    /// How many of these another text has too, from the beginning on. Of another tenant's text none: how fast an answer
    /// comes would tell what others have asked.
    pub fn shared(&self, tenant: u64, other: &[u32]) -> usize {
        if self.tenant() != tenant {
            return 0;
        }
        self.shareable().iter().zip(other).take_while(|(a, b)| a == b).count()
    }

    /// All of its tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Positions for which there must be pages now: what it has, and a while of going on, but never more than it can
    /// come to.
    pub fn wants(&self) -> u32 {
        (self.tokens.len() as u32).saturating_add(self.stretch).min(self.positions)
    }

    /// Positions that its next pass fills, if that takes all that is pending.
    pub fn needs(&self) -> u32 {
        (self.tokens.len() as u32).min(self.positions)
    }

    /// Begins now, or goes on after it had to give its state up, behind `n` tokens whose state is there already.
    pub fn begin(&mut self, n: usize, now: Instant) {
        self.read = n;
        if let Work::Generate(g) = &mut self.work
            && g.admitted.is_none()
        {
            g.usage.kept_tokens = n as u32;
            g.admitted = Some(now);
            g.usage.queued = now - g.submitted;
        }
    }

    /// Whether the logits of all its rows are wanted, and not of the last only.
    pub fn wants_all(&self) -> bool {
        match &self.work {
            Work::Evaluate(_) => true,
            Work::Generate(g) => g.tells(&self.tokens),
        }
    }

    /// Whether only the token is pending that was chosen last.
    pub fn is_decoding(&self) -> bool {
        matches!(&self.work, Work::Generate(g) if g.first_token.is_some()) && self.pending().len() == 1
    }

    /// Who asked for it.
    pub fn tenant(&self) -> u64 {
        match &self.work {
            Work::Generate(g) => g.request.tenant,
            Work::Evaluate(_) => 0,
        }
    }

    /// Smaller ones come first.
    pub fn priority(&self) -> i32 {
        match &self.work {
            Work::Generate(g) => g.request.priority,
            Work::Evaluate(_) => 0,
        }
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
            // What had to be read again counts once.
            let read = ((self.read + tokens * done / all) as u32).min(g.usage.prompt_tokens);
            // Whoever is gone is noticed when the pass has ended.
            (g.events)(Ok(Event::Prompt(PromptProgress { read, all: g.usage.prompt_tokens })));
        }
    }

    /// Whether nobody waits for it any more: its handle was cancelled or dropped, or its time is over.
    pub fn is_unwanted(&self, now: Instant) -> bool {
        matches!(&self.work, Work::Generate(g) if g.cancel.load(Ordering::Relaxed) || g.is_late(now))
    }

    /// Ends a generation for which nobody waits any more.
    pub fn end_if_unwanted(&mut self, now: Instant) -> bool {
        let unwanted = self.is_unwanted(now);
        if let Work::Generate(g) = &mut self.work
            && unwanted
        {
            let cancelled = g.cancel.load(Ordering::Relaxed);
            g.finish(if cancelled { FinishReason::Cancelled } else { FinishReason::TimeLimit });
        }
        unwanted
    }

    /// Reports an error, which ends the job.
    pub fn fail(&mut self, e: Error) -> Progress {
        // A receiver that is gone needs no answer.
        match &self.work {
            Work::Generate(g) => drop((g.events)(Err(e))),
            Work::Evaluate(rows) => drop(rows.send(Err(e))),
        }
        Progress::Failed
    }

    /// `tokens` of the pending ones went through a pass, which has given these logits now.
    pub fn advance(&mut self, tokens: usize, logits: &mut [f32], now: Instant) -> Progress {
        let first = self.read;
        self.read += tokens;
        if let Work::Generate(g) = &mut self.work
            && g.first_token.is_none()
        {
            // What is read again, after its pages were given up, counts once.
            let read = (self.read as u32).min(g.usage.prompt_tokens).saturating_sub(g.usage.kept_tokens);
            g.usage.read_tokens = g.usage.read_tokens.max(read);
        }
        match &mut self.work {
            Work::Evaluate(rows) => {
                let sent = rows.send(Ok(Logits { first, positions: tokens, values: logits.to_vec() }));
                if sent.is_err() || self.pending().is_empty() { Progress::Ended } else { Progress::Running }
            }
            Work::Generate(_) if logits.is_empty() => Progress::Running,
            Work::Generate(g) => {
                if g.tells(&self.tokens) && !g.tell(&self.tokens, first, logits) {
                    g.finish(FinishReason::Cancelled);
                    return Progress::Ended;
                }
                if self.read < self.tokens.len() {
                    return Progress::Running;
                }
                match g.next(logits, self.read, now) {
                    Ok(Some(token)) => {
                        self.tokens.push(token);
                        Progress::Running
                    }
                    Ok(None) => Progress::Ended,
                    Err(e) => self.fail(e),
                }
            }
        }
    }
}

impl Bounds {
    /// Those of a loaded model.
    pub fn of(runner: &Runner) -> Bounds {
        Bounds { context: runner.context(), vocab: runner.vocab(), state: runner.state_positions(), stretch: STRETCH }
    }

    /// Positions that a prompt and an answer of up to `max_tokens` take: the last token is not read any more.
    ///
    /// # Errors
    /// `TooLong` for more than there are; `Invalid` for a token that is none.
    pub fn check(self, prompt: &[u32], max_tokens: u32) -> Result<u32> {
        let Bounds { context, state, vocab, .. } = self;
        let too_long = |problem: String| Err(Error::TooLong { field: "prompt", problem });
        if prompt.len() > context as usize {
            let problem = format!("the prompt has {} tokens, the context holds {context}", prompt.len());
            return too_long(format!("{problem}; shorten it, or give the context more where the model allows it"));
        }
        if let Some(t) = prompt.iter().find(|&&t| t as usize >= vocab) {
            return Err(Error::Invalid(format!("token {t} is not in the vocabulary of {vocab}")));
        }
        let n = prompt.len() as u32;
        let positions = n.saturating_add(max_tokens.saturating_sub(1)).min(context);
        match state.checked_sub(n) {
            _ if positions <= state => Ok(positions),
            None => too_long(format!("the prompt has {n} tokens, the sequence state holds {state}; shorten it")),
            Some(left) => too_long(format!(
                "a prompt of {n} tokens and an answer of up to {max_tokens} need {positions} positions, the sequence \
                 state holds {state}; ask for at most {} tokens",
                left + 1
            )),
        }
    }
}

impl Generating {
    fn new(
        mut request: Request,
        events: Sink,
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
            told: 0,
            vocab: bounds.vocab,
            submitted,
            admitted: None,
            first_token: None,
        };
        Ok((prompt, positions, work))
    }

    fn is_late(&self, now: Instant) -> bool {
        self.request.time_limit.is_some_and(|limit| now.saturating_duration_since(self.submitted) >= limit)
    }

    /// Whether tokens of the prompt are left to tell of. What is generated is none of it.
    fn tells(&self, tokens: &[u32]) -> bool {
        self.request.prompt_logprobs.is_some() && self.first_token.is_none() && self.told < tokens.len()
    }

    /// Tells of the tokens behind the rows from `first` on, whose logits these are, and of the very first. False when
    /// nobody hears it.
    fn tell(&mut self, tokens: &[u32], first: usize, logits: &[f32]) -> bool {
        let (vocab, n) = (self.vocab, self.request.prompt_logprobs.unwrap_or(0) as usize);
        let end = (first + logits.len() / vocab + 1).min(tokens.len());
        let row = |at: usize| &logits[(at - 1 - first) * vocab..][..vocab];
        let told = |at: usize| (tokens[at], (at > 0).then(|| Logprobs::of(row(at), tokens[at], n)));
        // What is read again was told.
        let told: Vec<_> = (self.told..end).map(told).collect();
        self.told += told.len();
        told.is_empty() || (self.events)(Ok(Event::Read(told)))
    }

    /// Chooses the next token of a sequence of `len` tokens, whose logits are the last ones; `None` when the generation
    /// has ended.
    fn next(&mut self, logits: &mut [f32], len: usize, now: Instant) -> Result<Option<u32>> {
        let last = logits.len().saturating_sub(self.vocab);
        let logits = &mut logits[last..];
        if self.request.max_tokens == 0 {
            self.finish(FinishReason::Length);
            return Ok(None);
        }
        // Before the sampler's bias and penalties: what the model says.
        let given = self.request.logprobs.map(|_| logits.to_vec());
        let id = self.sampler.sample(logits)?;
        self.sampler.accept(id);
        self.usage.generated_tokens += 1;
        match self.first_token {
            None => {
                self.first_token = Some(now);
                self.usage.prefill = now - self.admitted.unwrap_or(self.submitted);
            }
            Some(first) => self.usage.decode = now - first,
        }
        if self.tokenizer.is_eog(id) && !self.request.ignore_eos {
            self.finish(FinishReason::Stop);
            return Ok(None);
        }
        let text = self.detokenizer.push(&self.tokenizer, id);
        let characters = text.chars().count() as u32;
        let text = self.stop.push(&text);
        let logprobs = given.zip(self.request.logprobs).map(|(given, n)| Logprobs::of(&given, id, n as usize));
        let heard = (self.events)(Ok(Event::Token(Token { id, text, characters, logprobs, usage: self.usage })));
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
        (self.events)(Ok(Event::Finished(Finished { reason, text, usage: self.usage })));
    }
}
