//! Choosing the next token.
//!
//! A `Sampler` belongs to one request. It turns one row of logits into one token: logit bias, penalties over the
//! recent tokens, then the chain of `stages` (top-k, typical, top-p, min-p, temperature: the order of llama.cpp's
//! defaults), then a draw. The arithmetic is float64 with the crate's own exp and log, and the generator is PCG32, so
//! the same logits, parameters and seed give the same tokens on every machine. Among equal logits the lower id comes
//! first, everywhere.
//!
//! A sampler knows nothing of text: stop strings work on what the detokenizer made of the tokens (`stop`).

mod candidates;
mod logprobs;
mod params;
mod pcg;
mod penalties;
mod stages;
mod stop;

#[cfg(test)]
mod tests;

pub use logprobs::Logprobs;
pub use params::{Params, Range};
pub use pcg::random_seed;
pub use stop::{MAX_BYTES as MAX_STOP_BYTES, MAX_STOPS, StopFilter};

use crate::error::{Error, Result};
use candidates::Candidates;
use pcg::Pcg32;
use penalties::Recent;
use stages::Stage;

/// The sampler chain of one request.
pub struct Sampler {
    params: Params,
    vocab: usize,
    seed: u64,
    rng: Pcg32,
    recent: Recent,
    chain: Vec<Box<dyn Stage>>,
    candidates: Candidates,
}

impl Sampler {
    /// A sampler for logits of `vocab` tokens.
    ///
    /// # Errors
    /// `Invalid`, naming the field and its range, when a parameter is wrong.
    pub fn new(params: Params, vocab: usize) -> Result<Self> {
        params.check(vocab)?;
        let seed = params.seed.unwrap_or_else(pcg::random_seed);
        let chain = stages::CHAIN.iter().filter_map(|(_, build)| build(&params)).collect();
        let recent = Recent::new(params.repeat_last_n);
        Ok(Sampler { vocab, seed, rng: Pcg32::new(seed), recent, chain, candidates: Candidates::default(), params })
    }

    /// The seed in use: the one asked for, else the one that was drawn.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Tells the sampler of a token of the sequence, for the penalties: each token of the prompt, then each one that
    /// was chosen.
    pub fn accept(&mut self, token: u32) {
        self.recent.push(token);
    }

    /// Chooses a token. `logits` has one value for each token of the vocabulary; bias and penalties are applied in
    /// place.
    ///
    /// # Errors
    /// `Engine` when a logit is NaN or +inf, when every token is forbidden (-inf), or the length is wrong.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<u32> {
        if logits.len() != self.vocab {
            return Err(Error::Engine(format!("{} logits for a vocabulary of {}", logits.len(), self.vocab)));
        }
        self.adjust(logits);
        if self.params.temperature == 0.0 && self.params.typical_p >= 1.0 {
            return candidates::argmax(logits); // what the whole chain would leave
        }
        self.filter(logits)?;
        Ok(self.candidates.draw(self.rng.uniform()))
    }

    /// Bias and penalties.
    fn adjust(&self, logits: &mut [f32]) {
        for &(token, bias) in &self.params.logit_bias {
            logits[token as usize] += bias;
        }
        self.recent.apply(&self.params, logits);
    }

    /// Leaves in `candidates` what may be drawn.
    fn filter(&mut self, logits: &[f32]) -> Result<()> {
        self.candidates.fill(logits)?;
        for stage in &self.chain {
            stage.apply(&mut self.candidates);
        }
        Ok(())
    }
}
