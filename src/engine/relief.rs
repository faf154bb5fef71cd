//! Memory pressure while running: asks what is free, does what `pressure` says, and says what was done.
//!
//! The engine's thread looks between passes, and while it is idle, a few times in a second at most. What is given back
//! changes where weights come from, never what is computed with them.

use super::load::LoadOptions;
use super::memory;
use super::pressure::{LEVELS, Level, Pressure, Reading, Step, Stock};
use super::residence::Residence;
use super::runner::Runner;
use crate::error::Error;
use crate::kv::Prefixes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Where the engine learns how much memory is free.
pub trait Gauge: std::fmt::Debug + Send + Sync {
    /// What is free now.
    fn read(&self) -> Reading;

    /// Time between two looks.
    fn every(&self) -> Duration;
}

/// The machine, and the cgroup that holds this process.
#[derive(Debug)]
struct Machine(Instant);

impl Gauge for Machine {
    fn read(&self) -> Reading {
        Reading { free: memory::available(), held: memory::own(), at: self.0.elapsed() }
    }

    fn every(&self) -> Duration {
        Duration::from_millis(250)
    }
}

/// What the pressure was so far; read by others while the engine runs.
#[derive(Debug, Default)]
pub(super) struct Seen {
    level: AtomicUsize,
    highest: AtomicUsize,
    changes: AtomicU64,
}

/// How short of memory an engine is and was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PressureReport {
    /// Now.
    pub level: Level,
    /// The highest since it was loaded.
    pub highest: Level,
    /// How often the level changed.
    pub changes: u64,
}

impl Seen {
    fn moved(&self, to: Level) {
        self.level.store(to as usize, Ordering::Relaxed);
        self.highest.fetch_max(to as usize, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    pub fn report(&self) -> PressureReport {
        let level = |n: &AtomicUsize| LEVELS[n.load(Ordering::Relaxed)];
        PressureReport {
            level: level(&self.level),
            highest: level(&self.highest),
            changes: self.changes.load(Ordering::Relaxed),
        }
    }
}

/// Looks and acts.
pub(super) struct Relief {
    policy: Pressure,
    gauge: Arc<dyn Gauge>,
    say: fn(&str),
    seen: Arc<Seen>,
    looked: Option<Instant>,
    /// What was free at the last look.
    free: u64,
    /// A reader was refused: nothing more can be given back until there is one.
    stuck: bool,
}

impl Relief {
    /// For a model that was loaded.
    pub fn new(runner: &Runner, options: &LoadOptions) -> Relief {
        let &Residence { ref plan, on_gpu, .. } = runner.residence();
        Relief {
            policy: Pressure::new(plan.budget, options.ram_budget.is_some() && !on_gpu),
            gauge: options.gauge.clone().unwrap_or_else(|| Arc::new(Machine(Instant::now()))),
            say: options.say,
            seen: Arc::default(),
            looked: None,
            free: u64::MAX,
            stuck: false,
        }
    }

    /// What others may read.
    pub fn seen(&self) -> Arc<Seen> {
        self.seen.clone()
    }

    /// How long nobody need look, where nothing else happens: less often as long as all is well.
    pub fn pause(&self) -> Duration {
        match self.policy.level() {
            Level::Normal => 4 * self.gauge.every(),
            _ => self.gauge.every(),
        }
    }

    /// Why new work is refused, if it is: also where it could not be done, since a reader was refused.
    pub fn refusal(&self) -> Option<Error> {
        let why = match self.policy.level() {
            _ if self.stuck => "there is none to read weights into".into(),
            Level::Refuse => format!("{} MiB are free", self.free >> 20),
            _ => return None,
        };
        Some(Error::Busy(format!("memory is short: {why}; try again later")))
    }

    /// Whether texts are kept when they have ended.
    pub fn keeps(&self) -> bool {
        self.policy.level() == Level::Normal
    }

    /// What an ended text held goes back to the system, where that is wanted.
    pub fn ended(&self, runner: &mut Runner) {
        if !self.keeps() {
            runner.give_state_back();
        }
    }

    /// Looks, unless that was done a moment ago, and does what there is to do. Between passes only.
    pub fn look(&mut self, runner: &mut Runner, kept: &mut Prefixes) {
        if self.looked.is_some_and(|at| at.elapsed() < self.gauge.every()) {
            return;
        }
        self.looked = Some(Instant::now());
        self.stuck = self.stuck && runner.read_again().is_err();
        loop {
            let reading = self.gauge.read();
            self.free = reading.free;
            let stock = runner.stock();
            let stock = Stock { panels: if self.stuck { 0 } else { stock.panels }, ..stock };
            match self.policy.judge(reading, stock) {
                Step::Stay => return,
                Step::Raise(level) => self.raise(level, runner, kept),
                Step::Give(bytes) => self.give(bytes, runner),
                Step::Take(bytes) => return self.take(bytes, runner),
                Step::Lower(level) => return self.lower(level, runner),
            }
        }
    }

    fn raise(&mut self, level: Level, runner: &mut Runner, kept: &mut Prefixes) {
        let before = memory::resident();
        let mut problem = None;
        match level {
            Level::Prefixes => {
                kept.clear(runner.kv());
                runner.give_state_back();
            }
            Level::Ring => problem = runner.shrink_ring(true).err(),
            _ => {}
        }
        self.stuck |= problem.is_some();
        let given = mb(before.saturating_sub(memory::resident()));
        match (level, problem) {
            (_, Some(e)) => self.short(format_args!("weights cannot be read into smaller buffers: {e}")),
            (Level::Prefixes, _) => self.short(format_args!("kept texts are dropped, which gives {given} MB back")),
            (Level::Ring, _) => self.short(format_args!("smaller streaming buffers give {given} MB back")),
            _ => self.short(format_args!("there is no more to give back, new work is refused, or waits")),
        }
        self.seen.moved(level);
    }

    fn give(&mut self, bytes: u64, runner: &mut Runner) {
        // Where nothing was streamed so far there is no ring yet.
        match runner.shrink_ring(true).and_then(|()| runner.give_weights(bytes)) {
            Ok(given) => self.short(format_args!("{} MB of weights are given back, and streamed", mb(given))),
            Err(e) => {
                self.short(format_args!("weights that were given back cannot be read: {e}"));
                self.stuck = true;
            }
        }
        if self.seen.report().level != self.policy.level() {
            self.seen.moved(self.policy.level());
        }
    }

    fn take(&mut self, bytes: u64, runner: &mut Runner) {
        if let Err(e) = runner.take_weights(bytes) {
            (self.say)(&format!("weights that were given back cannot be read again: {e}"));
            self.policy.wait();
            self.stuck = runner.read_again().is_err();
        }
    }

    fn lower(&mut self, level: Level, runner: &mut Runner) {
        if level < Level::Ring
            && let Err(e) = runner.shrink_ring(false)
        {
            (self.say)(&format!("weights cannot be read into larger buffers: {e}"));
            self.stuck = true;
        }
        (self.say)(&format!("{} MB are free again: {}", mb(self.free), level.words()));
        self.seen.moved(level);
    }

    fn short(&self, what: std::fmt::Arguments) {
        (self.say)(&format!("memory is short ({} MB are free): {what}", mb(self.free)));
    }
}

fn mb(bytes: u64) -> u64 {
    bytes / 1_000_000
}
