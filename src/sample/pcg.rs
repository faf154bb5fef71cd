//! PCG32 (XSH-RR 64/32), the random number generator of the draws.
//!
//! M. E. O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number
//! Generation", HMC-CS-2014-0905. One fixed stream; requests differ by their seed. Not for secrets.

use std::hash::{BuildHasher, Hasher, RandomState};

const MULTIPLIER: u64 = 6364136223846793005;
const STREAM: u64 = 54;

/// The generator's state.
#[derive(Debug, Clone)]
pub struct Pcg32 {
    state: u64,
}

impl Pcg32 {
    /// The generator of a seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = Pcg32 { state: 0 };
        rng.next();
        rng.state = rng.state.wrapping_add(seed);
        rng.next();
        rng
    }

    fn next(&mut self) -> u32 {
        let old = self.state;
        self.state = old.wrapping_mul(MULTIPLIER).wrapping_add(STREAM << 1 | 1);
        let xorshifted = (((old >> 18) ^ old) >> 27) as u32;
        xorshifted.rotate_right((old >> 59) as u32)
    }

    /// A number in [0, 1), a multiple of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        let (high, low) = (u64::from(self.next()), u64::from(self.next()));
        ((high << 32 | low) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

/// A seed that nobody chose, from the randomness that the standard library draws for its hash maps.
pub fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output that the reference implementation's demo prints for seed 42 and stream 54.
    #[test]
    fn published_vectors() {
        let mut rng = Pcg32::new(42);
        let got: Vec<u32> = (0..6).map(|_| rng.next()).collect();
        assert_eq!(got, [0xa15c02b7, 0x7b47f409, 0xba1d3330, 0x83d2f293, 0xbfa4784b, 0xcbed606e]);
    }

    #[test]
    fn uniform_covers_the_unit_interval_evenly() {
        let mut rng = Pcg32::new(7);
        let (n, mut bins) = (160_000, [0u32; 16]);
        for _ in 0..n {
            bins[(rng.uniform() * 16.0) as usize] += 1;
        }
        let mean = f64::from(n) / 16.0;
        let chi2: f64 = bins.iter().map(|&b| (f64::from(b) - mean).powi(2) / mean).sum();
        assert!(chi2 < 37.7, "chi-square {chi2} of 15 degrees of freedom: p is below 0.001");
    }

    #[test]
    fn seeds_differ() {
        assert_ne!(Pcg32::new(1).uniform(), Pcg32::new(2).uniform());
        assert_ne!(random_seed(), random_seed());
    }
}
