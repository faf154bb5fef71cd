//! What the drive gives: the limit of loading and streaming.
//!
//! Direct reads of a file from end to end, past the page cache, at a few block sizes and numbers of reads at once
//! (one thread each). What is best differs between drives, so the best of them counts. It only reads.

use crate::error::{Error, Result};
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes of each read.
const BLOCKS: [usize; 3] = [256 << 10, 1 << 20, 4 << 20];
/// Reads at once.
const DEPTHS: [usize; 3] = [1, 2, 4];
/// Time for each pair of the two.
const TIME: Duration = Duration::from_millis(300);
/// Addresses and lengths of direct reads are multiples of this on every drive that is known.
const ALIGN: usize = 4096;
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

/// Reads a file directly for a few seconds; none when it is too small to say anything, or no file at all.
///
/// # Errors
/// `Io` where the system refuses direct reads, or a read fails.
pub fn drive(path: &Path) -> Result<Option<Drive>> {
    let Some(len) = path.metadata().ok().map(|m| m.len()).filter(|&len| len >= SMALLEST) else { return Ok(None) };
    let fail = |e: std::io::Error| Error::io(path.display().to_string(), "cannot read directly", &e);
    let file = open_direct(path).map_err(fail)?;
    let mut best: Option<Drive> = None;
    // Goes on where the last try ended: a drive may cache too.
    let at = AtomicU64::new(0);
    for block in BLOCKS {
        for depth in DEPTHS {
            let rate = try_for(TIME, &file, len, block, depth, &at).map_err(fail)?;
            if best.is_none_or(|b| rate > b.rate) {
                best = Some(Drive { rate, block, depth });
            }
        }
    }
    Ok(best)
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    std::fs::OpenOptions::new().read(true).custom_flags(direct).open(path)
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &Path) -> std::io::Result<File> {
    Err(std::io::Error::new(std::io::ErrorKind::Unsupported, "this system has no direct reads"))
}

/// Bytes per second of `depth` threads that take one block after the other.
fn try_for(time: Duration, file: &File, len: u64, block: usize, depth: usize, at: &AtomicU64) -> std::io::Result<f64> {
    let start = Instant::now();
    let read = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let work = || -> std::io::Result<()> {
            let mut memory = vec![0u8; block + ALIGN];
            let shift = memory.as_ptr().align_offset(ALIGN);
            let buffer = &mut memory[shift..shift + block];
            while start.elapsed() < time {
                let blocks = len / block as u64;
                let n = at.fetch_add(block as u64, Ordering::Relaxed) / block as u64 % blocks;
                let got = std::os::unix::fs::FileExt::read_at(file, buffer, n * block as u64)?;
                read.fetch_add(got as u64, Ordering::Relaxed);
            }
            Ok(())
        };
        let threads: Vec<_> = (0..depth).map(|_| scope.spawn(work)).collect();
        let ended = |t: std::thread::ScopedJoinHandle<std::io::Result<()>>| t.join().expect("reading does not panic");
        threads.into_iter().try_for_each(ended)
    })?;
    Ok(read.into_inner() as f64 / start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_nothing_about_a_drive_is_not_measured() {
        assert!(drive(Path::new("no such file")).unwrap().is_none());
        assert!(drive(Path::new("Cargo.toml")).unwrap().is_none());
    }
}
