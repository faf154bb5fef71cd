//! The log of requests: a line for each, when its answer has been sent or its client has left.
//!
//! What the line tells is gathered on the way: the guard knows what is asked and by whom, the answer hears its tokens,
//! the body sees its own end. The line is written where the last of that is dropped, so there is exactly one however a
//! request ends, also where a connection breaks and everything that belongs to it is dropped at once. It has numbers
//! and the server's own names: no key, no text, no path that somebody made up. A token costs it a lock that nobody else
//! wants then.
//!
//! Who watches the server asks many times a minute: what it was told as it should be has its line at `debug`.
//!
//! Status 499 is nginx's for a client that left before it was told any.

use super::app::App;
use super::routes::{ROUTES, Route};
use crate::engine::Event;
use crate::openai::new_id;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderValue, Method};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;
use tracing::Level;

/// Of a request whose client left before the head of the answer.
const LEFT: u16 = 499;

/// What is learnt of a request while it is answered. Copies are of the same one.
#[derive(Debug, Clone, Default)]
pub struct Notes(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    tenant: Option<u64>,
    /// None where nothing was asked of the engine.
    asked: Option<Asked>,
    cut: bool,
}

#[derive(Debug, Default)]
struct Asked {
    prompt: u64,
    cached: u64,
    /// Of each choice.
    generated: Vec<u32>,
    /// Choices that share a prompt.
    each: usize,
    first: Option<Instant>,
    /// Each once.
    reasons: Vec<&'static str>,
}

impl Notes {
    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who asks.
    pub fn tenant(&self, tenant: u64) {
        self.noted().tenant = Some(tenant);
    }

    /// The engine was given choices with these prompts, `each` neighbours with one.
    pub fn asked(&self, prompts: &[usize], each: usize) {
        // An empty one starts from a token of the model's.
        let prompt = prompts.iter().step_by(each.max(1)).map(|&n| n.max(1) as u64).sum();
        let generated = vec![0; prompts.len()];
        self.noted().asked = Some(Asked { prompt, generated, each, ..Asked::default() });
    }

    /// A choice reports.
    pub fn heard(&self, choice: usize, event: &Event) {
        let mut noted = self.noted();
        let Some(asked) = &mut noted.asked else { return };
        match event {
            Event::Prompt(_) | Event::Read(_) => {}
            Event::Token(_) => {
                asked.first.get_or_insert_with(Instant::now);
                asked.generated[choice] += 1;
            }
            Event::Finished(end) => {
                // The token that ends an answer is none that is heard.
                asked.generated[choice] = end.usage.generated_tokens;
                if choice.is_multiple_of(asked.each) {
                    asked.cached += u64::from(end.usage.kept_tokens);
                }
                if !asked.reasons.contains(&end.reason.word()) {
                    asked.reasons.push(end.reason.word());
                }
            }
        }
    }

    /// The server ends the answer before its time.
    pub fn cut(&self) {
        self.noted().cut = true;
    }
}

/// A line that is written when it is dropped.
pub struct Line {
    app: Arc<App>,
    id: String,
    method: Method,
    path: Option<MatchedPath>,
    begun: Instant,
    /// The status, and when it was known.
    head: Option<(u16, Instant)>,
    /// All of the answer was taken.
    sent: bool,
    notes: Notes,
}

impl Line {
    /// Of a request that has come; what answers it finds [`Notes`] beside it.
    pub fn begin(app: Arc<App>, request: &mut Request) -> Line {
        let notes = Notes::default();
        request.extensions_mut().insert(notes.clone());
        let (method, path) = (request.method().clone(), request.extensions().get::<MatchedPath>().cloned());
        Line { app, id: new_id(), method, path, begun: Instant::now(), head: None, sent: false, notes }
    }

    /// A client may call a method what it likes; those that mean something stand for themselves.
    fn method(&self) -> &'static str {
        const KNOWN: [Method; 5] = [Method::GET, Method::POST, Method::HEAD, Method::OPTIONS, Method::DELETE];
        match KNOWN.iter().position(|m| *m == self.method) {
            Some(n) => ["GET", "POST", "HEAD", "OPTIONS", "DELETE"][n],
            None => "other",
        }
    }

    /// One of the server's own; what it does not know has no name of its own.
    fn path(&self) -> &str {
        self.path.as_ref().map_or("other", MatchedPath::as_str)
    }

    /// Goes with the answer, which says from now on which request it is for.
    pub fn follow(mut self, mut response: Response) -> Response {
        let status = response.status().as_u16();
        self.head = Some((status, Instant::now()));
        self.app.metrics.answered(self.path(), status);
        if let Ok(id) = HeaderValue::from_str(&self.id) {
            response.headers_mut().insert("x-request-id", id);
        }
        // Nobody takes a body that was not asked for.
        self.sent = self.method == Method::HEAD;
        response.map(|body| Body::new(Followed { body, line: self }))
    }

    /// Whether it was those who watch the server, who were told what they asked for.
    fn is_watching(&self) -> bool {
        let watched = |route: &Route| route.who.watches() && route.path == self.path();
        let told = self.sent && self.head.is_some_and(|(status, _)| status == 200);
        told && self.method == Method::GET && ROUTES.iter().any(watched)
    }

    fn write(&self, watching: bool) {
        let ms = |at: Instant| at.duration_since(self.begun).as_millis() as u64;
        let (path, method, id) = (self.path(), self.method(), &self.id);
        let status = self.head.map_or(LEFT, |(status, _)| status);
        let head_ms = self.head.map(|(_, at)| ms(at));
        let noted = self.notes.noted();
        let tenant = noted.tenant.map(|n| tracing::field::display(format!("{n:016x}")));
        let asked = noted.asked.as_ref();
        let first_ms = asked.and_then(|a| a.first).map(ms);
        let generated = asked.map(|a| a.generated.iter().map(|&n| u64::from(n)).sum::<u64>());
        let (prompt, cached) = (asked.map(|a| a.prompt), asked.map(|a| a.cached));
        let finish = asked.filter(|a| !a.reasons.is_empty()).map(|a| tracing::field::display(a.reasons.join(",")));
        let how = match () {
            () if noted.cut || (!self.sent && self.app.cut.is_now()) => "cut off",
            () if self.sent => "answered",
            () => "client left",
        };
        let ms = ms(Instant::now());
        // The level belongs to the place where a line is written, so there are two.
        macro_rules! say {
            ($level:ident) => {
                tracing::$level!(
                    %id, method, path, status, head_ms, first_ms, ms, prompt, cached, generated, finish, tenant, "{how}"
                )
            };
        }
        if watching { say!(debug) } else { say!(info) }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.head.is_none() {
            self.app.metrics.answered(self.path(), LEFT);
        }
        let watching = self.is_watching();
        let wanted = if watching { tracing::enabled!(Level::DEBUG) } else { tracing::enabled!(Level::INFO) };
        if wanted {
            self.write(watching);
        }
    }
}

/// A body whose end is noticed.
struct Followed {
    body: Body,
    line: Line,
}

impl HttpBody for Followed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let next = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(next) = &next {
            // Nobody asks again where this was all.
            self.line.sent |= next.is_none() || self.body.is_end_stream();
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
