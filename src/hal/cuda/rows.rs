//! What kernels need to know of a batch: tokens, positions, pages, and the tiles of attention.
//!
//! All of it is one array of words, put together on the host and copied to the device in one piece, unless the batch
//! is that of the launch before: the stages of a pass share it. Attention's work follows from positions and windows, so
//! it is made here, once for all layers of a group: rows of a sequence are brought together, long runs are cut into
//! tiles of `TILE` rows, and few rows go one by one, each cut into splits so that one sequence fills the device.
//!
//! From token to token little moves: work is filled up to a power of two with what does nothing, and page tables, which
//! grow, stand last. So launches are the same for long stretches, and become graphs (`recorder`).

use super::driver::{Address, Driver};
use super::kernels::{AttendJoin, AttendWork};
use super::memory::Buffer;
use super::state::Pages;
use crate::error::{Error, Result};
use crate::hal::{Batch, NO_PAGE, PAGE};
use std::ops::Range;

/// Rows of a tile of attention.
pub(super) const TILE: usize = 64;

/// A sequence with fewer rows than this in a batch is attended row by row.
const FEW: usize = 4;

/// Pages of a split, at least.
const SPLIT: usize = 8;

/// Splits of a batch that are kept at a time.
pub(super) const PARTIALS: usize = 1024;

/// Entries to whose multiple page tables are filled up.
const TABLE: usize = 64;

/// A part of the words: from which on, and how many entries.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Part {
    first: usize,
    pub(super) count: usize,
}

/// What one group's layers need.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct GroupParts {
    /// The page of each row.
    pub(super) row_pages: Part,
    /// Page tables of all sequences.
    pub(super) tables: Part,
    /// Work of single rows, and of tiles.
    pub(super) single: Part,
    pub(super) tiles: Part,
    /// Rows of several splits.
    pub(super) joins: Part,
}

/// The words of a batch and where they lie.
#[derive(Debug, Default)]
pub(super) struct Rows {
    words: Vec<u32>,
    /// What the device has.
    sent: Vec<u32>,
    buffer: Buffer,
    pub(super) tokens: Part,
    pub(super) positions: Part,
    /// Rows whose logits are wanted.
    pub(super) picked: Part,
    /// Rows by sequence.
    pub(super) order: Part,
    pub(super) groups: Vec<GroupParts>,
    /// Reused: where each sequence begins in `order`.
    starts: Vec<usize>,
}

impl Rows {
    /// Bytes of the words of passes of up to `rows` rows over groups of so many pages.
    pub(super) fn bytes(rows: usize, groups: impl Iterator<Item = usize>) -> u64 {
        let group = |pages: usize| pages + TABLE + 2 * (rows * (2 + WORK_WORDS) + PARTIALS * WORK_WORDS);
        4 * (4 * rows + groups.map(group).sum::<usize>()) as u64
    }

    /// Reserves room for `bytes`.
    ///
    /// # Errors
    /// `Limit` when memory is short.
    pub(super) fn reserve(&mut self, d: &mut dyn Driver, bytes: u64) -> Result<()> {
        self.sent.clear();
        std::mem::take(&mut self.buffer).free(d)?;
        self.buffer = Buffer::new(d, bytes, "rows of a batch")?;
        Ok(())
    }

    /// Gives the memory back.
    pub(super) fn free(&mut self, d: &mut dyn Driver) -> Result<()> {
        self.sent.clear();
        std::mem::take(&mut self.buffer).free(d)
    }

    /// Where a part lies on the device.
    pub(super) fn at(&self, part: Part) -> Address {
        self.buffer.at.offset(4 * part.first as u64)
    }

    /// Puts a batch's words together and brings them to the device, if they are not there. Of `state`, which is empty
    /// for a program without any, every row has the pages that it sees.
    ///
    /// # Errors
    /// `Engine` for a page that is not there; those of the device.
    pub(super) fn set(&mut self, d: &mut dyn Driver, batch: &Batch, state: &[Pages]) -> Result<()> {
        self.words.clear();
        let rows = batch.rows;
        self.tokens = self.part(rows.iter().map(|r| r.token));
        self.positions = self.part(rows.iter().map(|r| r.pos));
        let picked = rows.iter().zip(0..).filter(|(r, _)| r.output).map(|(_, i)| i);
        self.picked = self.part(picked);
        self.bring_together(batch);
        self.groups.clear();
        for (g, pages) in state.iter().enumerate() {
            self.check(batch, g, pages)?;
            let parts = self.group(batch, g, pages.window);
            self.groups.push(parts);
        }
        for g in 0..state.len() {
            self.groups[g].tables = self.tables(batch, g);
        }
        if self.words == self.sent {
            return Ok(());
        }
        let bytes: &[u8] = words_as_bytes(&self.words);
        if bytes.len() as u64 > self.buffer.bytes {
            // Sequences that share pages have longer tables than there are pages. The work before may still read it.
            d.wait()?;
            let more = (bytes.len() as u64).next_power_of_two();
            std::mem::take(&mut self.buffer).free(d)?;
            self.buffer = Buffer::new(d, more, "rows of a batch")?;
        }
        d.upload(self.buffer.at, bytes)?;
        self.sent.clone_from(&self.words);
        Ok(())
    }

    fn part(&mut self, words: impl Iterator<Item = u32>) -> Part {
        let first = self.words.len();
        self.words.extend(words);
        Part { first, count: self.words.len() - first }
    }

    /// Rows in the order of their sequences, those of a sequence in their own order.
    fn bring_together(&mut self, batch: &Batch) {
        let sequences = batch.tables.len();
        self.starts.clear();
        self.starts.resize(sequences + 1, 0);
        batch.rows.iter().for_each(|r| self.starts[r.seq as usize + 1] += 1);
        (0..sequences).for_each(|s| self.starts[s + 1] += self.starts[s]);
        let first = self.words.len();
        self.words.resize(first + batch.rows.len(), 0);
        for (i, r) in batch.rows.iter().enumerate() {
            let next = &mut self.starts[r.seq as usize];
            self.words[first + *next] = i as u32;
            *next += 1;
        }
        // Each start has become the next one's.
        self.starts.rotate_right(1);
        self.starts[0] = 0;
        self.order = Part { first, count: batch.rows.len() };
    }

    /// The rows of a sequence, as a range of `order`.
    fn run(&self, s: usize) -> Range<usize> {
        self.starts[s]..self.starts[s + 1]
    }

    fn position(&self, batch: &Batch, ordered: usize) -> usize {
        batch.rows[self.words[self.order.first + ordered] as usize].pos as usize
    }

    /// Whether all that the rows of each sequence see is in memory: from the first page of the first to the last's.
    fn check(&self, batch: &Batch, group: usize, pages: &Pages) -> Result<()> {
        for (s, tables) in batch.tables.iter().enumerate() {
            let run = self.run(s);
            let Some(last) = run.clone().last() else { continue };
            let (first, last) = (self.position(batch, run.start), self.position(batch, last));
            let table: &[u32] = tables.get(group).map_or(&[], |t| t);
            let seen = table.get(first_page(first, pages.window)..=last / PAGE);
            let there = |p: &u32| *p != NO_PAGE && (*p as usize) < pages.pages;
            if !seen.is_some_and(|s| s.iter().all(there)) {
                return Err(Error::Engine(format!("sequence {s} has no page for what position {last} sees")));
            }
        }
        Ok(())
    }

    /// The page tables of all sequences, one behind another.
    fn tables(&mut self, batch: &Batch, group: usize) -> Part {
        let first = self.words.len();
        for s in 0..batch.tables.len() {
            if let Some(last) = self.run(s).last() {
                let pages = self.position(batch, last) / PAGE + 1;
                self.words.extend_from_slice(&batch.tables[s][group][..pages]);
            }
        }
        let count = (self.words.len() - first).next_multiple_of(TABLE);
        self.words.resize(first + count, NO_PAGE);
        Part { first, count }
    }

    /// What a group's layers need, but for the tables.
    fn group(&mut self, batch: &Batch, group: usize, window: Option<u32>) -> GroupParts {
        let page = |r: &crate::hal::Row| batch.tables[r.seq as usize][group][r.pos as usize / PAGE];
        let row_pages = self.part(batch.rows.iter().map(page));

        // Pages that single rows see in all, which the splits share.
        let mut seen = 0;
        for s in 0..batch.tables.len() {
            for i in self.run(s).filter(|_| self.run(s).len() < FEW) {
                let pos = self.position(batch, i);
                seen += pos / PAGE + 1 - first_page(pos, window);
            }
        }
        let split = SPLIT.max((2 * seen).div_ceil(PARTIALS));

        let single = self.work(batch, window, split, false);
        let tiles = self.work(batch, window, split, true);
        let joins = self.joins(single);
        GroupParts { row_pages, tables: Part::default(), single, tiles, joins }
    }

    /// The work of single rows, in splits of so many pages, or that of tiles.
    fn work(&mut self, batch: &Batch, window: Option<u32>, split: usize, tiled: bool) -> Part {
        let at = self.words.len();
        let (mut partial, mut table) = (0, 0);
        for s in 0..batch.tables.len() {
            let run = self.run(s);
            let Some(last) = run.clone().last() else { continue };
            let of_sequence = table as u32;
            table += self.position(batch, last) / PAGE + 1;
            if (run.len() >= FEW) != tiled {
                continue;
            }
            let step = if tiled { TILE } else { 1 };
            for first in run.clone().step_by(step) {
                let rows = step.min(run.end - first);
                let begin = first_page(self.position(batch, first), window);
                let end = self.position(batch, first + rows - 1) / PAGE + 1;
                let splits = if tiled { 1 } else { (end - begin).div_ceil(split) };
                for i in 0..splits {
                    let begin = begin + i * split;
                    let end = if splits == 1 { end } else { end.min(begin + split) };
                    self.push(AttendWork {
                        first: first as u32,
                        rows: rows as u32,
                        table: of_sequence,
                        begin: begin as u32,
                        end: end as u32,
                        partial: partial + i as u32,
                        splits: splits as u32,
                        unused: 0,
                    });
                }
                if splits > 1 {
                    partial += splits as u32;
                }
            }
        }
        self.fill_up(at, WORK_WORDS)
    }

    /// The entries of so many words from `first` on, and as many empty ones as make their number a power of two.
    fn fill_up(&mut self, first: usize, words: usize) -> Part {
        let count = (self.words.len() - first) / words;
        let count = if count == 0 { 0 } else { count.next_power_of_two() };
        self.words.resize(first + count * words, 0);
        Part { first, count }
    }

    fn push(&mut self, w: AttendWork) {
        self.words.extend([w.first, w.rows, w.table, w.begin, w.end, w.partial, w.splits, w.unused]);
    }

    /// A join for each row of several splits.
    fn joins(&mut self, single: Part) -> Part {
        let first = self.words.len();
        let mut i = 0;
        while i < single.count {
            let work = single.first + i * WORK_WORDS;
            let (ordered, partial, splits) = (self.words[work], self.words[work + 5], self.words[work + 6]);
            if splits > 1 {
                let row = self.words[self.order.first + ordered as usize];
                let AttendJoin { row, first, splits, unused } = AttendJoin { row, first: partial, splits, unused: 0 };
                self.words.extend([row, first, splits, unused]);
            }
            // What fills up has no splits, and is the last.
            i += splits.max(1) as usize;
        }
        self.fill_up(first, JOIN_WORDS)
    }
}

/// The first page that a row sees.
fn first_page(pos: usize, window: Option<u32>) -> usize {
    window.map_or(0, |w| (pos + 1).saturating_sub(w as usize)) / PAGE
}

const WORK_WORDS: usize = size_of::<AttendWork>() / 4;
const JOIN_WORDS: usize = size_of::<AttendJoin>() / 4;

fn words_as_bytes(words: &[u32]) -> &[u8] {
    // SAFETY: any four initialised bytes are a word's, and a slice of bytes may begin anywhere.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}
