//! Panels that change their home while a model runs, because memory became short or came back.
//!
//! Only what was kept when the model was loaded has a place to come back to. A table of rows goes first, since no pass
//! multiplies with it; then panels, so that what stays is as even along a pass as the planner made it: where two were
//! kept one after another the drive has the longest rest, so one of them goes. Nothing is moved that need not be, and
//! the way back is the same the other way round. Experts that are kept stay: where they may go they are cached.

use super::{Plan, Unit, Use, cache};
use crate::hal::{Home, Panel};
use std::collections::BTreeSet;

/// Panels that were kept when the model was loaded, and are not now.
#[derive(Debug, Clone, Default)]
pub struct Given(BTreeSet<u32>);

impl Plan {
    /// A panel and its unit, by its number.
    pub fn panel(&self, number: u32) -> (usize, &Panel) {
        let unit = self.parts[number as usize].unit;
        (unit, &self.panels[unit][self.place(number)])
    }

    fn place(&self, number: u32) -> usize {
        (number - self.panels[self.parts[number as usize].unit][0].number) as usize
    }

    fn set_home(&mut self, number: u32, home: Home) {
        let (unit, place) = (self.parts[number as usize].unit, self.place(number));
        self.panels[unit][place].home = home;
        self.parts[number as usize].home = home;
    }

    /// Bytes of a panel, kept.
    fn bytes_of(&self, units: &[Unit], number: u32) -> u64 {
        let (unit, panel) = self.panel(number);
        units[unit].kept(panel.rows.len())
    }

    /// Numbers of panels that may be given back if they are kept: of tables of rows, or of all others.
    fn movable(&self, units: &[Unit], rows: bool) -> Vec<u32> {
        let movable = |u: &Unit| u.may_leave() && !u.is_expert() && (u.usage == Use::Rows) == rows;
        (0u32..).zip(&self.parts).filter(|(_, p)| movable(&units[p.unit])).map(|(n, _)| n).collect()
    }

    /// Bytes of weights that may be given back.
    pub fn may_give(&self, units: &[Unit]) -> u64 {
        let all = [true, false].into_iter().flat_map(|rows| self.movable(units, rows));
        all.filter(|&n| self.parts[n as usize].home == Home::Memory).map(|n| self.bytes_of(units, n)).sum()
    }
}

impl Given {
    /// Bytes of the panels that are away.
    pub fn bytes(&self, plan: &Plan, units: &[Unit]) -> u64 {
        self.0.iter().map(|&n| plan.bytes_of(units, n)).sum()
    }

    /// Gives panels other homes until `bytes` are given back, or all that may go; their numbers.
    pub fn give(&mut self, plan: &mut Plan, units: &[Unit], bytes: u64) -> Vec<u32> {
        let (mut gone, mut left) = (vec![], bytes);
        let is_kept = |plan: &Plan, n: u32| plan.parts[n as usize].home == Home::Memory;
        for n in plan.movable(units, true) {
            if left > 0 && is_kept(plan, n) {
                left = left.saturating_sub(plan.bytes_of(units, n));
                gone.push(n);
            }
        }
        let cyclic = plan.movable(units, false);
        let sum = |panels: &mut dyn Iterator<Item = &u32>| panels.map(|&n| plan.bytes_of(units, n)).sum::<u64>();
        let (all, kept) = (sum(&mut cyclic.iter()), sum(&mut cyclic.iter().filter(|&&n| is_kept(plan, n))));
        let mut stays = kept.saturating_sub(left);
        let (share, mut due) = (stays as f64 / all.max(1) as f64, 0.0);
        for n in cyclic.into_iter().filter(|_| left > 0) {
            let bytes = plan.bytes_of(units, n);
            due += bytes as f64 * share;
            if !is_kept(plan, n) {
                continue;
            }
            if due >= bytes as f64 / 2.0 && bytes <= stays {
                due -= bytes as f64;
                stays -= bytes;
            } else {
                gone.push(n);
            }
        }
        gone.iter().for_each(|&n| self.leave(plan, units, n));
        gone
    }

    /// Gives panels that are away their places in memory again, of `bytes` at most; their numbers.
    pub fn take(&mut self, plan: &mut Plan, units: &[Unit], bytes: u64) -> Vec<u32> {
        let (mut back, mut left) = (vec![], bytes);
        let cyclic = plan.movable(units, false);
        let (mut all, mut kept) = (0, 0);
        for &n in &cyclic {
            let bytes = plan.bytes_of(units, n);
            all += bytes;
            kept += if plan.parts[n as usize].home == Home::Memory { bytes } else { 0 };
        }
        let (share, mut due) = ((kept + bytes) as f64 / all.max(1) as f64, 0.0);
        for n in cyclic {
            let bytes = plan.bytes_of(units, n);
            due += bytes as f64 * share;
            if plan.parts[n as usize].home == Home::Memory {
                due -= bytes as f64;
            } else if self.0.contains(&n) && due >= bytes as f64 / 2.0 && bytes <= left {
                due -= bytes as f64;
                left -= bytes;
                back.push(n);
            }
        }
        let (rows, others): (Vec<u32>, Vec<u32>) =
            self.0.iter().partition(|&&n| units[plan.parts[n as usize].unit].usage == Use::Rows);
        // Where the turns have none that fits, any; the rows when nothing else is away.
        let mut rest = vec![];
        if back.is_empty() {
            rest.extend(others.iter().find(|&&n| plan.bytes_of(units, n) <= left));
        }
        if others.len() == back.len() + rest.len() {
            rest.extend(rows);
        }
        for n in rest {
            let bytes = plan.bytes_of(units, n);
            if bytes <= left {
                left -= bytes;
                back.push(n);
            }
        }
        back.sort_unstable();
        for &n in &back {
            self.0.remove(&n);
            plan.set_home(n, Home::Memory);
            plan.kept += plan.bytes_of(units, n);
        }
        back
    }

    /// A panel is away from now on.
    pub fn leave(&mut self, plan: &mut Plan, units: &[Unit], number: u32) {
        let away = cache::home(units[plan.parts[number as usize].unit].usage);
        plan.set_home(number, away.unwrap_or(Home::Stream));
        plan.kept -= plan.bytes_of(units, number);
        self.0.insert(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::{MIB, model, plan};

    /// By how many bytes the drive is ahead of its even share, or behind it, at the worst place of a pass.
    fn unevenness(plan: &Plan, units: &[Unit]) -> u64 {
        let cyclic = plan.movable(units, false);
        let all: u64 = cyclic.iter().map(|&n| plan.bytes_of(units, n)).sum();
        let (mut passed, mut read, mut worst) = (0, 0, 0);
        for n in cyclic {
            passed += plan.bytes_of(units, n);
            read += if plan.parts[n as usize].home == Home::Stream { plan.bytes_of(units, n) } else { 0 };
            worst = worst.max(read.abs_diff((passed as f64 / all as f64 * plan.streamed() as f64) as u64));
        }
        worst
    }

    fn kept(plan: &Plan, units: &[Unit]) -> u64 {
        let kept = (0u32..).zip(&plan.parts).filter(|(_, p)| p.home == Home::Memory);
        kept.map(|(n, _)| plan.bytes_of(units, n)).sum()
    }

    #[test]
    fn what_is_asked_for_is_given_evenly_and_comes_back() {
        let units = model();
        for budget in [400, 100, 75] {
            let loaded = plan(budget * MIB).unwrap();
            let (mut plan, mut given) = (loaded.clone(), Given::default());
            assert_eq!(plan.kept, kept(&plan, &units));
            let most = plan.may_give(&units);
            let mut asked = 0;
            while plan.may_give(&units) > 0 {
                let (before, bytes) = (plan.kept, (7 * MIB).min(plan.may_give(&units)));
                let panels = given.give(&mut plan, &units, bytes);
                asked += bytes;
                // The table of rows goes as whole panels, and of the turns a panel more may be due.
                let over = before - plan.kept - bytes;
                assert!(over <= 2 * MIB, "{over} bytes too many");
                assert!(panels.iter().all(|&n| plan.parts[n as usize].home != Home::Memory));
                assert_eq!((plan.kept, given.bytes(&plan, &units)), (kept(&plan, &units), loaded.kept - plan.kept));
                for (number, part) in (0u32..).zip(&plan.parts) {
                    assert_eq!(plan.panel(number).1.home, part.home);
                    assert_eq!(plan.panel(number).1.number, number);
                }
                let uneven = unevenness(&plan, &units);
                assert!(uneven <= 4 * MIB, "{budget}: {uneven}");
                assert!(plan.parts.iter().zip(&loaded.parts).all(|(p, l)| l.home == Home::Memory || p.home == l.home));
            }
            assert!(asked > 30 * MIB && loaded.kept - plan.kept == most, "{asked} of {most}");
            assert!(plan.panels[0].iter().all(|p| p.home == Home::Drive));
            for bytes in std::iter::repeat_n(5 * MIB, 40) {
                let before = plan.kept;
                let panels = given.take(&mut plan, &units, bytes);
                assert!(plan.kept - before <= bytes && plan.kept == kept(&plan, &units));
                assert!(panels.is_sorted());
                let uneven = unevenness(&plan, &units);
                assert!(uneven <= 4 * MIB, "{budget}: {uneven}");
            }
            assert_eq!((&plan.parts, &plan.panels, given.bytes(&plan, &units)), (&loaded.parts, &loaded.panels, 0));
        }
    }

    #[test]
    fn the_table_of_rows_goes_first_and_comes_last() {
        let units = model();
        let (mut plan, mut given) = (plan(400 * MIB).unwrap(), Given::default());
        given.give(&mut plan, &units, 15 * MIB);
        assert_eq!((plan.streamed(), plan.panels[0][0].home), (0, Home::Drive));
        given.give(&mut plan, &units, 20 * MIB);
        let streamed = plan.streamed();
        assert!(streamed > 0 && plan.panels[0].iter().all(|p| p.home == Home::Drive));
        while plan.streamed() > 0 {
            assert!(plan.panels[0].iter().all(|p| p.home == Home::Drive));
            given.take(&mut plan, &units, 2 * MIB);
        }
        // Where too little is there for a panel none is touched.
        assert_eq!(given.take(&mut plan, &units, 1000), Vec::<u32>::new());
    }

    #[test]
    fn a_panel_that_could_not_be_read_is_still_away() {
        let units = model();
        let (mut plan, mut given) = (plan(100 * MIB).unwrap(), Given::default());
        let panels = given.give(&mut plan, &units, 5 * MIB);
        let away = (plan.parts.clone(), plan.kept);
        let back = given.take(&mut plan, &units, 50 * MIB);
        back.iter().for_each(|&n| given.leave(&mut plan, &units, n));
        assert_eq!((plan.parts, plan.kept, back), (away.0, away.1, panels));
    }
}
