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
mod memory;
mod pread;
mod probe;
mod rows;
mod target;
mod transfer;

#[cfg(test)]
mod tests;

pub use faults::Faults;
pub use memory::{ALIGN, Slot, slots, slots_of};
pub use probe::{Drive, probe};
pub use rows::RowReader;

use crate::error::{Error, Result};
use crate::source::Source;
use faults::Refusal;
use std::sync::Arc;
use std::time::Duration;

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
    /// The best that works.
    #[default]
    Auto,
    /// Threads.
    Pread,
}

/// Names of the kinds and what they are, for help.
pub const KINDS: &[(&str, Kind, &str)] =
    &[("auto", Kind::Auto, "the best that works"), ("pread", Kind::Pread, "threads that wait for one read each")];

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
    let (targets, note) = target::targets(sources, !options.refuse(Refusal::Direct))?;
    let _ = slots;
    let reader = pread::Pread::new(targets, options.depth, options.faults.clone())?;
    Ok(Opened { reader: Box::new(reader), note })
}
