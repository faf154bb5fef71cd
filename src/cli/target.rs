//! The file that a command is about to write.
//!
//! It appears under its name when it is whole; until then there is `PATH.part`, which goes when the command fails, and
//! also when a second Ctrl-C ends the process where it cannot stop, such as in a flush.

use super::interrupt::Doomed;
use crate::error::{Error, Result};
use crate::format::output;
use std::path::Path;

/// Whether a command may write there; what exists is replaced only by `force`. The part file is removed by a second
/// Ctrl-C for as long as the result lives.
///
/// # Errors
/// `Invalid` for what exists, and for what is no file (see `output::check`).
pub fn claim(path: &Path, force: bool) -> Result<Doomed> {
    output::check(path)?;
    if !force && path.exists() {
        return Err(Error::Invalid(format!("{}: exists; say --force to replace it", path.display())));
    }
    Ok(Doomed::new(output::part(path)))
}
