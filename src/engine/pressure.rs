//! How short memory is, and what to do about it: levels, from what is free now.
//!
//! A model is loaded by a budget, but a cgroup's limit may be lowered and other programs may grow while it runs. Then
//! what costs least to miss goes first: kept texts, the ring's places, panels of weights (which come from the drive in
//! each pass from then on), and at last new work is refused. Less than the low mark raises the level at once, and
//! weights are given back up to the mark above it. The way back is slow: only after a while of readings above the upper
//! mark, one level at a time, weights in steps that delay a pass little. Between the marks nothing changes.
//!
//! A budget that was asked for may be all there is: a limit as large as the budget leaves nothing free, and all is
//! well. So as long as what is free and what the process holds are together what was promised to it, nothing is short, and
//! what was given back fits again; taking and giving do not change that sum.
//!
//! A pure state machine: what is free and what there is to give are told to it, as is the time. What it says is done by
//! `relief`.

use std::time::Duration;

/// Readings must have been good for so long before anything is taken again.
pub const CALM: Duration = Duration::from_secs(3);

/// Bytes of weights that are taken again at once.
pub const STEP: u64 = 64 << 20;

/// What is in force; each with all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// As planned.
    #[default]
    Normal,
    /// No texts are kept after they have ended.
    Prefixes,
    /// The ring has only the places of a small budget.
    Ring,
    /// Weights that were kept are streamed.
    Panels,
    /// New work is refused.
    Refuse,
}

/// All levels, in order.
pub const LEVELS: [Level; 5] = [Level::Normal, Level::Prefixes, Level::Ring, Level::Panels, Level::Refuse];

impl Level {
    /// For people: what is done at it.
    pub fn words(self) -> &'static str {
        match self {
            Level::Normal => "normal",
            Level::Prefixes => "no texts are kept",
            Level::Ring => "small streaming buffers",
            Level::Panels => "weights given back",
            Level::Refuse => "new work refused",
        }
    }
}

/// What is free, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Bytes that can be had.
    pub free: u64,
    /// Bytes that the process has of its own.
    pub held: u64,
    /// Time since any moment, the same for all readings.
    pub at: Duration,
}

/// What there is to give back and to take again, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stock {
    /// Places of the ring beyond those of a small budget, whether they are there or not.
    pub ring: u64,
    /// Weights that may be given back.
    pub panels: u64,
    /// Weights that were.
    pub given: u64,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Stay,
    /// The next level, which holds now.
    Raise(Level),
    /// Give back weights of so many bytes, if there are so many.
    Give(u64),
    /// Take weights of at most so many bytes again.
    Take(u64),
    /// A lower level, which holds now.
    Lower(Level),
}

/// The state machine.
#[derive(Debug, Clone)]
pub struct Pressure {
    low: u64,
    high: u64,
    /// Bytes, free and held together, with which nothing is short.
    promised: u64,
    level: Level,
    /// Since when readings are good.
    calm: Option<Duration>,
}

impl Pressure {
    /// Marks by the budget, and whether that was asked for. What the system itself takes for a process is charged too,
    /// so a little less than was promised is still fine.
    pub fn new(budget: u64, asked_for: bool) -> Pressure {
        let low = if asked_for { (budget / 100).min(64 << 20) } else { (budget / 40).min(256 << 20) };
        let promised = if asked_for { budget.saturating_sub((budget / 50).max(16 << 20)) } else { u64::MAX };
        Pressure { low, high: 2 * low, promised, level: Level::Normal, calm: None }
    }

    /// What is in force.
    pub fn level(&self) -> Level {
        self.level
    }

    /// What a reading asks for. After `Raise` and `Give`, whose bytes may have been enough, the next reading is due at
    /// once.
    pub fn judge(&mut self, reading: Reading, stock: Stock) -> Step {
        let Reading { free, held, at } = reading;
        let free = if free.saturating_add(held) >= self.promised { u64::MAX } else { free };
        if free < self.low {
            self.calm = None;
            return self.up(free, stock);
        }
        if free < self.high || self.level == Level::Normal {
            self.calm = None;
            return Step::Stay;
        }
        match at.saturating_sub(*self.calm.get_or_insert(at)) < CALM {
            true => Step::Stay,
            false => self.down(free - self.high, stock),
        }
    }

    /// The way back begins anew: something was in the way.
    pub fn wait(&mut self) {
        self.calm = None;
    }

    fn up(&mut self, free: u64, stock: Stock) -> Step {
        self.level = match self.level {
            Level::Normal => Level::Prefixes,
            Level::Prefixes if stock.ring > 0 => Level::Ring,
            level if stock.panels > 0 => {
                self.level = level.max(Level::Panels);
                return Step::Give(self.high - free);
            }
            Level::Refuse => return Step::Stay,
            _ => Level::Refuse,
        };
        Step::Raise(self.level)
    }

    /// `room` bytes are free above the upper mark.
    fn down(&mut self, room: u64, stock: Stock) -> Step {
        self.level = match self.level {
            Level::Refuse if stock.given > 0 => Level::Panels,
            Level::Panels if stock.given > 0 => return Step::Take(room.min(STEP)),
            Level::Refuse | Level::Panels if stock.ring > 0 => Level::Ring,
            Level::Ring if room < stock.ring => return Step::Stay,
            Level::Refuse | Level::Panels | Level::Ring => Level::Prefixes,
            Level::Prefixes | Level::Normal => Level::Normal,
        };
        self.calm = None;
        Step::Lower(self.level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A program that does as it is told, on a machine whose other programs take what a script says.
    struct World {
        pressure: Pressure,
        stock: Stock,
        /// Bytes that others leave to this program and to nobody.
        all: u64,
        /// What this program has beside the ring and the weights that may leave.
        own: u64,
        ring_small: bool,
        seconds: u64,
    }

    impl World {
        /// With a budget of 1000 MiB: marks at 25 and 50.
        fn new() -> World {
            World {
                pressure: Pressure::new(1000 * MIB, false),
                stock: Stock { ring: 20 * MIB, panels: 700 * MIB, given: 0 },
                all: 1050 * MIB,
                own: 230 * MIB,
                ring_small: false,
                seconds: 0,
            }
        }

        fn free(&self) -> u64 {
            let ring = if self.ring_small { 0 } else { self.stock.ring };
            self.all.saturating_sub(self.own + ring + self.stock.panels)
        }

        /// A second passes; every step that was taken.
        fn tick(&mut self) -> Vec<Step> {
            self.seconds += 1;
            let mut steps = vec![];
            loop {
                let reading = Reading { free: self.free(), held: 0, at: Duration::from_secs(self.seconds) };
                let step = self.pressure.judge(reading, self.stock);
                match step {
                    Step::Stay => return steps,
                    Step::Raise(level) => self.ring_small |= level == Level::Ring,
                    Step::Give(bytes) => {
                        let bytes = bytes.next_multiple_of(MIB).min(self.stock.panels);
                        self.stock.panels -= bytes;
                        self.stock.given += bytes;
                    }
                    Step::Take(bytes) => {
                        let bytes = (bytes / MIB * MIB).min(self.stock.given);
                        self.stock.panels += bytes;
                        self.stock.given -= bytes;
                    }
                    Step::Lower(level) => self.ring_small &= level >= Level::Ring,
                }
                steps.push(step);
                if matches!(step, Step::Take(_) | Step::Lower(_)) {
                    return steps;
                }
            }
        }
    }

    #[test]
    fn nothing_happens_while_there_is_room() {
        let mut w = World::new();
        for left in [1050, 980, 976, 1200, 975] {
            w.all = left * MIB;
            assert_eq!(w.tick(), [], "{left}");
            assert_eq!(w.pressure.level(), Level::Normal);
        }
    }

    #[test]
    fn what_is_missing_is_given_at_once_in_order() {
        let mut w = World::new();
        w.all = 974 * MIB;
        // The ring's places were enough, with those marks.
        assert_eq!(w.tick(), [Level::Prefixes, Level::Ring].map(Step::Raise));
        assert_eq!((w.free(), w.stock.given), (44 * MIB, 0));
        w.all = 950 * MIB;
        assert_eq!(w.tick(), [Step::Give(30 * MIB)]);
        assert_eq!((w.pressure.level(), w.free()), (Level::Panels, 50 * MIB));
        // Where nothing at all is free it cannot be seen how much is missing.
        w.all = 600 * MIB;
        assert!(w.tick().iter().all(|s| matches!(s, Step::Give(_))));
        assert!((25 * MIB..100 * MIB).contains(&w.free()), "{}", w.free());
        w.all = 200 * MIB;
        assert_eq!(w.tick().pop(), Some(Step::Raise(Level::Refuse)));
        assert_eq!((w.stock.panels, w.tick()), (0, vec![]));
        // A model without a ring, and without weights that may leave.
        let mut w = World { stock: Stock::default(), all: 1, ..World::new() };
        assert_eq!(w.tick(), [Step::Raise(Level::Prefixes), Step::Raise(Level::Refuse)]);
    }

    #[test]
    fn it_comes_back_slowly_in_the_reverse_order() {
        let mut w = World::new();
        w.all = 100 * MIB;
        w.tick();
        assert_eq!(w.pressure.level(), Level::Refuse);
        w.all = 2000 * MIB;
        let (mut steps, mut seconds, mut panels) = (vec![], vec![], 0);
        for _ in 0..60 {
            for step in w.tick() {
                match step {
                    Step::Take(bytes) => {
                        assert_eq!(bytes, STEP);
                        panels += 1;
                    }
                    step => {
                        steps.push(step);
                        seconds.push(w.seconds);
                    }
                }
            }
        }
        let down = [Level::Panels, Level::Ring, Level::Prefixes, Level::Normal].map(Step::Lower);
        assert_eq!((steps, panels), (down.to_vec(), 700_u64.div_ceil(64)));
        assert!(
            seconds.windows(2).all(|s| s[1] - s[0] >= CALM.as_secs()) && seconds[0] > CALM.as_secs(),
            "{seconds:?}"
        );
        assert_eq!((w.stock.given, w.pressure.level()), (0, Level::Normal));
    }

    #[test]
    fn between_the_marks_and_in_short_lulls_nothing_moves() {
        let mut w = World::new();
        w.all = 800 * MIB;
        w.tick();
        let given = w.stock.given;
        for second in 0..50 {
            // Good for two seconds, then only fair.
            w.all = if second % 3 == 2 { 799 * MIB } else { 1100 * MIB };
            assert_eq!(w.tick(), []);
        }
        // Room for some of it: taken, and then it stays.
        w.all = 900 * MIB;
        (0..20).for_each(|_| drop(w.tick()));
        assert_eq!((w.stock.given, w.free()), (given - 100 * MIB, 50 * MIB));
        assert_eq!(w.pressure.level(), Level::Panels);
    }

    /// Whatever the readings: the level rises only below the low mark and falls only after a calm while.
    #[test]
    fn no_script_makes_it_flutter() {
        let mut w = World::new();
        let (mut seed, mut good) = (7u64, 0);
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if seed >> 60 == 0 {
                w.all = (seed >> 20) % 1300 * MIB;
            }
            let free = w.free();
            let steps = w.tick();
            good = if free >= 50 * MIB { good + 1 } else { 0 };
            for step in steps {
                match step {
                    Step::Raise(_) | Step::Give(_) => assert!(free < 25 * MIB),
                    Step::Lower(_) | Step::Take(_) => assert!(good >= CALM.as_secs() && w.free() >= 50 * MIB - MIB),
                    Step::Stay => unreachable!("the world ends a second with it"),
                }
            }
        }
    }

    #[test]
    fn a_budget_that_was_asked_for_may_be_all_there_is() {
        let reading = |free, held| Reading { free: free * MIB, held: held * MIB, at: Duration::ZERO };
        let judge = |asked_for, reading| Pressure::new(1000 * MIB, asked_for).judge(reading, Stock::default());
        let short = Step::Raise(Level::Prefixes);
        assert_eq!((judge(true, reading(0, 980)), judge(true, reading(0, 979))), (Step::Stay, short));
        assert_eq!((judge(true, reading(10, 900)), judge(true, reading(9, 900))), (Step::Stay, short));
        assert_eq!((judge(false, reading(25, 980)), judge(false, reading(24, 980))), (Step::Stay, short));
        // What was given back fits again as soon as the sum is what it was, though less is free than the mark.
        let mut pressure = Pressure::new(1000 * MIB, true);
        let stock = Stock { ring: 20 * MIB, panels: 300 * MIB, given: 5 * MIB };
        while pressure.judge(reading(0, 500), stock) != Step::Give(20 * MIB) {}
        pressure.judge(reading(6, 980), stock);
        let later = Reading { at: CALM, ..reading(6, 980) };
        assert_eq!(pressure.judge(later, stock), Step::Take(STEP));
        assert_eq!(pressure.judge(later, Stock { given: 0, ..stock }), Step::Lower(Level::Ring));
    }
}
