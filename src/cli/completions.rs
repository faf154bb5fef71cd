//! `air completions SHELL`: a completion script for the user's shell, from the same definition as the help.

use super::output;
use crate::error::Result;
use clap::CommandFactory;
use clap_complete::Shell;

/// Write a completion script for a shell to stdout
#[derive(clap::Args)]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub fn run(args: Args) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Air::command(), "air", &mut script);
    output::report(&String::from_utf8_lossy(&script))
}
