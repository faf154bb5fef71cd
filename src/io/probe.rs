//! What the drive gives: the limit of loading and streaming.
//!
//! Reads of a file from end to end, at a few block sizes and numbers of reads at once. What is best differs between
//! drives, so the best of them counts. It only reads.

use super::{ALIGN, Faults, Kind, Options, Read, Reader, open, slots};
use crate::error::Result;
use crate::source::Source;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of each read.
const BLOCKS: [usize; 3] = [256 << 10, 1 << 20, 4 << 20];
/// Reads at once.
const DEPTHS: [usize; 3] = [1, 2, 4];
/// Time for each pair of the two.
const TIME: Duration = Duration::from_millis(300);
/// Smaller files say nothing.
const SMALLEST: u64 = 64 << 20;

/// The fastest way of reading a file that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drive {
    /// Bytes per second.
    pub rate: f64,
    /// Bytes of a read.
    pub block: usize,
    /// Reads at once.
    pub depth: usize,
}

/// Reads a file for a few seconds; none when it is too small to say anything, or no file at all.
///
/// # Errors
/// Those of `open`; `Io` where a read fails.
pub fn probe(source: &Arc<Source>, kind: Kind) -> Result<Option<Drive>> {
    if source.file().is_none() || source.len() < SMALLEST {
        return Ok(None);
    }
    let sources = [Arc::clone(source)];
    let mut best: Option<Drive> = None;
    // Goes on where the last try ended: a drive may cache too.
    let mut at = 0;
    for block in BLOCKS {
        for depth in DEPTHS {
            let slots = slots(depth, block + 2 * ALIGN)?;
            let options = Options { kind, depth, faults: Faults::from_env()? };
            let mut reader = open(&sources, &slots, &options)?.reader;
            let start = Instant::now();
            let read = read_for(TIME, reader.as_mut(), slots, source.len(), block, &mut at)?;
            let rate = read as f64 / start.elapsed().as_secs_f64();
            if best.is_none_or(|b| rate > b.rate) {
                best = Some(Drive { rate, block, depth });
            }
        }
    }
    Ok(best)
}

/// Bytes that were read in that time, with all slots busy.
fn read_for(
    time: Duration,
    reader: &mut dyn Reader,
    slots: Vec<Arc<super::Slot>>,
    len: u64,
    block: usize,
    at: &mut u64,
) -> Result<u64> {
    let start = Instant::now();
    let mut next = || {
        let offset = *at / block as u64 % (len / block as u64) * block as u64;
        *at = offset + block as u64;
        Read { source: 0, offset, len: block, tag: 0 }
    };
    slots.into_iter().for_each(|slot| reader.submit(next(), slot));
    let mut read = 0;
    while reader.in_flight() > 0 {
        let done = reader.wait();
        done.result?;
        read += block as u64;
        if start.elapsed() < time {
            reader.submit(next(), done.slot);
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn what_says_nothing_about_a_drive_is_not_measured() {
        let small = Arc::new(Source::open(Path::new("Cargo.toml")).unwrap());
        let memory = Arc::new(Source::embedded("memory", vec![0; SMALLEST as usize]));
        for source in [small, memory] {
            assert!(probe(&source, Kind::Auto).unwrap().is_none());
        }
    }
}
