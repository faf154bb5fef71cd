//! Tokens of a text and the text of tokens, as vLLM's and llama.cpp's servers tell them.

use super::bodies;
use super::fields::Fields;
use super::request::messages;
use super::shape::whole;
use crate::engine::{ChatFormat, Engine};
use crate::error::{Error, Result};
use serde_json::{Value, json};

/// A text's or a conversation's `tokens` and their `count`.
///
/// # Errors
/// `Field`; those of the chat template.
pub fn tokenize(engine: &Engine, chat: Option<&ChatFormat>, body: Value) -> Result<Value> {
    let mut f = Fields::new("body", &bodies::TOKENIZE, body)?;
    let texts = [f.text("prompt")?, f.text("content")?];
    let talk = f.list("messages")?;
    let special = f.flag("add_special_tokens")?;
    if texts.iter().flatten().count() + usize::from(talk.is_some()) != 1 {
        return Err(f.error("prompt", "or messages must be given, and not both"));
    }
    f.finish();
    let tokens = match (texts.into_iter().flatten().next(), talk) {
        (Some(text), _) => engine.tokenizer().encode(&text, special, true),
        (None, talk) => template(engine, chat)?.prompt(engine.tokenizer(), &messages(talk.unwrap_or_default())?)?,
    };
    Ok(json!({ "count": tokens.len(), "max_model_len": engine.info().context, "tokens": tokens }))
}

/// The `prompt` that tokens are those of.
///
/// # Errors
/// `Field` for what is no token.
pub fn detokenize(engine: &Engine, body: Value) -> Result<Value> {
    let mut f = Fields::new("body", &bodies::DETOKENIZE, body)?;
    let list = f.list("tokens")?.unwrap_or_default();
    let vocab = engine.tokenizer().len();
    let problem = format!("must hold ids from 0 to {}", vocab - 1);
    let id = |value: &Value| whole(value).filter(|&id| id < vocab as i128).map(|id| id as u32);
    let ids: Option<Vec<u32>> = list.iter().map(id).collect();
    let ids = ids.ok_or_else(|| f.error("tokens", &problem))?;
    f.finish();
    Ok(json!({ "prompt": engine.tokenizer().decode(&ids, true) }))
}

/// The `prompt` that the model's chat template makes of a conversation.
///
/// # Errors
/// `Field`; `Unsupported` for a model without a template; those of the template.
pub fn apply_template(engine: &Engine, chat: Option<&ChatFormat>, body: Value) -> Result<Value> {
    let mut f = Fields::new("body", &bodies::APPLY_TEMPLATE, body)?;
    let messages = messages(f.list("messages")?.unwrap_or_default())?;
    f.finish();
    Ok(json!({ "prompt": template(engine, chat)?.render(&messages)? }))
}

fn template<'a>(engine: &Engine, chat: Option<&'a ChatFormat>) -> Result<&'a ChatFormat> {
    chat.ok_or_else(|| Error::Unsupported {
        what: format!("a chat with {}, which has no chat template,", engine.info().file),
        instead: "give a prompt".into(),
    })
}
