//! One read on its way: what is asked of the system, what its answers mean, when to try again.
//!
//! All readers go by it. A read is widened to whole pages. An answer may be short: what covers the wanted bytes is
//! enough (the end of a file), else the read goes on from the last whole page. Interruptions and other passing
//! refusals are tried again, a bounded number of times in a row. A file that has become shorter is an error that says
//! so; all errors name file, offset and length.

use super::memory::{ALIGN, Slot};
use super::target::Target;
use super::{Done, Read};
use crate::error::{Error, Result};
use crate::source::reading;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Tries in a row that bring nothing before a read is given up.
pub(super) const MOST_TRIES: u32 = 16;

/// The longest pause before a try.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// A read and the slot that it fills.
pub(super) struct Transfer {
    pub read: Read,
    slot: Arc<Slot>,
    /// Where the slot begins in the file.
    from: u64,
    /// Bytes of the slot until the last wanted one.
    need: usize,
    /// Bytes that have arrived: whole pages.
    got: usize,
    /// Tries that brought nothing, in a row.
    tries: u32,
}

impl Transfer {
    /// Widens a read; the error is one of the range.
    ///
    /// # Panics
    /// When somebody else holds the slot, or it is too small.
    pub fn new(read: Read, mut slot: Arc<Slot>, target: &Target) -> Result<Transfer, Done> {
        let bytes = Arc::get_mut(&mut slot).expect("a slot that is read into has one owner").bytes_mut().len();
        let fits = read.len.checked_add(2 * ALIGN).is_some_and(|most| most <= bytes);
        assert!(fits, "a slot of {bytes} bytes is too small for {} and two pages", read.len);
        let from = read.offset / ALIGN as u64 * ALIGN as u64;
        let need = if read.len == 0 { 0 } else { (read.offset - from) as usize + read.len };
        let checked = target.source.check(read.offset, read.len);
        let transfer = Transfer { read, slot, from, need, got: 0, tries: 0 };
        match checked {
            Ok(()) => Ok(transfer),
            Err(e) => Err(transfer.done(target, Err(e))),
        }
    }

    /// What to read now: the offset in the file and the memory to fill. Nothing when nothing is wanted.
    pub fn window(&mut self) -> (u64, &mut [u8]) {
        let slot = Arc::get_mut(&mut self.slot).expect("the transfer owns the slot");
        (self.from + self.got as u64, &mut slot.bytes_mut()[self.got..self.need.next_multiple_of(ALIGN)])
    }

    /// Takes the system's answer for the window, a number of bytes; none when it is to be tried again.
    pub fn answer(&mut self, target: &Target, answer: io::Result<usize>) -> Option<Result<()>> {
        let whole_pages = |n: usize| n / ALIGN * ALIGN;
        let problem = match answer {
            Ok(n) if self.got + n >= self.need => return Some(Ok(())),
            Ok(n) if whole_pages(self.got + n) > self.got => {
                (self.got, self.tries) = (whole_pages(self.got + n), 0);
                return None;
            }
            Ok(_) => match truncated(target, self.from + self.need as u64) {
                Some(problem) => return Some(Err(self.error(target, problem))),
                None => "the system gives no more bytes".to_string(),
            },
            Err(e) if passes(&e) => e.to_string(),
            Err(e) => return Some(Err(self.error(target, e.to_string()))),
        };
        self.tries += 1;
        if self.tries < MOST_TRIES {
            return None;
        }
        Some(Err(self.error(target, format!("{problem} ({MOST_TRIES} tries)"))))
    }

    /// How long to wait before the next try: not at all at first.
    pub fn pause(&self) -> Duration {
        match self.tries {
            0..=2 => Duration::ZERO,
            n => LONGEST_PAUSE.min(Duration::from_micros(50 << n)),
        }
    }

    /// The end of it. Nothing of it stays in the page cache, unless the target wants that.
    pub fn done(self, target: &Target, result: Result<()>) -> Done {
        target.forget(self.from, self.need.next_multiple_of(ALIGN));
        let start = (self.read.offset - self.from) as usize;
        Done { tag: self.read.tag, slot: self.slot, start, result }
    }

    fn error(&self, target: &Target, problem: String) -> Error {
        let what = reading(self.read.offset, self.read.len);
        Error::Io { file: target.source.name().into(), problem: format!("{what}: {problem}") }
    }
}

/// Whether the system may answer otherwise next time. It cancels reads of a thread that has ended.
fn passes(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::ECANCELED))
}

/// What to say of a file that ends before `end` by now.
pub(super) fn truncated(target: &Target, end: u64) -> Option<String> {
    let now = target.file()?.metadata().ok()?.len();
    let was = target.source.len();
    (now < end).then(|| format!("the file was truncated while in use: it had {was} bytes, now it has {now}"))
}
