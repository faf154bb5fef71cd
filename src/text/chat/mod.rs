//! Chat templates: from messages to the prompt that a model was trained on.
//!
//! A template is a Jinja program that came with the model, as `tokenizer.chat_template`. It runs as transformers runs
//! it (`trim_blocks`, `lstrip_blocks`, loop controls, `raise_exception`, `strftime_now`, Python's methods of strings
//! and dicts, `tojson` as `json.dumps`), except that the clock is UTC. It is a stranger's program, so it is bounded:
//! its size and the size of its tags, its steps (fuel), what a filter or method may make, its output. Compiling and
//! running recurse as deep as the template nests, so both happen on a thread with a stack of its own, which also keeps
//! a panic of the template engine from spreading. Not bounded are the operators, because the engine offers no place to
//! stand between: a template written for it can exhaust memory by doubling a string with `~` or `+` or a list with `*`,
//! and time by comparing values that hold others twice.

mod bounds;
mod python;
mod scan;

use super::Tokenizer;
use crate::error::{Error, Result};
use crate::meta::Meta;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, Value};
use std::io::Write;
use std::time::SystemTime;

const KEY: &str = "tokenizer.chat_template";
const NAME: &str = "chat";

/// Longest template, in bytes; the largest in use have some 20 000.
const MAX_SOURCE: usize = 256 << 10;
/// Steps of the template engine that one rendering may take; a message takes some hundred.
const FUEL: u64 = 4_000_000;
/// Longest prompt, in bytes.
const MAX_OUTPUT: usize = 4 << 20;
/// Name of the threads on which templates are compiled and run. A panic there becomes an error, so a program need not
/// report it as a crash.
pub const TEMPLATE_THREAD: &str = "chat template";
/// Stack for compiling and running. Pages that are not touched cost nothing.
const STACK: usize = 256 << 20;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant` or what the template knows.
    pub role: String,
    /// The text.
    pub content: String,
    /// Of whoever says it, where several have one role.
    pub name: Option<String>,
}

impl Message {
    /// A message of a role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into(), name: None }
    }
}

/// What a rendering may be told besides the messages.
#[derive(Debug, Clone)]
pub struct RenderOptions {
    /// End with the beginning of the assistant's answer.
    pub add_generation_prompt: bool,
    /// Further variables of the template, such as `enable_thinking`.
    pub variables: Vec<(String, serde_json::Value)>,
    /// The time for `strftime_now`.
    pub now: SystemTime,
}

impl Default for RenderOptions {
    /// An answer is asked for, no further variables, the time is now.
    fn default() -> Self {
        RenderOptions { add_generation_prompt: true, variables: Vec::new(), now: SystemTime::now() }
    }
}

/// A compiled template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Compiles a template; `bos` and `eos` are the texts of these tokens, empty where the model has none.
    ///
    /// # Errors
    /// `Invalid` with the line for a template that is no Jinja or passes a bound.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        if source.len() > MAX_SOURCE {
            let problem = format!("the chat template has {} bytes; the most is {MAX_SOURCE}", source.len());
            return Err(Error::Invalid(problem));
        }
        let runnable = scan::without_generation_tags(source).map_err(Error::Invalid)?;
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| problem(&e))?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        python::install(&mut environment);
        bounds::install(&mut environment);
        environment.add_global("bos_token", bos);
        environment.add_global("eos_token", eos);
        let environment = on_own_stack(move || {
            environment.add_template_owned(NAME, runnable).map_err(|e| problem(&e))?;
            Ok(environment)
        })?;
        Ok(ChatTemplate { source: source.into(), environment })
    }

    /// The template of a model, if it has one.
    ///
    /// # Errors
    /// `File` with key and offset for one that does not compile.
    pub fn from_meta(meta: &Meta, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let Some(source) = meta.opt_str(KEY)? else { return Ok(None) };
        let text =
            |id: Option<u32>| id.map_or(String::new(), |id| String::from_utf8_lossy(tokenizer.token_text(id)).into());
        let template = ChatTemplate::new(source, &text(tokenizer.bos()), &text(tokenizer.eos()));
        template.map(Some).map_err(|e| meta.error(KEY, e.to_string()))
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt for a conversation.
    ///
    /// # Errors
    /// `Invalid` when the template refuses the messages (`raise_exception`) or fails; `Limit` when it runs for too
    /// long or writes too much.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        let context = context(messages, options);
        on_own_stack(|| {
            let template = self.environment.get_template(NAME).map_err(|e| problem(&e))?;
            let mut out = Bounded { bytes: Vec::new(), full: false };
            match template.render_captured_to(context, &mut out) {
                _ if out.full => Err(Error::Limit(format!("the chat template writes more than {MAX_OUTPUT} bytes"))),
                Err(e) => Err(problem(&e)),
                Ok(_) => String::from_utf8(out.bytes).map_err(|e| Error::Invalid(format!("the chat template: {e}"))),
            }
        })
    }
}

/// The variables that a template sees, as transformers names them.
fn context(messages: &[Message], options: &RenderOptions) -> Value {
    let message = |m: &Message| {
        let always = [("role", m.role.as_str()), ("content", m.content.as_str())];
        // Templates ask whether there is one.
        Value::from_pairs(always.into_iter().chain(m.name.as_deref().map(|name| ("name", name))))
    };
    let mut variables = vec![
        ("messages".to_string(), messages.iter().map(message).collect::<Value>()),
        ("tools".into(), Value::from(())),
        ("documents".into(), Value::from(())),
        ("add_generation_prompt".into(), Value::from(options.add_generation_prompt)),
        ("strftime_now".into(), python::strftime_at(options.now)),
    ];
    variables.extend(options.variables.iter().map(|(name, value)| (name.clone(), python::from_json(value))));
    Value::from_pairs(variables)
}

/// Output that stops at a bound.
struct Bounded {
    bytes: Vec<u8>,
    full: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT {
            self.full = true;
            return Err(std::io::Error::other("too much output"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An error of the template engine, in one line.
fn problem(e: &minijinja::Error) -> Error {
    use minijinja::ErrorKind;
    if e.kind() == ErrorKind::OutOfFuel {
        return Error::Limit(format!("the chat template takes more than {FUEL} steps; does it loop for ever?"));
    }
    let raised = python::raised(e);
    let at = e.line().map_or(String::new(), |line| format!(" (line {line} of the template)"));
    Error::Invalid(match raised {
        Some(message) => format!("the chat template refuses this conversation: {message}"),
        None => format!("the chat template fails: {e}{at}", e = without_place(e)),
    })
}

fn without_place(e: &minijinja::Error) -> String {
    match e.detail() {
        Some(detail) => format!("{}: {detail}", e.kind()),
        None => e.kind().to_string(),
    }
}

/// Runs `f` on a thread with a deep stack.
fn on_own_stack<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(TEMPLATE_THREAD.into()).stack_size(STACK);
        let handle = thread
            .spawn_scoped(scope, f)
            .map_err(|e| Error::Engine(format!("cannot start a thread for the chat template: {e}")))?;
        let panicked = |_| Error::Engine("the template engine failed on the chat template".into());
        handle.join().unwrap_or_else(|panic| Err(panicked(panic)))
    })
}

#[cfg(test)]
mod tests;
