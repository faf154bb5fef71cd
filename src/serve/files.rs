//! Files that whoever runs a server gives it: keys, certificates. They are small, and read whole.

use crate::error::{Error, Result};
use std::io::Read;
use std::path::Path;
use std::time::SystemTime;

/// Most bytes of one.
const MAX_FILE: u64 = 1 << 20;

/// When a file was changed the last time; nothing for what is none.
pub fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok().filter(|m| m.is_file()).and_then(|m| m.modified().ok())
}

/// The text of a file that was read before: a pipe cannot be read twice, and whoever tries may wait for ever.
///
/// # Errors
/// Those of [`read`]; `Invalid` when it is no file.
pub fn reread(path: &Path, what: &str) -> Result<String> {
    if std::fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        return Err(Error::Invalid(format!("{} is no file, which could be read again as the {what}", path.display())));
    }
    read(path, what)
}

/// The text of a file; `what` it is for.
///
/// # Errors
/// `Io` when it cannot be read; `Invalid` when it is too large, or no text.
pub fn read(path: &Path, what: &str) -> Result<String> {
    let file = path.display();
    let failed = |e| Error::io(file.to_string(), format_args!("cannot read the {what}"), &e);
    let mut bytes = vec![];
    // Not by its size, which a pipe does not tell.
    std::fs::File::open(path).and_then(|f| f.take(MAX_FILE + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::Invalid(format!("{file}: the {what} cannot have more than {} MiB", MAX_FILE >> 20)));
    }
    String::from_utf8(bytes).map_err(|_| Error::Invalid(format!("{file}: the {what} must be text; this is none")))
}
