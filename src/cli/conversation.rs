//! A conversation on a model's chat template: messages in, a request out.

use crate::engine::{ChatFormat, Engine, Request};
use crate::error::{Error, Result};
use crate::sample::Params;
use crate::text::Message;

/// The messages so far and the template that turns them into a prompt.
pub struct Conversation {
    format: ChatFormat,
    system: Option<String>,
    messages: Vec<Message>,
}

impl Conversation {
    /// An empty conversation on the model's template.
    ///
    /// # Errors
    /// `Unsupported` for a model without a template, `Invalid` for a template that does not compile.
    pub fn new(engine: &Engine, system: Option<String>) -> Result<Self> {
        let Some(format) = ChatFormat::new(engine)? else {
            let what = format!("a chat with {}, which has no chat template,", engine.info().file);
            return Err(Error::Unsupported { what, instead: "use `air generate` without --chat".into() });
        };
        Ok(Conversation { format, system, messages: vec![] })
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
        Ok(Request {
            prompt: self.format.prompt(engine.tokenizer(), &messages)?,
            max_tokens,
            sampling,
            stop: self.format.stop(stop),
            progress: true,
            ..Request::default()
        })
    }
}
