//! Where bytes come from: a file, or a model embedded in the program.
//!
//! A `Source` is opened once, knows its name and length, and reads at an offset without a cursor, so that threads
//! can share it. It does not know what the bytes mean. A read that leaves the file is an error that names file,
//! offset and length, also when the file was truncated after it was opened.

use crate::error::{Error, Result};
use std::borrow::Cow;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A readable, sized sequence of bytes with a name.
#[derive(Debug)]
pub struct Source {
    name: String,
    len: u64,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    File(File),
    Memory(Cow<'static, [u8]>),
}

impl Source {
    /// Opens a regular file for reading. A pipe or a device has no length, and opening a pipe can wait for ever.
    ///
    /// # Errors
    /// `Io` when it is something else, or cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let fail = |e: std::io::Error| Error::io(&name, "cannot open", &e);
        let meta = std::fs::metadata(path).map_err(fail)?;
        if !meta.is_file() {
            let what = if meta.is_dir() { "a directory" } else { "not a regular file" };
            return Err(Error::Io { file: name, problem: format!("is {what}; name a model file") });
        }
        let file = File::open(path).map_err(fail)?;
        Ok(Source { len: meta.len(), name, bytes: Bytes::File(file) })
    }

    /// Bytes in memory: those of the embedded model, which live as long as the program, or a vector.
    pub fn embedded(name: &str, bytes: impl Into<Cow<'static, [u8]>>) -> Self {
        let bytes = bytes.into();
        Source { name: name.into(), len: bytes.len() as u64, bytes: Bytes::Memory(bytes) }
    }

    /// The path or name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Length in bytes when it was opened.
    #[expect(clippy::len_without_is_empty, reason = "a length of a file, not of a collection")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The open file, for who reads it in another way; none when the bytes are in memory.
    pub fn file(&self) -> Option<&File> {
        match &self.bytes {
            Bytes::File(file) => Some(file),
            Bytes::Memory(_) => None,
        }
    }

    /// Refuses a range that leaves the source.
    ///
    /// # Errors
    /// `Io`, naming file, offset and length.
    pub fn check(&self, offset: u64, len: usize) -> Result<()> {
        if offset.checked_add(len as u64).is_some_and(|end| end <= self.len) {
            return Ok(());
        }
        let problem = format!("{}: the file has {} bytes", reading(offset, len), self.len);
        Err(Error::Io { file: self.name.clone(), problem })
    }

    /// Fills `buf` from byte `offset`.
    ///
    /// # Errors
    /// `Io` when the range leaves the source or the system fails to read it.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check(offset, buf.len())?;
        match &self.bytes {
            Bytes::Memory(bytes) => {
                let start = offset as usize;
                buf.copy_from_slice(&bytes[start..start + buf.len()]);
                Ok(())
            }
            Bytes::File(file) => {
                let what = reading(offset, buf.len());
                file.read_exact_at(buf, offset).map_err(|e| Error::io(&self.name, what, &e))
            }
        }
    }
}

/// What failed, for messages.
pub fn reading(offset: u64, len: usize) -> String {
    format!("cannot read {len} bytes at {offset}")
}
