//! Answers as they grow: server-sent events.
//!
//! All events that have come since the client took the last piece go out as one: a client that reads slowly costs no
//! more than one that does not, and what waits for it is bounded by the answer's length. A long silence is broken by
//! comments, so that nothing on the way takes the connection for dead. A stream ends with `[DONE]`, or with an error in
//! the API's form.

use super::answer::Heard;
use super::refusal::Refusal;
use crate::openai::Answer;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, Response, header};
use http_body_util::combinators::BoxBody;
use hyper::body::Frame;
use serde_json::Value;
use std::convert::Infallible;
use std::fmt::Write;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Longest silence.
const SILENCE: Duration = Duration::from_secs(10);
/// Bytes after which a piece goes out, though more is there.
const PIECE: usize = 64 << 10;

/// The body of a stream.
struct Events {
    answer: Answer,
    heard: Heard,
    include_usage: bool,
    /// What goes out next.
    out: String,
    silence: Interval,
    ended: bool,
}

/// The response that streams an answer.
pub fn response(answer: Answer, heard: Heard, include_usage: bool) -> axum::response::Response {
    let mut silence = interval(SILENCE);
    silence.set_missed_tick_behavior(MissedTickBehavior::Delay);
    silence.reset();
    let mut events = Events { answer, heard, include_usage, out: String::new(), silence, ended: false };
    for chunk in events.answer.beginning() {
        events.say(chunk);
    }
    let mut response = Response::new(Body::new(BoxBody::new(events)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would hold the events back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl Events {
    fn say(&mut self, mut chunk: Value) {
        if self.include_usage && chunk.get("usage").is_none() {
            chunk["usage"] = Value::Null;
        }
        self.data(&chunk);
    }

    fn data(&mut self, data: &impl std::fmt::Display) {
        // Writing to a string does not fail.
        let _ = write!(self.out, "data: {data}\n\n");
    }

    fn end(&mut self, refusal: Option<Refusal>) {
        match refusal {
            Some(refusal) => self.data(refusal.body()),
            None => {
                if self.include_usage {
                    let usage = self.answer.usage_chunk();
                    self.data(&usage);
                }
                self.data(&"[DONE]");
            }
        }
        self.ended = true;
        self.heard.close();
    }
}

impl HttpBody for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        while !this.ended && this.out.len() < PIECE {
            match this.heard.poll(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(refusal)) => this.end(Some(refusal)),
                Poll::Ready(Ok((choice, event))) => {
                    if let Some(chunk) = this.answer.hear(choice, event) {
                        this.say(chunk);
                    }
                    if this.answer.is_done() {
                        this.end(None);
                    }
                }
            }
        }
        if this.out.is_empty() && !this.ended && this.silence.poll_tick(cx).is_ready() {
            this.out.push_str(": still at it\n\n");
        }
        match this.out.is_empty() {
            false => {
                this.silence.reset();
                Poll::Ready(Some(Ok(Frame::data(Bytes::from(std::mem::take(&mut this.out))))))
            }
            true if this.ended => Poll::Ready(None),
            true => Poll::Pending,
        }
    }
}
