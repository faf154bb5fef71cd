//! Where the panels of one matrix are, and the parts that follow from it.
//!
//! A panel that is kept when the matrix is loaded has its place in the matrix's memory for good, also while it is given
//! back; neighbours in memory are one part, so that tasks are cut as if there were no panels.

use super::layout::groups;
use super::simd::LANES;
use crate::hal::{Home, Panel, WeightDesc};
use std::ops::Range;

/// Groups of one expert that have one home.
#[derive(Debug, Clone)]
pub struct Part {
    /// Which expert's.
    pub expert: usize,
    /// Groups of sixteen rows of that expert.
    pub groups: Range<usize>,
    /// Where they are.
    pub from: From,
}

/// Where the groups of a part are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// Interleaved, from this byte of the matrix's memory on.
    Memory(usize),
    /// In this panel of the supply, row after row.
    Stream(u32),
    /// In this panel of the supply, interleaved.
    Host(u32),
    /// In this panel of the supply, once it is wanted, row after row.
    Cache(u32),
    /// In this panel of the supply, never as a whole.
    Drive(u32),
}

/// The panels of a matrix.
#[derive(Debug)]
pub struct Homes {
    panels: Vec<Panel>,
    /// For each, its first byte in memory, if it has a place there.
    starts: Vec<Option<usize>>,
    /// Rows (of one expert).
    rows: usize,
    group_bytes: usize,
    /// Whether what the supply keeps lies as here.
    arranged: bool,
    /// In order.
    parts: Vec<Part>,
}

impl Homes {
    /// Those of a weight, and the bytes of those that are kept (none where that overflows).
    pub fn new(weight: &WeightDesc, group_bytes: usize) -> (Homes, Option<usize>) {
        let mut total = Some(0usize);
        let mut place = |p: &Panel| {
            (p.home == Home::Memory).then(|| {
                let start = total.unwrap_or(0);
                total = total.and_then(|t| t.checked_add(group_bytes.checked_mul(groups(p.rows.len()))?));
                start
            })
        };
        let starts = weight.panels.iter().map(&mut place).collect();
        let (panels, rows, arranged) = (weight.panels.to_vec(), weight.rows, weight.arranged);
        let mut homes = Homes { panels, starts, rows, group_bytes, arranged, parts: vec![] };
        homes.join();
        (homes, total)
    }

    /// All parts, in order.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The panels that live in memory, and the byte at which each begins.
    pub fn kept(&self) -> Vec<(Panel, usize)> {
        let kept = self.panels.iter().zip(&self.starts).filter(|(p, _)| p.home == Home::Memory);
        kept.filter_map(|(p, start)| Some((p.clone(), (*start)?))).collect()
    }

    /// Its bytes in memory, if a panel has a place there.
    pub fn place(&self, panel: &Panel) -> Option<Range<usize>> {
        let start = self.starts[self.index(panel)?]?;
        Some(start..start + groups(panel.rows.len()) * self.group_bytes)
    }

    /// A panel is somewhere else from now on.
    pub fn set(&mut self, panel: &Panel) {
        if let Some(i) = self.index(panel) {
            self.panels[i].home = panel.home;
            self.join();
        }
    }

    fn index(&self, panel: &Panel) -> Option<usize> {
        self.panels.binary_search_by_key(&panel.rows.start, |p| p.rows.start).ok()
    }

    fn join(&mut self) {
        self.parts.clear();
        for (p, start) in self.panels.iter().zip(&self.starts) {
            let expert = p.rows.start / self.rows;
            let first = (p.rows.start - expert * self.rows) / LANES;
            let groups = first..first + groups(p.rows.len());
            let from = match p.home {
                Home::Memory => From::Memory(start.expect("what is kept has a place")),
                Home::Host if self.arranged => From::Host(p.number),
                Home::Stream | Home::Host => From::Stream(p.number),
                Home::Cache => From::Cache(p.number),
                Home::Drive => From::Drive(p.number),
            };
            if let (Some(last), From::Memory(start)) = (self.parts.last_mut(), from)
                && let From::Memory(before) = last.from
                && last.expert == expert
                && before + last.groups.len() * self.group_bytes == start
            {
                last.groups.end = groups.end;
                continue;
            }
            self.parts.push(Part { expert, groups, from });
        }
    }
}
