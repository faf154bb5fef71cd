//! What the memory gives: the limit of decoding.
//!
//! All threads read disjoint parts of one working set that no cache holds (1 GiB), several times. Loads only: decoding
//! writes next to nothing.

use crate::error::{Error, Result};
use std::hint::black_box;
use std::time::Instant;

/// Bytes of the working set.
pub const WORKING_SET: usize = 1 << 30;

const PASSES: usize = 5;

/// Bytes per second that each of these numbers of threads together read from memory.
///
/// # Errors
/// `Limit` when the working set cannot be allocated.
pub fn read_bandwidth(threads: &[usize]) -> Result<Vec<f64>> {
    let words = WORKING_SET / size_of::<u64>();
    let mut memory: Vec<u64> = Vec::new();
    memory.try_reserve_exact(words).map_err(|_| {
        let mib = WORKING_SET >> 20;
        Error::Limit(format!("{mib} MiB to measure the memory's bandwidth cannot be allocated"))
    })?;
    // Not zero: pages that were never written would all be the same one.
    memory.resize(words, 1);
    let rate = |&n: &usize| {
        let part = words.div_ceil(n.max(1));
        let fastest = (0..PASSES).map(|_| pass(&memory, part)).fold(f64::INFINITY, f64::min);
        WORKING_SET as f64 / fastest
    };
    Ok(threads.iter().map(rate).collect())
}

/// Seconds in which one thread for each part reads everything.
fn pass(memory: &[u64], part: usize) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for part in memory.chunks(part) {
            scope.spawn(move || black_box(sum(part)));
        }
    });
    start.elapsed().as_secs_f64()
}

/// Reads every word, in lanes that the compiler turns into vector loads.
fn sum(words: &[u64]) -> u64 {
    let mut lanes = [0u64; 32];
    let (chunks, rest) = words.as_chunks::<32>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, word)| *lane = lane.wrapping_add(*word));
    }
    lanes.iter().chain(rest).fold(0, |a, &b| a.wrapping_add(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        let words: Vec<u64> = (0..1000).collect();
        assert_eq!(sum(&words), 999 * 500);
    }
}
