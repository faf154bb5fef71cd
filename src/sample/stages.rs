//! The stages of the chain, as rows of one table in the order in which they run.
//!
//! A stage that a request's parameters switch off is not built. Every stage leaves at least one candidate.

use super::candidates::{Candidate, Candidates};
use super::params::Params;

/// A stage narrows the candidates or changes their logits.
pub trait Stage: Send {
    /// Does it.
    fn apply(&self, candidates: &mut Candidates);
}

type Build = fn(&Params) -> Option<Box<dyn Stage>>;

/// Name and constructor (`None`: switched off) of every stage, in order.
pub const CHAIN: &[(&str, Build)] = &[
    ("top_k", |p| (p.top_k > 0).then(|| Box::new(TopK(p.top_k)) as _)),
    ("typical_p", |p| (p.typical_p < 1.0).then(|| Box::new(Typical(p.typical_p)) as _)),
    ("top_p", |p| (p.top_p < 1.0).then(|| Box::new(TopP(p.top_p)) as _)),
    ("min_p", |p| (p.min_p > 0.0).then(|| Box::new(MinP(p.min_p)) as _)),
    ("temperature", |p| (p.temperature != 1.0).then(|| Box::new(Temperature(p.temperature)) as _)),
];

/// The k most probable tokens.
struct TopK(u32);

impl Stage for TopK {
    fn apply(&self, candidates: &mut Candidates) {
        candidates.keep_head(self.0 as usize);
    }
}

/// The most probable tokens whose probabilities reach p: Holtzman et al., "The Curious Case of Neural Text
/// Degeneration" (2019).
struct TopP(f32);

impl Stage for TopP {
    fn apply(&self, candidates: &mut Candidates) {
        let max = candidates.max();
        let target = f64::from(self.0) * candidates.total(max);
        let (mut sum, mut kept, mut window) = (0.0, 0, 64);
        while kept < candidates.len() {
            for c in &candidates.head(window)[kept..] {
                sum += Candidates::weight(c, max);
                kept += 1;
                if sum >= target {
                    return candidates.keep_head(kept);
                }
            }
            window *= 8;
        }
    }
}

/// Tokens at least p times as probable as the most probable one: Nguyen et al., "Turning Up the Heat: Min-p Sampling"
/// (2024).
struct MinP(f32);

impl Stage for MinP {
    fn apply(&self, candidates: &mut Candidates) {
        let limit = f64::from(candidates.max()) + libm::log(f64::from(self.0));
        candidates.retain(|c| f64::from(c.logit) >= limit);
    }
}

/// The tokens whose surprise is nearest to the entropy, up to a sum of p: Meister et al., "Locally Typical Sampling"
/// (2022).
struct Typical(f32);

impl Stage for Typical {
    fn apply(&self, candidates: &mut Candidates) {
        let max = candidates.max();
        let log_total = libm::log(candidates.total(max));
        let log_p = |c: &Candidate| f64::from(c.logit) - f64::from(max) - log_total;
        let all = candidates.all();
        let entropy: f64 = all.iter().map(|c| -libm::exp(log_p(c)) * log_p(c)).sum();
        let mut scored: Vec<(f64, Candidate)> = all.iter().map(|c| ((-log_p(c) - entropy).abs(), *c)).collect();
        scored.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.id.cmp(&b.1.id)));
        let mut sum = 0.0;
        let past = scored.iter().position(|(_, c)| {
            sum += libm::exp(log_p(c));
            sum > f64::from(self.0)
        });
        scored.truncate(past.map_or(scored.len(), |i| i + 1));
        candidates.replace(scored.into_iter().map(|(_, c)| c).collect());
    }
}

/// Sharpens (below 1) or flattens (above 1) the distribution; 0 leaves the most probable token.
struct Temperature(f32);

impl Stage for Temperature {
    fn apply(&self, candidates: &mut Candidates) {
        if self.0 == 0.0 {
            return candidates.keep_head(1);
        }
        // Relative to the largest, so that a tiny temperature cannot overflow upwards.
        let (max, t) = (f64::from(candidates.max()), f64::from(self.0));
        candidates.rescale(|logit| ((f64::from(logit) - max) / t).max(f64::from(f32::MIN)) as f32);
    }
}
