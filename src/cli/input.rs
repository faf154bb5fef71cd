//! Text that a command reads from a file or from stdin: UTF-8, taken as it is.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;

/// Most bytes of a text: what never ends (a device, a runaway pipe) is refused before it fills the memory.
const MOST: u64 = 1 << 30;

/// A text file, whole.
///
/// # Errors
/// `Io` when it cannot be read or is not UTF-8, with the byte where it is not; `Limit` for more than 1 GiB.
pub fn file(path: &Path) -> Result<String> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|e| Error::io(&name, "cannot read", &e))?;
    text(name, file, MOST)
}

/// All of stdin. At a terminal, where the command would seem to hang, the process ends with exit code 2 and `hint`.
///
/// # Errors
/// As `file`.
pub fn stdin(hint: &str) -> Result<String> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        super::usage(hint);
    }
    text("stdin".into(), stdin.lock(), MOST)
}

fn text(name: String, from: impl Read, most: u64) -> Result<String> {
    let mut bytes = Vec::new();
    from.take(most + 1).read_to_end(&mut bytes).map_err(|e| Error::io(&name, "cannot read", &e))?;
    if bytes.len() as u64 > most {
        return Err(Error::Limit(format!("{name}: more than {} MiB of text", most >> 20)));
    }
    String::from_utf8(bytes).map_err(|e| {
        let problem = format!("is not UTF-8 at byte {}", e.utf8_error().valid_up_to());
        Error::Io { file: name, problem }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_end_is_refused() {
        assert_eq!(text("f".into(), &b"abc"[..], 3).unwrap(), "abc");
        let e = text("f".into(), std::io::repeat(b'a'), 1 << 20).unwrap_err();
        assert_eq!(e.to_string(), "f: more than 1 MiB of text");
        assert_eq!(text("f".into(), &b"ab\xff"[..], 9).unwrap_err().to_string(), "f: is not UTF-8 at byte 2");
    }
}
