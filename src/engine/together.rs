//! Several generations that are heard together, by whoever has many and waits for any: the events of all come through
//! one channel, each with the number that its request was given.

use super::request::{Command, Event, Request, gone};
use super::{Engine, JoinHandle};
use crate::error::Result;
use crossbeam::channel::{Receiver, Sender, unbounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What a generation reports, with the number that whoever asked has given it.
type Tagged = (u64, Result<Event>);

/// Generations of one engine. Dropping it cancels them all.
#[derive(Debug)]
pub struct Together<'e> {
    engine: &'e Engine,
    sender: Sender<Tagged>,
    events: Receiver<Tagged>,
    cancel: Arc<AtomicBool>,
    running: usize,
}

impl<'e> Together<'e> {
    pub(super) fn new(engine: &'e Engine) -> Self {
        // Bounded by the max_tokens of what runs.
        let (sender, events) = unbounded();
        Together { engine, sender, events, cancel: Arc::default(), running: 0 }
    }

    /// Starts one more; `tag` comes back with its events.
    ///
    /// # Errors
    /// As `Engine::submit`.
    pub fn submit(&mut self, request: Request, tag: u64) -> Result<()> {
        let to = self.sender.clone();
        let events = Arc::new(move |event| to.send((tag, event)).is_ok());
        let submitted = Instant::now();
        self.engine.send(Command::Generate { request, events, cancel: self.cancel.clone(), submitted })?;
        self.running += 1;
        Ok(())
    }

    /// How many have not ended.
    pub fn running(&self) -> usize {
        self.running
    }

    /// The next event of any; `None` when none comes within `time`. After `Finished` or an error a generation has none.
    ///
    /// # Errors
    /// `Engine` when the engine has stopped: nothing comes any more. What ends one generation comes with its tag.
    pub fn next_within(&mut self, time: Duration) -> Result<Option<(u64, Result<Event>)>> {
        let Ok((tag, event)) = self.events.recv_timeout(time) else {
            let stopped = self.engine.thread.as_ref().is_none_or(JoinHandle::is_finished);
            // What it said before it stopped is still heard.
            return if stopped && self.events.is_empty() { Err(gone()) } else { Ok(None) };
        };
        self.running -= usize::from(!matches!(event, Ok(Event::Token(_) | Event::Prompt(_) | Event::Read(_))));
        Ok(Some((tag, event)))
    }
}

impl Drop for Together<'_> {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}
