//! S.L.I.P.: panels come from the drive while others are computed with.
//!
//! A ring of places is filled in the order of use: a thread of its own starts the reads of the next panels as soon as a
//! place is free, over the end of a pass into the next one, so the drive rests only where the cores are slower. Whoever
//! multiplies asks for a panel by its number, waits where it has not arrived, and the last of its users gives its place
//! back. Loading is the same with another order: all panels that are kept, once. Nothing is allocated in a pass.
//! What the host keeps for a device is lent without a place (`host`).
//! Experts have no order; they come when they are wanted, before whatever the ring could read ahead (`cache`), and the
//! ones that are used most stay (`uses`).
//!
//! A pass is announced by `begin`; whatever an earlier one left behind (because it failed) is dropped then. Panels that
//! only passes with logits use are never read ahead of such a pass. A read that fails is the error of the pass that
//! needed it; the next pass tries again. States of a panel: `Reading`, then `Ready` or `Failed`; `Dropped` is a read
//! under way that nobody wants any more. One that is lent when its pass is over has its place until it comes back.

mod again;
#[cfg(test)]
mod ahead_tests;
mod cache;
#[cfg(test)]
mod cache_tests;
mod counters;
mod host;
#[cfg(test)]
mod host_tests;
mod lease;
mod order;
#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod tests;
mod uses;

pub use counters::Counters;

use crate::error::{Error, Result};
use crate::hal::{Pinner, Supply};
use crate::io::{self, Done, Read, Reader, RowReader, Slot};
use crate::plan::Plan;
use crate::source::Source;
use cache::Cache;
use counters::Clock;
use host::Kept;
use order::{Order, Ring};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Time without an arrival after which a panel that is waited for counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// The thread that reads, and what it shares with those who compute. Dropping it ends the reading.
#[derive(Debug)]
pub struct Streamer {
    shared: Arc<Shared>,
    ring: Ring,
    thread: Option<JoinHandle<()>>,
    description: String,
    note: Option<String>,
    pinner: Option<Arc<dyn Pinner>>,
}

/// Where a panel's bytes lie in the checkpoint.
#[derive(Debug, Clone, Copy)]
struct Place {
    source: usize,
    offset: u64,
    len: usize,
}

struct Shared {
    places: Vec<Place>,
    rows: RowReader,
    state: Mutex<State>,
    /// A panel has arrived or failed.
    arrived: Condvar,
    /// There is something to read, or a place to read to.
    freed: Condvar,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Shared").field("state", &self.state).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct State {
    order: Order,
    /// What is being read, has arrived or is in use, in order.
    queue: VecDeque<Entry>,
    free: Vec<Arc<Slot>>,
    cache: Cache,
    kept: Kept,
    /// The pass that runs, and whether it gives logits.
    pass: u64,
    outputs: bool,
    /// Whether what the pass uses now is used again by its next tile.
    again: bool,
    /// The next to read: pass and index in the order.
    next: (u64, usize),
    closed: bool,
    clock: Clock,
    patience: Duration,
}

#[derive(Debug)]
struct Entry {
    pass: u64,
    number: u32,
    content: Content,
    /// How many read it now, and how many have.
    users: u32,
    done: u32,
}

/// A panel that is lent: where its bytes begin, and in which pass it was taken.
struct Taken {
    slot: Arc<Slot>,
    start: usize,
    pass: u64,
    /// Its bytes, where they are not those of the file.
    len: Option<usize>,
}

#[derive(Debug)]
enum Content {
    Reading,
    Ready { slot: Arc<Slot>, start: usize },
    Failed(Error),
    Dropped,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Streamer {
    /// Opens the sources and begins to read the panels that are kept, for `load` and then `keep`. What a device reads of
    /// the host's memory is pinned with `pinner`.
    ///
    /// # Errors
    /// Those of opening readers; `Limit` when memory is short or the system refuses a thread.
    pub fn open(
        sources: &[Arc<Source>],
        plan: &Plan,
        options: &io::Options,
        pinner: Option<Arc<dyn Pinner>>,
    ) -> Result<Streamer> {
        // What it could not have will be said of the reader.
        let (rows, _) = RowReader::open(sources, options)?;
        let place = |p: &crate::plan::Part| Place {
            source: p.extent.source,
            offset: p.extent.offset,
            len: p.extent.len as usize,
        };
        let order = Order::kept(plan);
        let sizes: Vec<usize> = plan.cache.sizes.iter().map(|&bytes| bytes as usize).collect();
        let room = io::slots_of(&sizes.repeat(plan.cache.places))?;
        let state = State {
            order,
            cache: Cache::new(&plan.cache, plan.parts.iter().map(|p| p.extent.len).collect(), room),
            kept: Kept::default(),
            queue: VecDeque::new(),
            free: vec![],
            pass: 1,
            outputs: true,
            again: false,
            next: (1, 0),
            closed: false,
            clock: Clock::default(),
            patience: PATIENCE,
        };
        let shared = Arc::new(Shared {
            places: plan.parts.iter().map(place).collect(),
            rows,
            state: Mutex::new(state),
            arrived: Condvar::new(),
            freed: Condvar::new(),
        });
        let ring = Ring {
            sources: sources.to_vec(),
            options: options.clone(),
            slots: plan.slots,
            slot_bytes: plan.slot_bytes as usize,
        };
        let mut streamer = Streamer { shared, ring, thread: None, description: String::new(), note: None, pinner };
        streamer.start()?;
        Ok(streamer)
    }

    /// What backends ask for panels.
    pub fn supply(&self) -> Arc<dyn Supply> {
        self.shared.clone()
    }

    /// How it reads, for people.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// What is not as it was hoped for.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// A pass begins; `outputs` says whether it gives logits.
    pub fn begin(&self, outputs: bool) {
        let mut state = lock(&self.shared.state);
        let state = &mut *state;
        if state.order.numbers.is_empty() && state.cache.is_empty() {
            return;
        }
        state.cache.begin(&mut state.clock.counters);
        state.pass += 1;
        (state.outputs, state.again) = (outputs, false);
        // What a pass that failed has left.
        state.drop_older();
        if state.next.0 < state.pass {
            state.next = (state.pass, 0);
        }
        self.shared.freed.notify_one();
    }

    /// The next step that wants experts will likely want those of these panels, the first ones most: they may come
    /// while the drive has nothing else to do. What is wanted then is as ever what `Supply::want` says.
    pub fn foresee(&self, panels: &[u32]) {
        let mut state = lock(&self.shared.state);
        let state = &mut *state;
        state.cache.foresee(panels, &mut state.clock.counters);
        self.shared.freed.notify_one();
    }

    /// What has been read and waited for since it was opened.
    pub fn counters(&self) -> Counters {
        self.meter().counters()
    }

    /// What tells the counters to others, while it lives and after.
    pub fn meter(&self) -> Meter {
        Meter(self.shared.clone())
    }
}

/// The counters of a stream, for whoever does not own it.
#[derive(Debug, Clone)]
pub struct Meter(Arc<Shared>);

impl Meter {
    /// As `Streamer::counters`.
    pub fn counters(&self) -> Counters {
        lock(&self.0.state).clock.counters
    }
}

impl Drop for Streamer {
    fn drop(&mut self) {
        self.close();
    }
}

impl State {
    /// The next panel to read while `busy` are being read, by its tag, and where to: experts that are wanted go before
    /// what the ring reads ahead, and that before experts that may be wanted.
    fn next(&mut self, busy: usize) -> Option<(u64, Arc<Slot>)> {
        if let Some((number, slot)) = self.cache.next() {
            return Some((number.into(), slot));
        }
        if !self.free.is_empty()
            && let Some(entry) = self.advance()
        {
            // A read is known by its pass and panel: the same panel may be wanted again before a read of it that was
            // dropped has ended.
            let tag = entry.pass << 32 | u64::from(entry.number);
            self.queue.push_back(entry);
            return self.free.pop().map(|slot| (tag, slot));
        }
        self.cache.next_ahead(busy).map(|(number, slot)| (number.into(), slot))
    }

    /// The next panel of the order, if it is known.
    fn advance(&mut self) -> Option<Entry> {
        loop {
            let (pass, index) = self.next;
            let wanted = if pass == self.pass && !self.outputs { self.order.outputs } else { self.order.numbers.len() };
            if index < wanted {
                if pass > self.pass && index >= self.order.outputs {
                    return None;
                }
                self.next.1 += 1;
                let number = self.order.numbers[index];
                return Some(Entry { pass, number, content: Content::Reading, users: 0, done: 0 });
            }
            if !self.order.cyclic || pass > self.pass {
                return None;
            }
            self.next = (pass + 1, 0);
        }
    }

    /// A panel that has arrived or failed; its user is counted.
    fn take(&mut self, number: u32) -> Option<Result<Taken>> {
        let pass = self.pass;
        if let Some(kept) = self.kept.get(number) {
            return Some(Ok(Taken { slot: kept.slot.clone(), start: 0, pass, len: kept.arranged }));
        }
        if self.cache.has(number) {
            return self
                .cache
                .take(number)
                .map(|taken| taken.map(|(slot, start)| Taken { slot, start, pass, len: None }));
        }
        let at = self.find(number, pass)?;
        let entry = &mut self.queue[at];
        match &entry.content {
            Content::Ready { slot, start } => {
                entry.users += 1;
                Some(Ok(Taken { slot: slot.clone(), start: *start, pass, len: None }))
            }
            Content::Failed(e) => Some(Err(e.clone())),
            Content::Reading | Content::Dropped => None,
        }
    }

    fn find(&mut self, number: u32, pass: u64) -> Option<usize> {
        self.queue.iter().position(|e| e.number == number && e.pass == pass)
    }
}

impl Shared {
    /// The reading thread's life. New reads are begun before anybody is told of those that have ended: waking threads
    /// takes as long as a fast drive needs for a panel.
    fn read(&self, mut reader: Box<dyn Reader>, depth: usize) {
        let _closed = Closed(self);
        let mut begun: Vec<(Read, Arc<Slot>)> = Vec::with_capacity(depth);
        let mut ended: Vec<Done> = Vec::with_capacity(depth);
        let patience = lock(&self.state).patience;
        loop {
            let mut state = lock(&self.state);
            let news = !ended.is_empty();
            ended.drain(..).for_each(|done| self.arrive(&mut state, done));
            while !state.closed && reader.in_flight() + begun.len() < depth {
                let Some((tag, slot)) = state.next(reader.in_flight() + begun.len()) else { break };
                let Place { source, offset, len } = self.places[tag as u32 as usize];
                begun.push((Read { source, offset, len, tag }, slot));
            }
            if reader.in_flight() + begun.len() == 0 {
                if state.closed {
                    return;
                }
                self.arrived.notify_all();
                drop(self.freed.wait(state).unwrap_or_else(PoisonError::into_inner));
                continue;
            }
            drop(state);
            begun.drain(..).for_each(|(read, slot)| reader.submit(read, slot));
            if news {
                self.arrived.notify_all();
            }
            let first = loop {
                match reader.wait_for(patience) {
                    Some(done) => break done,
                    // A drive that is silent for so long is not waited for where nobody wants anything.
                    None if lock(&self.state).closed => return,
                    None => {}
                }
            };
            ended.push(first);
            while reader.in_flight() > 0
                && let Some(done) = reader.wait_for(Duration::ZERO)
            {
                ended.push(done);
            }
        }
    }

    /// A read has ended.
    fn arrive(&self, state: &mut State, done: Done) {
        let (pass, number) = (done.tag >> 32, done.tag as u32);
        let len = self.places[number as usize].len as u64;
        if state.cache.has(number) {
            if done.result.is_ok() {
                state.clock.counters.bytes += len;
                state.clock.counters.missed += len;
            }
            state.cache.arrive(number, done);
            return;
        }
        let is_it = |e: &Entry| e.number == number && e.pass & 0xffff_ffff == pass;
        let Some(at) = state.queue.iter().position(is_it) else {
            state.free.push(done.slot);
            return;
        };
        let content = match (&state.queue[at].content, done.result) {
            (Content::Dropped, _) => {
                state.free.push(done.slot);
                state.queue.remove(at);
                return;
            }
            (_, Ok(())) => {
                state.clock.counters.bytes += len;
                Content::Ready { slot: done.slot, start: done.start }
            }
            (_, Err(e)) => {
                state.free.push(done.slot);
                Content::Failed(e)
            }
        };
        state.queue[at].content = content;
    }

    /// Waits for a panel and counts its user.
    fn acquire(&self, number: u32) -> Result<Taken> {
        let mut state = lock(&self.state);
        let mut waits = false;
        let found = loop {
            match state.take(number) {
                Some(found) => break found,
                None if state.closed => break Err(Error::Engine("the thread that reads weights has ended".into())),
                None => {}
            }
            if !waits {
                waits = true;
                state.clock.wait();
            }
            let patience = state.patience;
            let answer = self.arrived.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner);
            state = answer.0;
            if answer.1.timed_out() {
                break Err(self.lost(number, patience));
            }
        };
        if waits {
            state.clock.go();
        }
        found
    }

    fn lost(&self, number: u32, patience: Duration) -> Error {
        let Place { offset, len, .. } = self.places[number as usize];
        let seconds = patience.as_secs_f64();
        Error::Engine(format!("the drive has not answered for {seconds} s (a read of {len} bytes at {offset})"))
    }
}

/// However the reading thread ends, those who wait for it are told.
struct Closed<'a>(&'a Shared);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).closed = true;
        self.0.arrived.notify_all();
    }
}
