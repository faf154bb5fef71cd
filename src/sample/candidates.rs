//! The tokens that may still be chosen.
//!
//! Invariants: never empty after `fill`; every logit is finite; the first `sorted` entries are the largest in falling
//! order (equal logits: rising ids). Sorting is lazy, because the stages need at most a short head of a vocabulary of
//! 150 000.

use crate::error::{Error, Result};
use std::cmp::Ordering;

/// A token and its logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Token id.
    pub id: u32,
    /// Its logit, never NaN nor infinite.
    pub logit: f32,
}

/// The tokens that may still be chosen.
#[derive(Debug, Default)]
pub struct Candidates {
    items: Vec<Candidate>,
    sorted: usize,
}

/// Most probable first.
fn order(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

fn bad(id: usize, logit: f32) -> Error {
    Error::Engine(format!(
        "the model gave {logit} as the logit of token {id}; its weights or the arithmetic are broken"
    ))
}

fn none() -> Error {
    Error::Engine("no token can be chosen: every logit is -inf (forbidden by logit_bias or by the model)".into())
}

/// Moves some items to the front, the `n` most probable ones among them, and says how many. One pass with a bound
/// that `n` of a sample reach leaves few of a large vocabulary for the selection.
fn gather(items: &mut [Candidate], n: usize) -> usize {
    let sample = (8 * n).max(2048);
    if items.len() < 4 * sample {
        return items.len();
    }
    let mut probe = items[..sample].to_vec();
    let bound = probe.select_nth_unstable_by(n - 1, order).1.logit;
    let mut kept = 0;
    for i in 0..items.len() {
        if items[i].logit >= bound {
            items.swap(i, kept);
            kept += 1;
        }
    }
    kept
}

/// The token with the largest logit; of equals the one with the lowest id.
///
/// # Errors
/// `Engine` for NaN, +inf, or when all are -inf.
pub fn argmax(logits: &[f32]) -> Result<u32> {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &logit) in logits.iter().enumerate() {
        if logit.is_nan() || logit == f32::INFINITY {
            return Err(bad(id, logit));
        }
        if logit > best.1 {
            best = (id, logit);
        }
    }
    if best.1 == f32::NEG_INFINITY { Err(none()) } else { Ok(best.0 as u32) }
}

impl Candidates {
    /// Starts with all tokens that are not forbidden.
    ///
    /// # Errors
    /// As `argmax`.
    pub fn fill(&mut self, logits: &[f32]) -> Result<()> {
        self.items.clear();
        self.items.reserve(logits.len());
        self.sorted = 0;
        for (id, &logit) in logits.iter().enumerate() {
            if logit.is_finite() {
                self.items.push(Candidate { id: id as u32, logit });
            } else if logit != f32::NEG_INFINITY {
                return Err(bad(id, logit));
            }
        }
        if self.items.is_empty() { Err(none()) } else { Ok(()) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// The largest logit.
    pub fn max(&self) -> f32 {
        match self.sorted {
            0 => self.items.iter().fold(f32::NEG_INFINITY, |m, c| m.max(c.logit)),
            _ => self.items[0].logit,
        }
    }

    /// Brings the `n` most probable ones to the front, in order, and shows them.
    pub fn head(&mut self, n: usize) -> &[Candidate] {
        let n = n.min(self.items.len());
        if n > self.sorted {
            let rest = &mut self.items[self.sorted..];
            let missing = n - self.sorted;
            let pool = gather(rest, missing);
            if missing < pool {
                rest[..pool].select_nth_unstable_by(missing, order);
            }
            rest[..missing].sort_unstable_by(order);
            self.sorted = n;
        }
        &self.items[..n]
    }

    /// Keeps the `n` most probable ones (at least one).
    pub fn keep_head(&mut self, n: usize) {
        let n = n.max(1);
        self.head(n);
        self.items.truncate(n);
    }

    /// Keeps those that pass (at least one must); the order stays.
    pub fn retain(&mut self, pass: impl Fn(&Candidate) -> bool) {
        let mut kept = 0;
        let (mut index, sorted) = (0, self.sorted);
        self.items.retain(|c| {
            let keep = pass(c);
            kept += usize::from(keep && index < sorted);
            index += 1;
            keep
        });
        self.sorted = kept;
    }

    /// Replaces all by a non-empty selection in any order.
    pub fn replace(&mut self, items: Vec<Candidate>) {
        self.items = items;
        self.sorted = 0;
    }

    /// All, in no particular order.
    pub fn all(&self) -> &[Candidate] {
        &self.items
    }

    /// Changes every logit by a function that does not change their order.
    pub fn rescale(&mut self, f: impl Fn(f32) -> f32) {
        self.items.iter_mut().for_each(|c| c.logit = f(c.logit));
    }

    /// exp(logit - max) of one candidate: its probability but for the sum.
    pub fn weight(c: &Candidate, max: f32) -> f64 {
        libm::exp(f64::from(c.logit) - f64::from(max))
    }

    /// The sum of all weights, in the order of the candidates.
    pub fn total(&self, max: f32) -> f64 {
        self.items.iter().map(|c| Self::weight(c, max)).sum()
    }

    /// The candidate in which the fraction `u` of the total probability lies.
    pub fn draw(&self, u: f64) -> u32 {
        let max = self.max();
        let mut left = u * self.total(max);
        for c in &self.items {
            left -= Self::weight(c, max);
            if left < 0.0 {
                return c.id;
            }
        }
        // Rounding can leave a rest after the last one; the largest is never wrong by more than that rest.
        self.items.iter().min_by(|a, b| order(a, b)).map_or(0, |c| c.id)
    }
}
