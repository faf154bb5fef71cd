//! From a finished generation to the body of a response.

use super::Endpoint;
use crate::engine::Finished;
use crate::error::Error;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// An answer that has ended.
#[derive(Debug)]
pub struct Answer<'a> {
    /// What it answers.
    pub endpoint: Endpoint,
    /// A name that no other answer has.
    pub id: &'a str,
    /// The model that answered.
    pub model: &'a str,
    /// All of its text.
    pub text: &'a str,
    /// How it ended.
    pub end: &'a Finished,
}

impl Answer<'_> {
    /// The response's body. Tokens are those that were read and sampled, an end-of-generation token included.
    pub fn body(&self) -> Value {
        let Answer { endpoint, id, model, text, end } = self;
        let usage = &end.usage;
        let (prefix, object, content, value) = match endpoint {
            Endpoint::Chat => {
                let message = json!({ "role": "assistant", "content": text, "refusal": null });
                ("chatcmpl", "chat.completion", "message", message)
            }
            Endpoint::Completions => ("cmpl", "text_completion", "text", json!(text)),
        };
        json!({
            "id": format!("{prefix}-{id}"),
            "object": object,
            "created": SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            "model": model,
            "choices": [{ "index": 0, content: value, "logprobs": null, "finish_reason": end.reason.name() }],
            "usage": {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.generated_tokens,
                "total_tokens": u64::from(usage.prompt_tokens) + u64::from(usage.generated_tokens),
                "prompt_tokens_details": { "cached_tokens": usage.kept_tokens },
            },
        })
    }
}

/// The HTTP status of an error and the body that goes with it.
pub fn error(e: &Error) -> (u16, Value) {
    let (status, kind) = match e {
        Error::Invalid(_) | Error::Limit(_) | Error::Unsupported { .. } => (400, "invalid_request_error"),
        Error::File { .. } | Error::Io { .. } | Error::Engine(_) | Error::Cancelled => (500, "server_error"),
    };
    (status, json!({ "error": { "message": e.to_string(), "type": kind, "param": null, "code": null } }))
}
