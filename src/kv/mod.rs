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
//! After Kwon et al. 2023 (PagedAttention). It knows nothing of what the numbers in a page mean.

use crate::error::{Error, Result};
use crate::hal::{Backend, KvLayout, NO_PAGE, PAGE};

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
    free: Vec<u32>,
    /// How many tables hold each page.
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
    /// fork or a release elsewhere never raises it: the page that a sequence writes next is shared with the one that
    /// it was forked from, from the beginning, or not at all.
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
        let pool = |g: &crate::hal::KvGroup| Pool {
            window: g.window,
            free: (0..g.pages as u32).rev().collect(),
            holders: vec![0; g.pages],
        };
        let entries = (context as usize).div_ceil(PAGE);
        Kv { pools: layout.groups.iter().map(pool).collect(), sequences: vec![], entries, max_rows }
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

    /// Pages in all, and free ones, of the group that has most of its pages in use.
    pub fn fullest(&self) -> (usize, usize) {
        let pages = |p: &Pool| (p.holders.len(), p.free.len());
        let used = |p: &&Pool| (p.holders.len() - p.free.len()) * 1000 / p.holders.len().max(1);
        self.pools.iter().max_by_key(used).map_or((0, 0), pages)
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

    /// A sequence with the same first `len` positions, whole pages, of one that may be growing: neither ever writes what
    /// they share. `None` where a window has given some of them back, or where what is reserved would not be covered any
    /// more, since a page that is shared frees nothing when a window leaves it behind.
    ///
    /// # Panics
    /// When `len` is not a multiple of a page.
    pub fn fork_pages(&mut self, id: SeqId, len: u32) -> Option<SeqId> {
        assert!((len as usize).is_multiple_of(PAGE), "only whole pages are never written again");
        self.can_restore(id, len).ok()?;
        let tables = self.get(id).tables.clone();
        let mut copy = Sequence { len, tables: vec![], reserved: 0 };
        for (pool, mut table) in self.pools.iter_mut().zip(tables) {
            table.truncate(len as usize / PAGE);
            table.iter().filter(|&&p| p != NO_PAGE).for_each(|&p| pool.holders[p as usize] += 1);
            table.reserve_exact(self.entries.saturating_sub(table.len()));
            copy.tables.push(table);
        }
        let copy = self.insert(copy);
        if self.covers() {
            return Some(copy);
        }
        self.release(copy);
        None
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
        for (pool, table) in self.pools.iter().zip(&s.tables) {
            let first_seen = pool.window.map_or(0, |w| (len + 1).saturating_sub(w) as usize);
            if table[(first_seen / PAGE).min(keep)..keep].contains(&NO_PAGE) {
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
