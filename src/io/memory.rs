//! Memory that readers fill: page-aligned areas, cut into slots.
//!
//! A slot is the only way to its bytes. Whoever holds the only `Arc` of it may have it filled, so a read in flight and
//! a borrow of the bytes cannot meet: the reader takes the `Arc` and gives it back with the answer. Big areas begin at
//! a huge page, where a direct read needs one entry of the device's list for 2 MiB instead of 512.

use crate::error::{Error, Result};
use std::any::Any;
use std::sync::{Arc, OnceLock};

/// Addresses, offsets and lengths of direct reads are multiples of this on every drive that is known.
pub const ALIGN: usize = 4096;

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// One anonymous mapping.
#[derive(Debug)]
pub(super) struct Area {
    start: *mut u8,
    len: usize,
    /// What holds the memory where it is, for a device that reads it.
    pin: OnceLock<Pin>,
}

/// Whatever undoes it when it is dropped.
pub type Pin = Box<dyn Any + Send + Sync>;

// SAFETY: an area is plain bytes; they are reached through slots alone, which do not overlap.
unsafe impl Send for Area {}
// SAFETY: as above.
unsafe impl Sync for Area {}

impl Area {
    fn new(len: usize) -> Result<Arc<Area>> {
        let refuse = || Error::Limit(format!("the system has no {len} bytes of memory for reading into"));
        let huge = len >= 2 * HUGE;
        let whole = len.checked_add(if huge { HUGE } else { 0 }).filter(|&n| n <= isize::MAX as usize);
        let whole = whole.ok_or_else(refuse)?;
        let (read_write, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANON);
        // SAFETY: an anonymous private mapping at an address of the system's choice touches nothing that exists.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), whole, read_write, private, -1, 0) };
        if map == libc::MAP_FAILED {
            return Err(refuse());
        }
        let map = map.cast::<u8>();
        if !huge {
            return Ok(Arc::new(Area { start: map, len, pin: OnceLock::new() }));
        }
        let before = map.align_offset(HUGE);
        // SAFETY: `before` is less than a huge page, by which the mapping is longer than `len`; both ends are whole
        // pages of it, which nobody has seen yet, and the advice is about what stays.
        unsafe {
            let start = map.add(before);
            if before > 0 {
                libc::munmap(map.cast(), before);
            }
            if before < HUGE {
                libc::munmap(start.add(len).cast(), HUGE - before);
            }
            #[cfg(target_os = "linux")]
            libc::madvise(start.cast(), len, libc::MADV_HUGEPAGE);
            Ok(Arc::new(Area { start, len, pin: OnceLock::new() }))
        }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        drop(self.pin.take());
        // SAFETY: start and length are those of the mapping; slots, which hold the area, are gone.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

/// One buffer of an area: who holds the only `Arc` may have it filled.
#[derive(Debug)]
pub struct Slot {
    area: Arc<Area>,
    offset: usize,
    len: usize,
    index: usize,
}

impl Slot {
    /// All bytes; zeros until something was read.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: slots of an area do not overlap and lie within it, and a reader fills one only while it owns it.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }

    /// All bytes, to change them in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and this borrow is the only one.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.len) }
    }

    /// Its place among those that were made together.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Start and length, to tell the system of it.
    pub(super) fn place(&self) -> (usize, usize) {
        (self.as_ptr() as usize, self.len)
    }

    /// What it is a part of.
    pub(super) fn area(&self) -> &Arc<Area> {
        &self.area
    }

    fn as_ptr(&self) -> *mut u8 {
        // SAFETY: the offset lies within the mapping.
        unsafe { self.area.start.add(self.offset) }
    }
}

/// Has the memory of slots that were made together held where it is, until the last of them is gone: `pin` is told where
/// it begins and how long it is.
///
/// # Errors
/// Those of `pin`.
pub fn pin<E>(
    slots: &[Arc<Slot>],
    pin: impl FnOnce(*mut u8, usize) -> std::result::Result<Pin, E>,
) -> std::result::Result<(), E> {
    if let Some(area) = slots.first().map(|slot| slot.area())
        && area.pin.get().is_none()
    {
        let pin = pin(area.start, area.len)?;
        // It was not pinned a moment ago, and nobody else has these slots.
        let _ = area.pin.set(pin);
    }
    Ok(())
}

/// Page-aligned memory, cut into `count` slots of `bytes` each, rounded up to `ALIGN`.
///
/// # Errors
/// `Limit` where the system refuses.
pub fn slots(count: usize, bytes: usize) -> Result<Vec<Arc<Slot>>> {
    slots_of(&vec![bytes; count])
}

/// As `slots`, of a size each.
///
/// # Errors
/// `Limit` where the system refuses.
pub fn slots_of(sizes: &[usize]) -> Result<Vec<Arc<Slot>>> {
    let too_much = || Error::Limit("the slots together are larger than the address space".into());
    let round = |bytes: usize| bytes.max(1).checked_next_multiple_of(ALIGN).ok_or_else(too_much);
    let lens = sizes.iter().map(|&bytes| round(bytes)).collect::<Result<Vec<usize>>>()?;
    let total = lens.iter().try_fold(0usize, |sum, &len| sum.checked_add(len)).ok_or_else(too_much)?;
    if total == 0 {
        return Ok(vec![]);
    }
    let area = Area::new(total)?;
    let mut offset = 0;
    let cut = |(index, len): (usize, usize)| {
        let slot = Slot { area: Arc::clone(&area), offset, len, index };
        offset += len;
        Arc::new(slot)
    };
    Ok(lens.into_iter().enumerate().map(cut).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_aligned_disjoint_and_zero() {
        for sizes in [&[1usize, 4096, 4097, 0][..], &[5 << 20, 3 << 20], &[4 << 20; 3], &[]] {
            let mut slots = slots_of(sizes).unwrap();
            assert_eq!(slots.len(), sizes.len());
            for (i, slot) in slots.iter_mut().enumerate() {
                assert!(slot.bytes().iter().all(|&b| b == 0));
                assert_eq!((slot.bytes().as_ptr() as usize % ALIGN, slot.index()), (0, i));
                assert_eq!(slot.bytes().len(), sizes[i].max(1).next_multiple_of(ALIGN));
                Arc::get_mut(slot).unwrap().bytes_mut().fill(i as u8 + 1);
            }
            for (i, slot) in slots.iter().enumerate() {
                assert!(slot.bytes().iter().all(|&b| b == i as u8 + 1));
            }
        }
    }

    #[test]
    fn big_areas_begin_at_a_huge_page() {
        let slots = slots(3, 2 << 20).unwrap();
        assert_eq!(slots[0].bytes().as_ptr() as usize % HUGE, 0);
    }

    #[test]
    fn too_much_is_refused() {
        for sizes in [&[usize::MAX][..], &[usize::MAX - ALIGN, ALIGN * 2], &[isize::MAX as usize - HUGE]] {
            assert!(matches!(slots_of(sizes), Err(Error::Limit(_))), "{sizes:?}");
        }
    }
}
