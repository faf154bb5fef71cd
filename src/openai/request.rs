//! From the body of a request to the engine's request.

use super::bodies::{self, MAX_CHOICES};
use super::fields::Fields;
use super::shape::{Need, Object, whole};
use crate::engine::{ChatFormat, Engine, Request};
use crate::error::{Error, Result};
use crate::sample::Params;
use crate::text::Message;
use serde_json::Value;
use std::time::Duration;

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
    pub const fn url(self) -> &'static str {
        match self {
            Endpoint::Chat => "/v1/chat/completions",
            Endpoint::Completions => "/v1/completions",
        }
    }

    /// What its bodies may have in them.
    pub fn body(self) -> &'static Object {
        match self {
            Endpoint::Chat => &bodies::CHAT,
            Endpoint::Completions => &bodies::COMPLETION,
        }
    }

    /// An error of the engine's, whose prompt has here the name of the field that it is made of.
    fn named(self, e: Error) -> Error {
        match e {
            Error::TooLong { problem, .. } if self == Endpoint::Chat => Error::TooLong { field: "messages", problem },
            e => e,
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
    priority: i32,
    time_limit: Option<Duration>,
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
        let mut f = Fields::new("body", endpoint.body(), body)?;
        let model = f.text("model")?;
        let prompts = match endpoint {
            Endpoint::Chat => vec![Prompt::Messages(messages(f.list("messages")?.unwrap_or_default())?)],
            Endpoint::Completions => prompts(&mut f)?,
        };
        let n = f.whole("n")?.unwrap_or(1) as usize;
        if n.saturating_mul(prompts.len()) > MAX_CHOICES {
            let (most, of) = (MAX_CHOICES / prompts.len(), prompts.len());
            return Err(f.error("n", &format!("is {n}; it must be 1 to {most} with {of} prompts")));
        }
        let echo = endpoint == Endpoint::Completions && f.flag("echo")?;
        let logprobs = logprobs(&mut f, endpoint)?;
        // vLLM's name for it.
        let token_ids = f.flag("return_token_ids")?;
        let priority = f.take("priority").and_then(|value| whole(&value)).map_or(0, |n| n as i32);
        let time_limit = f.number("timeout")?.and_then(|s| Duration::try_from_secs_f32(s).ok());
        let stream = f.flag("stream")?;
        let include_usage = stream_options(&mut f, stream)?;
        let mut s = sampling.clone();
        for field in endpoint.body().all() {
            if let Need::Setting(of) = field.need {
                let at = of(&mut s);
                *at = f.number(field.name)?.unwrap_or(*at);
            }
        }
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
            Some(Value::Array(list)) => texts(list),
            Some(_) => return Err(f.error("stop", "must be a text or a list of texts")),
        };
        f.finish();
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
            priority,
            time_limit,
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
            let (priority, time_limit) = (self.priority, self.time_limit);
            let asked =
                Request { priority, time_limit, prompt_logprobs: logprobs.filter(|_| self.echo), ..Request::default() };
            let first = Request { prompt, max_tokens, sampling, stop, logprobs, ..asked };
            // Before it is there n times.
            engine.check(&first).map_err(|e| self.endpoint.named(e))?;
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
    let ids = |list: &[Value]| -> Option<Vec<u32>> {
        list.iter().map(|id| whole(id).and_then(|id| u32::try_from(id).ok())).collect()
    };
    let one = |value: &Value| match value {
        Value::String(text) => Some(Prompt::Text(text.clone())),
        Value::Array(list) => ids(list).map(Prompt::Tokens),
        _ => None,
    };
    let value = f.take("prompt").unwrap_or_default();
    let list = match &value {
        Value::Array(list) if !list.first().is_some_and(Value::is_number) => list.as_slice(),
        other => std::slice::from_ref(other),
    };
    let prompts: Option<Vec<Prompt>> = list.iter().map(one).collect();
    prompts.ok_or_else(|| f.error("prompt", "must be texts or lists of token ids"))
}

/// In chats whether, and for how many in a token's place; in completions just how many.
fn logprobs(f: &mut Fields, endpoint: Endpoint) -> Result<Option<u32>> {
    if endpoint == Endpoint::Completions {
        return f.whole("logprobs");
    }
    let (on, top) = (f.flag("logprobs")?, f.whole("top_logprobs")?);
    if top.is_some_and(|n| n > 0) && !on {
        return Err(f.error("top_logprobs", "needs logprobs to be true"));
    }
    Ok(on.then(|| top.unwrap_or(0)))
}

/// Whether a stream ends with what the answer took.
fn stream_options(f: &mut Fields, stream: bool) -> Result<bool> {
    let Some(options) = f.take("stream_options") else { return Ok(false) };
    if !stream {
        return Err(f.error("stream_options", "needs stream to be true"));
    }
    let mut f = Fields::within("stream_options.", &bodies::STREAM_OPTIONS, options);
    let include = f.flag("include_usage")?;
    f.finish();
    Ok(include)
}

/// The messages of a list that was checked.
pub(super) fn messages(list: Vec<Value>) -> Result<Vec<Message>> {
    list.into_iter().enumerate().map(|(i, value)| message(&format!("messages[{i}]."), value)).collect()
}

fn message(path: &str, value: Value) -> Result<Message> {
    let mut f = Fields::within(path, &bodies::MESSAGE, value);
    let role = match f.text("role")?.as_deref() {
        // OpenAI's newer name for it, which templates do not know.
        Some("developer") => "system".to_string(),
        role => role.unwrap_or_default().to_string(),
    };
    let content = match f.take("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => parts.into_iter().map(|part| text_part(path, part)).collect::<Result<_>>()?,
        _ => return Err(f.error("content", "must be a text or a list of text parts")),
    };
    let name = f.text("name")?;
    f.finish();
    Ok(Message { role, content, name })
}

fn text_part(path: &str, value: Value) -> Result<String> {
    let mut f = Fields::within(format!("{path}content."), &bodies::TEXT_PART, value);
    // There is one kind.
    f.text("type")?;
    let text = f.text("text")?.unwrap_or_default();
    f.finish();
    Ok(text)
}

fn texts(list: Vec<Value>) -> Vec<String> {
    list.into_iter().filter_map(|v| if let Value::String(text) = v { Some(text) } else { None }).collect()
}

/// OpenAI's seeds may be negative: they are taken for their bits.
fn seed(f: &mut Fields) -> Result<Option<u64>> {
    let Some(value) = f.take("seed") else { return Ok(None) };
    whole(&value).map(|n| Some(n as u64)).ok_or_else(|| f.error("seed", "must be a whole number"))
}

fn logit_bias(f: &mut Fields) -> Result<Vec<(u32, f32)>> {
    let Some(value) = f.take("logit_bias") else { return Ok(vec![]) };
    let pair = |(id, bias): (&String, &Value)| Some((id.parse().ok()?, bias.as_f64()? as f32));
    let pairs: Option<Vec<_>> = value.as_object().and_then(|map| map.iter().map(pair).collect());
    pairs.ok_or_else(|| f.error("logit_bias", "must give a number for each token id"))
}

#[cfg(test)]
mod tests;
