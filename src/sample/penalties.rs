//! The tokens of the sequence's recent past, and what they cost.
//!
//! Repetition: Keskar et al., "CTRL" (2019), with negative logits multiplied, so that a penalty never makes a token
//! more probable. Presence and frequency: as in OpenAI's interface. Only the tokens that occurred are visited.

use super::params::Params;
use std::collections::{HashMap, VecDeque};

/// The last tokens, with how often each occurs.
#[derive(Debug)]
pub struct Recent {
    /// Most tokens; `None` is no limit.
    limit: Option<usize>,
    order: VecDeque<u32>,
    counts: HashMap<u32, u32>,
}

impl Recent {
    /// Remembers the last `last_n` tokens; -1 is all.
    pub fn new(last_n: i32) -> Self {
        Recent { limit: usize::try_from(last_n).ok(), order: VecDeque::new(), counts: HashMap::new() }
    }

    /// Adds a token, and forgets the one that is no longer recent.
    pub fn push(&mut self, token: u32) {
        self.order.push_back(token);
        *self.counts.entry(token).or_default() += 1;
        if self.limit.is_none_or(|limit| self.order.len() <= limit) {
            return;
        }
        let Some(old) = self.order.pop_front() else { return };
        if let Some(count) = self.counts.get_mut(&old) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&old);
            }
        }
    }

    /// Applies the penalties to the logits of the recent tokens.
    pub fn apply(&self, params: &Params, logits: &mut [f32]) {
        for (&token, &count) in &self.counts {
            // Tokens come from this vocabulary; a foreign one has no logit to change.
            let Some(logit) = logits.get_mut(token as usize) else { continue };
            *logit = match *logit > 0.0 {
                true => *logit / params.repetition_penalty,
                false => *logit * params.repetition_penalty,
            };
            *logit -= count as f32 * params.frequency_penalty + params.presence_penalty;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_tokens_are_forgotten() {
        let params = Params { frequency_penalty: 1.0, ..Params::default() };
        let after = |last_n| {
            let mut recent = Recent::new(last_n);
            [0, 1, 1, 2, 1].into_iter().for_each(|t| recent.push(t));
            let mut logits = [0.0; 4];
            recent.apply(&params, &mut logits);
            logits
        };
        assert_eq!(after(-1), [-1.0, -3.0, -1.0, 0.0]);
        assert_eq!(after(100), [-1.0, -3.0, -1.0, 0.0]);
        assert_eq!(after(3), [0.0, -2.0, -1.0, 0.0]);
        assert_eq!(after(1), [0.0, -1.0, 0.0, 0.0]);
        assert_eq!(after(0), [0.0; 4]);
    }

    #[test]
    fn a_penalty_lowers_and_its_inverse_raises() {
        let mut recent = Recent::new(-1);
        [0, 1, 2].into_iter().for_each(|t| recent.push(t));
        let apply = |repetition_penalty| {
            let mut logits = [2.0, -2.0, f32::NEG_INFINITY];
            recent.apply(&Params { repetition_penalty, ..Params::default() }, &mut logits);
            logits
        };
        assert_eq!(apply(2.0), [1.0, -4.0, f32::NEG_INFINITY]);
        assert_eq!(apply(0.5), [4.0, -1.0, f32::NEG_INFINITY]);
    }
}
