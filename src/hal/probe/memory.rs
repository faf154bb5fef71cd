//! What the memory gives: the limit of decoding.
//!
//! All threads read disjoint parts of one working set that no cache holds (1 GiB), several times, with the vectors of the
//! instruction set that kernels use; lines are asked for early or not, whichever is faster here. It lies as weights do,
//! in huge pages where the system has them, which matters: the hardware's prefetchers stop at the end of a page.
//! Loads only: decoding writes next to nothing.

use crate::error::Result;
use crate::hal::cpu::{Isa, Memory};
use std::hint::black_box;
use std::time::Instant;

/// Bytes of the working set.
pub const WORKING_SET: usize = 1 << 30;

/// Threads' parts begin at one of these bytes each.
const PAGE: usize = 4096;
const PASSES: usize = 6;
/// How far ahead lines are asked for, in bytes.
const AHEAD: [usize; 2] = [0, 8192];

/// Bytes per second that each of these numbers of threads together read from memory.
///
/// # Errors
/// `Limit` when the working set cannot be allocated; those of `Isa::choose`.
pub fn read_bandwidth(threads: &[usize]) -> Result<Vec<f64>> {
    let isa = Isa::choose(None, std::env::var("AIR_CPU").ok().as_deref())?;
    let mut memory = Memory::new(WORKING_SET, "measuring the memory's bandwidth")?;
    let bytes = memory.bytes_mut();
    // Not zero: pages that were never written would all be the same one.
    bytes.fill(1);
    let rate = |&n: &usize| {
        let part = WORKING_SET.div_ceil(n.max(1)).next_multiple_of(PAGE);
        let passes = (0..PASSES).flat_map(|_| AHEAD);
        let fastest = passes.map(|ahead| pass(isa, bytes, part, ahead)).fold(f64::INFINITY, f64::min);
        WORKING_SET as f64 / fastest
    };
    Ok(threads.iter().map(rate).collect())
}

/// Seconds in which one thread for each part reads everything.
fn pass(isa: Isa, memory: &[u8], part: usize, ahead: usize) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for part in memory.chunks(part) {
            scope.spawn(move || black_box(isa.read(part, ahead)));
        }
    });
    start.elapsed().as_secs_f64()
}
