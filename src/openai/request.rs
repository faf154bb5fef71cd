//! From the body of a request to the engine's request.

use super::fields::Fields;
use crate::engine::{ChatFormat, Engine, Request};
use crate::error::{Error, Result};
use crate::sample::Params;
use crate::text::Message;
use serde_json::Value;

/// Most messages of a conversation.
const MAX_MESSAGES: usize = 4096;
/// Most biased tokens.
const MAX_BIASES: usize = 1024;

/// Fields that tell who asks and what for, but nothing about the answer.
const IGNORED: &[&str] = &["user", "metadata", "safety_identifier", "prompt_cache_key"];

/// Fields that air does not do, with the values that ask for nothing.
const DEFAULTS: &[(&str, &[&str])] = &[
    ("stream", &["false"]),
    ("stream_options", &[]),
    ("n", &["1"]),
    ("best_of", &["1"]),
    ("echo", &["false"]),
    ("suffix", &["\"\""]),
    ("logprobs", &["false"]),
    ("top_logprobs", &["0"]),
    ("store", &["false"]),
    ("service_tier", &["\"auto\"", "\"default\""]),
    ("response_format", &["{\"type\":\"text\"}"]),
    ("modalities", &["[\"text\"]"]),
    ("tools", &["[]"]),
    ("tool_choice", &["\"none\"", "\"auto\""]),
    ("parallel_tool_calls", &["true", "false"]),
    ("functions", &["[]"]),
    ("function_call", &["\"none\"", "\"auto\""]),
    ("audio", &[]),
    ("prediction", &[]),
    ("reasoning_effort", &[]),
    ("verbosity", &[]),
    ("web_search_options", &[]),
];

/// Which kind of request a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`: messages, answered by the model's chat template.
    Chat,
    /// `/v1/completions`: a text to go on from.
    Completions,
}

impl Endpoint {
    const ALL: [Endpoint; 2] = [Endpoint::Chat, Endpoint::Completions];

    /// Its path.
    pub fn url(self) -> &'static str {
        match self {
            Endpoint::Chat => "/v1/chat/completions",
            Endpoint::Completions => "/v1/completions",
        }
    }

    /// The endpoint of a path.
    ///
    /// # Errors
    /// `Invalid`, naming those that there are.
    pub fn of(url: &str) -> Result<Self> {
        Endpoint::ALL.into_iter().find(|e| e.url() == url).ok_or_else(|| {
            let [a, b] = Endpoint::ALL.map(Endpoint::url);
            let shown: String = url.chars().take(80).collect();
            Error::Invalid(format!("url is `{shown}`; it must be {a} or {b}"))
        })
    }
}

/// What a body asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    prompt: Prompt,
    max_tokens: u32,
    sampling: Params,
    stop: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
enum Prompt {
    Messages(Vec<Message>),
    Text(String),
}

impl Ask {
    /// Reads a body. Where it says nothing, `sampling` and `max_tokens` hold.
    ///
    /// # Errors
    /// `Invalid`, naming the field. The sampler's ranges are checked when the engine begins.
    pub fn read(endpoint: Endpoint, body: Value, sampling: &Params, max_tokens: u32) -> Result<Ask> {
        let mut f = Fields::new("body", "", body)?;
        f.text("model")?;
        let prompt = match endpoint {
            Endpoint::Chat => Prompt::Messages(messages(&mut f)?),
            Endpoint::Completions => {
                Prompt::Text(f.text("prompt")?.ok_or_else(|| f.error("prompt", "is missing: the text to go on from"))?)
            }
        };
        let mut s = sampling.clone();
        f.number("temperature", &mut s.temperature)?;
        f.number("top_p", &mut s.top_p)?;
        f.number("min_p", &mut s.min_p)?;
        f.number("typical_p", &mut s.typical_p)?;
        f.number("repetition_penalty", &mut s.repetition_penalty)?;
        f.number("presence_penalty", &mut s.presence_penalty)?;
        f.number("frequency_penalty", &mut s.frequency_penalty)?;
        s.top_k = f.whole("top_k")?.unwrap_or(s.top_k);
        s.seed = seed(&mut f)?.or(s.seed);
        s.logit_bias.extend(logit_bias(&mut f)?);
        // The older name and the newer one of the same thing.
        let (old, new) = (f.whole("max_tokens")?, f.whole("max_completion_tokens")?);
        if old.zip(new).is_some_and(|(old, new)| old != new) {
            return Err(f.error("max_tokens", "and max_completion_tokens differ; give one of them"));
        }
        let max_tokens = new.or(old).unwrap_or(max_tokens);
        let stop = match f.take("stop") {
            None => vec![],
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(list)) => list.into_iter().map(|v| stop_text(&f, v)).collect::<Result<_>>()?,
            Some(_) => return Err(f.error("stop", "must be a text or a list of texts")),
        };
        f.finish(IGNORED, DEFAULTS)?;
        Ok(Ask { prompt, max_tokens, sampling: s, stop })
    }

    /// The engine's request. `chat` is the model's, if it has a template.
    ///
    /// # Errors
    /// `Unsupported` for messages to a model that has no template; those of the template.
    pub fn request(self, engine: &Engine, chat: Option<&ChatFormat>) -> Result<Request> {
        let Ask { prompt, max_tokens, sampling, stop } = self;
        let tokenizer = engine.tokenizer();
        let (prompt, stop) = match (prompt, chat) {
            (Prompt::Text(text), _) => (tokenizer.encode(&text, true, true), stop),
            (Prompt::Messages(messages), Some(chat)) => (chat.prompt(tokenizer, &messages)?, chat.stop(&stop)),
            (Prompt::Messages(_), None) => {
                let what = format!("a chat with {}, which has no chat template,", engine.info().file);
                return Err(Error::Unsupported { what, instead: format!("use {}", Endpoint::Completions.url()) });
            }
        };
        Ok(Request { prompt, max_tokens, sampling, stop, ..Request::default() })
    }
}

fn messages(f: &mut Fields) -> Result<Vec<Message>> {
    let list = f.list("messages")?.ok_or_else(|| f.error("messages", "is missing: the conversation so far"))?;
    if list.is_empty() || list.len() > MAX_MESSAGES {
        return Err(f.error("messages", &format!("has {} messages; 1 to {MAX_MESSAGES} can be", list.len())));
    }
    list.into_iter().enumerate().map(|(i, value)| message(&format!("messages[{i}]"), value)).collect()
}

fn message(path: &str, value: Value) -> Result<Message> {
    let mut f = Fields::new(path, format!("{path}."), value)?;
    let role = match f.text("role")?.as_deref() {
        // OpenAI's newer name for it, which templates do not know.
        Some("system" | "developer") => "system",
        Some("user") => "user",
        Some("assistant") => "assistant",
        Some(_) => return Err(f.error("role", "must be system, developer, user or assistant")),
        None => return Err(f.error("role", "is missing")),
    };
    let content = match f.take("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => parts
            .into_iter()
            .enumerate()
            .map(|(i, part)| text_part(&format!("{path}.content[{i}]"), part))
            .collect::<Result<_>>()?,
        Some(_) => return Err(f.error("content", "must be a text or a list of text parts")),
        None => return Err(f.error("content", "is missing")),
    };
    f.finish(&[], &[("name", &[]), ("refusal", &[]), ("tool_calls", &["[]"]), ("audio", &[]), ("function_call", &[])])?;
    Ok(Message::new(role, content))
}

fn text_part(path: &str, value: Value) -> Result<String> {
    let mut f = Fields::new(path, format!("{path}."), value)?;
    if f.text("type")?.is_none_or(|kind| kind != "text") {
        return Err(f.error("type", "must be text: air reads no other parts"));
    }
    let text = f.text("text")?.ok_or_else(|| f.error("text", "is missing"))?;
    f.finish(&[], &[])?;
    Ok(text)
}

fn stop_text(f: &Fields, value: Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(f.error("stop", "must be a text or a list of texts")),
    }
}

/// OpenAI's seeds may be negative: they are taken for their bits.
fn seed(f: &mut Fields) -> Result<Option<u64>> {
    let Some(value) = f.take("seed") else { return Ok(None) };
    let n = value.as_u64().or_else(|| value.as_i64().map(|n| n as u64));
    n.map(Some).ok_or_else(|| f.error("seed", "must be a whole number"))
}

fn logit_bias(f: &mut Fields) -> Result<Vec<(u32, f32)>> {
    let map = f.object("logit_bias")?.unwrap_or_default();
    if map.len() > MAX_BIASES {
        return Err(f.error("logit_bias", &format!("has {} tokens; up to {MAX_BIASES} can be", map.len())));
    }
    let pair = |(id, bias): (&String, &Value)| Some((id.parse().ok()?, bias.as_f64()? as f32));
    let pairs: Option<Vec<_>> = map.iter().map(pair).collect();
    pairs.ok_or_else(|| f.error("logit_bias", "must give a number for each token id"))
}

#[cfg(test)]
mod tests;
