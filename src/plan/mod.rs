//! STRIX: what lives where, and why.
//!
//! A pure function from what a model needs and what may be spent to a `Plan`: every weight cut into panels, each panel
//! with a home. What every pass reads comes first; what no pass multiplies with (an embedding table) stays on the drive
//! and gives single rows. Where the rest does not fit, panels are kept and streamed in turns, in the same proportion
//! all along a pass: between two panels that are kept the drive brings the next one, so that it never rests, and the
//! set that is kept is fixed, because a cyclic scan through any cache that is smaller than it hits nothing. Experts are
//! another matter: who is needed next is known only when a token has chosen, so what dense weights leave is a cache of
//! them (`cache`). Where a device has memory of its own, the budget is that, and what it has no room for is kept in the
//! host's as far as that goes (`host`); with few tokens the host's processor computes with it there (`beside`).
//!
//! It knows no family of models, no file and no device: sizes, uses and rates are all it is told. `law` says how long a
//! pass takes by these bytes.

mod beside;
mod cache;
mod host;
mod law;
mod ring;
mod shift;
#[cfg(test)]
mod tests;
mod turns;

pub use cache::Cache;
pub use law::{Bound, Prediction, Rates};
pub use shift::Given;

use crate::error::{Error, Result};
use crate::format::Extent;
use crate::hal::{BESIDE, Home, Panel};
use crate::quant::Format;
use turns::Turns;

/// How passes use a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// All of it, in every pass.
    Pass,
    /// All of it, in passes that give logits.
    Outputs,
    /// As `Outputs`, and single rows in every pass.
    OutputsAndRows,
    /// Single rows.
    Rows,
    /// So many of its experts for each token.
    Experts(usize),
}

/// One weight.
#[derive(Debug, Clone)]
pub struct Unit {
    /// Its tensor.
    pub name: String,
    /// Element format.
    pub format: &'static Format,
    /// Elements of a row.
    pub cols: usize,
    /// Rows (of one expert).
    pub rows: usize,
    /// Experts; 1 for a plain matrix.
    pub experts: usize,
    /// Whether it is a matrix (else: a vector, kept as float32).
    pub matrix: bool,
    /// Where it lies.
    pub extent: Extent,
    /// How it is used.
    pub usage: Use,
    /// Which stage of a pass uses it first: its weights are in use together.
    pub stage: usize,
    /// Whether any processor that has the stage's weights can compute it: it uses no sequence state.
    pub beside: bool,
}

impl Unit {
    /// Bytes of one row in the file.
    pub fn row_bytes(&self) -> u64 {
        self.format.row_bytes(self.cols) as u64
    }

    /// Bytes of some rows of one expert, kept.
    fn kept(&self, rows: usize) -> u64 {
        match self.matrix {
            true => (rows.next_multiple_of(GROUP) as u64).saturating_mul(self.row_bytes()),
            false => (rows as u64).saturating_mul(self.cols as u64).saturating_mul(4),
        }
    }

    /// Bytes of all of it, kept.
    fn kept_whole(&self) -> u64 {
        self.kept(self.rows).saturating_mul(self.experts as u64)
    }

    /// What is too small to be worth a read in each pass.
    fn is_small(&self) -> bool {
        !self.matrix || self.kept_whole() < SMALL
    }

    /// Whether it may be streamed or stay on the drive.
    fn may_leave(&self) -> bool {
        self.matrix && (cache::home(self.usage).is_some() || !self.is_small())
    }

    fn is_expert(&self) -> bool {
        matches!(self.usage, Use::Experts(_))
    }
}

/// Rows that lie together in memory.
const GROUP: usize = 16;
/// Weights below this are kept in any case.
const SMALL: u64 = 64 << 10;
/// Bytes of an expert's panel at most, where experts are cached: below this its matrices are not cut.
const EXPERT: u64 = 8 << 20;
/// Panels of a model at most: four terabytes of the smallest that are cut from large matrices.
const MOST_PANELS: u64 = 1 << 23;
/// Memory that panels are read to comes in multiples of this.
const ALIGN: u64 = 4096;
/// What direct reads need around a panel.
const MARGIN: u64 = 2 * ALIGN;

/// What must be in memory besides weights, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// What the process has already: program, vocabulary.
    pub process: u64,
    /// Values of a pass, logits, scratch.
    pub workspace: u64,
    /// Keys and values.
    pub state: u64,
}

impl Needs {
    pub(super) fn total(&self) -> u64 {
        self.process.saturating_add(self.workspace).saturating_add(self.state)
    }
}

/// What may be spent, and in which pieces.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Bytes of memory for everything.
    pub budget: u64,
    /// Bytes of a panel, about: what the drive reads best at once.
    pub block: u64,
    /// Whether weights may be streamed at all.
    pub stream: bool,
    /// Whether the ring is to hold all that a stage streams, for passes of several tiles.
    pub stages: bool,
    /// Where `budget` is that of a device with memory of its own: bytes of the host's memory for weights that the device
    /// has no room for, and for the ring by which they come from the drive.
    pub host: Option<u64>,
    /// Whether the host's processor may compute beside that device.
    pub beside: bool,
}

/// One panel of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Index of its unit.
    pub unit: usize,
    /// Where its bytes lie.
    pub extent: Extent,
    /// Whether only passes that give logits use it.
    pub outputs: bool,
    /// Where it is kept.
    pub home: Home,
}

/// What lives where.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Each unit's panels; their numbers are indices into `parts`.
    pub panels: Vec<Vec<Panel>>,
    /// All panels in the order of use.
    pub parts: Vec<Part>,
    /// Places of the ring, for loading and for streaming.
    pub slots: usize,
    /// Bytes of a place.
    pub slot_bytes: u64,
    /// What was promised to others.
    pub needs: Needs,
    /// What might be spent.
    pub budget: u64,
    /// Bytes of kept weights.
    pub kept: u64,
    /// Experts that come when they are wanted; empty where there are none, or all are kept.
    pub cache: Cache,
    /// Bytes that weights may take of the host's memory, where a device has its own.
    pub host: Option<u64>,
    /// Whether the host's processor computes with what the device does not keep, in passes of few tokens and with experts
    /// in any pass.
    pub beside: bool,
}

/// Bytes of one pass that gives logits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the drive.
    pub drive: u64,
    /// Weights that the processor reads from the machine's memory (streamed ones too: they pass through it).
    pub memory: u64,
    /// Over the link to a device that computes, from the host's memory or through it.
    pub link: u64,
    /// Weights that a device reads from its own memory.
    pub device: u64,
}

impl Plan {
    /// Plans a model's memory.
    ///
    /// # Errors
    /// `Limit` when the budget is too small for what must be in memory, naming the smallest that works.
    pub fn new(units: &[Unit], needs: Needs, policy: &Policy) -> Result<Plan> {
        let mut plan = cut(units, needs, policy, &|_| false)?;
        let whole = bytes(units.iter());
        // Loading takes the ring too, but not on a device.
        let ring = if policy.host.is_some() { 0 } else { plan.ring() };
        let need = whole.saturating_add(needs.total()).saturating_add(ring);
        if need <= policy.budget {
            plan.kept = whole;
            return Ok(plan);
        }
        if !policy.stream {
            return Err(too_small(policy.budget, need, "weights, which cannot be streamed here"));
        }
        if policy.beside {
            return Plan::beside_device(units, needs, policy);
        }
        if units.iter().any(Unit::is_expert) {
            plan = cut(units, needs, policy, &Unit::is_expert)?;
            plan.cache = Cache::new(units, &plan.panels, &plan.parts, &Unit::is_expert);
        }
        match policy.stages {
            true => plan.widen(units, policy.budget)?,
            false => plan.spread(units, policy.budget, &anywhere)?,
        }
        plan.keep_on_host();
        Ok(plan)
    }

    /// Whether any weight is not kept.
    pub fn streams(&self) -> bool {
        self.parts.iter().any(|p| p.home != Home::Memory)
    }

    /// Bytes of the file's weights that are streamed.
    pub fn streamed(&self) -> u64 {
        self.in_home(Home::Stream)
    }

    /// Bytes of weights that the host keeps for a device.
    pub fn hosted(&self) -> u64 {
        self.in_home(Home::Host)
    }

    fn in_home(&self, home: Home) -> u64 {
        self.parts.iter().filter(|p| p.home == home).map(|p| p.extent.len).sum()
    }

    /// Bytes of weights that come to a device with memory of its own in each pass that computes all there.
    pub fn carried(&self) -> u64 {
        if self.host.is_some() { self.streamed() + self.hosted() } else { 0 }
    }

    /// Whether passes bring weights: streamed ones, those that the host keeps, or experts that have no place.
    pub fn brings(&self) -> bool {
        self.streamed() + self.hosted() > 0 || self.cache.places < self.cache.experts.len()
    }

    /// Bytes of the file's weights that are not kept.
    pub fn away(&self) -> u64 {
        self.parts.iter().filter(|p| p.home != Home::Memory).map(|p| p.extent.len).sum()
    }

    /// All that the plan lets the process have.
    pub fn memory(&self) -> u64 {
        // Experts that a device does not keep are in the host's memory.
        let cache = if self.host.is_some() { 0 } else { self.cache.bytes() };
        let weights = self.kept.saturating_add(cache);
        self.needs.total().saturating_add(self.ring_used()).saturating_add(weights)
    }

    /// Bytes of a pass with so many tokens; of experts, if all were wanted alike.
    pub fn traffic(&self, units: &[Unit], tokens: u32) -> Traffic {
        self.traffic_at(units, tokens, self.cache.uniform_hits())
    }

    /// Bytes of a pass with so many tokens when this share of the wanted experts is in the cache. Tokens choose their
    /// experts alone: some of them the same.
    pub fn traffic_at(&self, units: &[Unit], tokens: u32, hits: f64) -> Traffic {
        let carried = self.carried();
        let link = if self.is_few(tokens) { carried - self.beside_bytes(units) } else { carried };
        let mut t = Traffic { drive: self.streamed(), memory: carried - link, link, device: 0 };
        for (u, panels) in units.iter().zip(&self.panels) {
            let away = panels.iter().any(|p| matches!(p.home, Home::Drive | Home::Cache));
            let cached = panels.iter().any(|p| p.home == Home::Cache);
            let (memory, drive) = match u.usage {
                Use::Rows => (u.row_bytes() * u64::from(tokens), u.row_bytes() * u64::from(tokens)),
                Use::Experts(used) => {
                    let unused = 1.0 - (used as f64 / u.experts.max(1) as f64).min(1.0);
                    let bytes = (u.extent.len as f64 * (1.0 - unused.powf(tokens.into()))).round() as u64;
                    (bytes, (bytes as f64 * (1.0 - hits)) as u64)
                }
                _ => (u.extent.len, 0),
            };
            match self.host.is_none() || cached {
                true => t.memory += memory,
                false => t.device += memory,
            }
            t.drive += if away { drive } else { 0 };
        }
        // What the processor computes with the device does not read.
        t.device -= (carried - link).min(t.device);
        t
    }

    /// Gives panels their homes: what `home` says, and of those for which it says none as many in memory as the budget
    /// has room for, evenly along the pass.
    fn spread(&mut self, units: &[Unit], budget: u64, home: &dyn Fn(&Unit) -> Option<Home>) -> Result<()> {
        // Experts that a device does not keep are in the host's memory.
        let cached = if self.host.is_some() { 0 } else { self.cache.bytes() };
        let fixed = self.fixed().saturating_add(cached);
        let small = bytes(units.iter().filter(|u| home(u) == Some(Home::Memory)));
        let least = fixed.saturating_add(small);
        let Some(room) = budget.checked_sub(least) else {
            let mib = |n: u64| n.div_ceil(1 << 20);
            let Needs { process, workspace, state } = self.needs;
            let experts = match cached {
                0 => String::new(),
                n => format!(", {} of {} experts at once", mib(n), self.cache.places),
            };
            let what = format!(
                "what must be in memory ({} MiB of program, {} of context, {} of workspace, {} of streaming buffers, {} \
                 of small weights{experts})",
                mib(process),
                mib(state),
                mib(workspace),
                mib(self.ring()),
                mib(small)
            );
            return Err(too_small(budget, least, &what));
        };
        let cyclic = bytes(units.iter().filter(|u| home(u).is_none()));
        let mut turns = Turns::new(room, cyclic);
        self.kept = small;
        for (unit, panels) in units.iter().zip(&mut self.panels) {
            let home = home(unit);
            for panel in panels {
                let bytes = unit.kept(panel.rows.len());
                panel.home = match home {
                    Some(home) => home,
                    None if turns.takes(bytes) => {
                        self.kept += bytes;
                        Home::Memory
                    }
                    None => Home::Stream,
                };
                self.parts[panel.number as usize].home = panel.home;
            }
        }
        if self.host.is_none() {
            self.cache.grow(turns.left());
        }
        Ok(())
    }
}

/// The home of a weight's panels where nothing but its use and size decides, if they do.
fn anywhere(unit: &Unit) -> Option<Home> {
    if unit.may_leave() { cache::home(unit.usage) } else { Some(Home::Memory) }
}

/// Bytes of whole units, kept.
fn bytes<'a>(units: impl Iterator<Item = &'a Unit>) -> u64 {
    units.map(Unit::kept_whole).fold(0, u64::saturating_add)
}

/// All panels, in memory for now, and the ring; which experts will be cached.
///
/// # Errors
/// `Limit` for more panels than any model needs: a list of them would itself eat the memory.
fn cut(units: &[Unit], needs: Needs, policy: &Policy, cached: &dyn Fn(&Unit) -> bool) -> Result<Plan> {
    let (mut panels, mut parts) = (vec![], vec![]);
    let mut widest = 0;
    for (n, u) in units.iter().enumerate() {
        let (row, outputs) = (u.row_bytes(), matches!(u.usage, Use::Outputs | Use::OutputsAndRows));
        let cached = cached(u);
        let block = if cached { policy.block.max(EXPERT) } else { policy.block };
        let most = (block / row.max(1)) as usize / GROUP * GROUP;
        let count = u.rows.div_ceil(most.max(GROUP));
        let rows = u.rows.div_ceil(count).next_multiple_of(GROUP);
        let more = (u.rows.div_ceil(rows) as u64).saturating_mul(u.experts as u64);
        if more.saturating_add(parts.len() as u64) > MOST_PANELS {
            let name = &u.name;
            return Err(Error::Limit(format!(
                "tensor {name}: the weights are more than {MOST_PANELS} pieces; air can run models of fewer"
            )));
        }
        let mut mine = vec![];
        for expert in 0..u.experts {
            for first in (0..u.rows).step_by(rows) {
                let len = rows.min(u.rows - first);
                let first = expert * u.rows + first;
                let number = parts.len() as u32;
                let extent = Extent {
                    source: u.extent.source,
                    offset: u.extent.offset + first as u64 * row,
                    len: len as u64 * row,
                };
                // A processor's layout has whole groups.
                widest = widest.max(if cached { 0 } else { len.next_multiple_of(GROUP) as u64 * row });
                parts.push(Part { unit: n, extent, outputs, home: Home::Memory });
                mine.push(Panel { number, rows: first..first + len, home: Home::Memory });
            }
        }
        panels.push(mine);
    }
    let slot_bytes = widest.saturating_add(MARGIN).min(u64::MAX / 2).next_multiple_of(ALIGN);
    let slots = ring::places(policy.budget, slot_bytes, parts.len(), policy.host.is_some());
    Ok(Plan {
        panels,
        parts,
        slots,
        slot_bytes,
        needs,
        budget: policy.budget,
        kept: 0,
        cache: Cache::default(),
        host: policy.host,
        beside: false,
    })
}

fn too_small(have: u64, need: u64, what: &str) -> Error {
    let mib = |n: u64| n.div_ceil(1 << 20);
    Error::Limit(format!(
        "a memory budget of {} MiB is too small for {what}: the smallest that works is {} MiB; a smaller context or state \
         type needs less",
        have >> 20,
        mib(need)
    ))
}
