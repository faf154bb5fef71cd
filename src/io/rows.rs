//! Small reads on demand: a row of an embedding table that is not in memory.
//!
//! Several threads read at once, each through a buffer that it takes from a pool and puts back. The pages around a row
//! are read directly too, so a table that is larger than memory leaves nothing in the page cache.

use super::memory::{ALIGN, Slot, slots};
use super::pread::finish;
use super::target::{Target, targets};
use super::transfer::Transfer;
use super::{Options, Read};
use crate::error::Result;
use crate::source::Source;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that one read brings at most.
const PIECE: usize = 64 << 10;

/// Reads on demand, from several threads.
pub struct RowReader {
    targets: Arc<[Target]>,
    options: Options,
    /// Buffers that nobody uses now: at most as many as threads ever read at once.
    spare: Mutex<Vec<Arc<Slot>>>,
}

impl RowReader {
    /// Opens it for sources; the line is for the log where direct reads are refused.
    ///
    /// # Errors
    /// `Limit` when there is no memory.
    pub fn open(sources: &[Arc<Source>], options: &Options) -> Result<(RowReader, Option<String>)> {
        let (targets, note) = targets(sources, options.access())?;
        Ok((RowReader { targets, options: options.clone(), spare: Mutex::default() }, note))
    }

    /// Fills `out` from byte `offset` of a source.
    ///
    /// # Errors
    /// As `Done`'s; `Limit` when there is no memory for a buffer.
    ///
    /// # Panics
    /// When there is no such source.
    pub fn read(&self, source: usize, offset: u64, out: &mut [u8]) -> Result<()> {
        let target = &self.targets[source];
        target.source.check(offset, out.len())?;
        if target.file().is_none() {
            return target.source.read_at(offset, out);
        }
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut slot = match spare {
            Some(slot) => slot,
            None => slots(1, PIECE + 2 * ALIGN)?.pop().expect("one was asked for"),
        };
        let mut result = Ok(());
        for (i, piece) in out.chunks_mut(PIECE).enumerate() {
            let read = Read { source, offset: offset + (i * PIECE) as u64, len: piece.len(), tag: 0 };
            let done = match Transfer::new(read, slot, target) {
                Ok(transfer) => finish(transfer, target, self.options.faults.as_deref()),
                Err(done) => done,
            };
            piece.copy_from_slice(&done.slot.bytes()[done.start..done.start + piece.len()]);
            (slot, result) = (done.slot, done.result);
            if result.is_err() {
                break;
            }
        }
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
        result
    }
}
