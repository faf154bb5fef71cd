//! What the drive gives, and which reads get it: block size and number of reads at once.
//!
//! More at once is not better on every drive, nor are larger blocks, so it is tried on the very file: first how many
//! reads of 1 MiB at once, then which block. Tries are short and alternate, and each goes on where the last one ended,
//! because drives cache too. What else runs on the machine only slows a try, so the best ones count, but not the very
//! best: one burst is not what a drive gives. Of those that are as fast within 2% the smallest depth wins, and 1 MiB,
//! because both need the least memory; that one is tried longer. What was found is kept for a week.

mod cache;

use super::{ALIGN, MOST_DEPTH, Options, Read, Reader, Slot, open, slots};
use crate::error::Result;
use crate::source::Source;
use cache::Cache;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of a read where nothing speaks for another number.
pub const USUAL_BLOCK: usize = 1 << 20;
/// Bytes of a read.
const BLOCKS: [usize; 5] = [256 << 10, 512 << 10, 2 << 20, 4 << 20, 8 << 20];
/// Reads at once.
const DEPTHS: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// Bytes that are read into at once, at most.
const MOST_MEMORY: usize = 64 << 20;
/// Time of a try, at least: all reads that were begun are waited for.
const TIME: Duration = Duration::from_millis(25);
/// Tries of each candidate, and more of the chosen one.
const ROUNDS: usize = 4;
const MORE: usize = 6;
/// Slow drives are tried less: no round begins later than this.
const LONGEST: Duration = Duration::from_millis(500);
/// What is not faster by more than this is as fast.
const ALIKE: f64 = 0.98;
/// Smaller files say nothing.
pub const SMALLEST: u64 = 64 << 20;

/// A way of reading a file and what it gives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drive {
    /// Bytes per second: the second best try.
    pub rate: f64,
    /// Bytes of a read.
    pub block: usize,
    /// Reads at once.
    pub depth: usize,
}

/// What was found out.
#[derive(Debug, Clone, PartialEq)]
pub struct Probed {
    /// The way to read.
    pub best: Drive,
    /// All that were tried, by block and depth.
    pub tried: Vec<Drive>,
    /// Which reader: `io_uring, direct`.
    pub reader: String,
    /// How long ago, when it was not now.
    pub age: Option<Duration>,
    /// A line for the log where the reader is not the one that was hoped for.
    pub note: Option<String>,
    /// Under which it is remembered, if it is.
    pub key: Option<String>,
}

impl Probed {
    /// A drive of another machine, of which the rate alone is known.
    pub fn given(rate: f64) -> Probed {
        let best = Drive { rate, block: USUAL_BLOCK, depth: Options::default().depth };
        Probed { best, tried: vec![best], reader: "as given".into(), age: None, note: None, key: None }
    }

    /// What was found out has turned out to be wrong: whoever probes next, in any process, asks the drive again.
    pub fn forget(&self) {
        if let (Some(cache), Some(key)) = (Cache::of_user(), &self.key) {
            cache.forget(key);
        }
    }
}

/// Reads a file for about a second, or remembers having done so, unless `fresh`; none when it is too small (less than
/// 64 MiB) to say anything, or no file at all. Of the options the depth does not count. With faults nothing is
/// remembered.
///
/// # Errors
/// Those of `open`; `Io` where a read fails.
pub fn probe(source: &Arc<Source>, options: &Options, fresh: bool) -> Result<Option<Probed>> {
    let cache = if options.faults.is_none() { Cache::of_user() } else { None };
    probe_with(source, options, fresh, cache.as_ref())
}

fn probe_with(source: &Arc<Source>, options: &Options, fresh: bool, cache: Option<&Cache>) -> Result<Option<Probed>> {
    let Some(file) = source.file().filter(|_| source.len() >= SMALLEST) else { return Ok(None) };
    let opened = open(std::slice::from_ref(source), &[], &Options { depth: 1, ..options.clone() })?;
    let reader = kind_of(&opened.reader.description());
    let key = cache::key(file, &reader);
    let known = cache.zip(key.as_ref()).filter(|_| !fresh).and_then(|(cache, key)| cache.get(key));
    let (mut tried, age) = match known {
        Some((tried, age)) => (tried, Some(age)),
        None => (Search::new(source, options)?.run()?, None),
    };
    if let (Some(cache), Some(key), None) = (cache, &key, age) {
        cache.put(key, &tried);
    }
    tried.sort_by_key(|d| (d.block, d.depth));
    let key = key.filter(|_| cache.is_some());
    Ok(best(&tried).map(|best| Probed { best, tried, reader, age, note: opened.note, key }))
}

/// A reader's description without what depends on the depth.
fn kind_of(description: &str) -> String {
    let mut parts: Vec<&str> = description.split(", ").collect();
    if parts.len() > 2 {
        parts.remove(1);
    }
    parts.retain(|part| *part != "nothing registered");
    parts.join(", ")
}

/// The choice: the fastest, but 1 MiB and fewer at once where they are as fast.
fn best(tried: &[Drive]) -> Option<Drive> {
    let fastest = tried.iter().map(|d| d.rate).reduce(f64::max)?;
    let alike = tried.iter().filter(|d| d.rate >= fastest * ALIKE);
    let least = |d: &&Drive| (d.depth, d.block != USUAL_BLOCK, d.block);
    alike.min_by_key(least).copied()
}

/// A candidate and its tries.
struct Tries {
    block: usize,
    depth: usize,
    rates: Vec<f64>,
}

impl Tries {
    /// In whole bytes, which are the same after being remembered.
    fn drive(&self) -> Drive {
        Drive { rate: second_best(&self.rates).round(), block: self.block, depth: self.depth }
    }
}

/// The tries on a file.
struct Search<'a> {
    source: &'a Arc<Source>,
    options: &'a Options,
    /// Where the next read begins.
    at: u64,
}

impl<'a> Search<'a> {
    fn new(source: &'a Arc<Source>, options: &'a Options) -> Result<Search<'a>> {
        // The first try would pay for waking the drive.
        let mut search = Search { source, options, at: 0 };
        search.rate(USUAL_BLOCK, 2, &mut vec![])?;
        Ok(search)
    }

    /// Depths with the usual block, then blocks with the depth that was best, then the best of all.
    fn run(mut self) -> Result<Vec<Drive>> {
        let candidate = |block, depth| Tries { block, depth, rates: vec![] };
        let drives = |tries: &[Tries]| -> Vec<Drive> { tries.iter().map(Tries::drive).collect() };
        let mut tries: Vec<Tries> = DEPTHS.iter().map(|&depth| candidate(USUAL_BLOCK, depth)).collect();
        self.alternate(&mut tries, ROUNDS)?;
        let depth = best(&drives(&tries)).map_or(1, |d| d.depth);
        let blocks = BLOCKS.iter().filter(|&block| block * depth <= MOST_MEMORY);
        let mut more: Vec<Tries> = blocks.map(|&block| candidate(block, depth)).collect();
        self.alternate(&mut more, ROUNDS)?;
        tries.extend(more);
        let chosen = best(&drives(&tries));
        let chosen = tries.iter().position(|t| Some(t.drive()) == chosen);
        // More tries only raise it, so it stays the choice.
        self.alternate(&mut tries[chosen.map_or(0..0, |i| i..i + 1)], MORE)?;
        Ok(drives(&tries))
    }

    /// Tries candidates in turns.
    fn alternate(&mut self, tries: &mut [Tries], rounds: usize) -> Result<()> {
        let start = Instant::now();
        let mut spare = vec![];
        for round in 0..rounds {
            if round > 0 && start.elapsed() > LONGEST {
                break;
            }
            for one in tries.iter_mut() {
                one.rates.push(self.rate(one.block, one.depth, &mut spare)?);
            }
        }
        Ok(())
    }

    /// Bytes per second of one try. Slots that are there and large enough are used again.
    fn rate(&mut self, block: usize, depth: usize, spare: &mut Vec<Arc<Slot>>) -> Result<f64> {
        let (block, depth) = (block.min(self.source.len() as usize), depth.min(MOST_DEPTH));
        if spare.len() < depth || spare[0].bytes().len() < block + 2 * ALIGN {
            *spare = slots(depth.max(spare.len()), block + 2 * ALIGN)?;
            touch(spare);
        }
        let used = spare.split_off(spare.len() - depth);
        let options = Options { depth, ..self.options.clone() };
        let mut reader = open(std::slice::from_ref(self.source), &used, &options)?.reader;
        let start = Instant::now();
        let bytes = self.read(reader.as_mut(), used, block, spare)?;
        Ok(bytes as f64 / start.elapsed().as_secs_f64())
    }

    /// Reads with these slots for the time of a try; they go to `spare` afterwards.
    fn read(
        &mut self,
        reader: &mut dyn Reader,
        used: Vec<Arc<Slot>>,
        block: usize,
        spare: &mut Vec<Arc<Slot>>,
    ) -> Result<u64> {
        let start = Instant::now();
        let mut bytes = 0;
        used.into_iter().for_each(|slot| reader.submit(self.next(block), slot));
        while reader.in_flight() > 0 {
            let done = reader.wait();
            done.result?;
            bytes += block as u64;
            match start.elapsed() < TIME {
                true => reader.submit(self.next(block), done.slot),
                false => spare.push(done.slot),
            }
        }
        Ok(bytes)
    }

    /// The next read of the round trip through the file.
    fn next(&mut self, block: usize) -> Read {
        let page = ALIGN as u64;
        let begin = if self.at + block as u64 > self.source.len() { 0 } else { self.at };
        self.at = begin + block as u64 / page * page;
        Read { source: 0, offset: begin, len: block, tag: 0 }
    }
}

/// Memory that nobody has written to yet costs time at the first read.
fn touch(slots: &mut [Arc<Slot>]) {
    for slot in slots {
        Arc::get_mut(slot).expect("they were just made").bytes_mut().fill(1);
    }
}

/// Of a single value that one.
fn second_best(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len().saturating_sub(2)]
}

#[cfg(test)]
mod tests;
