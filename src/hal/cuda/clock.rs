//! The GPU's clock: events that note when the work before them ended, a microsecond apart at best.

use cudarc::driver::result::{DriverError, event};
use cudarc::driver::sys::{CUevent, CUevent_flags, CUstream};

/// Moments that were noted.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// Reused.
    events: Vec<CUevent>,
    /// How many of them were recorded and not read yet.
    noted: usize,
}

impl Clock {
    /// Notes when the work of the stream so far ends.
    pub fn stamp(&mut self, stream: CUstream) -> Result<(), DriverError> {
        if self.noted == self.events.len() {
            self.events.push(event::create(CUevent_flags::CU_EVENT_DEFAULT)?);
        }
        // SAFETY: both are alive and of the current context.
        unsafe { event::record(self.events[self.noted], stream) }?;
        self.noted += 1;
        Ok(())
    }

    /// Seconds from each moment to the next, once the last is over; they are forgotten.
    pub fn intervals(&mut self) -> Result<Vec<f64>, DriverError> {
        let noted = &self.events[..std::mem::take(&mut self.noted)];
        let Some(last) = noted.last() else { return Ok(vec![]) };
        // SAFETY: the events are alive, were recorded on one stream, and the last comes behind the others.
        unsafe {
            event::synchronize(*last)?;
            noted.windows(2).map(|w| event::elapsed(w[0], w[1]).map(|ms| f64::from(ms) / 1e3)).collect()
        }
    }

    /// Gives the events back.
    pub fn release(&mut self) {
        for event in self.events.drain(..) {
            // SAFETY: it was created here, and nobody uses it after this.
            let _ = unsafe { event::destroy(event) };
        }
    }
}
