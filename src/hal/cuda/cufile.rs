//! cuFile, which reads from drives into a GPU's memory: which version is here, and which way its reads would go.
//!
//! Direct: the drive writes into the GPU's memory, through the kernel module nvidia-fs or the kernel's own
//! peer-to-peer DMA. Else the library reads into the CPU's memory and copies from there, which it calls the
//! compatibility mode. It knows only once its driver is open, which needs a GPU: without one it says on stderr that it
//! found none, so it is not asked. What it prints on stdout goes to stderr here: stdout is ours. It keeps a log, by itself
//! in the current folder; here in the one for temporary files.

use super::libraries::{Refusal, load};
use crate::ffi::cufile::*;
use crate::hal::gpu::Found;
use std::ffi::CString;
use std::sync::OnceLock;

fn cufile() -> Result<&'static CuFile, Refusal> {
    static LIBRARY: OnceLock<Result<CuFile, Refusal>> = OnceLock::new();
    // SAFETY: opens a library by its well-known name; its constructors are NVIDIA's own.
    let loaded = LIBRARY.get_or_init(|| load("libcufile.so.0", |file| unsafe { CuFile::new(file) }));
    loaded.as_ref().map_err(Refusal::clone)
}

/// Its version and, where there is a GPU, the way of its reads.
///
/// # Errors
/// Why it is of no use.
pub(super) fn found(gpu: bool) -> Result<Found, Refusal> {
    let cufile = cufile()?;
    let mut version = 0;
    // SAFETY: `version` is a valid place for the answer.
    done("cuFileGetVersion", unsafe { cufile.cuFileGetVersion(&mut version) })?;
    // 1150 is 1.15.
    let version = format!("{}.{}", version / 1000, version % 1000 / 10);
    let state = if gpu { Some(way(&aside(|| properties(cufile))?)) } else { None };
    Ok(Found { version, state })
}

/// Does something while all that the process prints on stdout goes to stderr.
fn aside<T>(work: impl FnOnce() -> T) -> T {
    let out = rustix::io::dup(rustix::stdio::stdout());
    let turned = out.is_ok() && rustix::stdio::dup2_stdout(rustix::stdio::stderr()).is_ok();
    let done = work();
    if let Ok(out) = out
        && turned
    {
        // SAFETY: no stream in particular: all that C has buffered is written, before stdout is what it was.
        unsafe { libc::fflush(std::ptr::null_mut()) };
        // Else it stays with stderr, and the next line says that it cannot be written.
        let _ = rustix::stdio::dup2_stdout(&out);
    }
    done
}

/// What the library says of itself and of the machine.
fn properties(cufile: &CuFile) -> Result<CUfileDrvProps_t, Refusal> {
    if let Ok(folder) = CString::new(std::env::temp_dir().into_os_string().into_encoded_bytes()) {
        // SAFETY: the text ends with a zero and is copied. A library that does not take it logs where it always does.
        let _ = unsafe { cufile.cuFileSetParameterString(CUFILE_PARAM_LOG_DIR, folder.as_ptr()) };
    }
    // SAFETY: it takes nothing; what it opened is closed below.
    done("cuFileDriverOpen", unsafe { cufile.cuFileDriverOpen() })?;
    // SAFETY: all of it is numbers, which may be zero.
    let mut found: CUfileDrvProps_t = unsafe { std::mem::zeroed() };
    // SAFETY: `found` is a valid place for the answer, and the driver is open.
    let asked = done("cuFileDriverGetProperties", unsafe { cufile.cuFileDriverGetProperties(&mut found) });
    // SAFETY: opened above, and nothing is under way.
    let closed = done("cuFileDriverClose_v2", unsafe { cufile.cuFileDriverClose_v2() });
    asked.and(closed).map(|()| found)
}

fn way(found: &CUfileDrvProps_t) -> String {
    let can = |flag: u32| found.nvfs.dstatusflags >> flag & 1 == 1;
    if can(CU_FILE_NVME_SUPPORTED) || can(CU_FILE_NVMEOF_SUPPORTED) {
        format!("direct, by nvidia-fs {}.{}", found.nvfs.major_version, found.nvfs.minor_version)
    } else if can(CU_FILE_NVME_P2P_SUPPORTED) {
        "direct, by the kernel's peer-to-peer DMA".into()
    } else if found.nvfs.dcontrolflags >> CU_FILE_ALLOW_COMPAT_MODE & 1 == 1 {
        "compatibility mode, through the CPU's memory".into()
    } else {
        "no way to read from NVMe drives, and the compatibility mode is off".into()
    }
}

/// An error by its name, where it is one of those that starting ends with.
fn done(call: &'static str, ended: CUfileError_t) -> Result<(), Refusal> {
    let error = match ended.err {
        CU_FILE_SUCCESS => return Ok(()),
        CU_FILE_DRIVER_NOT_INITIALIZED => "CU_FILE_DRIVER_NOT_INITIALIZED".into(),
        CU_FILE_DRIVER_VERSION_MISMATCH => "CU_FILE_DRIVER_VERSION_MISMATCH".into(),
        CU_FILE_PLATFORM_NOT_SUPPORTED => "CU_FILE_PLATFORM_NOT_SUPPORTED".into(),
        CU_FILE_CUDA_DRIVER_ERROR => format!("CU_FILE_CUDA_DRIVER_ERROR, CUDA's error {}", ended.cu_err),
        CU_FILE_PERMISSION_DENIED => "CU_FILE_PERMISSION_DENIED".into(),
        CU_FILE_NVFS_SETUP_ERROR => "CU_FILE_NVFS_SETUP_ERROR".into(),
        other => format!("error {other}"),
    };
    Err(Refusal::Call { call, error })
}
