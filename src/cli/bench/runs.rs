//! The passes of a run, as the engine's scheduler makes them, and their times.
//!
//! Prompts of all sequences are read first, as many rows a pass as the engine takes; then each pass carries one token of
//! each sequence. The next token is the likeliest one: choosing it is part of the time, because no answer comes
//! without it. There is no queue and no text.

use crate::cli::interrupt::Interrupt;
use crate::engine::{Chunk, Outputs, Runner};
use crate::error::{Error, Result};
use crate::hal::Launched;
use crate::kv::SeqId;
use crate::sample::{Params, Sampler};
use crate::stream::Counters;
use std::time::{Duration, Instant};

/// What a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    /// Tokens that stand before the prompt.
    pub depth: u32,
    /// Tokens of each prompt.
    pub prompt: u32,
    /// Tokens of each answer, the one that ends the prompt's pass included.
    pub answer: u32,
    /// Sequences.
    pub batch: u32,
}

impl Lengths {
    /// Prompt and answer that fit into the context behind the depth: the answer gets at most half of what is left.
    ///
    /// # Errors
    /// `Limit` when too little is left.
    pub fn clamp(self, context: u32) -> Result<Lengths> {
        let left = context.saturating_sub(self.depth);
        if left < 4 {
            let depth = self.depth;
            return Err(Error::Limit(format!(
                "a context of {context} leaves {left} tokens behind {depth} to measure; it must leave at least 4"
            )));
        }
        if self.prompt.saturating_add(self.answer) <= left {
            return Ok(self);
        }
        let answer = self.answer.min(left / 2);
        Ok(Lengths { answer, prompt: self.prompt.min(left - answer), ..self })
    }
}

/// Times of one run.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    lengths: Lengths,
    /// To the first token of every sequence.
    pub prefill: Duration,
    /// From there to the last.
    pub decode: Duration,
    /// What came from the drive between the two, and how long it was waited for.
    pub streamed: Counters,
}

impl Run {
    /// Prompt tokens per second.
    pub fn prefill_tps(&self) -> f64 {
        f64::from(self.lengths.prompt) * f64::from(self.lengths.batch) / self.prefill.as_secs_f64()
    }

    /// Tokens per second after the first.
    pub fn decode_tps(&self) -> f64 {
        f64::from(self.lengths.answer - 1) * f64::from(self.lengths.batch) / self.decode.as_secs_f64()
    }
}

impl Run {
    /// The share of wanted experts that were in memory; all, where none are cached.
    pub fn hit_rate(&self) -> f64 {
        self.streamed.hit_rate().unwrap_or(1.0)
    }

    /// Bytes from the drive for one token of the answers.
    pub fn disk_bytes(&self) -> f64 {
        self.a_token(self.streamed.bytes)
    }

    /// The share of one token of the answers in what was counted while they were written.
    pub fn a_token(&self, count: u64) -> f64 {
        count as f64 / f64::from(self.lengths.batch) / f64::from(self.lengths.answer - 1)
    }

    /// Share of the time of decoding during which a thread waited for the drive.
    pub fn stalled(&self) -> f64 {
        self.streamed.stalled.as_secs_f64() / self.decode.as_secs_f64()
    }
}

/// What a run launched on a GPU.
pub struct Kernels {
    /// Until the first token of every sequence.
    pub prompt: Vec<Launched>,
    /// From there to the last.
    pub answer: Vec<Launched>,
    /// Passes of the answer.
    pub steps: u32,
    /// Tokens that those passes wrote.
    pub tokens: u32,
}

/// A loaded model and the sequences that runs go on from.
pub struct Bench {
    runner: Runner,
    lengths: Lengths,
    interrupt: Interrupt,
    sampler: Sampler,
    /// Of length `depth`, unless that is zero.
    read: Vec<SeqId>,
}

impl Bench {
    /// Reads what stands before the prompts.
    ///
    /// # Errors
    /// Those of a pass, and `Cancelled`.
    pub fn new(runner: Runner, lengths: Lengths, interrupt: Interrupt) -> Result<Bench> {
        let greedy = Params { temperature: 0.0, ..Params::default() };
        let sampler = Sampler::new(greedy, runner.vocab())?;
        let mut bench = Bench { runner, lengths, interrupt, sampler, read: vec![] };
        if lengths.depth > 0 {
            bench.read = (0..lengths.batch).map(|_| bench.runner.kv().create()).collect();
            bench.prefill(&bench.read.clone(), lengths.depth)?;
        }
        Ok(bench)
    }

    /// One run.
    ///
    /// # Errors
    /// Those of a pass, and `Cancelled`.
    pub fn run(&mut self) -> Result<Run> {
        let lengths = self.lengths;
        let sequences = self.sequences();
        let start = Instant::now();
        let tokens = self.prefill(&sequences, lengths.prompt)?;
        let prefill = start.elapsed();
        let before = self.runner.stream().counters();
        self.answer(&sequences, tokens)?;
        let decode = start.elapsed() - prefill;
        let streamed = self.runner.stream().counters() - before;
        sequences.into_iter().for_each(|s| self.runner.kv().release(s));
        Ok(Run { lengths, prefill, decode, streamed })
    }

    /// One run whose launches are watched.
    ///
    /// # Errors
    /// Those of `run`; `Unsupported` where no GPU computes.
    pub fn kernels(&mut self) -> Result<Kernels> {
        let Lengths { prompt, answer, batch, .. } = self.lengths;
        self.runner.watch(true)?;
        let sequences = self.sequences();
        let tokens = self.prefill(&sequences, prompt)?;
        let prompt = self.runner.watch(true)?;
        self.answer(&sequences, tokens)?;
        let launched = self.runner.watch(false)?;
        sequences.into_iter().for_each(|s| self.runner.kv().release(s));
        Ok(Kernels { prompt, answer: launched, steps: answer - 1, tokens: (answer - 1) * batch })
    }

    /// Sequences of a run, behind what was read before.
    fn sequences(&mut self) -> Vec<SeqId> {
        let (kv, batch) = (self.runner.kv(), self.lengths.batch);
        match self.lengths.depth {
            0 => (0..batch).map(|_| kv.create()).collect(),
            _ => self.read.iter().map(|&s| kv.fork(s)).collect(),
        }
    }

    /// The answers behind the first tokens.
    fn answer(&mut self, sequences: &[SeqId], mut tokens: Vec<u32>) -> Result<()> {
        for _ in 1..self.lengths.answer {
            self.interrupt.check()?;
            let chunk = |(&seq, token)| Chunk { seq, tokens: std::slice::from_ref(token), outputs: Outputs::Last };
            self.runner.run(sequences.iter().zip(&tokens).map(chunk))?;
            tokens.clear();
            self.choose(&mut tokens)?;
        }
        Ok(())
    }

    /// Reads `n` tokens into each sequence and chooses the next.
    fn prefill(&mut self, sequences: &[SeqId], n: u32) -> Result<Vec<u32>> {
        let texts: Vec<Vec<u32>> =
            (0..sequences.len()).map(|i| arbitrary(i as u64, n as usize, self.runner.vocab())).collect();
        let mut done = vec![0; sequences.len()];
        let mut next = vec![];
        while done.iter().any(|&d| d < n as usize) {
            self.interrupt.check()?;
            let mut rows = self.runner.pass_rows();
            let mut chunks = vec![];
            for (i, &seq) in sequences.iter().enumerate() {
                let tokens = &texts[i][done[i]..];
                let tokens = &tokens[..tokens.len().min(rows)];
                if tokens.is_empty() {
                    continue;
                }
                rows -= tokens.len();
                done[i] += tokens.len();
                let outputs = if done[i] == n as usize { Outputs::Last } else { Outputs::None };
                chunks.push(Chunk { seq, tokens, outputs });
            }
            let interrupt = &self.interrupt;
            self.runner.run_watched(chunks, &mut |_, _| interrupt.check())?;
            self.choose(&mut next)?;
        }
        Ok(next)
    }

    /// Adds the likeliest token of each row of the last pass's logits.
    fn choose(&mut self, next: &mut Vec<u32>) -> Result<()> {
        let vocab = self.runner.vocab();
        for logits in self.runner.logits().chunks_exact_mut(vocab) {
            next.push(self.sampler.sample(logits)?);
        }
        Ok(())
    }
}

/// Arbitrary tokens: the bytes that a pass carries do not depend on which (but for experts).
fn arbitrary(seed: u64, n: usize, vocab: usize) -> Vec<u32> {
    let token = |i: u64| ((seed << 32 | (i + 1)).wrapping_mul(6_364_136_223_846_793_005) >> 33) % vocab as u64;
    (0..n as u64).map(|i| token(i) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(depth: u32, prompt: u32, answer: u32) -> Lengths {
        Lengths { depth, prompt, answer, batch: 1 }
    }

    #[test]
    fn lengths_are_clamped_to_the_context() {
        for (asked, context, got) in [
            ((0, 512, 128), 4096, (512, 128)),
            ((0, 512, 128), 640, (512, 128)),
            ((0, 512, 128), 512, (384, 128)),
            ((0, 512, 1000), 512, (256, 256)),
            ((0, u32::MAX, u32::MAX), 16, (8, 8)),
            ((496, u32::MAX, u32::MAX), 512, (8, 8)),
        ] {
            let asked = lengths(asked.0, asked.1, asked.2);
            assert_eq!(asked.clamp(context).unwrap(), lengths(asked.depth, got.0, got.1));
        }
        assert!(lengths(0, 1, 2).clamp(3).is_err());
        assert!(lengths(509, 1, 2).clamp(512).is_err());
        assert!(lengths(u32::MAX, 1, 2).clamp(512).is_err());
    }

    #[test]
    fn prompts_differ_and_stay_in_the_vocabulary() {
        let (a, b) = (arbitrary(0, 100, 50), arbitrary(1, 100, 50));
        assert!(a != b && a.iter().chain(&b).all(|&t| t < 50));
    }
}
