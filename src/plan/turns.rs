//! Turns: things that come one after another all along a pass, of which some are taken as evenly as they allow.

/// So many bytes of all that come. Each thing that comes makes its share of them due, and is taken where at least half of
/// it is due then, so that what was taken is never further than half a thing ahead of an even share or behind it, but
/// for things that no longer fit.
#[derive(Debug)]
pub(super) struct Turns {
    /// Of each byte that comes, how much is to be taken.
    share: f64,
    /// Bytes that should have been taken, and were not.
    due: f64,
    left: u64,
}

impl Turns {
    /// Takes `room` bytes at most, of `all` that will come.
    pub fn new(room: u64, all: u64) -> Turns {
        Turns { share: room as f64 / all.max(1) as f64, due: 0.0, left: room }
    }

    /// Whether the next thing, of so many bytes, is taken.
    pub fn takes(&mut self, bytes: u64) -> bool {
        self.due += bytes as f64 * self.share;
        let takes = self.due >= bytes as f64 / 2.0 && bytes <= self.left;
        if takes {
            self.due -= bytes as f64;
            self.left -= bytes;
        }
        takes
    }

    /// Bytes that may still be taken.
    pub fn left(&self) -> u64 {
        self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_even_and_keep_to_their_room() {
        let sizes: Vec<u64> = (0..200).map(|i| 50 + i * 37 % 51).collect();
        let all: u64 = sizes.iter().sum();
        for room in [0, 100, all / 7, all / 2, all - 60, all, 3 * all] {
            let (mut turns, mut passed, mut taken) = (Turns::new(room, all), 0, 0);
            for &bytes in &sizes {
                passed += bytes;
                taken += if turns.takes(bytes) { bytes } else { 0 };
                let due = passed as f64 * room.min(all) as f64 / all as f64;
                assert!((taken as f64 - due).abs() <= 100.0, "{taken} of {due} bytes after {passed}");
            }
            assert!(taken + turns.left() == room && (taken == all || turns.left() <= 100), "{room}: {taken}");
        }
    }

    #[test]
    fn what_is_larger_than_its_turn_waits_until_half_of_it_is_due() {
        let mut turns = Turns::new(100, 400);
        assert_eq!([100; 4].map(|bytes| turns.takes(bytes)), [false, true, false, false]);
        let mut turns = Turns::new(99, 400);
        assert_eq!([100; 4].map(|bytes| turns.takes(bytes)), [false; 4], "none fits");
    }
}
