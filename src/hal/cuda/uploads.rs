//! The GPU's second stream, by which panels come, and the events that order it with the first.
//!
//! A panel's bytes are read by the GPU straight from the memory of who lent them, so each loan is kept until the copy
//! from it has ended. That memory should be pinned; from memory that is not, the driver copies through its own, more
//! slowly, and the order is the same.

use crate::hal::{LOANS, Loan};
use cudarc::driver::result::{self, DriverError, event, stream};
use cudarc::driver::sys::{CUevent, CUevent_flags, CUevent_wait_flags, CUstream};
use std::collections::VecDeque;

/// The stream, its events, and what is on its way.
#[derive(Debug)]
pub(super) struct Uploads {
    stream: CUstream,
    events: Vec<CUevent>,
    /// Loans, oldest first, each with the event that happens when its copy has ended.
    loans: VecDeque<(usize, Box<dyn Loan>)>,
}

impl Uploads {
    /// A stream of the current context.
    pub fn new() -> Result<Uploads, DriverError> {
        let stream = stream::create(stream::StreamKind::NonBlocking)?;
        Ok(Uploads { stream, events: vec![], loans: VecDeque::new() })
    }

    /// Makes an event; one that was never recorded has happened.
    pub fn event(&mut self) -> Result<u32, DriverError> {
        self.events.push(event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING)?);
        Ok(self.events.len() as u32 - 1)
    }

    /// Records an event behind what was asked of another stream so far.
    pub fn mark(&self, event: u32, behind: CUstream) -> Result<(), DriverError> {
        // SAFETY: both are alive and of the current context.
        unsafe { event::record(self.events[event as usize], behind) }
    }

    /// Makes another stream wait for an event.
    pub fn follow(&self, event: u32, who: CUstream) -> Result<(), DriverError> {
        // SAFETY: as above.
        unsafe { stream::wait_event(who, self.events[event as usize], CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT) }
    }

    /// Copies a panel once `free` has happened; then `arrived` does.
    pub fn bring(&mut self, to: u64, panel: Box<dyn Loan>, free: u32, arrived: u32) -> Result<(), DriverError> {
        while self.loans.len() >= LOANS || self.loans.iter().any(|(event, _)| *event == arrived as usize) {
            self.end_one()?;
        }
        self.follow(free, self.stream)?;
        self.loans.push_back((arrived as usize, panel));
        let bytes = self.loans.back().map_or(&[][..], |(_, panel)| panel.bytes());
        // SAFETY: the loan is kept until the event behind the copy has happened, or all work of the context has ended;
        // the driver refuses an address that is not its own.
        unsafe { result::memcpy_htod_async(to, bytes, self.stream) }?;
        self.mark(arrived, self.stream)
    }

    fn end_one(&mut self) -> Result<(), DriverError> {
        let Some((event, _)) = self.loans.front() else { return Ok(()) };
        // SAFETY: the event is alive; it was recorded behind the copy.
        unsafe { event::synchronize(self.events[*event]) }?;
        self.loans.pop_front();
        Ok(())
    }

    /// Waits for all copies; then no loan is left, also where the GPU is lost and reads nothing any more.
    pub fn wait(&mut self) -> Result<(), DriverError> {
        // SAFETY: the stream is alive.
        let done = unsafe { stream::synchronize(self.stream) };
        self.loans.clear();
        done
    }

    /// Gives stream and events back; no copy may be under way.
    pub fn release(&mut self) {
        self.loans.clear();
        // SAFETY: nobody uses them after this.
        unsafe {
            for event in self.events.drain(..) {
                let _ = event::destroy(event);
            }
            let _ = stream::destroy(self.stream);
        }
    }
}
