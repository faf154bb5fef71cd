//! NCCL, which carries numbers between GPUs: which version is here.

use super::libraries::{Refusal, load};
use crate::ffi::nccl::{Nccl, ncclSuccess};
use crate::hal::gpu::Found;
use std::ffi::CStr;
use std::sync::OnceLock;

fn nccl() -> Result<&'static Nccl, Refusal> {
    static LIBRARY: OnceLock<Result<Nccl, Refusal>> = OnceLock::new();
    // SAFETY: opens a library by its well-known name; its constructors are NVIDIA's own.
    let loaded = LIBRARY.get_or_init(|| load("libnccl.so.2", |file| unsafe { Nccl::new(file) }));
    loaded.as_ref().map_err(Refusal::clone)
}

/// Its version.
///
/// # Errors
/// Why it is of no use.
pub(super) fn found() -> Result<Found, Refusal> {
    let nccl = nccl()?;
    let mut version = 0;
    // SAFETY: `version` is a valid place for the answer.
    let code = unsafe { nccl.ncclGetVersion(&mut version) };
    if code != ncclSuccess {
        // SAFETY: the text is the library's, and stays.
        let text = unsafe { CStr::from_ptr(nccl.ncclGetErrorString(code)) };
        return Err(Refusal::Call { call: "ncclGetVersion", error: text.to_string_lossy().into_owned() });
    }
    // 22707 is 2.27.7.
    let version = format!("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
    Ok(Found { version, state: None })
}
