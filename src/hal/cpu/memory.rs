//! Memory that weights, values and sequence state live in: zeroed pages straight from the operating system.
//!
//! Pages cost nothing until they are touched, so address space may be reserved generously, and whoever fills a
//! part first places it. Big areas ask for huge pages. It does not know what it holds.

use crate::error::{Error, Result};
use std::ops::Range;

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

    /// Gives the system back the pages that lie wholly in a range; they read as zeros from now on, and cost memory again
    /// where they are written.
    ///
    /// # Panics
    /// Where the range leaves the area.
    pub fn give_back(&mut self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len, "the range lies in the area");
        let page = rustix::param::page_size();
        let (from, to) = (range.start.next_multiple_of(page), range.end / page * page);
        if from < to {
            // SAFETY: whole pages of the mapping, which is borrowed uniquely: nobody reads or writes them meanwhile,
            // and zeros are as good as any bytes.
            unsafe {
                let start = self.start.add(from).cast();
                // Of a huge page that is given back in part nothing would become free: this splits it.
                #[cfg(target_os = "linux")]
                libc::madvise(start, to - from, libc::MADV_FREE);
                libc::madvise(start, to - from, libc::MADV_DONTNEED);
            }
        }
    }

    /// As `give_back`, for a long time: nor does the system join what is around it to a huge page over it.
    pub fn put_away(&mut self, range: Range<usize>) {
        self.give_back(range.clone());
        self.advise(range, false);
    }

    /// What was put away will be written again.
    pub fn bring_back(&mut self, range: Range<usize>) {
        self.advise(range, true);
    }

    /// Whether huge pages may lie in the whole pages of a range, where the area asks for any.
    #[cfg(target_os = "linux")]
    fn advise(&mut self, range: Range<usize>, huge: bool) {
        let page = rustix::param::page_size();
        let (from, to) = (range.start.next_multiple_of(page), range.end.min(self.len) / page * page);
        if from < to && self.mapped >= HUGE_FROM {
            let advice = if huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
            // SAFETY: advice about whole pages of the mapping, which changes no byte of it.
            unsafe { libc::madvise(self.start.add(from).cast(), to - from, advice) };
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn advise(&mut self, _: Range<usize>, _: bool) {}

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

/// Areas of so many bytes ask for huge pages.
#[cfg(target_os = "linux")]
const HUGE_FROM: usize = 4 << 20;

#[cfg(target_os = "linux")]
const NO_RESERVE: libc::c_int = libc::MAP_NORESERVE;
#[cfg(not(target_os = "linux"))]
const NO_RESERVE: libc::c_int = 0;

/// Fewer address translations for weights that are read from end to end; a refusal changes nothing but speed.
#[cfg(target_os = "linux")]
fn advise_huge(start: *mut libc::c_void, len: usize) {
    if len >= HUGE_FROM {
        // SAFETY: advice about a mapping that was just made.
        unsafe { libc::madvise(start, len, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise_huge(_: *mut libc::c_void, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of it that are in memory.
    #[cfg(target_os = "linux")]
    fn pages(memory: &Memory) -> usize {
        let page = rustix::param::page_size();
        let mut there = vec![0u8; memory.mapped.div_ceil(page)];
        // SAFETY: the mapping lives, and there is a byte for each of its pages.
        let answer = unsafe { libc::mincore(memory.start.cast(), memory.mapped, there.as_mut_ptr()) };
        assert_eq!(answer, 0);
        there.iter().filter(|&&b| b & 1 == 1).count()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_given_back_costs_nothing_and_the_rest_stays() {
        let page = rustix::param::page_size();
        // Below and above what asks for huge pages.
        for len in [1 << 20, 8 << 20] {
            let mut memory = Memory::new(len, "a test").unwrap();
            memory.bytes_mut().fill(7);
            let (from, to) = (len / 4 + 1, len / 4 * 3 - 1);
            memory.give_back(from..to);
            // The parts of pages at both ends stay, as may the page of the padding.
            let kept = (len / 2).div_ceil(page) + 2;
            assert!((kept..=kept + 1).contains(&pages(&memory)), "{} of {}", pages(&memory), len / page);
            let bytes = memory.bytes_mut();
            let inside = from.next_multiple_of(page)..to / page * page;
            assert!(bytes[..inside.start].iter().chain(&bytes[inside.end..]).all(|&b| b == 7));
            assert!(bytes[inside].iter().all(|&b| b == 0));
            memory.give_back(5..6);
            assert_eq!(memory.bytes_mut()[5], 7);
        }
    }
}
