//! A file in the making: whole under its name, or not there.
//!
//! Bytes go to `PATH.part`, in order; `finish` flushes them to the drive and renames. Dropped before that, the part file
//! is removed. Where the system allows it the bytes bypass the page cache (`O_DIRECT`): a drive takes them two to
//! five times faster so, and a file larger than memory does not push everything else out of it. Direct writes want
//! aligned addresses, offsets and lengths, so bytes are gathered in one aligned block; the last one is padded and the
//! file cut to its length.

use crate::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Bytes written at once.
const BLOCK: usize = 1 << 20;
/// Alignment that satisfies every drive.
const PAGE: usize = 4096;

/// The name that a file has until it is whole.
pub fn part(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    path.with_file_name(name)
}

/// Refuses a name that no file should get: the rename at the end would put one in the place of a device or a link.
///
/// # Errors
/// `Invalid` for what exists and is not a regular file, and for what is not the name of a file.
pub fn check(path: &Path) -> Result<()> {
    let fail = |problem: &str| Err(Error::Invalid(format!("{}: {problem}", path.display())));
    match std::fs::symlink_metadata(path) {
        _ if path.file_name().is_none() => fail("is not the name of a file"),
        Ok(m) if m.is_dir() => fail("is a directory; name a file"),
        Ok(m) if !m.is_file() => fail("is not a regular file; name another"),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A file in the making.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    part: PathBuf,
    /// None when finished.
    file: Option<File>,
    /// Room for a block from an aligned address on.
    buffer: Vec<u8>,
    start: usize,
    filled: usize,
    len: u64,
}

impl Output {
    /// Creates `PATH.part`, replacing one that an earlier program left.
    ///
    /// # Errors
    /// Those of `check`; `Io` when the folder does not exist or cannot be written.
    pub fn create(path: &Path) -> Result<Output> {
        check(path)?;
        let part = part(path);
        let direct = open(&part, true).or_else(|_| open(&part, false));
        let file = direct.map_err(|e| Error::io(part.display().to_string(), "cannot create", &e))?;
        let buffer = vec![0; BLOCK + PAGE];
        let start = buffer.as_ptr().align_offset(PAGE).min(PAGE);
        Ok(Output { path: path.into(), part, file: Some(file), buffer, start, filled: 0, len: 0 })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// `Io` when the system cannot write them (a full drive).
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.len += bytes.len() as u64;
        while !bytes.is_empty() {
            let n = bytes.len().min(BLOCK - self.filled);
            let at = self.start + self.filled;
            self.buffer[at..at + n].copy_from_slice(&bytes[..n]);
            self.filled += n;
            bytes = &bytes[n..];
            if self.filled == BLOCK {
                self.flush(BLOCK)?;
            }
        }
        Ok(())
    }

    /// Flushes the file to the drive and gives it its name.
    ///
    /// # Errors
    /// `Io`; the part file is removed then.
    pub fn finish(mut self) -> Result<()> {
        let (start, filled) = (self.start, self.filled);
        let padded = filled.next_multiple_of(PAGE);
        self.buffer[start + filled..start + padded].fill(0);
        self.flush(padded)?;
        let file = self.file.as_ref().expect("the file is open until here");
        let done = file.set_len(self.len).and_then(|()| file.sync_all());
        done.and_then(|()| std::fs::rename(&self.part, &self.path)).map_err(|e| self.failed(&e))?;
        self.file = None;
        // The name is on the drive when the folder is. Not every file system lets one open a folder; the data is safe.
        let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let _ = File::open(folder).and_then(|f| f.sync_all());
        Ok(())
    }

    fn flush(&mut self, len: usize) -> Result<()> {
        let file = self.file.as_mut().expect("the file is open until it is finished");
        let block = &self.buffer[self.start..self.start + len];
        write_all(file, block).map_err(|e| self.failed(&e))?;
        self.filled = 0;
        Ok(())
    }

    fn failed(&self, e: &std::io::Error) -> Error {
        Error::io(self.part.display().to_string(), "cannot write", e)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = std::fs::remove_file(&self.part); // nothing can be done when even this fails
        }
    }
}

/// Writes a block. Some file systems open a file for direct writes and then refuse them, or stop in the middle of a
/// page: the rest goes the usual way.
fn write_all(file: &mut File, mut block: &[u8]) -> std::io::Result<()> {
    let mut direct = true;
    while !block.is_empty() {
        match file.write(block) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(n) => block = &block[n..],
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == std::io::ErrorKind::InvalidInput && direct => {
                leave_direct(file)?;
                direct = false;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn open(path: &Path, direct: bool) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = if direct { rustix::fs::OFlags::DIRECT.bits() as i32 } else { 0 };
    OpenOptions::new().write(true).create(true).truncate(true).custom_flags(flags).open(path)
}

#[cfg(not(target_os = "linux"))]
fn open(path: &Path, _direct: bool) -> std::io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).open(path)
}

#[cfg(target_os = "linux")]
fn leave_direct(file: &File) -> std::io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    Ok(rustix::fs::fcntl_setfl(file, flags - rustix::fs::OFlags::DIRECT)?)
}

#[cfg(not(target_os = "linux"))]
fn leave_direct(_file: &File) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths around the block and page sizes, in odd pieces.
    #[test]
    fn bytes_arrive_as_they_were_written() {
        for len in [0, 1, PAGE - 1, PAGE, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + PAGE + 7] {
            let path = std::env::temp_dir().join(format!("air-output-{}-{len}", std::process::id()));
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let mut out = Output::create(&path).unwrap();
            bytes.chunks(100_003).for_each(|c| out.write(c).unwrap());
            out.finish().unwrap();
            let read = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            assert!(read == bytes, "{len}");
        }
    }
}
