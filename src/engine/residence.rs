//! From a lowered model to a plan of its memory: what each weight is used for, and what else must be in memory.

use super::device::Room;
use super::load::LoadOptions;
use super::memory;
use crate::error::{Error, Result};
use crate::format::{Catalogue, TensorInfo};
use crate::hal::{Backend, Home, Hybrid, KvLayout, Reservation};
use crate::io;
use crate::lower::Lowered;
use crate::op::{Op, RowSet};
use crate::plan::{Needs, Plan, Policy, Unit, Use};
use std::time::Duration;

/// Bytes of a panel where nothing is known of the drive.
const BLOCK: u64 = 1 << 20;
/// What it may be where something is: a ring has many, and several threads share one.
const BLOCKS: std::ops::RangeInclusive<u64> = 512 << 10..=4 << 20;

/// Cores that compute notice late that a read has ended: for so long the drive has more to do than it needs.
const LATE: Duration = Duration::from_millis(4);
/// Depths at which the drive is slower than this share of its best are not taken for that.
const STILL_GOOD: f64 = 0.8;

/// Rows of the longest pass: beyond it, reading the weights once more is little beside computing.
const LONGEST: usize = 4096;
/// The share of the budget that long passes may take from the weights that are kept.
const LONGER: u64 = 16;

/// A pass that brings fewer bytes says nothing about the drive.
const ENOUGH: u64 = 64 << 20;
/// By how much it may be faster than when it was probed, before that counts as wrong.
const OUTDATED: f64 = 1.3;

/// Rows of passes that are longer than a batch, to be tried in this order, where sequences have so many positions.
pub(super) fn longer_passes(max_rows: usize, positions: u64) -> impl Iterator<Item = usize> {
    let all = usize::try_from(positions).unwrap_or(LONGEST).next_multiple_of(max_rows).min(LONGEST);
    std::iter::successors(Some(all), |rows| Some(rows / 2)).take_while(move |&rows| rows > max_rows)
}

/// The model's weights as the planner sees them, in the order of `Lowered::weights`.
pub(super) fn units(lowered: &Lowered, tensors: &[&TensorInfo]) -> Vec<Unit> {
    let mut usage: Vec<Option<Use>> = vec![None; lowered.weights.len()];
    let mut stages = vec![usize::MAX; lowered.weights.len()];
    let mut beside = vec![true; lowered.weights.len()];
    for (n, stage) in lowered.stages.iter().enumerate() {
        let program = &lowered.programs[stage.program];
        stage.weights.iter().for_each(|&w| {
            stages[w] = stages[w].min(n);
            beside[w] &= Hybrid::may_compute(program);
        });
        for op in &program.ops {
            let (slot, is) = match *op {
                Op::Embed { table, .. } => (table, Use::Rows),
                Op::MatMul { weight, out, .. } if program.value(out).rows == RowSet::Outputs => (weight, Use::Outputs),
                Op::ExpertMatMul { weight, ids, .. } => (weight, Use::Experts(program.value(ids).width)),
                _ => continue,
            };
            let known = &mut usage[stage.weights[slot.0 as usize]];
            *known = Some(match (*known, is) {
                (Some(Use::Rows), Use::Outputs) | (Some(Use::Outputs), Use::Rows) => Use::OutputsAndRows,
                _ => is,
            });
        }
    }
    let unit = |(i, (tensor, usage)): (usize, (&&TensorInfo, Option<Use>))| {
        let shape = &lowered.weights[i].shape;
        Unit {
            name: tensor.name.clone(),
            format: tensor.format,
            cols: shape[0],
            rows: shape.get(1).copied().unwrap_or(1),
            experts: shape.get(2).copied().unwrap_or(1),
            matrix: lowered.is_matrix(i),
            extent: tensor.extent,
            usage: usage.unwrap_or(Use::Pass),
            stage: stages[i],
            beside: beside[i],
        }
    };
    tensors.iter().zip(usage).enumerate().map(unit).collect()
}

/// Bytes that everything may take together of the memory where the model is computed with: what was asked for, or what
/// the machine and its cgroup leave, or what is free on the GPU; less a twentieth for what others do meanwhile, and for
/// what the driver takes beside.
pub(super) fn budget(options: &LoadOptions, room: Room) -> u64 {
    match (room, options.vram_budget) {
        (Room::Gpu { free, .. }, Some(size)) => size.of(free).min(free),
        (Room::Gpu { free, .. }, None) => free / 20 * 19,
        (Room::Machine, _) => machine_budget(options),
    }
}

/// The same of the machine's memory.
fn machine_budget(options: &LoadOptions) -> u64 {
    let all = memory::resident() + memory::available();
    options.ram_budget.map_or(all / 20 * 19, |size| size.of(all))
}

/// Bytes that weights may take of the machine's memory where a GPU computes.
fn host_budget(options: &LoadOptions, room: Room) -> Option<u64> {
    (room != Room::Machine).then(|| machine_budget(options).saturating_sub(memory::resident()))
}

/// What lives where, and how the rest is read.
#[derive(Debug, Clone)]
pub struct Residence {
    /// The model's weights, in the order of use.
    pub units: Vec<Unit>,
    /// Their homes.
    pub plan: Plan,
    /// What was found out about the drive, where weights are streamed from it.
    pub drive: Option<io::Probed>,
    /// Whether it has turned out to be faster than that.
    outdated: bool,
    /// How it is read.
    pub reader: io::Options,
    /// Most rows of a pass: one batch, or several tiles that share each stage's weights (`lengthen`).
    pub pass_rows: usize,
    /// Whether it is a GPU's memory that is planned.
    pub on_gpu: bool,
    /// Bytes of that memory which other programs held before, where that is known and leaves less than is wanted.
    pub others: u64,
    /// Bytes of the machine's that a processor beside the GPU works with.
    beside: u64,
    policy: Policy,
}

impl Residence {
    /// Plans the memory of a model whose programs the backend has compiled. Where weights must be streamed, the drive
    /// is asked for the reads that it likes, which takes a second where it is not known.
    ///
    /// # Errors
    /// Those of `Plan::new` and of reading.
    pub(super) fn plan(
        catalogue: &Catalogue,
        units: Vec<Unit>,
        backend: &dyn Backend,
        room: Room,
        reservation: &Reservation,
        options: &LoadOptions,
    ) -> Result<Residence> {
        let on_gpu = room != Room::Machine;
        let needs = Needs {
            process: if on_gpu { 0 } else { memory::resident() },
            workspace: backend.workspace(reservation),
            state: state_bytes(reservation.kv),
        };
        let (is_beside, beside) = backend.beside(reservation).map_or((false, 0), |bytes| (true, bytes));
        let policy = Policy {
            budget: budget(options, room),
            block: if on_gpu { *BLOCKS.end() } else { BLOCK },
            stream: !options.exact,
            stages: false,
            host: host_budget(options, room).map(|host| host.saturating_sub(beside)),
            beside: is_beside,
        };
        let plan = Plan::new(&units, needs, &policy)?;
        if on_gpu && !plan.beside && !plan.cache.experts.is_empty() {
            let what = "a mixture of experts that does not fit into the GPU's memory".into();
            return Err(Error::Unsupported { what, instead: "use --device cpu".into() });
        }
        let (reader, pass_rows) = (options.reader.clone(), reservation.pass_rows);
        let (drive, outdated, others) = (None, false, room.others());
        let mut of = Residence { units, plan, drive, outdated, reader, pass_rows, on_gpu, others, beside, policy };
        let largest = catalogue.sources.iter().max_by_key(|s| s.len());
        let ask = || match (options.drive_rate, largest) {
            (Some(rate), _) => Ok(Some(io::Probed::given(rate))),
            (None, Some(source)) => io::probe(source, &options.reader, false),
            (None, None) => Ok(None),
        };
        let from_drive = |p: &crate::plan::Part| !matches!(p.home, Home::Memory | Home::Host);
        if of.plan.parts.iter().any(from_drive)
            && let Some(probed) = ask()?
        {
            // A link carries small pieces at less than its full speed.
            let least = if on_gpu { *BLOCKS.end() / 2 } else { *BLOCKS.start() };
            of.policy.block = (probed.best.block as u64).clamp(least, *BLOCKS.end());
            of.plan = Plan::new(&of.units, needs, &of.policy)?;
            of.reader.depth = depth(&probed, of.plan.slots);
            of.drive = Some(probed);
        }
        Ok(of)
    }

    /// Lets passes have as many rows as a longer reservation, so that a prompt of so many tokens reads what is streamed
    /// once. False, and nothing changes, where that spares no reading, or where the longer carries and the larger ring
    /// take more than a sixteenth of the budget from the weights that are kept.
    pub(super) fn lengthen(&mut self, backend: &dyn Backend, reservation: &Reservation) -> bool {
        if !self.plan.brings() {
            return false;
        }
        let workspace = backend.workspace(reservation);
        let needs = Needs { workspace, state: state_bytes(reservation.kv), ..self.plan.needs };
        // A processor beside a GPU needs more, too.
        let more = backend.beside(reservation).unwrap_or(0).saturating_sub(self.beside);
        let host = self.policy.host.map(|host| host.saturating_sub(more));
        // A GPU has no tiles: a pass is one batch.
        let policy = Policy { stages: !self.on_gpu, host, ..self.policy };
        let Ok(plan) = Plan::new(&self.units, needs, &policy) else { return false };
        let experts = self.units.iter().filter(|u| matches!(u.usage, Use::Experts(_))).map(|u| u.experts).max();
        // Tiles share a layer's experts where the cache has places for them all.
        let shares = plan.streamed() + plan.hosted() > 0 || experts.is_some_and(|all| plan.cache.places >= all);
        // Of what is beside a GPU as little may leave.
        let stays = policy.host.is_none_or(|host| {
            let places = |of: &Plan| of.cache.places as u64;
            plan.streamed() <= self.plan.streamed().saturating_add(host / LONGER)
                && places(&plan) * LONGER >= places(&self.plan) * (LONGER - 1)
        });
        let fits = shares && stays && plan.fixed() <= self.plan.fixed().saturating_add(policy.budget / LONGER);
        if fits {
            (self.plan, self.pass_rows, self.policy) = (plan, reservation.pass_rows, policy);
            self.beside += more;
        }
        fits
    }

    /// Whether kept weights may be streamed later.
    pub fn movable(&self) -> bool {
        self.policy.stream && !self.on_gpu
    }

    /// The ring on the device, for a backend that has memory of its own: places, and bytes of each.
    pub(super) fn ring(&self) -> (usize, u64) {
        let passes = self.on_gpu && self.plan.carried() > 0;
        if passes { (self.plan.slots, self.plan.slot_bytes) } else { (0, 0) }
    }

    /// Bytes per second of the drive, where it matters.
    pub fn drive_rate(&self) -> Option<f64> {
        self.drive.as_ref().map(|d| d.best.rate)
    }

    /// A pass has brought so many bytes. A drive that is so much faster than it was when it was probed (its first reads
    /// of a file that nobody read for long may be slow) is asked again by the next program.
    pub(super) fn brought(&mut self, bytes: u64, time: Duration) {
        if !self.outdated
            && let Some(drive) = self.drive.as_ref().filter(|d| is_outdated(d, bytes, time))
        {
            self.outdated = true;
            drive.forget();
        }
    }

    /// For people, behind the name of the device: nothing where all weights are kept.
    pub(super) fn words(&self) -> String {
        let plan = &self.plan;
        let all: u64 = self.units.iter().map(|u| u.extent.len).sum();
        if !plan.brings() {
            return String::new();
        }
        let experts = match plan.cache.experts.len() {
            0 => String::new(),
            all => format!(", room for {} of {all} experts", plan.cache.places),
        };
        let mb = |bytes: u64| bytes / 1_000_000;
        let (kept, all, streamed) = (mb(all - plan.away()), mb(all), mb(plan.streamed()));
        let others = match mb(self.others) {
            0 => String::new(),
            others => format!(" (other programs hold {others} MB there)"),
        };
        match self.on_gpu {
            true if plan.beside => {
                let cached: u64 = plan.parts.iter().filter(|p| p.home == Home::Cache).map(|p| p.extent.len).sum();
                format!(
                    "; {kept} of {all} MB of weights on the GPU{others}, {} MB beside it{experts}, {streamed} MB \
                     streamed in each pass",
                    mb(plan.hosted() + cached)
                )
            }
            true => format!(
                "; {kept} of {all} MB of weights on the GPU{others}, {} MB carried from memory and {streamed} MB from \
                 the drive in each pass",
                mb(plan.hosted())
            ),
            false => {
                // Of an embedding a pass needs one row a token.
                let rows = match mb(plan.away() - plan.streamed()) {
                    rows if rows > 0 && plan.cache.experts.is_empty() => format!(", {rows} MB read row by row"),
                    _ => String::new(),
                };
                format!("; {kept} of {all} MB of weights in memory, {streamed} MB streamed in each pass{rows}{experts}")
            }
        }
    }
}

/// Reads at once while others compute: what the drive likes best and what it reads in `LATE`, at most half of the ring,
/// and no depth that this drive was seen to dislike.
fn depth(probed: &io::Probed, slots: usize) -> usize {
    let io::Drive { rate, block, depth } = probed.best;
    let late = (rate * LATE.as_secs_f64() / block as f64).ceil() as usize;
    let most = (depth + late).min(slots / 2).min(io::MOST_DEPTH);
    let bad = probed.tried.iter().filter(|d| d.depth > depth && d.rate < rate * STILL_GOOD).map(|d| d.depth).min();
    bad.map_or(most, |bad| most.min(bad / 2)).max(depth)
}

/// Whether the drive is faster than what is known of it.
fn is_outdated(known: &io::Probed, bytes: u64, time: Duration) -> bool {
    bytes >= ENOUGH && bytes as f64 > known.best.rate * OUTDATED * time.as_secs_f64()
}

/// Bytes of all pages.
pub(super) fn state_bytes(kv: &KvLayout) -> u64 {
    (0..kv.groups.len()).map(|g| kv.page_bytes(g) as u64 * kv.groups[g].pages as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use io::{Drive, Probed};

    fn probed(rates: &[(usize, f64)]) -> Probed {
        let tried: Vec<Drive> = rates.iter().map(|&(depth, rate)| Drive { rate, block: 1 << 20, depth }).collect();
        Probed { best: tried[0], tried, ..Probed::given(0.0) }
    }

    #[test]
    fn a_drive_that_is_faster_than_it_was_is_noticed() {
        let known = probed(&[(2, 1e9)]);
        let noticed = |bytes, millis| is_outdated(&known, bytes, Duration::from_millis(millis));
        assert!(noticed(1_400_000_000, 1000) && !noticed(1_200_000_000, 1000));
        assert!(!noticed(60 << 20, 1), "what the ring had begun to read says nothing");
        assert!(!noticed(900_000_000, 3000), "a slower one is what cores or other programs make of it");
    }

    #[test]
    fn more_is_read_at_once_while_cores_compute_unless_the_drive_dislikes_it() {
        let alike = probed(&[(2, 2.1e9), (4, 2.0e9), (8, 1.9e9), (32, 1.8e9)]);
        assert_eq!(depth(&alike, 64), 2 + 9, "four milliseconds at 2.1 GB/s are 8.4 MB");
        assert_eq!(depth(&alike, 12), 6, "half of the ring");
        assert_eq!(depth(&alike, 3), 2, "never less than the drive likes");
        assert_eq!(depth(&probed(&[(2, 2.1e9), (4, 2.0e9), (8, 1.5e9)]), 64), 4, "8 at once were bad");
        assert_eq!(depth(&probed(&[(1, 0.2e9)]), 64), 2, "a slow drive needs little");
        assert_eq!(depth(&probed(&[(16, 14e9)]), 200), io::MOST_DEPTH);
    }
}
