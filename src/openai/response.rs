//! From events of generations to the bodies of responses, whole or in chunks.
//!
//! An [`Answer`] hears what its choices report. Whoever wants it whole asks for the `body` when all have ended; a stream
//! sends what `hear` returns for each event. Tokens are counted as they were read and sampled, an end-of-generation
//! token included; what several choices of one prompt share is counted as often as the API counts it: once.

use super::Endpoint;
use super::probable;
use crate::engine::{Event, Finished, Token, Usage};
use crate::error::Error;
use crate::sample::{Logprobs, random_seed};
use crate::text::{Detokenizer, Tokenizer};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// A name that no other answer has.
pub fn new_id() -> String {
    format!("{:016x}", random_seed())
}

/// Seconds since 1970, as the API tells times.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// An answer as it grows.
#[derive(Debug)]
pub struct Answer {
    endpoint: Endpoint,
    id: String,
    created: u64,
    model: String,
    /// Choices for each prompt.
    n: usize,
    /// Whether all is sent as it comes, so that nothing is kept for the end.
    streams: bool,
    logprobs: bool,
    token_ids: bool,
    tokenizer: Arc<Tokenizer>,
    choices: Vec<Choice>,
    open: usize,
}

/// What one choice has said so far.
#[derive(Debug, Default)]
struct Choice {
    text: String,
    /// Those whose probability is told, with where their texts begin, in characters.
    tokens: Vec<(usize, Token)>,
    /// Those that begin behind the text that has come out: a stop text may cut them away.
    held: Vec<(usize, Token)>,
    /// Of the text that is certain, what is held back included.
    characters: usize,
    /// Of the text that has come out.
    shown: usize,
    echo: Echo,
    /// Where they are wanted.
    ids: Vec<u32>,
    end: Option<Finished>,
}

impl Choice {
    /// A token was generated; its text is certain, but may be held back.
    fn begin(&mut self, token: Token, logprobs: bool) {
        let at = self.characters;
        self.characters += token.characters as usize;
        if logprobs {
            self.held.push((at, token));
        }
    }

    /// More text comes out: gives the tokens that begin in it, which nothing cuts away any more.
    fn show(&mut self, piece: &str) -> Vec<(usize, Token)> {
        self.shown += piece.chars().count();
        let begun = self.held.partition_point(|(at, _)| *at < self.shown);
        self.held.drain(..begun).collect()
    }

    /// No more text comes: gives the tokens behind it, which have none of their own, unless a stop text was cut away there.
    fn rest(&mut self) -> Vec<(usize, Token)> {
        let rest = std::mem::take(&mut self.held);
        if self.shown < self.characters { vec![] } else { rest }
    }
}

/// The prompt as it is read aloud, which gives its tokens their places in the text.
#[derive(Debug)]
struct Echo {
    detokenizer: Detokenizer,
    characters: usize,
}

impl Default for Echo {
    fn default() -> Self {
        Echo { detokenizer: Detokenizer::new(false), characters: 0 }
    }
}

impl Echo {
    fn token(&mut self, (id, logprobs): (u32, Option<Logprobs>), tokenizer: &Tokenizer) -> (usize, Token) {
        let at = self.characters;
        self.characters += self.detokenizer.push(tokenizer, id).chars().count();
        (at, Token { id, text: String::new(), characters: 0, logprobs, usage: Usage::default() })
    }
}

/// What an answer took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Of the prompts.
    pub prompt: u64,
    /// Of the prompts' those that an earlier request had left.
    pub cached: u64,
    /// Of the answers.
    pub completion: u64,
}

impl Answer {
    /// Of a request with `n` choices for each prompt; `id` is a name that no other answer has, `before` what stands
    /// before each choice.
    pub fn new(
        ask: &super::Ask,
        id: &str,
        model: &str,
        tokenizer: Arc<Tokenizer>,
        before: impl IntoIterator<Item = String>,
    ) -> Answer {
        let prefix = match ask.endpoint {
            Endpoint::Chat => "chatcmpl",
            Endpoint::Completions => "cmpl",
        };
        let choice = |text: String| {
            let characters = text.chars().count();
            Choice { text, characters, shown: characters, ..Choice::default() }
        };
        let choices: Vec<_> = before.into_iter().map(choice).collect();
        Answer {
            endpoint: ask.endpoint,
            id: format!("{prefix}-{id}"),
            created: now(),
            model: model.into(),
            n: ask.choices_of_each(),
            streams: ask.stream,
            logprobs: ask.tells_probabilities(),
            token_ids: ask.tells_ids(),
            tokenizer,
            open: choices.len(),
            choices,
        }
    }

    /// Whether all choices have ended.
    pub fn is_done(&self) -> bool {
        self.open == 0
    }

    /// Chunks that begin a stream: the role of each choice of a chat, the prompt that is wanted back.
    pub fn beginning(&self) -> Vec<Value> {
        let each = self.choices.iter().enumerate();
        match self.endpoint {
            Endpoint::Chat => {
                let delta = json!({ "role": "assistant", "content": "", "refusal": null });
                each.map(|(i, _)| self.chunk(i, delta.clone(), Value::Null, None)).collect()
            }
            Endpoint::Completions => {
                let echoed = each.filter(|(_, c)| !c.text.is_empty());
                echoed.map(|(i, c)| self.chunk(i, json!(c.text), Value::Null, None)).collect()
            }
        }
    }

    /// Takes an event of a choice, and gives the chunk that a stream sends for it, if it says anything.
    pub fn hear(&mut self, choice: usize, event: Event) -> Option<Value> {
        let state = &mut self.choices[choice];
        match event {
            Event::Prompt(_) => None,
            Event::Read(read) => {
                let told = read.into_iter().map(|t| state.echo.token(t, &self.tokenizer)).collect();
                let logprobs = self.tell(choice, told);
                Some(self.chunk(choice, self.delta(""), logprobs, None))
            }
            Event::Token(mut token) => {
                let (piece, id) = (std::mem::take(&mut token.text), token.id);
                if self.token_ids && !self.streams {
                    state.ids.push(id);
                }
                state.begin(token, self.logprobs);
                let told = state.show(&piece);
                let logprobs = self.tell(choice, told);
                if !self.streams {
                    self.choices[choice].text.push_str(&piece);
                }
                let silent = piece.is_empty() && logprobs.is_null() && !self.token_ids;
                let mut chunk = (!silent).then(|| self.chunk(choice, self.delta(&piece), logprobs, None))?;
                if self.token_ids {
                    chunk["choices"][0]["token_ids"] = json!([id]);
                }
                Some(chunk)
            }
            Event::Finished(finished) => {
                let (piece, reason) = (finished.text.clone(), finished.reason.name());
                let mut told = state.show(&piece);
                told.extend(state.rest());
                state.text.push_str(&piece);
                state.end = Some(finished);
                self.open -= 1;
                let logprobs = self.tell(choice, told);
                let delta = match self.endpoint {
                    Endpoint::Chat if piece.is_empty() => json!({}),
                    _ => self.delta(&piece),
                };
                Some(self.chunk(choice, delta, logprobs, Some(reason)))
            }
        }
    }

    /// How probable tokens of a choice were, which are kept for its end if it is not streamed; null of none.
    fn tell(&mut self, choice: usize, told: Vec<(usize, Token)>) -> Value {
        if told.is_empty() {
            return Value::Null;
        }
        let logprobs = probabilities(self.endpoint, &told, &self.tokenizer);
        if !self.streams {
            self.choices[choice].tokens.extend(told);
        }
        logprobs
    }

    /// The chunk behind the last, where what the answer took is wanted.
    pub fn usage_chunk(&self) -> Value {
        let mut chunk = self.head(self.chunk_object());
        chunk["choices"] = json!([]);
        chunk["usage"] = self.usage();
        chunk
    }

    /// The body of an answer that has ended.
    pub fn body(&self) -> Value {
        let choice = |(i, c): (usize, &Choice)| {
            let (name, content) = match self.endpoint {
                Endpoint::Chat => ("message", json!({ "role": "assistant", "content": c.text, "refusal": null })),
                Endpoint::Completions => ("text", json!(c.text)),
            };
            let logprobs =
                if self.logprobs { probabilities(self.endpoint, &c.tokens, &self.tokenizer) } else { Value::Null };
            let reason = c.end.as_ref().map(|end| end.reason.name());
            let mut choice = json!({ "index": i, name: content, "logprobs": logprobs, "finish_reason": reason });
            if self.token_ids {
                choice["token_ids"] = json!(c.ids);
            }
            choice
        };
        let mut body = self.head(match self.endpoint {
            Endpoint::Chat => "chat.completion",
            Endpoint::Completions => "text_completion",
        });
        body["choices"] = self.choices.iter().enumerate().map(choice).collect();
        body["usage"] = self.usage();
        body
    }

    /// What it took so far.
    pub fn tokens(&self) -> Tokens {
        let mut sum = Tokens::default();
        for (i, end) in self.choices.iter().enumerate().filter_map(|(i, c)| Some((i, c.end.as_ref()?))) {
            if i.is_multiple_of(self.n) {
                sum.prompt += u64::from(end.usage.prompt_tokens);
                sum.cached += u64::from(end.usage.kept_tokens);
            }
            sum.completion += u64::from(end.usage.generated_tokens);
        }
        sum
    }

    fn usage(&self) -> Value {
        let Tokens { prompt, cached, completion } = self.tokens();
        json!({
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": { "cached_tokens": cached },
        })
    }

    fn chunk_object(&self) -> &'static str {
        match self.endpoint {
            Endpoint::Chat => "chat.completion.chunk",
            Endpoint::Completions => "text_completion",
        }
    }

    fn head(&self, object: &str) -> Value {
        json!({ "id": self.id, "object": object, "created": self.created, "model": self.model })
    }

    fn delta(&self, text: &str) -> Value {
        match self.endpoint {
            Endpoint::Chat => json!({ "content": text }),
            Endpoint::Completions => json!(text),
        }
    }

    fn chunk(&self, choice: usize, delta: Value, logprobs: Value, reason: Option<&str>) -> Value {
        let name = match self.endpoint {
            Endpoint::Chat => "delta",
            Endpoint::Completions => "text",
        };
        let mut chunk = self.head(self.chunk_object());
        chunk["choices"] = json!([{ "index": choice, name: delta, "logprobs": logprobs, "finish_reason": reason }]);
        chunk
    }
}

fn probabilities(endpoint: Endpoint, tokens: &[(usize, Token)], tokenizer: &Tokenizer) -> Value {
    match endpoint {
        Endpoint::Chat => probable::chat(tokens, tokenizer),
        Endpoint::Completions => probable::completions(tokens, tokenizer),
    }
}

/// The HTTP status of an error and the body that goes with it.
pub fn error(e: &Error) -> (u16, Value) {
    let (status, kind) = match e {
        Error::Invalid(_)
        | Error::Field { .. }
        | Error::TooLong { .. }
        | Error::Limit(_)
        | Error::Unsupported { .. } => (400, "invalid_request_error"),
        Error::Busy(_) => (503, "server_error"),
        Error::File { .. } | Error::Io { .. } | Error::Engine(_) | Error::Cancelled => (500, "server_error"),
    };
    let (param, code) = match e {
        Error::Field { field, .. } => (Some(field.as_str()), None),
        // By this word clients know that a shorter prompt would be answered.
        Error::TooLong { field, .. } => (Some(*field), Some("context_length_exceeded")),
        _ => (None, None),
    };
    (status, json!({ "error": { "message": e.to_string(), "type": kind, "param": param, "code": code } }))
}

#[cfg(test)]
mod tests;
