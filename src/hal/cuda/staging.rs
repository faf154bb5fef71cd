//! A ring of pinned memory between the CPU and one stream of the GPU.
//!
//! It has two halves. Bytes are copied into one and sent from there, small pieces one behind another; when it is full
//! the other one is taken, after the copies out of it have ended. So a large upload copies into one half while the GPU
//! reads from the other, and a small one never waits.

use cudarc::driver::result::{self, DriverError, event};
use cudarc::driver::sys::{CUevent, CUevent_flags, CUstream};

/// Bytes of a half: enough for a link's full speed.
const HALF: usize = 4 << 20;

/// Bytes at which pieces begin.
const ALIGNMENT: usize = 256;

/// The ring.
#[derive(Debug)]
pub(super) struct Staging {
    /// Twice `HALF` bytes.
    memory: *mut u8,
    /// For each half: recorded behind its last copy.
    ends: [CUevent; 2],
    /// The half that is filled, and how far.
    half: usize,
    filled: usize,
}

impl Staging {
    /// A ring of the current context.
    pub fn new() -> Result<Staging, DriverError> {
        let flags = CUevent_flags::CU_EVENT_DISABLE_TIMING;
        let first = event::create(flags)?;
        let second = event::create(flags).inspect_err(|_| destroy(first))?;
        // SAFETY: what is returned is written before it is read. No flags: cached, and of this context.
        let memory = unsafe { result::malloc_host(2 * HALF, 0) }.inspect_err(|_| {
            destroy(first);
            destroy(second);
        })?;
        Ok(Staging { memory: memory.cast(), ends: [first, second], half: 0, filled: 0 })
    }

    /// Room for so many bytes, at most `HALF`, that no copy reads from any more.
    fn room(&mut self, bytes: usize, stream: CUstream) -> Result<*mut u8, DriverError> {
        if self.filled + bytes > HALF {
            // SAFETY: event and stream are of this context; an event that was never recorded is over.
            unsafe {
                event::record(self.ends[self.half], stream)?;
                self.half ^= 1;
                self.filled = 0;
                event::synchronize(self.ends[self.half])?;
            }
        }
        // SAFETY: within the half.
        let at = unsafe { self.memory.add(self.half * HALF + self.filled) };
        self.filled += bytes.next_multiple_of(ALIGNMENT);
        Ok(at)
    }

    /// Sends bytes to the GPU's memory, in the order of the stream. They may be changed when this returns.
    pub fn upload(&mut self, to: u64, bytes: &[u8], stream: CUstream) -> Result<(), DriverError> {
        for (piece, at) in bytes.chunks(HALF).zip((to..).step_by(HALF)) {
            let room = self.room(piece.len(), stream)?;
            // SAFETY: the room is as large as the piece, and nothing else has it.
            let staged = unsafe {
                room.copy_from_nonoverlapping(piece.as_ptr(), piece.len());
                std::slice::from_raw_parts(room, piece.len())
            };
            // SAFETY: the room stays as it is until the copy has ended; the driver refuses an address that is not its
            // own.
            unsafe { result::memcpy_htod_async(at, staged, stream) }?;
        }
        Ok(())
    }

    /// Fetches bytes from the GPU's memory, after all work before it in the stream.
    pub fn download(&mut self, from: u64, bytes: &mut [u8], stream: CUstream) -> Result<(), DriverError> {
        for (piece, at) in bytes.chunks_mut(HALF).zip((from..).step_by(HALF)) {
            let room = self.room(piece.len(), stream)?;
            // SAFETY: the room is as large as the piece, and is read when the copy has ended.
            unsafe {
                result::memcpy_dtoh_async(std::slice::from_raw_parts_mut(room, piece.len()), at, stream)?;
                result::stream::synchronize(stream)?;
                piece.as_mut_ptr().copy_from_nonoverlapping(room, piece.len());
            }
        }
        Ok(())
    }

    /// Gives the memory back; no copy may be under way.
    pub fn release(&mut self) {
        self.ends.into_iter().for_each(destroy);
        // SAFETY: it came from `malloc_host`; the owner's `drop` calls this once, when all work has ended.
        let _ = unsafe { result::free_host(self.memory.cast()) };
    }
}

fn destroy(of: CUevent) {
    // SAFETY: it was created, and nobody uses it after this.
    let _ = unsafe { event::destroy(of) };
}
