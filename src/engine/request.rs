//! What goes into the engine and what comes out: requests, events, and the handle of a running generation. What hears
//! several at once is `together`'s.

use crate::error::{Error, Result};
use crate::sample::Logprobs;
use crate::sample::Params;
use crossbeam::channel::{Receiver, Sender};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A prompt and how to go on from it.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Token ids; an empty prompt starts from the model's first token (BOS, or EOS where it has none).
    pub prompt: Vec<u32>,
    /// Most tokens to generate; fewer when the context ends.
    pub max_tokens: u32,
    /// How tokens are chosen.
    pub sampling: Params,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Go on past end-of-generation tokens (for measurements).
    pub ignore_eos: bool,
    /// Control tokens appear in the text.
    pub special: bool,
    /// Who asks: those that wait take turns by how many tokens were computed for each.
    pub tenant: u64,
    /// Of those of one tenant that wait, smaller ones come first; among all that run, larger ones than 0 give way first
    /// where state is short.
    pub priority: i32,
    /// How long it may take, from its submission on: then it ends with what there is.
    pub time_limit: Option<Duration>,
    /// While memory is short it waits, and is not refused.
    pub patient: bool,
    /// Say how far the prompt is while it is read.
    pub progress: bool,
    /// Say how probable each token was, and as many of the most probable ones in its place.
    pub logprobs: Option<u32>,
    /// The same of the prompt's tokens; all of them are read for it, whatever earlier texts have left.
    pub prompt_logprobs: Option<u32>,
}

/// What a generation reports.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// How far the prompt is, where that was asked for.
    Prompt(PromptProgress),
    /// The next tokens of the prompt with how probable each was, where that was asked for; of the first nothing is known.
    Read(Vec<(u32, Option<Logprobs>)>),
    /// A token was generated.
    Token(Token),
    /// The last event.
    Finished(Finished),
}

/// How much of a prompt has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptProgress {
    /// As many tokens as the work that is done could read to the end: a pass takes all of its tokens through one layer
    /// after another.
    pub read: u32,
    /// Tokens of the prompt.
    pub all: u32,
}

/// A generated token and the text that became certain with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Whole characters; empty while one is unfinished or a stop text may be beginning.
    pub text: String,
    /// Characters that became certain with it, also those that are held back as a stop text may be beginning.
    pub characters: u32,
    /// How probable it was, where that was asked for.
    pub logprobs: Option<Logprobs>,
    /// What the generation took up to it.
    pub usage: Usage,
}

/// How and why a generation ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Why.
    pub reason: FinishReason,
    /// Text that had been held back and turned out to belong to the answer.
    pub text: String,
    /// What it took.
    pub usage: Usage,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-generation token or a stop text.
    Stop,
    /// The most tokens allowed, or the end of the context.
    Length,
    /// The time that it was given is over.
    TimeLimit,
    /// Somebody cancelled it.
    Cancelled,
}

impl FinishReason {
    /// The API's word for it, which has none for an answer whose time was over.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::TimeLimit => "length",
            _ => self.word(),
        }
    }

    /// A word for it that is no other's.
    pub fn word(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::TimeLimit => "timeout",
            FinishReason::Cancelled => "cancelled",
        }
    }
}

/// Tokens and time of one generation; all times are measured.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// How many of them were not read again, because an earlier generation began with them too.
    pub kept_tokens: u32,
    /// How many of the prompt's tokens were read: fewer than the others only where it ended before.
    pub read_tokens: u32,
    /// Tokens sampled, an end-of-generation token included.
    pub generated_tokens: u32,
    /// From submission to the first pass.
    pub queued: Duration,
    /// From the first pass to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

impl Usage {
    /// From submission to the first token.
    pub fn time_to_first_token(&self) -> Duration {
        self.queued + self.prefill
    }

    /// Prompt tokens that were read per second, if there was a prompt pass.
    pub fn prefill_tps(&self) -> Option<f64> {
        rate(self.prompt_tokens - self.kept_tokens, self.prefill)
    }

    /// Tokens per second after the first, if there were any.
    pub fn decode_tps(&self) -> Option<f64> {
        rate(self.generated_tokens.saturating_sub(1), self.decode)
    }
}

fn rate(tokens: u32, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| f64::from(tokens) / time.as_secs_f64())
}

/// Why a handle may see its channel closed without a last event.
pub(super) fn gone() -> Error {
    Error::Engine("the engine has stopped; load the model again".into())
}

/// Where a generation's events go: called on the engine's thread, so it must not wait. False when nobody hears it any
/// more, which ends the generation. After `Finished` or an error nothing comes.
pub type Sink = Arc<dyn Fn(Result<Event>) -> bool + Send + Sync>;

/// A running generation: an iterator over its events. Dropping it cancels.
#[derive(Debug)]
pub struct Generation {
    events: Receiver<Result<Event>>,
    cancel: Arc<AtomicBool>,
    ended: bool,
}

impl Generation {
    pub(super) fn new(events: Receiver<Result<Event>>, cancel: Arc<AtomicBool>) -> Self {
        Generation { events, cancel, ended: false }
    }

    /// Asks the engine to stop: after the pass that is running, or, where that reads this prompt alone, within it. The
    /// last event still comes.
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }

    /// A flag that cancels when it is set, for signal handlers.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        self.cancel.clone()
    }

    /// Waits for the end and returns the whole text.
    pub fn text(self) -> Result<(String, Finished)> {
        let mut text = String::new();
        for event in self {
            match event? {
                Event::Prompt(_) | Event::Read(_) => {}
                Event::Token(t) => text.push_str(&t.text),
                Event::Finished(f) => {
                    text.push_str(&f.text);
                    return Ok((text, f));
                }
            }
        }
        Err(gone())
    }
}

impl Iterator for Generation {
    type Item = Result<Event>;

    /// The next event, as soon as it is there. After `Finished` or an error: `None`.
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let event = self.events.recv().unwrap_or_else(|_| Err(gone()));
        self.ended = !matches!(event, Ok(Event::Token(_) | Event::Prompt(_) | Event::Read(_)));
        Some(event)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// Logits at consecutive positions of an evaluation.
#[derive(Debug, Clone)]
pub struct Logits {
    /// Position of the first row.
    pub first: usize,
    /// Number of rows.
    pub positions: usize,
    /// `[rows, vocab]`
    pub values: Vec<f32>,
}

/// A running evaluation: an iterator over its logits. It goes on as it is read; others are not held up meanwhile.
#[derive(Debug)]
pub struct Evaluation<'e> {
    rows: Receiver<Result<Logits>>,
    left: usize,
    engine: PhantomData<&'e ()>,
}

impl Evaluation<'_> {
    pub(super) fn new(rows: Receiver<Result<Logits>>, positions: usize) -> Self {
        Evaluation { rows, left: positions, engine: PhantomData }
    }
}

impl Iterator for Evaluation<'_> {
    type Item = Result<Logits>;

    /// Logits of the next positions. After the last, or an error: `None`.
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let rows = self.rows.recv().unwrap_or_else(|_| Err(gone()));
        self.left = rows.as_ref().map_or(0, |l| self.left - l.positions);
        Some(rows)
    }
}

/// A job as the engine's thread receives it.
pub(super) enum Command {
    Generate { request: Request, events: Sink, cancel: Arc<AtomicBool>, submitted: std::time::Instant },
    Evaluate { tokens: Vec<u32>, rows: Sender<Result<Logits>> },
}
