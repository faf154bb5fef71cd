//! Text that a command reads from a file or from stdin: UTF-8, taken as it is.

use crate::error::{Error, Result};
use std::io::{IsTerminal, Read};
use std::path::Path;

/// Most bytes that are read from stdin.
const MAX_STDIN: u64 = 1 << 30;

/// A text file, whole.
///
/// # Errors
/// `Io` when it cannot be read or is not UTF-8, with the byte where it is not.
pub fn file(path: &Path) -> Result<String> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|e| Error::io(&name, "cannot read", &e))?;
    utf8(name, bytes)
}

/// All of stdin. A terminal is refused, because a command would seem to hang.
///
/// # Errors
/// `Invalid` at a terminal, with `hint` for what to say instead; `Io` and `Limit` as for a file.
pub fn stdin(hint: &str) -> Result<String> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err(Error::Invalid(hint.into()));
    }
    let mut bytes = Vec::new();
    let read = stdin.lock().take(MAX_STDIN + 1).read_to_end(&mut bytes);
    read.map_err(|e| Error::io("stdin", "cannot read", &e))?;
    if bytes.len() as u64 > MAX_STDIN {
        return Err(Error::Limit(format!("stdin: more than {} MiB of text", MAX_STDIN >> 20)));
    }
    utf8("stdin".into(), bytes)
}

fn utf8(file: String, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let problem = format!("is not UTF-8 at byte {}", e.utf8_error().valid_up_to());
        Error::Io { file, problem }
    })
}
