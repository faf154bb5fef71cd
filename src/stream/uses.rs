//! Which experts are worth their room: those that were used often lately.
//!
//! Each use counts one, and all counts halve every 128 passes, so that the choice follows the text but not its every
//! word. On the recorded routing of a trained mixture (`scripts/moe_routing.py`) no other policy that knows only the
//! past came closer to the best that is possible.
//!
//! A use counts from the next pass on. Within a pass, layers come in turn, and those that had theirs would seem the
//! better ones; where all experts are used in every pass (a long prompt) the cache would always drop what is wanted
//! next, and hit nothing. Like this they are all worth the same, the older ones stay, and some are hit.

/// Passes in which a count halves.
const HALF_LIFE: f64 = 128.0;

/// Counts above this are made small again.
const LARGEST: f64 = 1e12;

/// Counts of uses.
#[derive(Debug, Default)]
pub(super) struct Uses {
    experts: Vec<Count>,
    pass: u64,
    /// What a use adds now: as earlier ones count for less and less, new ones add more and more.
    add: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    before: f64,
    now: f64,
    pass: u64,
}

impl Uses {
    pub fn new(experts: usize) -> Uses {
        Uses { experts: vec![Count::default(); experts], pass: 1, add: 1.0 }
    }

    /// Another pass begins.
    pub fn begin(&mut self) {
        self.pass += 1;
        self.add *= (1.0 / HALF_LIFE).exp2();
        if self.add > LARGEST {
            for c in &mut self.experts {
                c.before /= self.add;
                c.now /= self.add;
            }
            self.add = 1.0;
        }
    }

    /// Counts a use; whether it is the first of this pass. Others do not count.
    pub fn count(&mut self, expert: usize) -> bool {
        let c = &mut self.experts[expert];
        if c.pass == self.pass {
            return false;
        }
        *c = Count { before: c.now, now: c.now + self.add, pass: self.pass };
        true
    }

    /// What an expert is worth: its count before this pass.
    pub fn worth(&self, expert: usize) -> f64 {
        let c = &self.experts[expert];
        if c.pass == self.pass { c.before } else { c.now }
    }
}
