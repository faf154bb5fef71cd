//! What the memory gives: the limit of decoding.
//!
//! All threads read disjoint parts of one working set that no cache holds (1 GiB), several times. It lies as weights
//! do, in huge pages where the system has them, which matters: the hardware's prefetchers stop at the end of a page.
//! Loads only: decoding writes next to nothing.

use crate::error::Result;
use crate::hal::cpu::Memory;
use std::hint::black_box;
use std::time::Instant;

/// Bytes of the working set.
pub const WORKING_SET: usize = 1 << 30;

const PASSES: usize = 8;

/// Bytes per second that each of these numbers of threads together read from memory.
///
/// # Errors
/// `Limit` when the working set cannot be allocated.
pub fn read_bandwidth(threads: &[usize]) -> Result<Vec<f64>> {
    let mut memory = Memory::new(WORKING_SET, "measuring the memory's bandwidth")?;
    let bytes = memory.bytes_mut();
    // Not zero: pages that were never written would all be the same one.
    bytes.fill(1);
    let words = bytes.as_chunks::<8>().0;
    let rate = |&n: &usize| {
        let part = words.len().div_ceil(n.max(1));
        let fastest = (0..PASSES).map(|_| pass(words, part)).fold(f64::INFINITY, f64::min);
        WORKING_SET as f64 / fastest
    };
    Ok(threads.iter().map(rate).collect())
}

/// Seconds in which one thread for each part reads everything.
fn pass(memory: &[[u8; 8]], part: usize) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for part in memory.chunks(part) {
            scope.spawn(move || black_box(sum(part)));
        }
    });
    start.elapsed().as_secs_f64()
}

/// Reads every word, in lanes that the compiler turns into vector loads.
fn sum(words: &[[u8; 8]]) -> u64 {
    let mut lanes = [0u64; 32];
    let (chunks, rest) = words.as_chunks::<32>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, word)| *lane = lane.wrapping_add(u64::from_ne_bytes(*word)));
    }
    let rest = rest.iter().map(|word| u64::from_ne_bytes(*word));
    lanes.into_iter().chain(rest).fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        let words: Vec<[u8; 8]> = (0..1000u64).map(u64::to_ne_bytes).collect();
        assert_eq!(sum(&words), 999 * 500);
    }
}
