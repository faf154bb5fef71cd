//! Reading files at the drive's speed, past the page cache.
//!
//! A page cache under a scan that is larger than memory hits nothing and takes the memory that resident weights need.
//! So air reads directly, into memory of its own: [`slots`] are buffers, a [`Reader`] fills them, several at once, and
//! hands each back when it is done, in any order. [`open`] finds the best reader that the system allows and says so
//! where it is not the one that was hoped for. [`RowReader`] is for small reads on demand.
//!
//! Every read ends: with the very bytes of the file, or with an error that names file, offset and length (a broken
//! drive, a file that was truncated while in use). Nothing here knows what the bytes mean.

mod faults;
mod map;
mod memory;
mod pread;
mod probe;
mod rows;
mod target;
mod transfer;
#[cfg(target_os = "linux")]
mod uring;

#[cfg(test)]
mod tests;

pub use faults::Faults;
pub use memory::{ALIGN, Pin, Slot, pin, slots, slots_of};
pub use probe::{Drive, Probed, SMALLEST, probe};
pub use rows::RowReader;

use crate::error::{Error, Result};
use crate::source::Source;
use faults::Refusal;
use std::sync::Arc;
use std::time::Duration;
use target::Access;

/// What to read: consecutive bytes of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// Index of the source in those that the reader was opened with.
    pub source: usize,
    /// First byte.
    pub offset: u64,
    /// Number of bytes: at most two pages (`ALIGN`) less than the slot has.
    pub len: usize,
    /// Whatever helps the caller to know it again.
    pub tag: u64,
}

/// A read that has ended.
#[derive(Debug)]
pub struct Done {
    /// Of the read.
    pub tag: u64,
    /// The slot that it was given.
    pub slot: Arc<Slot>,
    /// `slot.bytes()[start..start + len]` are the wanted bytes when `result` is fine; it is less than `ALIGN`.
    pub start: usize,
    /// `Io`, naming file, offset and length, when the range leaves the source, the file was truncated, or the system
    /// fails to read it. The slot then holds anything.
    pub result: Result<()>,
}

/// Fills slots. Dropped while reads are in flight, it waits for those that the system has begun, and forgets the rest.
pub trait Reader: Send {
    /// For the log: `io_uring, 4 at once, direct`.
    fn description(&self) -> String;

    /// Begins a read. The slot need not be one of those that the reader was opened with; these may be faster.
    ///
    /// # Panics
    /// When somebody else holds the slot, when it is too small, or when there is no such source.
    fn submit(&mut self, read: Read, slot: Arc<Slot>);

    /// A read that is done, once there is one; none when there is none after that time.
    ///
    /// # Panics
    /// When none is in flight.
    fn wait_for(&mut self, time: Duration) -> Option<Done>;

    /// A read that is done, once there is one.
    ///
    /// # Panics
    /// When none is in flight.
    fn wait(&mut self) -> Done {
        loop {
            if let Some(done) = self.wait_for(Duration::from_secs(60)) {
                return done;
            }
        }
    }

    /// Reads that were submitted and not yet handed back.
    fn in_flight(&self) -> usize;
}

/// Which reader to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// The best that works: io_uring, else threads.
    #[default]
    Auto,
    /// io_uring, or nothing.
    Uring,
    /// Threads.
    Pread,
    /// A map of the file into memory.
    Mmap,
}

/// Names of the kinds and what they are, for help.
pub const KINDS: &[(&str, Kind, &str)] = &[
    ("auto", Kind::Auto, "the best that works"),
    ("uring", Kind::Uring, "io_uring, and no other where the system refuses it"),
    ("pread", Kind::Pread, "threads that wait for one read each"),
    ("mmap", Kind::Mmap, "through the page cache; a file that is truncated while in use kills the program (SIGBUS)"),
];

impl Kind {
    /// By name.
    ///
    /// # Errors
    /// `Invalid`, listing the names.
    pub fn named(name: &str) -> Result<Kind> {
        let found = KINDS.iter().find(|row| row.0 == name);
        found.map(|row| row.1).ok_or_else(|| {
            let names: Vec<_> = KINDS.iter().map(|row| row.0).collect();
            Error::Invalid(format!("there is no reader `{name}`; there are {}", names.join(", ")))
        })
    }
}

/// How to read.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which reader.
    pub kind: Kind,
    /// Reads at once, 1 to `MOST_DEPTH`; more may be submitted and wait.
    pub depth: usize,
    /// A drive that misbehaves, for tests.
    pub faults: Option<Arc<Faults>>,
}

/// The most reads at once: more never helped a drive that was seen.
pub const MOST_DEPTH: usize = 64;

impl Default for Options {
    fn default() -> Self {
        Options { kind: Kind::Auto, depth: 4, faults: None }
    }
}

impl Options {
    fn access(&self) -> Access {
        if self.refuse(Refusal::Direct) { Access::Refused } else { Access::Direct }
    }

    fn refuse(&self, what: Refusal) -> bool {
        self.faults.as_ref().is_some_and(|faults| faults.refuse(what))
    }
}

/// A reader, and what to say about it.
pub struct Opened {
    /// The reader.
    pub reader: Box<dyn Reader>,
    /// A line for the log where it is not the one that was hoped for.
    pub note: Option<String>,
}

/// Opens a reader for sources. It makes the given slots ready for faster reads where the system allows it.
///
/// # Errors
/// `Invalid` for a depth out of range; `Io` or `Limit` when the system has no thread or memory left.
pub fn open(sources: &[Arc<Source>], slots: &[Arc<Slot>], options: &Options) -> Result<Opened> {
    if !(1..=MOST_DEPTH).contains(&options.depth) {
        return Err(Error::Invalid(format!("{} reads at once: it must be 1 to {MOST_DEPTH}", options.depth)));
    }
    options.faults.as_ref().map_or(Ok(()), |faults| faults.open())?;
    let access = if options.kind == Kind::Mmap { Access::Cached } else { options.access() };
    let (targets, buffered) = target::targets(sources, access)?;
    let mut notes = Vec::from_iter(buffered);
    let reader: Box<dyn Reader> = match options.kind {
        Kind::Mmap => Box::new(map::Map::new(targets, options.faults.clone())?),
        Kind::Pread => Box::new(pread::Pread::new(targets, options.depth, options.faults.clone())?),
        Kind::Auto | Kind::Uring => match ring(&targets, slots, options) {
            Ok((reader, note)) => {
                notes.extend(note);
                reader
            }
            Err(e) if options.kind == Kind::Uring => {
                return Err(Error::Unsupported {
                    what: format!("io_uring ({e})"),
                    instead: "the reader `auto` takes threads where it is refused".into(),
                });
            }
            Err(e) => {
                notes.push(format!("io_uring is refused ({e}); reading with threads"));
                Box::new(pread::Pread::new(targets, options.depth, options.faults.clone())?)
            }
        },
    };
    Ok(Opened { reader, note: (!notes.is_empty()).then(|| notes.join("; ")) })
}

/// A reader that can be refused, and a line for the log.
type Ring = std::io::Result<(Box<dyn Reader>, Option<String>)>;

#[cfg(target_os = "linux")]
fn ring(targets: &Arc<[target::Target]>, slots: &[Arc<Slot>], options: &Options) -> Ring {
    uring::Uring::new(Arc::clone(targets), slots, options).map(|(ring, note)| (Box::new(ring) as Box<dyn Reader>, note))
}

#[cfg(not(target_os = "linux"))]
fn ring(_: &Arc<[target::Target]>, _: &[Arc<Slot>], _: &Options) -> Ring {
    Err(std::io::Error::new(std::io::ErrorKind::Unsupported, "it is part of Linux"))
}
