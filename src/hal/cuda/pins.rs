//! Memory of the host that the GPU reads by itself: ordinary memory, whose pages the driver holds where they are.
//!
//! Direct reads fill it and copies to the GPU empty it, so weights pass through the host without being copied there.

use super::gpus::failed;
use crate::hal::Pinner;
use cudarc::driver::result::{DriverError, ctx, primary_ctx};
use cudarc::driver::sys::{self, CUcontext, CUdevice};
use std::any::Any;

/// For all contexts of the process, of which there may be one for each GPU.
const PORTABLE: u32 = 1;

/// Pins for one GPU.
#[derive(Debug)]
pub(super) struct Pins(pub CUdevice);

/// Some memory that is held. It keeps the context, since it may outlive the device's `Driver`.
struct Pinned {
    gpu: CUdevice,
    context: CUcontext,
    start: *mut u8,
}

// SAFETY: the driver's handles may be used by any thread; the address is only handed back to it.
unsafe impl Send for Pinned {}
// SAFETY: as above.
unsafe impl Sync for Pinned {}

impl Pinner for Pins {
    fn pin(&self, start: *mut u8, len: usize) -> Result<Box<dyn Any + Send + Sync>, String> {
        let said = |e: DriverError| failed("pin memory", e).to_string();
        // SAFETY: the device comes from the driver; `drop` gives the context back.
        let context = unsafe { primary_ctx::retain(self.0) }.map_err(said)?;
        // SAFETY: the context was just retained. The driver only holds pages, and refuses those that are not there.
        let done = unsafe {
            ctx::set_current(context)
                .and_then(|()| sys::cuMemHostRegister_v2(start.cast(), len, PORTABLE).result())
                .inspect_err(|_| {
                    let _ = primary_ctx::release(self.0);
                })
        };
        done.map_err(said)?;
        Ok(Box::new(Pinned { gpu: self.0, context, start }))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: pinned and retained once, by `pin`; copies from the memory have ended, since loans of it have. Of a
        // lost GPU there is nothing to give back.
        unsafe {
            let _ = ctx::set_current(self.context);
            let _ = sys::cuMemHostUnregister(self.start.cast()).result();
            let _ = primary_ctx::release(self.gpu);
        }
    }
}
