//! Sequential reading of a header that nobody vouches for.
//!
//! A cursor walks a source front to back through one buffer. It never reads beyond the file, never allocates for
//! bytes that the file does not have, and stops at `MAX_HEADER`: the largest real headers (vocabularies of 250 000
//! tokens with merges) are about 20 MB. Every error names the file, the field that is being read, and its offset.
//! It does not know what a header consists of.

use crate::error::{Error, Result};
use crate::source::Source;

/// No header is longer, in bytes.
pub(super) const MAX_HEADER: u64 = 256 << 20;
/// Bytes read at once.
const CHUNK: usize = 256 << 10;

/// A place in a header.
pub(super) struct Cursor<'a> {
    source: &'a Source,
    end: u64,
    buf: Vec<u8>,
    at: usize,
    base: u64,
    field: String,
}

impl<'a> Cursor<'a> {
    /// At byte 0.
    pub fn new(source: &'a Source) -> Self {
        let end = source.len().min(MAX_HEADER);
        Cursor { source, end, buf: Vec::new(), at: 0, base: 0, field: "header".into() }
    }

    /// Offset of the next byte.
    pub fn position(&self) -> u64 {
        self.base + self.at as u64
    }

    /// Bytes that a header could still have.
    pub fn left(&self) -> u64 {
        self.end - self.position()
    }

    /// Names what is read from here on, for errors.
    pub fn set_field(&mut self, field: impl Into<String>) {
        self.field = field.into();
    }

    /// An error about the current field, at an offset.
    pub fn error(&self, offset: u64, problem: impl Into<String>) -> Error {
        let field = self.field.clone();
        Error::File { file: self.source.name().into(), field, offset: Some(offset), problem: problem.into() }
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&[u8]> {
        if self.buf.len() - self.at < n {
            self.fill(n)?;
        }
        self.at += n;
        Ok(&self.buf[self.at - n..self.at])
    }

    /// Goes back to an offset that the first bytes contained.
    pub fn rewind(&mut self, offset: usize) {
        assert!(self.base == 0 && offset <= self.at, "only the first bytes are read twice");
        self.at = offset;
    }

    fn fill(&mut self, n: usize) -> Result<()> {
        let (position, left) = (self.position(), self.left());
        if n as u64 > left {
            return Err(self.error(position, self.too_long(n as u64)));
        }
        let len = left.min(n.max(CHUNK) as u64) as usize;
        self.buf.resize(len, 0);
        (self.base, self.at) = (position, 0);
        self.source.read_at(position, &mut self.buf)
    }

    fn too_long(&self, n: u64) -> String {
        let left = self.left();
        if self.end < self.source.len() {
            return format!("{n} bytes are declared here, which makes the header longer than {MAX_HEADER} bytes");
        }
        format!("{n} bytes are declared here, the file has {left} left; it is truncated or damaged")
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("take gives as many bytes as asked"))
    }

    /// A 32-bit number.
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// A 64-bit number.
    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A 64-bit count of things of at least `min_bytes` each: refused when the rest of the file cannot hold them.
    pub fn count(&mut self, min_bytes: u64) -> Result<usize> {
        let at = self.position();
        let n = self.u64()?;
        let left = self.left();
        if n > left / min_bytes {
            let problem = format!("{n} entries of at least {min_bytes} bytes are declared here, {left} bytes are left");
            return Err(self.error(at, problem + "; the file is truncated or damaged"));
        }
        Ok(n as usize)
    }

    /// A string: its length, then its bytes (UTF-8 by promise only), at most `max` of them.
    pub fn string(&mut self, max: usize) -> Result<&[u8]> {
        let at = self.position();
        let len = self.u64()?;
        if len > self.left() {
            return Err(self.error(at, self.too_long(len)));
        }
        if len > max as u64 {
            return Err(self.error(at, format!("the string has {len} bytes; at most {max} are allowed here")));
        }
        self.take(len as usize)
    }

    /// A string that must be UTF-8: a key or a name.
    pub fn name(&mut self, max: usize) -> Result<String> {
        let at = self.position();
        let bytes = self.string(max)?.to_vec();
        String::from_utf8(bytes).map_err(|e| self.error(at, format!("the name is not UTF-8: {}", e.utf8_error())))
    }
}
