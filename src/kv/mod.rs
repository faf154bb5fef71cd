//! Sequence state: which page of keys and values belongs to which positions of which sequence.
//!
//! Pages are counted, not held, here: the memory is the backend's, a page is a number. Each group of layers has its
//! own pool, since layers with a window give pages back that others keep. Sequences share pages after a fork; a shared
//! page is copied before it is written (copy on write), so forks never see each other. Bookkeeping is undone when a
//! pool runs dry: an `extend` that fails changes nothing.
//!
//! Whoever must not run dry in the middle of a text reserves first: `reserve` succeeds only while the free pages cover
//! all that every reserved sequence may still take. That is the one invariant; `due` says how each step keeps it.
//!
//! `prefix` keeps what ended texts have left, for those that begin alike.
//!
//! After Kwon et al. 2023 (PagedAttention). It knows nothing of what the numbers in a page mean.

mod prefix;

use crate::error::{Error, Result};
use crate::hal::{Backend, KvLayout, NO_PAGE, PAGE};
pub use prefix::{Found, Prefixes};

/// A live sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(usize);

/// Page tables of all sequences over one backend's pages.
#[derive(Debug)]
pub struct Kv {
    pools: Vec<Pool>,
    sequences: Vec<Option<Sequence>>,
    /// Entries of a table that a sequence of the whole context fills.
    entries: usize,
    /// Most positions that one `extend` adds to a sequence that has a reservation.
    max_rows: usize,
}

#[derive(Debug)]
struct Pool {
    window: Option<u32>,
    /// Bytes of a page.
    bytes: u64,
    free: Vec<u32>,
    /// How many tables hold each page, those of ended texts among them.
    holders: Vec<u32>,
}

#[derive(Debug, Clone)]
struct Sequence {
    len: u32,
    tables: Vec<Vec<u32>>,
    /// Positions that it may grow to; 0 when nothing is reserved.
    reserved: u32,
}

/// Pages of a group that a sequence of `positions` holds at most, where a pass adds at most `max_rows` of them.
pub fn pages_for(window: Option<u32>, positions: u64, max_rows: usize) -> usize {
    let all = positions.div_ceil(PAGE as u64) as usize;
    match window {
        None => all,
        // A window's pages, one chunk's, and one for each end that is not on a page's border.
        Some(w) => all.min((w as usize).saturating_add(max_rows).div_ceil(PAGE) + 2),
    }
}

impl Pool {
    fn take(&mut self) -> u32 {
        let page = self.free.pop().expect("pages were counted before");
        self.holders[page as usize] = 1;
        page
    }

    fn give(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        *holders -= 1;
        if *holders == 0 {
            self.free.push(page);
        }
    }

    fn shared(&self, page: u32) -> bool {
        self.holders[page as usize] > 1
    }

    /// Pages that a sequence may still take of what was reserved for it, net of those that it gives back on its way.
    ///
    /// An `extend` that takes pages lowers this by as many. A `commit` that frees pages raises it by as many at most. A
    /// release elsewhere never raises it. Who shares the pages of one that grows may raise it, by the page that both would
    /// write and by those that a window leaves behind; `reserve`, which must follow, fails where that is not covered.
    fn due(&self, s: &Sequence, table: &[u32], max_rows: usize) -> usize {
        if s.reserved <= s.len {
            return 0;
        }
        let copies = !(s.len as usize).is_multiple_of(PAGE) && self.shared(table[s.len as usize / PAGE]);
        let to_come = (s.reserved as usize).div_ceil(PAGE).saturating_sub(table.len()) + usize::from(copies);
        if self.window.is_none() {
            return to_come;
        }
        // A shared page that the window leaves behind frees nothing.
        let own = table.iter().rev().take_while(|&&p| p != NO_PAGE).filter(|&&p| !self.shared(p)).count();
        to_come.min(pages_for(self.window, s.reserved.into(), max_rows).saturating_sub(own))
    }
}

impl Kv {
    /// Empty state for sequences of up to `context` positions, of which a pass adds at most `max_rows`: all pages of
    /// the layout are free.
    pub fn new(layout: &KvLayout, context: u32, max_rows: usize) -> Self {
        let pool = |(at, g): (usize, &crate::hal::KvGroup)| Pool {
            window: g.window,
            bytes: layout.page_bytes(at) as u64,
            free: (0..g.pages as u32).rev().collect(),
            holders: vec![0; g.pages],
        };
        let entries = (context as usize).div_ceil(PAGE);
        Kv { pools: layout.groups.iter().enumerate().map(pool).collect(), sequences: vec![], entries, max_rows }
    }

    /// A new, empty sequence.
    pub fn create(&mut self) -> SeqId {
        // With room for the whole context: a sequence that grows allocates nothing.
        let tables = self.pools.iter().map(|_| Vec::with_capacity(self.entries)).collect();
        self.insert(Sequence { len: 0, tables, reserved: 0 })
    }

    fn insert(&mut self, s: Sequence) -> SeqId {
        let slot = self.sequences.iter().position(Option::is_none).unwrap_or_else(|| {
            self.sequences.push(None);
            self.sequences.len() - 1
        });
        self.sequences[slot] = Some(s);
        SeqId(slot)
    }

    fn get(&self, id: SeqId) -> &Sequence {
        self.sequences[id.0].as_ref().expect("a SeqId is used until it is released")
    }

    fn get_mut(&mut self, id: SeqId) -> &mut Sequence {
        self.sequences[id.0].as_mut().expect("a SeqId is used until it is released")
    }

    /// Positions that a sequence holds.
    pub fn len(&self, id: SeqId) -> u32 {
        self.get(id).len
    }

    /// For each group, the page of each `PAGE` positions.
    pub fn tables(&self, id: SeqId) -> &[Vec<u32>] {
        &self.get(id).tables
    }

    /// Free pages of each group.
    pub fn free_pages(&self) -> Vec<usize> {
        self.pools.iter().map(|p| p.free.len()).collect()
    }

    /// Whether some layers see a window only, and give pages back that it has left.
    pub fn is_windowed(&self) -> bool {
        self.pools.iter().any(|p| p.window.is_some())
    }

    /// Of the group that has most of its pages in use: pages in all, free ones, and those that only ended texts hold.
    pub fn fullest(&self, kept: &Prefixes) -> [usize; 3] {
        let pages = |(group, p): (usize, &Pool)| [p.holders.len(), p.free.len(), kept.idle_pages(self, group)];
        let used = |[all, free, idle]: &[usize; 3]| (all - free - idle) * 1000 / all.max(&1);
        self.pools.iter().enumerate().map(pages).max_by_key(used).unwrap_or_default()
    }

    /// Bytes of all pages.
    pub fn bytes(&self) -> u64 {
        self.pools.iter().map(|p| p.bytes * p.holders.len() as u64).sum()
    }

    /// Lets the backend give the memory of free pages back to the system.
    pub fn forget_free(&self, backend: &mut dyn Backend) {
        for (group, pool) in self.pools.iter().enumerate() {
            let mut free = pool.free.clone();
            free.sort_unstable();
            backend.forget_pages(group, &free);
        }
    }

    /// Positions of the longest sequence that all pages together hold.
    pub fn capacity(&self) -> u32 {
        let most = |p: &Pool| match p.holders.len() {
            n if p.window.is_some() && n >= pages_for(p.window, u32::MAX.into(), self.max_rows) => u32::MAX,
            n => u32::try_from(n * PAGE).unwrap_or(u32::MAX),
        };
        self.pools.iter().map(most).min().unwrap_or(u32::MAX)
    }

    /// Reserves what a sequence takes to grow to `positions` in all. Until it is released or `unreserve`d, an `extend`
    /// by at most `max_rows` up to there does not fail, as long as every sequence that grows has reserved. False, and
    /// what was reserved stays, when that is more than what is free and not reserved for others.
    pub fn reserve(&mut self, id: SeqId, positions: u32) -> bool {
        let before = std::mem::replace(&mut self.get_mut(id).reserved, positions);
        let fits = self.covers();
        if !fits {
            self.get_mut(id).reserved = before;
        }
        fits
    }

    /// Whether the free pages cover all that is reserved.
    fn covers(&self) -> bool {
        self.pools.iter().enumerate().all(|(g, pool)| {
            let due = |s: &Sequence| pool.due(s, &s.tables[g], self.max_rows);
            self.sequences.iter().flatten().map(due).sum::<usize>() <= pool.free.len()
        })
    }

    /// Positions up to which a sequence may grow.
    pub fn reserved(&self, id: SeqId) -> u32 {
        self.get(id).reserved
    }

    /// Gives up what is reserved and was not taken: the sequence does not grow.
    pub fn unreserve(&mut self, id: SeqId) {
        self.get_mut(id).reserved = 0;
    }

    /// A sequence with the same past; both go on independently. Nothing is reserved for it.
    ///
    /// # Panics
    /// When the sequence has a reservation, which did not count with a page that it must copy.
    pub fn fork(&mut self, id: SeqId) -> SeqId {
        let Sequence { len, tables, reserved } = self.get(id).clone();
        assert_eq!(reserved, 0, "a sequence that grows is not forked");
        let mut copy = Sequence { len, tables: vec![], reserved: 0 };
        for (pool, mut table) in self.pools.iter_mut().zip(tables) {
            // Pages behind the end, of a pass that failed, are the original's alone: both would write them.
            table.truncate((len as usize).div_ceil(PAGE));
            table.iter().filter(|&&p| p != NO_PAGE).for_each(|&p| pool.holders[p as usize] += 1);
            table.reserve_exact(self.entries.saturating_sub(table.len()));
            copy.tables.push(table);
        }
        self.insert(copy)
    }

    /// A sequence with the same first `len` positions as one that may be growing: whichever of them writes a page first
    /// that both have copies it. `None` where a window has given some of them back. Others' reservations are covered for
    /// certain only when something was reserved for this one too.
    pub fn fork_at(&mut self, id: SeqId, len: u32) -> Option<SeqId> {
        self.can_restore(id, len).ok()?;
        let mut tables = self.get(id).tables.clone();
        tables.iter_mut().for_each(|table| table.truncate((len as usize).div_ceil(PAGE)));
        Some(self.share(Sequence { len, tables, reserved: 0 }))
    }

    /// A sequence over pages that others hold too.
    fn share(&mut self, mut s: Sequence) -> SeqId {
        for (pool, table) in self.pools.iter_mut().zip(&mut s.tables) {
            table.iter().filter(|&&p| p != NO_PAGE).for_each(|&p| pool.holders[p as usize] += 1);
            table.reserve_exact(self.entries.saturating_sub(table.len()));
        }
        self.insert(s)
    }

    /// One more holds a page; its bytes.
    fn hold(&mut self, group: usize, page: u32) -> u64 {
        let pool = &mut self.pools[group];
        pool.holders[page as usize] += 1;
        pool.bytes
    }

    /// One fewer holds a page; its bytes.
    fn let_go(&mut self, group: usize, page: u32) -> u64 {
        self.pools[group].give(page);
        self.pools[group].bytes
    }

    /// The first page of a group that the row behind `len` positions sees.
    fn first_page(&self, group: usize, len: usize) -> usize {
        let seen = self.pools[group].window.map_or(0, |w| (len + 1).saturating_sub(w as usize));
        (seen / PAGE).min(len.div_ceil(PAGE))
    }

    /// Gives all pages of a sequence back.
    pub fn release(&mut self, id: SeqId) {
        let s = self.sequences[id.0].take().expect("a SeqId is released once");
        for (pool, table) in self.pools.iter_mut().zip(s.tables) {
            table.into_iter().filter(|&p| p != NO_PAGE).for_each(|p| pool.give(p));
        }
    }

    /// Makes room for `n` more positions: takes pages, and copies a shared last page that will be written.
    ///
    /// # Errors
    /// `Limit` when a group has too few free pages; nothing is changed then.
    pub fn extend(&mut self, id: SeqId, n: u32, backend: &mut dyn Backend) -> Result<()> {
        let s = self.sequences[id.0].as_mut().expect("a SeqId is used until it is released");
        let (have, want) = ((s.len as usize).div_ceil(PAGE), (s.len as usize + n as usize).div_ceil(PAGE));
        let writes_last = n > 0 && !(s.len as usize).is_multiple_of(PAGE);
        for (pool, table) in self.pools.iter().zip(&s.tables) {
            let copies = usize::from(writes_last && pool.shared(table[have - 1]));
            let need = want.saturating_sub(table.len()) + copies;
            if need > pool.free.len() {
                let free = pool.free.len();
                return Err(Error::Limit(format!(
                    "the sequence state is full: {need} pages are needed, {free} are free"
                )));
            }
        }
        for (group, (pool, table)) in self.pools.iter_mut().zip(&mut s.tables).enumerate() {
            if writes_last && pool.shared(table[have - 1]) {
                let (old, new) = (table[have - 1], pool.take());
                backend.copy_page(group, old, new);
                pool.give(old);
                table[have - 1] = new;
            }
            while table.len() < want {
                table.push(pool.take());
            }
        }
        Ok(())
    }

    /// Counts `n` positions as written, and gives pages back that no later row can see.
    pub fn commit(&mut self, id: SeqId, n: u32) {
        let s = self.sequences[id.0].as_mut().expect("a SeqId is used until it is released");
        s.len += n;
        for (pool, table) in self.pools.iter_mut().zip(&mut s.tables) {
            let Some(window) = pool.window else { continue };
            let first_seen = (s.len + 1).saturating_sub(window) as usize;
            for page in table.iter_mut().take(first_seen / PAGE).filter(|p| **p != NO_PAGE) {
                pool.give(std::mem::replace(page, NO_PAGE));
            }
        }
    }

    /// Whether a sequence holds all that a row behind `len` positions would see.
    ///
    /// # Errors
    /// `Invalid` when the sequence is shorter, or when a window has already given back what the next row would see.
    pub fn can_restore(&self, id: SeqId, len: u32) -> Result<()> {
        let s = self.get(id);
        if len > s.len {
            return Err(Error::Invalid(format!("cannot restore {len} positions of a sequence of {}", s.len)));
        }
        let keep = (len as usize).div_ceil(PAGE);
        for (group, table) in s.tables.iter().enumerate() {
            if table[self.first_page(group, len as usize)..keep].contains(&NO_PAGE) {
                return Err(Error::Invalid(format!("cannot restore {len} positions: the window has moved on")));
            }
        }
        Ok(())
    }

    /// Restores an earlier length: later positions are forgotten and their pages given back. What was reserved is given
    /// up too.
    ///
    /// # Errors
    /// As `can_restore`.
    pub fn restore(&mut self, id: SeqId, len: u32) -> Result<()> {
        self.can_restore(id, len)?;
        let keep = (len as usize).div_ceil(PAGE);
        let s = self.sequences[id.0].as_mut().expect("a SeqId is used until it is released");
        (s.len, s.reserved) = (len, 0);
        for (pool, table) in self.pools.iter_mut().zip(&mut s.tables) {
            table.drain(keep..).filter(|&p| p != NO_PAGE).for_each(|p| pool.give(p));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
