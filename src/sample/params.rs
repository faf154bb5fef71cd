//! The parameters of a request's sampler, with their ranges.

use crate::error::{Error, Result};

/// How tokens are chosen. The defaults are those of the command line.
#[derive(Debug, Clone, PartialEq)]
pub struct Params {
    /// Divides the logits; 0 always takes the most probable token. 0 or more.
    pub temperature: f32,
    /// Keeps the `top_k` most probable tokens; 0 keeps all.
    pub top_k: u32,
    /// Keeps the most probable tokens whose probabilities reach this sum (nucleus); 1 keeps all. 0 to 1.
    pub top_p: f32,
    /// Keeps tokens at least this probable, relative to the most probable one; 0 keeps all. 0 to 1.
    pub min_p: f32,
    /// Keeps the tokens whose surprise is nearest to the expected one, up to this sum; 1 keeps all. 0 to 1.
    pub typical_p: f32,
    /// Makes recent tokens less probable: positive logits are divided by it, negative ones multiplied. 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of each recent token. -100 to 100.
    pub presence_penalty: f32,
    /// Subtracted from the logit of a recent token for each time it occurs. -100 to 100.
    pub frequency_penalty: f32,
    /// How many tokens are recent, prompt included; 0 is none, -1 all.
    pub repeat_last_n: i32,
    /// Added to the logits of these tokens; `-inf` forbids a token. The same token may occur again.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the draws; `None` draws one.
    pub seed: Option<u64>,
}

/// The numbers that a parameter may have, both ends included.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// The least.
    pub low: f64,
    /// The most.
    pub high: f64,
    /// In words, behind "must be".
    pub words: &'static str,
}

impl Range {
    /// From `low` to `high`.
    pub const fn new(low: f64, high: f64, words: &'static str) -> Range {
        Range { low, high, words }
    }

    /// Of `temperature`.
    pub const TEMPERATURE: Range = Range::new(0.0, f32::MAX as f64, "a finite number, 0 or more");
    /// Of `top_p`, `min_p` and `typical_p`.
    pub const SHARE: Range = Range::new(0.0, 1.0, "from 0 to 1");
    /// Of `repetition_penalty`.
    pub const REPETITION: Range = Range::new(0.01, 100.0, "from 0.01 to 100");
    /// Of `presence_penalty` and `frequency_penalty`.
    pub const PENALTY: Range = Range::new(-100.0, 100.0, "from -100 to 100");
    /// Of what is added to a token's logit.
    pub const BIAS: Range = Range::new(f64::NEG_INFINITY, f32::MAX as f64, "a finite number or -inf");

    fn check(&self, name: &str, x: f32) -> Result<()> {
        // 0.01 as f32 is less than 0.01.
        match (self.low as f32..=self.high as f32).contains(&x) {
            true => Ok(()),
            false => Err(field(name, format!("is {x}; it must be {}", self.words))),
        }
    }
}

impl Default for Params {
    fn default() -> Self {
        Params {
            temperature: 0.7,
            top_k: 40,
            top_p: 0.9,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repeat_last_n: 64,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

impl Params {
    /// Checks every field against its range; `vocab` is the number of tokens.
    ///
    /// # Errors
    /// `Field`, with value and range.
    pub fn check(&self, vocab: usize) -> Result<()> {
        Range::TEMPERATURE.check("temperature", self.temperature)?;
        for (field, x) in [("top_p", self.top_p), ("min_p", self.min_p), ("typical_p", self.typical_p)] {
            Range::SHARE.check(field, x)?;
        }
        Range::REPETITION.check("repetition_penalty", self.repetition_penalty)?;
        for (field, x) in [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)] {
            Range::PENALTY.check(field, x)?;
        }
        if self.repeat_last_n < -1 {
            let n = self.repeat_last_n;
            return Err(field("repeat_last_n", format!("is {n}; it must be -1 (all), 0 (none) or more")));
        }
        for &(token, bias) in &self.logit_bias {
            if token as usize >= vocab {
                return Err(field("logit_bias", format!("names token {token}; the vocabulary has {vocab}")));
            }
            Range::BIAS.check("logit_bias", bias)?;
        }
        Ok(())
    }
}

fn field(name: &str, problem: String) -> Error {
    Error::Field { field: name.into(), problem }
}
