//! A conversation on a model's chat template: messages in, a request out.

use crate::engine::{Engine, Request};
use crate::error::{Error, Result};
use crate::sample::Params;
use crate::text::{ChatTemplate, Message, RenderOptions};

/// The messages so far and the template that turns them into a prompt.
pub struct Conversation {
    template: ChatTemplate,
    bos: String,
    system: Option<String>,
    messages: Vec<Message>,
}

impl Conversation {
    /// An empty conversation on the model's template.
    ///
    /// # Errors
    /// `Unsupported` for a model without a template, `Invalid` for a template that does not compile.
    pub fn new(engine: &Engine, system: Option<String>) -> Result<Self> {
        let Some(source) = &engine.info().chat_template else {
            let what = format!("a chat with {}, which has no chat template,", engine.info().file);
            return Err(Error::Unsupported { what, instead: "use `air generate` without --chat".into() });
        };
        let tokenizer = engine.tokenizer();
        let text = |id: Option<u32>| id.map(|id| String::from_utf8_lossy(tokenizer.token_text(id)).into_owned());
        let bos = text(tokenizer.bos()).unwrap_or_default();
        let template = ChatTemplate::new(source, &bos, &text(tokenizer.eos()).unwrap_or_default())?;
        Ok(Conversation { template, bos, system, messages: vec![] })
    }

    /// Adds what the user says.
    pub fn ask(&mut self, text: &str) {
        self.messages.push(Message::new("user", text));
    }

    /// Adds what the model answered.
    pub fn answered(&mut self, text: &str) {
        self.messages.push(Message::new("assistant", text));
    }

    /// Takes the last message back: it could not be answered.
    pub fn take_back(&mut self) {
        self.messages.pop();
    }

    /// Forgets all messages; the system message stays.
    pub fn clear(&mut self) {
        self.messages.clear();
    }

    /// Sets the system message.
    pub fn set_system(&mut self, text: Option<String>) {
        self.system = text;
    }

    /// The system message.
    pub fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// Messages so far, without the system message.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// The request for the next answer. `stop` is added to the texts that end an answer of this model.
    ///
    /// # Errors
    /// Those of the template, in the words of its author when it refuses the messages.
    pub fn request(&self, engine: &Engine, sampling: Params, max_tokens: u32, stop: &[String]) -> Result<Request> {
        let system = self.system.iter().map(|text| Message::new("system", text));
        let messages: Vec<Message> = system.chain(self.messages.iter().cloned()).collect();
        let text = self.template.render(&messages, &RenderOptions::default())?;
        // Most templates write BOS themselves; one is enough.
        let add_special = self.bos.is_empty() || !text.starts_with(&self.bos);
        Ok(Request {
            prompt: engine.tokenizer().encode(&text, add_special, true),
            max_tokens,
            sampling,
            stop: engine.info().chat_stop.iter().chain(stop).cloned().collect(),
            ..Request::default()
        })
    }
}
