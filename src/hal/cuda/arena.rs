//! One piece of a GPU's memory for all that a model has there.
//!
//! It is taken before weights are read: what the GPU lacks is known then, and not minutes later, when others may have
//! taken it. Nor does the driver's rounding matter, which gives large pieces whole pages of two megabytes, and which no
//! plan counts. Parts are handed out one behind another and never again, since a model keeps what it has; with the last
//! of them all of it goes back.

/// What `Driver::alloc` promises of addresses.
const ALIGN: u64 = 256;

/// The piece, by addresses; empty where there is none.
#[derive(Debug, Default)]
pub(super) struct Arena {
    start: u64,
    end: u64,
    next: u64,
    parts: usize,
}

impl Arena {
    /// So many bytes from an address on.
    pub fn new(start: u64, bytes: u64) -> Arena {
        Arena { start, end: start.saturating_add(bytes), next: start, parts: 0 }
    }

    /// A part of so many bytes, if there is room.
    pub fn part(&mut self, bytes: u64) -> Option<u64> {
        let at = self.next;
        let next = at.checked_add(bytes.max(1).checked_next_multiple_of(ALIGN)?)?;
        let fits = next <= self.end;
        if fits {
            (self.next, self.parts) = (next, self.parts + 1);
        }
        fits.then_some(at)
    }

    /// What the driver gets back when `at` is not needed any more: that, where it is no part; nothing for one part of
    /// many, and all for the last.
    pub fn goes(&mut self, at: u64) -> Option<u64> {
        if !(self.start..self.end).contains(&at) {
            return Some(at);
        }
        self.parts = self.parts.saturating_sub(1);
        if self.parts == 0 { self.whole() } else { None }
    }

    /// Whether anybody has a part.
    pub fn is_used(&self) -> bool {
        self.parts > 0
    }

    /// All of it, if there is any: it is no arena any more.
    pub fn whole(&mut self) -> Option<u64> {
        let Arena { start, end, .. } = std::mem::take(self);
        (start < end).then_some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_apart_and_all_goes_with_the_last() {
        let mut arena = Arena::new(1 << 20, 2048);
        let parts = [1, 256, 257, 0].map(|bytes| arena.part(bytes));
        assert_eq!(parts, [0, 256, 512, 1024].map(|at| Some((1 << 20) + at)));
        assert_eq!((arena.part(769), arena.part(u64::MAX)), (None, None));
        assert_eq!(arena.part(768), Some((1 << 20) + 1280));
        assert!(arena.part(1).is_none() && arena.is_used());
        assert_eq!(arena.goes(512), Some(512), "no part");
        for part in parts.into_iter().flatten() {
            assert_eq!(arena.goes(part), None);
        }
        assert_eq!(arena.part(1), None, "what was given back is not handed out again");
        assert_eq!(arena.goes((1 << 20) + 1280), Some(1 << 20));
        assert_eq!((arena.part(1), arena.whole(), arena.goes(1 << 20)), (None, None, Some(1 << 20)));
        assert_eq!(Arena::new(256, 256).whole(), Some(256), "nobody had a part");
    }
}
