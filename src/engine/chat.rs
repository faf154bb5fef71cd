//! What a model's file says about chats: its template, and the texts that end an answer.

use super::Engine;
use crate::error::Result;
use crate::text::{ChatTemplate, Message, RenderOptions, Tokenizer};

/// A model's chat template, compiled, with what belongs to it.
#[derive(Debug, Clone)]
pub struct ChatFormat {
    template: ChatTemplate,
    bos: String,
    stop: Vec<String>,
}

impl ChatFormat {
    /// Of a loaded model; `None` when its file has no template.
    ///
    /// # Errors
    /// `Invalid` for a template that does not compile.
    pub fn new(engine: &Engine) -> Result<Option<Self>> {
        let Some(source) = &engine.info().chat_template else { return Ok(None) };
        let tokenizer = engine.tokenizer();
        let text = |id: Option<u32>| id.map(|id| String::from_utf8_lossy(tokenizer.token_text(id)).into_owned());
        let bos = text(tokenizer.bos()).unwrap_or_default();
        let template = ChatTemplate::new(source, &bos, &text(tokenizer.eos()).unwrap_or_default())?;
        Ok(Some(ChatFormat { template, bos, stop: engine.info().chat_stop.clone() }))
    }

    /// The prompt of a conversation, up to where the answer begins.
    ///
    /// # Errors
    /// Those of the template, in the words of its author when it refuses the messages.
    pub fn prompt(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>> {
        let text = self.render(messages)?;
        // Most templates write BOS themselves; one is enough.
        let add_special = self.bos.is_empty() || !text.starts_with(&self.bos);
        Ok(tokenizer.encode(&text, add_special, true))
    }

    /// The text of that prompt.
    ///
    /// # Errors
    /// As `prompt`.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        self.template.render(messages, &RenderOptions::default())
    }

    /// Texts that end an answer of this model, and `more`.
    pub fn stop(&self, more: &[String]) -> Vec<String> {
        self.stop.iter().chain(more).cloned().collect()
    }
}
