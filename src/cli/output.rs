//! What commands write: results to stdout, everything about the way there to stderr.
//!
//! A result that cannot be written (a full drive behind a redirection) is an error; a note that cannot is dropped,
//! because the work goes on without it. A closed pipe ends the process by its signal before either is noticed. Reports
//! and notes quote names out of model files, so control characters never leave here; the text of an answer is left
//! as it is for files and pipes.

use super::human::harmless;
use crate::error::{Error, Result};
use serde_json::Value;
use std::fmt::Display;
use std::io::{BufWriter, IsTerminal, Write};

/// A report, whole lines.
///
/// # Errors
/// `Io` when stdout cannot take it.
pub fn report(text: &str) -> Result<()> {
    write(&harmless(text))
}

/// One line of a report.
///
/// # Errors
/// As `report`.
pub fn line(line: impl Display) -> Result<()> {
    report(&format!("{line}\n"))
}

/// A report for programs.
///
/// # Errors
/// As `report`.
pub fn json(value: &Value) -> Result<()> {
    line(format_args!("{value:#}"))
}

/// Generated text, at once.
///
/// # Errors
/// As `report`.
pub fn answer(text: &str) -> Result<()> {
    if std::io::stdout().is_terminal() { report(text) } else { write(text) }
}

/// Something long that is never whole in memory, by whoever makes it; it must not hold control characters.
///
/// # Errors
/// As `report`.
pub fn stream(make: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    make(&mut out).and_then(|()| out.flush()).map_err(full)
}

fn full(e: std::io::Error) -> Error {
    Error::io("stdout", "cannot write", &e)
}

fn write(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(full)
}

/// Lines for whoever watches, on stderr.
pub fn note(text: impl Display) {
    let text = text.to_string();
    let _ = writeln!(std::io::stderr(), "{}", harmless(text.trim_end())); // nobody to tell
}
