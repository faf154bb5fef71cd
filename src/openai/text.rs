//! Tokens of a text and the text of tokens, as vLLM's and llama.cpp's servers tell them.

use super::fields::Fields;
use super::request::messages;
use crate::engine::{ChatFormat, Engine};
use crate::error::{Error, Result};
use serde_json::{Value, json};

/// Fields that these bodies may have and that change nothing.
const IGNORED: &[&str] = &["model"];
/// Most tokens to make a text of.
const MAX_TOKENS: usize = 1 << 20;

/// Body `{"prompt": TEXT}` or `{"messages": […]}`, and `add_special_tokens` (true): its `tokens` and their `count`.
///
/// # Errors
/// `Field`; those of the chat template.
pub fn tokenize(engine: &Engine, chat: Option<&ChatFormat>, body: Value) -> Result<Value> {
    let mut f = Fields::new("body", "", body)?;
    // llama.cpp's name for it.
    let text = f.text("prompt")?.or(f.text("content")?);
    let special = match f.take("add_special_tokens") {
        None => true,
        Some(value) => value.as_bool().ok_or_else(|| f.error("add_special_tokens", "must be true or false"))?,
    };
    let tokens = match text {
        Some(text) => engine.tokenizer().encode(&text, special, true),
        None => template(engine, chat)?.prompt(engine.tokenizer(), &messages(&mut f)?)?,
    };
    f.finish(IGNORED, &[])?;
    Ok(json!({ "count": tokens.len(), "max_model_len": engine.info().context, "tokens": tokens }))
}

/// Body `{"tokens": [ID, …]}`: the `prompt` that they are the tokens of.
///
/// # Errors
/// `Field` for what is no token.
pub fn detokenize(engine: &Engine, body: Value) -> Result<Value> {
    let mut f = Fields::new("body", "", body)?;
    let list = f.list("tokens")?.ok_or_else(|| f.error("tokens", "is missing: a list of token ids"))?;
    if list.len() > MAX_TOKENS {
        return Err(f.error("tokens", &format!("has {} ids; up to {MAX_TOKENS} can be", list.len())));
    }
    f.finish(IGNORED, &[])?;
    let vocab = engine.tokenizer().len();
    let id = |value: &Value| value.as_u64().filter(|&id| id < vocab as u64).map(|id| id as u32);
    let ids: Option<Vec<u32>> = list.iter().map(id).collect();
    let problem = || Error::Field { field: "tokens".into(), problem: format!("must hold ids from 0 to {}", vocab - 1) };
    Ok(json!({ "prompt": engine.tokenizer().decode(&ids.ok_or_else(problem)?, true) }))
}

/// Body `{"messages": […]}`: the `prompt` that the model's chat template makes of them.
///
/// # Errors
/// `Field`; `Unsupported` for a model without a template; those of the template.
pub fn apply_template(engine: &Engine, chat: Option<&ChatFormat>, body: Value) -> Result<Value> {
    let mut f = Fields::new("body", "", body)?;
    let messages = messages(&mut f)?;
    f.finish(IGNORED, &[])?;
    Ok(json!({ "prompt": template(engine, chat)?.render(&messages)? }))
}

fn template<'a>(engine: &Engine, chat: Option<&'a ChatFormat>) -> Result<&'a ChatFormat> {
    chat.ok_or_else(|| Error::Unsupported {
        what: format!("a chat with {}, which has no chat template,", engine.info().file),
        instead: "give a prompt".into(),
    })
}
