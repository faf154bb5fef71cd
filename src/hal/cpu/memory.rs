//! Memory that weights, values and sequence state live in: zeroed pages straight from the operating system.
//!
//! Pages cost nothing until they are touched, so address space may be reserved generously, and whoever fills a
//! part first places it. Big areas ask for huge pages. It does not know what it holds.

use crate::error::{Error, Result};

/// A zeroed area, aligned to a page, with `PAD` readable bytes behind its end.
#[derive(Debug)]
pub struct Memory {
    start: *mut u8,
    len: usize,
    mapped: usize,
}

/// Vector loads at the end of an area may reach this far beyond it.
pub const PAD: usize = 64;

// SAFETY: a `Memory` is plain bytes owned by one value; access goes through the borrow rules of that value, or
// through the raw pointer by code that says why it is disjoint.
unsafe impl Send for Memory {}
// SAFETY: as above; a shared reference gives read access only.
unsafe impl Sync for Memory {}

impl Memory {
    /// Reserves `len` zeroed bytes.
    ///
    /// # Errors
    /// `Limit` where the system refuses.
    pub fn new(len: usize, what: &str) -> Result<Self> {
        let refuse = || Error::Limit(format!("the system has no {len} bytes of memory for {what}"));
        let mapped = len.checked_add(PAD).filter(|&n| n <= isize::MAX as usize).ok_or_else(refuse)?;
        // SAFETY: an anonymous private mapping at an address of the system's choice touches nothing that exists.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANON | NO_RESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(refuse());
        }
        advise_huge(start, mapped);
        Ok(Memory { start: start.cast(), len, mapped })
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// First byte; the area is readable to `len() + PAD`.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start
    }

    /// All bytes and the padding.
    pub fn padded(&self) -> &[u8] {
        // SAFETY: the mapping is `len + PAD` bytes or longer, zeroed by the system, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start, self.len + PAD) }
    }

    /// All bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `padded`, and `self` is borrowed uniquely.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: start and length are those of the mapping, which nothing outlives.
        unsafe { libc::munmap(self.start.cast(), self.mapped) };
    }
}

#[cfg(target_os = "linux")]
const NO_RESERVE: libc::c_int = libc::MAP_NORESERVE;
#[cfg(not(target_os = "linux"))]
const NO_RESERVE: libc::c_int = 0;

/// Fewer address translations for weights that are read from end to end; a refusal changes nothing but speed.
#[cfg(target_os = "linux")]
fn advise_huge(start: *mut libc::c_void, len: usize) {
    if len >= 4 << 20 {
        // SAFETY: advice about a mapping that was just made.
        unsafe { libc::madvise(start, len, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise_huge(_: *mut libc::c_void, _: usize) {}
