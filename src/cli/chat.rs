//! `air chat`: a conversation at the terminal, on the model's own template.
//!
//! At a terminal it reads lines with history and editing; from a pipe, one message a line, and the first error ends
//! it. Ctrl-C stops the answer, not the program; what was said until then stays in the conversation.

use super::conversation::Conversation;
use super::{generate, interrupt, model, output, sampling};
use crate::config;
use crate::engine::{Engine, FinishReason, Finished};
use crate::error::{Error, Result};
use crate::sample::Params;
use rustyline::error::ReadlineError;
use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;

const HELP: &str = "\
/help          this list
/clear         forget the conversation
/system TEXT   set the system message; without TEXT, remove it
/temp T        set the temperature; without T, show it
/context       how full the context is
/stats         what the last answer took
/model         what is loaded
/exit          end (also Ctrl-D)
A message that begins with a slash is written with two.
";

/// Talk with a model
#[derive(clap::Args)]
pub struct Args {
    /// System message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    answer: sampling::AnswerArgs,
}

/// Talks until the user ends it.
pub fn run(args: Args) -> Result<()> {
    let Args { system, answer } = args;
    let settings = answer.model.settings.resolve()?;
    let engine = model::engine(&settings, answer.model.how())?;
    let mut chat = Chat {
        conversation: Conversation::new(&engine, system)?,
        sampling: sampling::params(&settings, &answer.logit_bias),
        max_tokens: settings.number("generate.max-tokens").unwrap_or(u32::MAX),
        stop: answer.stop,
        stats: answer.stats,
        last: None,
        engine,
    };
    let mut input = Input::new()?;
    if let Input::Terminal { .. } = input {
        output::note(format_args!("{}: /help lists the commands, Ctrl-D ends", chat.name()));
    }
    while let Some(line) = input.line()? {
        match (chat.line(&line), &input) {
            (Ok(Next::Go), _) => {}
            (Ok(Next::End), _) => break,
            (Err(e), Input::Terminal { .. }) => output::note(format_args!("error: {e}")),
            (Err(e), Input::Pipe(_)) => return Err(e),
        }
    }
    Ok(())
}

/// Where lines come from.
enum Input {
    Terminal { editor: Box<rustyline::DefaultEditor>, history: Option<PathBuf> },
    Pipe(std::io::StdinLock<'static>),
}

impl Input {
    fn new() -> Result<Self> {
        if !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
            // The first Ctrl-C ends the answer and with it the program, a second one also while it waits for input.
            interrupt::watch()?;
            return Ok(Input::Pipe(std::io::stdin().lock()));
        }
        let mut editor = rustyline::DefaultEditor::new().map_err(|e| terminal(&e))?;
        let history = history();
        if let Some(path) = &history {
            // The first time there is none.
            let _ = editor.load_history(path);
        }
        Ok(Input::Terminal { editor: Box::new(editor), history })
    }

    /// The next line; `None` at the end.
    fn line(&mut self) -> Result<Option<String>> {
        match self {
            Input::Pipe(stdin) => {
                let mut line = String::new();
                let n = stdin.read_line(&mut line).map_err(|e| Error::io("stdin", "cannot read a line", &e))?;
                Ok((n > 0).then_some(line))
            }
            Input::Terminal { editor, history } => loop {
                match editor.readline("> ") {
                    Ok(line) => {
                        let new = editor.add_history_entry(&line).map_err(|e| terminal(&e))?;
                        if let (true, Some(path)) = (new, &history) {
                            // History is a convenience: a full disk must not end the conversation.
                            let _ = editor.append_history(path);
                        }
                        return Ok(Some(line));
                    }
                    Err(ReadlineError::Interrupted) => output::note("(/exit or Ctrl-D ends)"),
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(e) => return Err(terminal(&e)),
                }
            },
        }
    }
}

fn terminal(e: &ReadlineError) -> Error {
    Error::Io { file: "terminal".into(), problem: format!("cannot read a line: {e}") }
}

/// Where earlier messages are kept; `None` where there is no home.
fn history() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let dir = var("XDG_STATE_HOME").or_else(|| Some(var("HOME")?.join(".local/state")))?.join("air");
    std::fs::create_dir_all(&dir).ok()?;
    Some(dir.join("chat_history"))
}

/// What a line asks for.
#[derive(Debug, PartialEq)]
enum Line<'a> {
    Nothing,
    Say(&'a str),
    Command(&'a str, &'a str),
}

fn parse(line: &str) -> Line<'_> {
    let line = line.trim();
    match line.strip_prefix('/') {
        _ if line.is_empty() => Line::Nothing,
        None => Line::Say(line),
        Some(rest) if rest.starts_with('/') => Line::Say(rest),
        Some(rest) => {
            let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            Line::Command(name, value.trim())
        }
    }
}

/// Whether to go on.
enum Next {
    Go,
    End,
}

struct Chat {
    engine: Engine,
    conversation: Conversation,
    sampling: Params,
    max_tokens: u32,
    stop: Vec<String>,
    stats: bool,
    last: Option<Finished>,
}

impl Chat {
    fn name(&self) -> &str {
        self.engine.info().name.as_deref().unwrap_or(&self.engine.info().file)
    }

    fn line(&mut self, line: &str) -> Result<Next> {
        match parse(line) {
            Line::Nothing => {}
            Line::Say(text) => self.answer(text)?,
            Line::Command("exit" | "quit", _) => return Ok(Next::End),
            Line::Command(name, value) => self.command(name, value)?,
        }
        Ok(Next::Go)
    }

    fn command(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "help" => output::report(HELP)?,
            "clear" => {
                self.conversation.clear();
                self.last = None;
            }
            "system" => self.conversation.set_system((!value.is_empty()).then(|| value.to_string())),
            "temp" if value.is_empty() => output::line(self.sampling.temperature)?,
            "temp" => self.set_temperature(value)?,
            "context" => output::line(self.context())?,
            "stats" => match &self.last {
                Some(finished) => output::report(&generate::stats(&self.engine, finished, self.sampling.seed))?,
                None => output::line("nothing was answered yet")?,
            },
            "model" => {
                let info = self.engine.info();
                output::line(format_args!("{} ({}), {}", self.name(), info.file, info.device))?;
            }
            _ => return Err(Error::Invalid(format!("there is no command /{name}; /help lists them"))),
        }
        Ok(())
    }

    fn set_temperature(&mut self, value: &str) -> Result<()> {
        let row = config::setting("sampling.temperature");
        row.map_or(Ok(()), |row| row.check(value)).map_err(|e| Error::Invalid(format!("the temperature {e}")))?;
        self.sampling.temperature = value.parse().map_err(|e| Error::Invalid(format!("the temperature: {e}")))?;
        Ok(())
    }

    fn context(&self) -> String {
        let used = self.last.as_ref().map_or(0, |f| f.usage.prompt_tokens + f.usage.generated_tokens);
        let (context, messages) = (self.engine.info().context, self.conversation.len());
        let system = if self.conversation.system().is_some() { " and a system message" } else { "" };
        format!("{used} of {context} tokens, {messages} messages{system}")
    }

    fn answer(&mut self, text: &str) -> Result<()> {
        self.conversation.ask(text);
        let mut answer = String::new();
        let finished = self.generate(&mut answer).inspect_err(|_| self.conversation.take_back())?;
        if !answer.ends_with('\n') {
            output::answer("\n")?;
        }
        self.conversation.answered(&answer);
        if self.stats {
            output::note(generate::stats(&self.engine, &finished, self.sampling.seed));
        }
        let (reason, used) = (finished.reason, finished.usage.prompt_tokens + finished.usage.generated_tokens);
        if used >= self.engine.info().context {
            output::note("(the context is full: /clear forgets the conversation)");
        }
        self.last = Some(finished);
        match reason {
            FinishReason::Cancelled if !std::io::stdin().is_terminal() => Err(Error::Cancelled),
            FinishReason::Cancelled | FinishReason::Stop | FinishReason::Length | FinishReason::TimeLimit => Ok(()),
        }
    }

    fn generate(&self, answer: &mut String) -> Result<Finished> {
        let sampling = self.sampling.clone();
        let request = self.conversation.request(&self.engine, sampling, self.max_tokens, &self.stop)?;
        model::follow(self.engine.submit(request)?, &mut |text| {
            answer.push_str(text);
            output::answer(text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_commands() {
        assert_eq!(parse("  \n"), Line::Nothing);
        assert_eq!(parse("to be /or not\n"), Line::Say("to be /or not"));
        assert_eq!(parse("//etc is a path"), Line::Say("/etc is a path"));
        assert_eq!(parse("/system  You are  a king. "), Line::Command("system", "You are  a king."));
        assert_eq!((parse("/exit"), parse("/")), (Line::Command("exit", ""), Line::Command("", "")));
    }
}
