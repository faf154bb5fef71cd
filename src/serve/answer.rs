//! `/v1/chat/completions` and `/v1/completions`.

use super::access::Notes;
use super::app::{App, Loaded};
use super::guard::Caller;
use super::input::{Bytes, blocking};
use super::keys::Keys;
use super::metrics::Stopwatch;
use super::places::Taken;
use super::refusal::Refusal;
use super::sse;
use crate::engine::{Event, FinishReason, Request, Usage};
use crate::error::{Error, Result};
use crate::openai::{Answer, Ask, Endpoint, Wanted, new_id};
use axum::extract::{Extension, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Most probabilities that an answer tells of its prompts and, if it is not streamed, of its tokens: each takes a kilobyte until it is sent.
const MAX_TOLD: u64 = 200_000;
/// How long a stream waits for its first event, so that what goes wrong at once has a status of its own.
const FIRST: Duration = Duration::from_secs(2);

/// Answers a request.
///
/// # Errors
/// Why it is refused, or ends before its time.
pub async fn answer(
    endpoint: Endpoint,
    State(app): State<Arc<App>>,
    Extension(who): Extension<Caller>,
    input: Bytes,
) -> Result<Response, Refusal> {
    let reader = app.clone();
    let (ask, wanted) = blocking(move || read(&reader, endpoint, input)).await?;
    let loaded = app.loaded()?;
    let before = wanted.iter().map(|w| w.before.clone());
    let tokenizer = loaded.engine.tokenizer().clone();
    let mut answer = Answer::new(&ask, &new_id(), loaded.name(), tokenizer, before);
    let mut heard = submit(&app, loaded, who, wanted, ask.choices_of_each())?;
    if ask.stream {
        let first = tokio::time::timeout(FIRST, heard.next()).await;
        if let Ok(first) = first {
            heard.put_back(first?);
        }
        return Ok(sse::response(answer, heard, ask.include_usage));
    }
    while !answer.is_done() {
        let (choice, event) = heard.next().await?;
        answer.hear(choice, event);
    }
    heard.close();
    // Long ones are not for a thread that others' connections wait for.
    let body = blocking(move || Ok(answer.body().to_string())).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// What a body asks for, and what the engine is asked then.
fn read(app: &App, endpoint: Endpoint, mut input: Bytes) -> Result<(Ask, Vec<Wanted>), Refusal> {
    let loaded = app.loaded()?;
    let engine = &loaded.engine;
    let ask = Ask::read(endpoint, input.json()?, &app.options.sampling, app.options.max_tokens)?;
    loaded.check(ask.model.as_deref())?;
    let chat = if endpoint == Endpoint::Chat { loaded.chat()? } else { None };
    let wanted = ask.requests(engine, chat)?;
    let of = |top: Option<u32>, tokens: u64| top.map_or(0, |top| tokens * u64::from(top + 1));
    // A prompt's come as fast as it is read, whether its client takes them or not; a streamed answer's one by one.
    let told = |r: &Request| {
        let answer = if ask.stream { 0 } else { of(r.logprobs, r.max_tokens.into()) };
        answer + of(r.prompt_logprobs, r.prompt.len() as u64)
    };
    let told: u64 = wanted.iter().map(|w| told(&w.request)).sum();
    if told > MAX_TOLD {
        let problem =
            format!("may be {told} in this answer; {MAX_TOLD} can be: give max_tokens, stream it, or ask for less");
        return Err(Error::Field { field: "logprobs".into(), problem }.into());
    }
    Ok((ask, wanted))
}

/// Starts all choices of an answer.
fn submit(app: &Arc<App>, loaded: &Loaded, who: Caller, wanted: Vec<Wanted>, each: usize) -> Result<Heard, Refusal> {
    let Caller { tenant, notes } = who;
    let taken = app.places.take(tenant, wanted.len())?;
    // A prompt is read once for all its choices.
    let most = |(i, w): (usize, &Wanted)| {
        u64::from(w.request.max_tokens) + if i % each == 0 { w.request.prompt.len() as u64 } else { 0 }
    };
    let most: Vec<u64> = wanted.iter().enumerate().map(most).collect();
    let admit = |keys: &Arc<Keys>| keys.admit(tenant, &most).map_err(Refusal::too_much);
    let reserved = app.keys.as_ref().map(admit).transpose()?.unwrap_or_default();
    let mut reserved = reserved.into_iter();
    notes.asked(&wanted.iter().map(|w| w.request.prompt.len()).collect::<Vec<_>>(), each);
    let (to, from) = unbounded_channel();
    let choices = wanted.len();
    let cancel = Cancel(Arc::default());
    for (choice, Wanted { request, .. }) in wanted.into_iter().enumerate() {
        // Not the app: what the engine holds must not hold the engine.
        let (to, reserved, instruments, watch) =
            (to.clone(), reserved.next(), loaded.instruments.clone(), Stopwatch::start());
        let sink = Arc::new(move |event: Result<Event>| {
            if let Ok(event) = &event {
                watch.hear(event, &instruments);
                if let (Event::Finished(end), Some(reserved)) = (event, &reserved) {
                    let Usage { read_tokens, generated_tokens, .. } = end.usage;
                    reserved.used(u64::from(read_tokens) + u64::from(generated_tokens));
                }
            }
            to.send((choice, event)).is_ok()
        });
        // The less of what the server and the request say.
        let time_limit = request.time_limit.into_iter().chain(app.options.timeout).min();
        let request = Request { tenant, time_limit, ..request };
        loaded.engine.submit_to(request, cancel.0.clone(), sink)?;
    }
    let waiting = app.clone();
    let cut = Box::pin(async move { waiting.cut.wait().await });
    let (begun, left) = (Instant::now(), choices);
    Ok(Heard { from, first: None, cut, cancel, taken: Some(taken), notes, begun, left })
}

/// Cancels what runs when it is dropped.
struct Cancel(Arc<AtomicBool>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

type Told = (usize, Event);

/// What the choices of an answer report. Dropping it cancels them.
pub struct Heard {
    from: UnboundedReceiver<(usize, Result<Event>)>,
    first: Option<Told>,
    /// Comes when the server ends.
    cut: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
    cancel: Cancel,
    taken: Option<Taken>,
    notes: Notes,
    begun: Instant,
    /// Choices that have a token, or may come to have one.
    left: usize,
}

impl Heard {
    /// The next event of any choice. An answer whose time is over before any of them has a token is none.
    ///
    /// # Errors
    /// Why the answer ends before its time.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Told, Refusal>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Ok(first));
        }
        let told = match self.from.poll_recv(cx) {
            Poll::Ready(told) => Self::told(told),
            Poll::Pending if self.cut.as_mut().poll(cx).is_ready() => Err(Refusal::ending()),
            Poll::Pending => return Poll::Pending,
        };
        match &told {
            Ok((choice, event)) => self.notes.heard(*choice, event),
            Err(_) => self.notes.cut(),
        }
        if let Ok((_, Event::Finished(end))) = &told
            && end.reason == FinishReason::TimeLimit
            && end.usage.generated_tokens == 0
        {
            self.left -= 1;
            if self.left == 0 {
                return Poll::Ready(Err(Refusal::timed_out(self.begun.elapsed())));
            }
        }
        Poll::Ready(told)
    }

    fn told(told: Option<(usize, Result<Event>)>) -> Result<Told, Refusal> {
        match told {
            Some((_, Ok(Event::Finished(end)))) if end.reason == FinishReason::Cancelled => Err(Refusal::ending()),
            Some((choice, Ok(event))) => Ok((choice, event)),
            Some((_, Err(e))) => Err(e.into()),
            None => Err(Refusal::of(&Error::Engine("the engine has stopped".into()))),
        }
    }

    /// As `poll`.
    pub async fn next(&mut self) -> Result<Told, Refusal> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// Comes again next.
    fn put_back(&mut self, told: Told) {
        self.first = Some(told);
    }

    /// Nothing is wanted any more.
    pub fn close(&mut self) {
        self.cancel.0.store(true, Ordering::Relaxed);
        self.taken = None;
    }
}
