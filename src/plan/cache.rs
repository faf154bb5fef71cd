//! Experts that do not fit: which panels come together, and the room that they get.
//!
//! A router chooses experts as the tokens want them, so no fixed set of them is right; what dense weights leave of the
//! budget is a cache of whole experts. An expert is all that one stage needs of it: its rows of every matrix. Its
//! panels come together as soon as it is chosen and leave together, so a place of the cache has a part for each of
//! them, as large as that panel is in any layer: layers may differ in formats.

use super::{ALIGN, MARGIN, Part, Unit, Use};
use crate::hal::{Home, Panel};

/// Places beyond the experts that a token uses at once: those of the next layer are read while these are still in use.
const SPARE: usize = 4;

/// The experts, and the room for them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cache {
    /// Panels of each expert of each layer, in the order of use.
    pub experts: Vec<Vec<u32>>,
    /// How many of them there is room for.
    pub places: usize,
    /// Bytes of each part of a place.
    pub sizes: Vec<u64>,
}

impl Cache {
    /// The experts of some stages of a model, as they are cut, with the least room that works.
    pub(super) fn new(units: &[Unit], panels: &[Vec<Panel>], parts: &[Part], cached: &dyn Fn(&Unit) -> bool) -> Cache {
        let mut experts: Vec<Vec<u32>> = vec![];
        let (mut first, mut most) = (0, 0);
        for (n, u) in units.iter().enumerate() {
            let Use::Experts(used) = u.usage else { continue };
            if !cached(u) {
                continue;
            }
            let before = n.checked_sub(1).map(|b| &units[b]);
            if !before.is_some_and(|b| matches!(b.usage, Use::Experts(_)) && b.experts == u.experts) {
                first = experts.len();
                experts.resize(first + u.experts, vec![]);
            }
            panels[n].iter().for_each(|p| experts[first + p.rows.start / u.rows].push(p.number));
            most = most.max(used);
        }
        let mut sizes: Vec<u64> = vec![];
        for expert in &experts {
            sizes.resize(sizes.len().max(expert.len()), 0);
            for (size, &number) in sizes.iter_mut().zip(expert) {
                *size = (*size).max((parts[number as usize].extent.len + MARGIN).next_multiple_of(ALIGN));
            }
        }
        let places = (most + SPARE).min(experts.len());
        Cache { experts, places, sizes }
    }

    /// Bytes of a place.
    pub fn place(&self) -> u64 {
        self.sizes.iter().fold(0, |sum, &size| sum.saturating_add(size))
    }

    /// Bytes of all places.
    pub fn bytes(&self) -> u64 {
        self.place().saturating_mul(self.places as u64)
    }

    /// As many more places as fit into some bytes.
    pub(super) fn grow(&mut self, bytes: u64) {
        let more = usize::try_from(bytes / self.place().max(1)).unwrap_or(usize::MAX);
        self.places = self.places.saturating_add(more).min(self.experts.len());
    }

    /// The share of wanted experts that would be there if all were wanted alike. True routers prefer some for a while,
    /// so more will be.
    pub fn uniform_hits(&self) -> f64 {
        self.places as f64 / self.experts.len().max(1) as f64
    }
}

/// The home of a weight's panels where not everything fits, as far as its use decides it.
pub(super) fn home(usage: Use) -> Option<Home> {
    match usage {
        Use::Rows => Some(Home::Drive),
        Use::Experts(_) => Some(Home::Cache),
        Use::Pass | Use::Outputs | Use::OutputsAndRows => None,
    }
}
