//! How probable tokens are by the model itself: the logarithm of the softmax over all of its logits, before bias,
//! penalties and the chain of stages.

use super::candidates::{Candidate, Candidates};

/// A token's logarithm of probability, and those of the most probable ones in its place.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Logprobs {
    /// Of the token.
    pub chosen: f32,
    /// Ids and theirs, the most probable first; the token itself may be among them.
    pub top: Vec<(u32, f32)>,
}

impl Logprobs {
    /// Of token `id`, and of the `n` most probable ones. `logits` has one finite value for each token.
    pub fn of(logits: &[f32], id: u32, n: usize) -> Logprobs {
        let mut all = Candidates::default();
        // What is not finite has no probability; the runner has seen to it that there is no such thing.
        if all.fill(logits).is_err() {
            return Logprobs { chosen: f32::NEG_INFINITY, top: vec![] };
        }
        let max = all.max();
        let log_sum = libm::log(all.total(max));
        let log = |logit: f32| (f64::from(logit) - f64::from(max) - log_sum) as f32;
        let top = all.head(n).iter().map(|&Candidate { id, logit }| (id, log(logit))).collect();
        Logprobs { chosen: logits.get(id as usize).map_or(f32::NEG_INFINITY, |&logit| log(logit)), top }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_logarithms_of_the_softmax() {
        let logits = [1.0f32, 3.0, -2.0, 3.0, 0.5];
        let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        let want = |i: usize| (f64::from(logits[i]) - sum.ln()) as f32;
        let got = Logprobs::of(&logits, 4, 3);
        assert_eq!(got.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3, 0]);
        assert!((got.chosen - want(4)).abs() < 1e-6);
        assert!(got.top.iter().all(|&(id, l)| (l - want(id as usize)).abs() < 1e-6));
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let got = Logprobs::of(&[3e38, 3e38, -3e38], 0, 2);
        assert!((got.chosen - 0.5f32.ln()).abs() < 1e-6, "{got:?}");
        assert_eq!(got.top.len(), 2);
    }

    #[test]
    fn more_than_there_are_is_all() {
        assert_eq!(Logprobs::of(&[0.0, 0.0], 1, 20).top.len(), 2);
        assert!(Logprobs::of(&[0.0, 0.0], 1, 0).top.is_empty());
    }
}
