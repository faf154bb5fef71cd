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
/// Most choices of one answer: prompts times `n`.
const MAX_CHOICES: usize = 128;
/// Most tokens whose probability is told in the place of one.
const MAX_LOGPROBS: u32 = 20;

/// Fields that tell who asks and what for, but nothing about the answer.
const IGNORED: &[&str] = &["user", "metadata", "safety_identifier", "prompt_cache_key"];

/// Fields that air does not do, with the values that ask for nothing.
const DEFAULTS: &[(&str, &[&str])] = &[
    ("best_of", &["1"]),
    ("suffix", &["\"\""]),
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
    /// All of them.
    pub const ALL: [Endpoint; 2] = [Endpoint::Chat, Endpoint::Completions];

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
    /// Which kind it is.
    pub endpoint: Endpoint,
    /// The model that is wanted, if it says so.
    pub model: Option<String>,
    /// Send the answer as it grows.
    pub stream: bool,
    /// End a stream with what the answer took.
    pub include_usage: bool,
    prompts: Vec<Prompt>,
    /// Choices for each prompt.
    n: usize,
    echo: bool,
    logprobs: Option<u32>,
    token_ids: bool,
    /// The rest of the context, where nobody says.
    max_tokens: Option<u32>,
    sampling: Params,
    stop: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
enum Prompt {
    Messages(Vec<Message>),
    Text(String),
    Tokens(Vec<u32>),
}

/// What the engine is asked for one choice of an answer.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// To be submitted.
    pub request: Request,
    /// What stands before the answer's text: the prompt, where it is wanted back.
    pub before: String,
}

impl Ask {
    /// Reads a body. Where it says nothing, `sampling` and `max_tokens` hold.
    ///
    /// # Errors
    /// `Field`, naming it. The sampler's ranges are checked by `requests`.
    pub fn read(endpoint: Endpoint, body: Value, sampling: &Params, max_tokens: Option<u32>) -> Result<Ask> {
        let mut f = Fields::new("body", "", body)?;
        let model = f.text("model")?;
        let prompts = match endpoint {
            Endpoint::Chat => vec![Prompt::Messages(messages(&mut f)?)],
            Endpoint::Completions => prompts(&mut f)?,
        };
        let n = f.whole("n")?.unwrap_or(1) as usize;
        if n == 0 || n.saturating_mul(prompts.len()) > MAX_CHOICES {
            let of = if prompts.len() > 1 { format!(" with {} prompts", prompts.len()) } else { String::new() };
            let problem = format!("is {n}; it must be 1 to {}{of}", MAX_CHOICES / prompts.len());
            return Err(f.error("n", &problem));
        }
        let echo = endpoint == Endpoint::Completions && f.flag("echo")?;
        let logprobs = logprobs(&mut f, endpoint)?;
        if echo && logprobs.is_some() {
            return Err(f.error("logprobs", "with echo is not supported: air tells no probabilities of prompts"));
        }
        // vLLM's name for it.
        let token_ids = f.flag("return_token_ids")?;
        let stream = f.flag("stream")?;
        let include_usage = stream_options(&mut f, stream)?;
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
        let max_tokens = new.or(old).or(max_tokens);
        let stop = match f.take("stop") {
            None => vec![],
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(list)) => list.into_iter().map(|v| stop_text(&f, v)).collect::<Result<_>>()?,
            Some(_) => return Err(f.error("stop", "must be a text or a list of texts")),
        };
        f.finish(IGNORED, DEFAULTS)?;
        Ok(Ask {
            endpoint,
            model,
            stream,
            include_usage,
            prompts,
            n,
            echo,
            logprobs,
            token_ids,
            max_tokens,
            sampling: s,
            stop,
        })
    }

    /// How many choices each prompt has.
    pub fn choices_of_each(&self) -> usize {
        self.n
    }

    /// Whether it says which tokens its texts are.
    pub(super) fn tells_ids(&self) -> bool {
        self.token_ids
    }

    /// Whether it says how probable tokens were.
    pub(super) fn tells_probabilities(&self) -> bool {
        self.logprobs.is_some()
    }

    /// The only choice of an answer that is not streamed, for whoever takes no others.
    ///
    /// # Errors
    /// `Field` where more is asked for.
    pub fn alone(self) -> Result<Self> {
        let refuse = |field: &str, problem: &str| Err(Error::Field { field: field.into(), problem: problem.into() });
        match &self {
            ask if ask.stream => refuse("stream", "is true, which is not supported; it must be false, or left out"),
            ask if ask.n > 1 => {
                refuse("n", &format!("is {}, which is not supported; it must be 1, or left out", ask.n))
            }
            ask if ask.prompts.len() > 1 => refuse("prompt", "has several texts, which is not supported; give one"),
            _ => Ok(self),
        }
    }

    /// What the engine is asked: all choices of the first prompt, then those of the next. `chat` is the model's, if it
    /// has a template. Choices of one prompt have seeds that follow each other.
    ///
    /// # Errors
    /// `Unsupported` for messages to a model that has no template; those of the template, and of `Engine::check`.
    pub fn requests(&self, engine: &Engine, chat: Option<&ChatFormat>) -> Result<Vec<Wanted>> {
        let mut all = Vec::with_capacity(self.n * self.prompts.len());
        for prompt in &self.prompts {
            let (prompt, before, stop) = self.tokens(prompt, engine, chat)?;
            let max_tokens = self.max_tokens.unwrap_or_else(|| engine.longest_answer(prompt.len()));
            let (sampling, logprobs) = (self.sampling.clone(), self.logprobs);
            let first = Request { prompt, max_tokens, sampling, stop, logprobs, ..Request::default() };
            // Before it is there n times.
            engine.check(&first)?;
            for i in 0..self.n as u64 {
                let seed = self.sampling.seed.map(|seed| seed.wrapping_add(i));
                let sampling = Params { seed, ..first.sampling.clone() };
                all.push(Wanted { request: Request { sampling, ..first.clone() }, before: before.clone() });
            }
        }
        Ok(all)
    }

    /// A prompt's tokens, what of it stands before the answer, and what ends that.
    fn tokens(
        &self,
        prompt: &Prompt,
        engine: &Engine,
        chat: Option<&ChatFormat>,
    ) -> Result<(Vec<u32>, String, Vec<String>)> {
        let tokenizer = engine.tokenizer();
        let before = |text: &dyn Fn() -> String| if self.echo { text() } else { String::new() };
        Ok(match (prompt, chat) {
            (Prompt::Text(text), _) => {
                (tokenizer.encode(text, true, true), before(&|| text.clone()), self.stop.clone())
            }
            (Prompt::Tokens(ids), _) => {
                let vocab = tokenizer.len();
                if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
                    let problem = format!("has token {id}; the vocabulary has {vocab}");
                    return Err(Error::Field { field: "prompt".into(), problem });
                }
                (ids.clone(), before(&|| tokenizer.decode(ids, false)), self.stop.clone())
            }
            (Prompt::Messages(messages), Some(chat)) => {
                (chat.prompt(tokenizer, messages)?, String::new(), chat.stop(&self.stop))
            }
            (Prompt::Messages(_), None) => {
                let what = format!("a chat with {}, which has no chat template,", engine.info().file);
                return Err(Error::Unsupported { what, instead: format!("use {}", Endpoint::Completions.url()) });
            }
        })
    }
}

/// A text, a list of token ids, or a list of either.
fn prompts(f: &mut Fields) -> Result<Vec<Prompt>> {
    const WHAT: &str = "must be a text, a list of texts, a list of token ids, or a list of such lists";
    let Some(value) = f.take("prompt") else {
        return Err(f.error("prompt", "is missing: the text to go on from"));
    };
    let ids = |list: &[Value]| -> Option<Vec<u32>> {
        list.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
    };
    let one = |value: &Value| match value {
        Value::String(text) => Some(Prompt::Text(text.clone())),
        Value::Array(list) => ids(list).map(Prompt::Tokens),
        _ => None,
    };
    let list = match &value {
        Value::Array(list) if !list.first().is_some_and(Value::is_number) => list.as_slice(),
        other => std::slice::from_ref(other),
    };
    if list.is_empty() || list.len() > MAX_CHOICES {
        return Err(f.error("prompt", &format!("has {} texts; 1 to {MAX_CHOICES} can be", list.len())));
    }
    list.iter().map(|value| one(value).ok_or_else(|| f.error("prompt", WHAT))).collect()
}

/// In chats whether, and for how many in a token's place; in completions just how many.
fn logprobs(f: &mut Fields, endpoint: Endpoint) -> Result<Option<u32>> {
    let (wanted, name) = match endpoint {
        Endpoint::Completions => (f.whole("logprobs")?, "logprobs"),
        Endpoint::Chat => {
            let (on, top) = (f.flag("logprobs")?, f.whole("top_logprobs")?);
            if top.is_some_and(|n| n > 0) && !on {
                return Err(f.error("top_logprobs", "needs logprobs to be true"));
            }
            (on.then(|| top.unwrap_or(0)), "top_logprobs")
        }
    };
    match wanted {
        Some(n) if n > MAX_LOGPROBS => Err(f.error(name, &format!("is {n}; it must be 0 to {MAX_LOGPROBS}"))),
        _ => Ok(wanted),
    }
}

/// Whether a stream ends with what the answer took.
fn stream_options(f: &mut Fields, stream: bool) -> Result<bool> {
    let Some(options) = f.object("stream_options")? else { return Ok(false) };
    if !stream {
        return Err(f.error("stream_options", "needs stream to be true"));
    }
    let mut f = Fields::new("stream_options", "stream_options.", Value::Object(options))?;
    let include = f.flag("include_usage")?;
    f.flag("include_obfuscation")?;
    f.finish(&[], &[])?;
    Ok(include)
}

pub(super) fn messages(f: &mut Fields) -> Result<Vec<Message>> {
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
