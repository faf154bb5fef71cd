//! Which panels come in which order, and through which ring; both change between passes when memory does.
//!
//! A new order drops what was read ahead by the old one. A new ring has a new reader, since the system holds the places
//! that the old one was opened with for as long as that one lives. The old one goes first: where memory is short there
//! is none for both. Where the new one is refused nothing is read, and those who ask are told, until it is tried again.

use super::cache::Cache;
use super::{Content, State, Streamer, lock};
use crate::error::{Error, Result};
use crate::hal::Home;
use crate::io::{self, Reader, Slot};
use crate::plan::Plan;
use crate::source::Source;
use std::collections::VecDeque;
use std::sync::Arc;

/// Which panels, in which order.
#[derive(Debug, Default)]
pub(super) struct Order {
    pub numbers: Vec<u32>,
    /// The first that only passes with logits use.
    pub outputs: usize,
    /// Whether another pass follows each.
    pub cyclic: bool,
}

/// What a reader is opened with.
#[derive(Debug)]
pub(super) struct Ring {
    pub sources: Vec<Arc<Source>>,
    pub options: io::Options,
    pub slots: usize,
    pub slot_bytes: usize,
}

impl Order {
    /// Each of these once.
    fn once(numbers: Vec<u32>) -> Order {
        Order { outputs: numbers.len(), numbers, cyclic: false }
    }

    /// Those that are kept, for loading: by the backend, then by the host.
    pub fn kept(plan: &Plan) -> Order {
        let kept = |home| (0u32..).zip(&plan.parts).filter(move |(_, p)| p.home == home).map(|(n, _)| n);
        Order::once(kept(Home::Memory).chain(kept(Home::Host)).collect())
    }

    /// Those that are streamed, pass after pass.
    fn streamed(plan: &Plan) -> Order {
        let streamed = |outputs: bool| {
            let parts = (0u32..).zip(&plan.parts);
            parts.filter(move |(_, p)| p.home == Home::Stream && p.outputs == outputs).map(|(n, _)| n)
        };
        let mut numbers: Vec<u32> = streamed(false).collect();
        let outputs = numbers.len();
        numbers.extend(streamed(true));
        Order { numbers, outputs, cyclic: true }
    }
}

impl Streamer {
    /// Between passes, and once what is kept has been loaded: from now on the panels that are streamed come, pass after
    /// pass. Where there are none, the reading ends and the ring's memory goes.
    ///
    /// # Errors
    /// As `open`, where nothing was being read; then nothing is, and this may be tried again.
    pub fn stream(&mut self, plan: &Plan) -> Result<()> {
        let order = Order::streamed(plan);
        if order.numbers.is_empty() && plan.cache.experts.is_empty() {
            self.close();
            return Ok(());
        }
        self.follow(order)
    }

    /// Between passes: these panels come once, in this order, to be kept from now on. `stream` is next.
    ///
    /// # Errors
    /// As `stream`.
    pub fn load(&mut self, numbers: &[u32]) -> Result<()> {
        self.follow(Order::once(numbers.to_vec()))
    }

    /// Between passes: the ring has so many places from now on, or when there is one again.
    ///
    /// # Errors
    /// As `open`; then nothing is read, and whoever asks is told so, until `stream` could begin again.
    pub fn resize(&mut self, slots: usize) -> Result<()> {
        let before = std::mem::replace(&mut self.ring.slots, slots);
        if self.thread.is_none() || before == slots {
            return Ok(());
        }
        self.stop();
        let order = std::mem::take(&mut lock(&self.shared.state).order);
        self.follow(order)
    }

    /// Places of the ring.
    pub fn places(&self) -> usize {
        self.ring.slots
    }

    fn follow(&mut self, order: Order) -> Result<()> {
        if self.thread.is_none() {
            self.start()?;
        }
        let mut state = lock(&self.shared.state);
        // What was read ahead is of the next pass.
        state.pass += 2;
        state.drop_older();
        (state.outputs, state.again) = (true, false);
        state.next = (state.pass + u64::from(order.cyclic), 0);
        state.order = order;
        drop(state);
        self.shared.freed.notify_one();
        Ok(())
    }

    /// Opens a reader and begins to read with it, where none does.
    pub(super) fn start(&mut self) -> Result<()> {
        let Ring { sources, options, slots, slot_bytes } = &self.ring;
        let slots = io::slots(*slots, *slot_bytes)?;
        let io::Opened { reader, note } = io::open(sources, &slots, options)?;
        (self.description, self.note) = (reader.description(), note);
        let depth = options.depth;
        self.pin(&slots);
        self.read_with(reader, slots, depth)
    }

    /// Begins to read with a reader into a ring, so many reads at once, where nothing reads.
    pub(super) fn read_with(&mut self, reader: Box<dyn Reader>, slots: Vec<Arc<Slot>>, depth: usize) -> Result<()> {
        let mut state = lock(&self.shared.state);
        (state.queue, state.free, state.closed) = (VecDeque::with_capacity(slots.len()), slots, false);
        drop(state);
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name("air-stream".into());
        let thread = thread
            .spawn(move || shared.read(reader, depth))
            .map_err(|e| Error::Limit(format!("cannot start the thread that reads: {e}")));
        match thread {
            Ok(thread) => self.thread = Some(thread),
            Err(e) => {
                self.stop();
                return Err(e);
            }
        }
        Ok(())
    }

    /// Ends the reading; the ring's memory goes.
    pub(super) fn stop(&mut self) {
        lock(&self.shared.state).closed = true;
        self.shared.freed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has marked the state as closed; those who wait are told.
            let _ = thread.join();
        }
        let mut state = lock(&self.shared.state);
        (state.free, state.queue) = (vec![], VecDeque::new());
    }

    pub(super) fn close(&mut self) {
        self.stop();
        lock(&self.shared.state).cache = Cache::default();
    }
}

impl State {
    /// Drops what passes before this one have left. What is lent goes when it comes back.
    pub(super) fn drop_older(&mut self) {
        for entry in self.queue.iter_mut().filter(|e| e.pass < self.pass && e.users == 0) {
            match std::mem::replace(&mut entry.content, Content::Dropped) {
                Content::Ready { slot, .. } => self.free.push(slot),
                Content::Failed(_) => {}
                Content::Reading | Content::Dropped => continue,
            }
            entry.done = u32::MAX;
        }
        self.queue.retain(|e| e.done != u32::MAX);
    }
}
