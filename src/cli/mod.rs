//! The command line.
//!
//! Each command is one file with `#[derive(clap::Args)] pub struct Args` and `pub fn run(args: Args) -> Result<()>`;
//! here they become subcommands. A command writes through `output`: its result to stdout, and
//! everything about the way there (the device, warnings) to stderr, where progress bars are too.
//!
//! Exit codes: 0 for success, 1 for an error while running (printed as `error: …`), 2 for bad usage (clap's), 130
//! when Ctrl-C ended it. Output to a closed pipe ends the process by SIGPIPE, quietly, as other tools do.

mod batch;
mod bench;
mod chat;
mod completions;
mod config;
mod conversation;
mod debug;
mod devices;
mod generate;
mod human;
mod info;
mod input;
pub mod interrupt;
mod model;
mod output;
mod perplexity;
mod plan;
mod probe;
mod progress;
mod quantize;
mod sampling;
mod serve;
pub mod settings;
mod shares;
mod synth;
mod target;
mod tokenize;

use crate::error::{Error, Result};
use crate::text::TEMPLATE_THREAD;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Run large language models, also those larger than memory.
#[derive(Parser)]
#[command(name = "air", version, about, max_term_width = 120, propagate_version = true)]
struct Air {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(visible_alias = "gen")]
    Generate(generate::Args),
    Chat(chat::Args),
    Serve(serve::Args),
    Batch(batch::Args),
    #[command(visible_alias = "benchmark")]
    Bench(bench::Args),
    Plan(plan::Args),
    Perplexity(perplexity::Args),
    Info(info::Args),
    Devices(devices::Args),
    Probe(probe::Args),
    Tokenize(tokenize::Args),
    Quantize(quantize::Args),
    Synth(synth::Args),
    Debug(debug::Args),
    Config(config::Args),
    Completions(completions::Args),
}

impl Command {
    fn run(self) -> Result<()> {
        match self {
            Command::Generate(args) => generate::run(args),
            Command::Chat(args) => chat::run(args),
            Command::Serve(args) => serve::run(args),
            Command::Batch(args) => batch::run(args),
            Command::Bench(args) => bench::run(args),
            Command::Plan(args) => plan::run(args),
            Command::Perplexity(args) => perplexity::run(args),
            Command::Info(args) => info::run(args),
            Command::Devices(args) => devices::run(args),
            Command::Probe(args) => probe::run(args),
            Command::Tokenize(args) => tokenize::run(args),
            Command::Quantize(args) => quantize::run(args),
            Command::Synth(args) => synth::run(args),
            Command::Debug(args) => debug::run(args),
            Command::Config(args) => config::run(args),
            Command::Completions(args) => completions::run(args),
        }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    if let Err(e) = interrupt::die_on_closed_pipe() {
        output::note(format_args!("error: {e}"));
        return ExitCode::FAILURE;
    }
    hide_template_panics();
    match Air::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Cancelled) => {
            output::note("cancelled");
            ExitCode::from(130)
        }
        Err(e) => {
            output::note(format_args!("error: {e}"));
            ExitCode::FAILURE
        }
    }
}

/// Keeps quiet about panics of the template engine: they come back as errors and are printed as such.
fn hide_template_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().name() != Some(TEMPLATE_THREAD) {
            usual(info);
        }
    }));
}

/// Ends the process with exit code 2: the command line was fine by its grammar, but makes no sense here.
fn usage(problem: &str) -> ! {
    use clap::CommandFactory;
    Air::command().error(clap::error::ErrorKind::MissingRequiredArgument, problem).exit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Air::command().debug_assert();
    }

    #[test]
    fn everything_has_help() {
        fn visit(c: &clap::Command) {
            for arg in c.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", c.get_name(), arg.get_id());
            }
            for sub in c.get_subcommands() {
                assert!(sub.get_about().is_some(), "{}", sub.get_name());
                visit(sub);
            }
        }
        visit(&Air::command());
    }
}
