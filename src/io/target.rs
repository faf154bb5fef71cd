//! What is read: a source, opened once more for direct reads where its file system allows them.
//!
//! The file is reopened through its descriptor, so it is the same file also where the path leads elsewhere by now.
//! Whether direct reads work is found out by reading, not by asking. Where they are refused (memory file systems, some
//! network drives) reads go through the page cache, and what was read is dropped from it afterwards.

use super::memory::{ALIGN, Slot, slots};
use crate::error::Result;
use crate::source::Source;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// How files are to be read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Access {
    /// Directly where possible.
    Direct,
    /// As where direct reads are refused.
    Refused,
    /// Through the page cache, to stay there.
    Cached,
}

/// A source and how it is read.
pub(super) struct Target {
    pub source: Arc<Source>,
    direct: Option<File>,
    access: Access,
}

impl Target {
    /// Opens for direct reads if possible; else tells why not.
    fn open(source: &Arc<Source>, access: Access, scratch: &mut Slot) -> (Target, Option<io::Error>) {
        let target = |direct| Target { source: Arc::clone(source), direct, access };
        let Some(file) = source.file() else { return (target(None), None) };
        let opened = match access {
            Access::Direct => reopen(file),
            Access::Refused => Err(io::ErrorKind::Unsupported.into()),
            Access::Cached => return (target(None), None),
        };
        match opened.and_then(|file| file.read_at(&mut scratch.bytes_mut()[..ALIGN], 0).map(|_| file)) {
            Ok(file) => (target(Some(file)), None),
            Err(e) => {
                // Pages that the system reads ahead would stay: nobody asked for them, so nobody drops them.
                #[cfg(target_os = "linux")]
                let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Random);
                (target(None), Some(e))
            }
        }
    }

    /// The file to read; none when the source is in memory.
    pub fn file(&self) -> Option<&File> {
        self.direct.as_ref().or(self.source.file())
    }

    /// Reads what is there at an offset, at most the buffer.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let Some(file) = self.file() else {
            let n = self.source.len().saturating_sub(offset).min(buf.len() as u64) as usize;
            return self.source.read_at(offset, &mut buf[..n]).map(|()| n).map_err(io::Error::other);
        };
        file.read_at(buf, offset)
    }

    /// Whether reads pass by the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Drops what was read from the page cache, where it came through it.
    pub fn forget(&self, offset: u64, len: usize) {
        if self.access == Access::Cached {
            return;
        }
        #[cfg(target_os = "linux")]
        if let (None, Some(file), Some(len)) = (&self.direct, self.source.file(), std::num::NonZero::new(len as u64)) {
            // advice: what cannot be dropped stays
            let _ = rustix::fs::fadvise(file, offset, Some(len), rustix::fs::Advice::DontNeed);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (offset, len);
    }
}

/// All targets, and a line for the log where direct reads are refused.
pub(super) fn targets(sources: &[Arc<Source>], access: Access) -> Result<(Arc<[Target]>, Option<String>)> {
    let mut scratch = slots(1, ALIGN)?.pop().expect("one slot was asked for");
    let scratch = Arc::get_mut(&mut scratch).expect("nobody else has it");
    let mut note = None;
    let mut one = |source: &Arc<Source>| {
        let (target, refused) = Target::open(source, access, scratch);
        if let (None, Some(e)) = (&note, refused) {
            let name = source.name();
            note = Some(format!("{name}: direct reads are refused ({e}); reading through the page cache"));
        }
        target
    };
    let targets = sources.iter().map(&mut one).collect();
    Ok((targets, note))
}

/// How targets are read, in a word.
pub(super) fn how(targets: &[Target]) -> &'static str {
    let files = || targets.iter().filter(|t| t.source.file().is_some());
    match (files().count(), files().filter(|t| t.is_direct()).count()) {
        (0, _) => "from memory",
        (files, direct) if files == direct => "direct",
        (_, 0) => "buffered",
        _ => "partly direct",
    }
}

#[cfg(target_os = "linux")]
fn reopen(file: &File) -> io::Result<File> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::OpenOptions::new().read(true).custom_flags(direct).open(path)
}

#[cfg(not(target_os = "linux"))]
fn reopen(_: &File) -> io::Result<File> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no direct reads"))
}
