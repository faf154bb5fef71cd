//! A device and a processor beside it: stages that the device has no room for are computed where their weights lie.
//!
//! With few tokens a weight is read once for little work, so the fastest place for it should be the memory that it is
//! in: a link to a device is expected to be slower than the host's memory. What needs sequence state stays with the
//! device, and so does the head; of the other stages the device gets as many as it has room for, whole ones, evenly
//! along the pass. The rest is the host's. With many tokens the device computes all dense stages, and the host's weights
//! are carried to it, in turns with its own; experts are always computed by the processor, which reads no others than
//! were chosen.

use super::turns::Turns;
use super::{BESIDE, Cache, MARGIN, Needs, Plan, Policy, Unit, anywhere, bytes, cut, ring};
use crate::error::{Error, Result};
use crate::hal::Home;
use std::collections::BTreeMap;

impl Plan {
    /// Plans for both.
    ///
    /// # Errors
    /// `Limit` where the device has no room for what must be in its memory, or the host for the experts of a token.
    pub(super) fn beside_device(units: &[Unit], needs: Needs, policy: &Policy) -> Result<Plan> {
        // Vectors are small, and both have them.
        let owns = |u: &&Unit| (!u.beside || !u.matrix) && !matches!(anywhere(u), Some(Home::Drive));
        let own = bytes(units.iter().filter(owns));
        // Experts may be cut as the ring wants panels, or as a cache does: which of them is known below.
        let alike = cut(units, needs, policy, &|_| false)?.ring();
        let apart = cut(units, needs, policy, &Unit::is_expert)?.ring();
        let ring = ring::most(policy.budget).max(alike).max(apart);
        let kept = stages(units, policy.budget.saturating_sub(needs.total().saturating_add(ring).saturating_add(own)));
        let leaves = |u: &Unit| u.beside && u.matrix && !kept[&u.stage];
        let cached = |u: &Unit| u.is_expert() && leaves(u);
        let mut plan = cut(units, needs, policy, &cached)?;
        plan.beside = true;
        plan.cache = Cache::new(units, &plan.panels, &plan.parts, &cached);
        plan.spread(units, policy.budget, &|u| match u.beside {
            true if cached(u) => Some(Home::Cache),
            true if leaves(u) => Some(Home::Stream),
            true => Some(Home::Memory),
            false => anywhere(u),
        })?;
        let need = plan.ring().saturating_add(plan.cache.bytes());
        if let Some(host) = plan.host.filter(|&host| host < need && plan.cache.places > 0) {
            // What the process has and the processor works with was taken off before, so no budget can be named here.
            let more = (need - host).div_ceil(1 << 20);
            return Err(Error::Limit(format!(
                "the machine's memory budget (--ram-budget) needs at least {more} MiB more, for the experts beside a \
                 device and for buffers"
            )));
        }
        plan.keep_on_host();
        Ok(plan)
    }

    /// Bytes that the host's processor reads in a pass of few tokens, and the link would carry otherwise.
    pub(super) fn beside_bytes(&self, units: &[Unit]) -> u64 {
        let mine = |p: &&super::Part| matches!(p.home, Home::Host | Home::Stream) && units[p.unit].beside;
        if self.beside { self.parts.iter().filter(mine).map(|p| p.extent.len).sum() } else { 0 }
    }

    /// Whether a pass with so many tokens is computed by both.
    pub(super) fn is_few(&self, tokens: u32) -> bool {
        self.beside && tokens as usize <= BESIDE
    }
}

/// Which of the stages that any processor can compute the device keeps, in so many bytes.
fn stages(units: &[Unit], room: u64) -> BTreeMap<usize, bool> {
    let mut sizes: BTreeMap<usize, u64> = BTreeMap::new();
    for unit in units.iter().filter(|u| u.beside && u.matrix) {
        *sizes.entry(unit.stage).or_default() += unit.kept_whole() + MARGIN;
    }
    let all: u64 = sizes.values().sum();
    let mut turns = Turns::new(room, all);
    let mut kept: BTreeMap<usize, bool> = sizes.iter().map(|(&stage, &bytes)| (stage, turns.takes(bytes))).collect();
    let mut left = turns.left();
    // What the turns have left over.
    for (stage, keeps) in kept.iter_mut().filter(|(_, keeps)| !**keeps) {
        if sizes[stage] <= left {
            (*keeps, left) = (true, left - sizes[stage]);
        }
    }
    kept
}
