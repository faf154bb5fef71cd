//! Reads that are copies out of a map of the file: what others do by default, for comparison.
//!
//! Everything goes through the page cache and stays there, one read after the other, when somebody waits for it. A file
//! that is shorter by now is refused by name; one that is truncated during the very copy kills the process (SIGBUS),
//! which is why this reader must be asked for.

use super::target::Target;
use super::transfer::{Transfer, truncated};
use super::{Done, Faults, Read, Reader, Slot};
use crate::error::{Error, Result};
use memmap2::Mmap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Maps of all files.
pub(super) struct Map {
    targets: Arc<[Target]>,
    maps: Vec<Option<Mmap>>,
    faults: Option<Arc<Faults>>,
    waiting: VecDeque<Result<Transfer, Done>>,
}

impl Map {
    pub fn new(targets: Arc<[Target]>, faults: Option<Arc<Faults>>) -> Result<Map> {
        let map = |target: &Target| {
            let Some(file) = target.file() else { return Ok(None) };
            // SAFETY: bytes that change under the map are copied as they are and mean nothing here; those that vanish
            // end the process, as the essay says.
            let map = unsafe { Mmap::map(file) };
            map.map(Some).map_err(|e| Error::io(target.source.name(), "cannot map", &e))
        };
        let maps = targets.iter().map(map).collect::<Result<_>>()?;
        Ok(Map { targets, maps, faults, waiting: VecDeque::new() })
    }

    /// Copies.
    fn finish(&self, mut transfer: Transfer) -> Done {
        let number = transfer.read.source;
        let target = &self.targets[number];
        loop {
            let (offset, window) = transfer.window();
            let end = (offset + window.len() as u64).min(target.source.len());
            let answer = match &self.maps[number] {
                Some(map) if truncated(target, end).is_none() => {
                    let from = map.get(offset as usize..end as usize).unwrap_or_default();
                    window[..from.len()].copy_from_slice(from);
                    Ok(from.len())
                }
                // the transfer finds out how much is missing
                _ => target.read_at(window, offset),
            };
            let answer = match &self.faults {
                Some(faults) => faults.answer(window, answer),
                None => answer,
            };
            if let Some(result) = transfer.answer(target, answer) {
                return transfer.done(target, result);
            }
            std::thread::sleep(transfer.pause());
        }
    }
}

impl Reader for Map {
    fn description(&self) -> String {
        "mmap, through the page cache".into()
    }

    fn submit(&mut self, read: Read, slot: Arc<Slot>) {
        self.waiting.push_back(Transfer::new(read, slot, &self.targets[read.source]));
    }

    fn wait_for(&mut self, _: Duration) -> Option<Done> {
        match self.waiting.pop_front().expect("nothing is being read") {
            Ok(transfer) => Some(self.finish(transfer)),
            Err(done) => Some(done),
        }
    }

    fn in_flight(&self) -> usize {
        self.waiting.len()
    }
}
