//! The work itself: requests go in as the input gives them, answers come out as they end.

use super::input::{Index, Line, Lines};
use super::journal::Journal;
use crate::cli::interrupt::Interrupt;
use crate::engine::{ChatFormat, Engine, Event, FinishReason, Request};
use crate::error::{Error, Result};
use crate::openai::{self, Answer, Ask, Tokens, new_id};
use crate::sample::Params;
use indicatif::ProgressBar;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// How often it looks whether Ctrl-C was pressed while nothing comes, and shows how fast it is while something does.
const PATIENCE: Duration = Duration::from_millis(100);

/// What was done.
#[derive(Debug, Default)]
pub struct Totals {
    /// Lines written.
    pub written: u64,
    /// How many of them say that a request failed.
    pub errors: u64,
    /// Tokens of prompts that were answered.
    pub prompt_tokens: u64,
    /// How many of them were not read again, because another prompt began with them.
    pub kept_tokens: u64,
    /// Tokens generated for answers that were written.
    pub generated_tokens: u64,
    /// From the first request to the last answer.
    pub time: Duration,
}

impl Totals {
    /// Generated tokens per second, of all requests together.
    pub fn tps(&self) -> f64 {
        self.generated_tokens as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

/// What every request is answered with.
pub struct Work<'a> {
    pub engine: &'a Engine,
    pub chat: Option<ChatFormat>,
    /// Where a body says nothing about sampling.
    pub sampling: Params,
    /// Where a body says nothing about its length.
    pub max_tokens: u32,
    /// Requests that the engine is given at once; those that it has no room for wait there.
    pub ahead: usize,
    pub journal: &'a mut Journal,
    pub bar: ProgressBar,
    pub totals: Totals,
}

/// A request whose answer is coming.
struct Running {
    custom_id: String,
    id: String,
    answer: Answer,
}

/// An answer that has no token when its time is over is none.
fn in_time(event: Event) -> Result<Event> {
    match event {
        Event::Finished(end) if end.reason == FinishReason::TimeLimit && end.usage.generated_tokens == 0 => {
            Err(Error::Busy("no token was generated before its time (`timeout`) was over; give it more".into()))
        }
        event => Ok(event),
    }
}

impl Work<'_> {
    /// Answers every request of the input that is not `done`.
    ///
    /// # Errors
    /// `Cancelled` for Ctrl-C; `Io` of either file; `Engine` when the engine stops. What is written stays. What is
    /// wrong with one request is its answer.
    pub fn run(&mut self, input: &mut Lines, index: &Index, done: &HashSet<u64>, ctrl_c: &Interrupt) -> Result<()> {
        let (start, mut shown, mut heard) = (Instant::now(), Instant::now(), 0u64);
        let mut together = self.engine.together();
        let mut running: HashMap<u64, Running> = HashMap::new();
        let mut more = true;
        loop {
            while more && together.running() < self.ahead {
                ctrl_c.check()?;
                let Some(line) = input.next()? else {
                    more = false;
                    break;
                };
                if !index.knows(&line) {
                    return Err(Error::Invalid(format!("line {} of the input changed while it was read", line.number)));
                }
                if done.contains(&line.number) {
                    continue;
                }
                let (number, custom_id) = (line.number, line.custom_id.clone());
                match self.request(line) {
                    Ok((request, id, answer)) => {
                        let custom_id = custom_id.expect("a line that can be answered has one");
                        together.submit(request, number)?;
                        running.insert(number, Running { custom_id, id, answer });
                    }
                    Err(e) => self.refuse(custom_id.as_deref(), number, &e)?,
                }
            }
            self.totals.time = start.elapsed();
            if running.is_empty() {
                return self.journal.sync();
            }
            ctrl_c.check()?;
            let Some((number, event)) = together.next_within(PATIENCE)? else { continue };
            match event.and_then(in_time) {
                Ok(event) => {
                    heard += u64::from(matches!(event, Event::Token(_)));
                    if shown.elapsed() > PATIENCE {
                        let rate = heard as f64 / start.elapsed().as_secs_f64();
                        self.bar.set_message(format!(", {rate:.1} tok/s"));
                        shown = Instant::now();
                    }
                    let r = running.get_mut(&number).expect("each ends once");
                    r.answer.hear(0, event);
                    if r.answer.is_done() {
                        let r = running.remove(&number).expect("it was there");
                        self.answer(&r)?;
                    }
                }
                Err(e) => {
                    let r = running.remove(&number).expect("each ends once");
                    self.refuse(Some(&r.custom_id), number, &e)?;
                }
            }
        }
    }

    fn request(&self, line: Line) -> Result<(Request, String, Answer)> {
        let openai::Line { endpoint, body } = openai::Line::read(line.value?)?;
        let ask = Ask::read(endpoint, body, &self.sampling, Some(self.max_tokens))?.alone()?;
        let mut wanted = ask.requests(self.engine, self.chat.as_ref())?;
        let wanted = wanted.pop().expect("it is alone");
        let id = new_id();
        let info = self.engine.info();
        let model = info.name.as_ref().unwrap_or(&info.file);
        let answer = Answer::new(&ask, &id, model, self.engine.tokenizer().clone(), [wanted.before]);
        Ok((Request { patient: true, ..wanted.request }, id, answer))
    }

    fn answer(&mut self, r: &Running) -> Result<()> {
        self.write(openai::answered(&r.custom_id, &r.id, &r.answer))?;
        let Tokens { prompt, cached, completion } = r.answer.tokens();
        self.totals.prompt_tokens += prompt;
        self.totals.kept_tokens += cached;
        self.totals.generated_tokens += completion;
        Ok(())
    }

    fn refuse(&mut self, custom_id: Option<&str>, line: u64, e: &Error) -> Result<()> {
        self.write(openai::refused(custom_id, line, &new_id(), e))?;
        self.totals.errors += 1;
        Ok(())
    }

    fn write(&mut self, line: String) -> Result<()> {
        self.journal.append(line)?;
        self.totals.written += 1;
        self.bar.inc(1);
        Ok(())
    }
}
