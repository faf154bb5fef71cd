//! `air perplexity`: how well a model predicts a text.
//!
//! The text is cut into chunks as long as the context. The first half of a chunk is context only; the tokens of the
//! second half are scored, each given all tokens before it in its chunk (llama.cpp's method, so the figures compare).
//! A text shorter than one chunk is one chunk. The chunk's first token is replaced by BOS where the model wants one.

use super::{human, input, model, output, progress};
use crate::config::Settings;
use crate::engine::{Engine, LoadOptions};
use crate::error::{Error, Result};
use serde_json::json;
use std::path::PathBuf;

/// Context when nobody says: that of the published figures.
const CHUNK: u32 = 512;

/// Measure how well a model predicts a text
#[derive(clap::Args)]
pub struct Args {
    /// Text file
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Score only the first N chunks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: model::RunArgs<model::Running>,
}

/// Measures and prints.
pub fn run(args: Args) -> Result<()> {
    let settings = args.model.settings.resolve()?;
    let text = input::file(&args.file)?;
    let options = LoadOptions { max_outputs: model::OUTPUTS, ..model::options(&settings, args.model.how())? };
    let engine = model::load(&model::open(&settings)?, &options)?;
    let size = chunk_size(&settings, engine.info().context);
    let tokens = engine.tokenizer().encode(&text, true, false);
    if tokens.len() < 4 {
        let (file, n) = (args.file.display(), tokens.len());
        return Err(Error::Invalid(format!("{file}: {n} tokens are too few to measure anything")));
    }
    let size = size.min(tokens.len());
    let count = (tokens.len() / size).min(args.chunks.map_or(usize::MAX, |n| n as usize));
    let bar = progress::steps("chunk", count as u64);
    let mut score = Score::default();
    for chunk in tokens.chunks_exact(size).take(count) {
        measure(&engine, chunk, &mut score)?;
        bar.inc(1);
        bar.set_message(format!(", perplexity {:.4}", score.perplexity()));
    }
    bar.finish_and_clear();
    if args.json {
        output::json(&score.json(&engine, &args, size, count))
    } else {
        output::report(&score.text(size, count))
    }
}

/// At least 4, so that there is something to score.
fn chunk_size(settings: &Settings, context: u32) -> usize {
    let wanted = settings.number("model.ctx-size").unwrap_or(CHUNK);
    wanted.min(context).max(4) as usize
}

/// Scores the second half of a chunk.
fn measure(engine: &Engine, chunk: &[u32], score: &mut Score) -> Result<()> {
    let mut tokens = chunk.to_vec();
    let tokenizer = engine.tokenizer();
    if let (true, Some(bos)) = (tokenizer.adds_bos(), tokenizer.bos()) {
        tokens[0] = bos;
    }
    let vocab = engine.info().spec.vocab;
    for logits in engine.evaluate(tokens.clone())? {
        let logits = logits?;
        for (i, row) in logits.values.chunks_exact(vocab).enumerate() {
            // The row at a position predicts the token after it.
            let next = logits.first + i + 1;
            if next > tokens.len() / 2 && next < tokens.len() {
                score.add(surprise(row, tokens[next]), tokenizer.token_bytes(tokens[next]).len());
            }
        }
    }
    Ok(())
}

/// The negative logarithm of a token's probability, in nats.
fn surprise(logits: &[f32], token: u32) -> f64 {
    let max = f64::from(logits.iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x)));
    let total: f64 = logits.iter().map(|&x| (f64::from(x) - max).exp()).sum();
    total.ln() + max - f64::from(logits[token as usize])
}

/// Sums over the scored tokens.
#[derive(Debug, Default)]
struct Score {
    tokens: u64,
    bytes: u64,
    sum: f64,
    squares: f64,
}

impl Score {
    fn add(&mut self, surprise: f64, bytes: usize) {
        self.tokens += 1;
        self.bytes += bytes as u64;
        self.sum += surprise;
        self.squares += surprise * surprise;
    }

    fn mean(&self) -> f64 {
        self.sum / self.tokens as f64
    }

    fn perplexity(&self) -> f64 {
        self.mean().exp()
    }

    /// Standard error of the perplexity: that of the mean, through the derivative of exp.
    fn error(&self) -> f64 {
        let n = self.tokens as f64;
        let variance = (self.squares / n - self.mean().powi(2)).max(0.0);
        self.perplexity() * (variance / (n - 1.0).max(1.0)).sqrt()
    }

    fn bits_per_byte(&self) -> f64 {
        self.sum / std::f64::consts::LN_2 / self.bytes as f64
    }

    fn text(&self, size: usize, chunks: usize) -> String {
        let scored = format!("{} tokens of {chunks} chunks of {size}", human::thousands(self.tokens));
        let rows = [
            ("perplexity", format!("{:.4} ± {:.4}", self.perplexity(), self.error())),
            ("bits per byte", format!("{:.4}", self.bits_per_byte())),
            ("scored", scored),
        ];
        human::table(&rows.map(|(k, v)| vec![k.to_string(), v]), &[])
    }

    fn json(&self, engine: &Engine, args: &Args, size: usize, chunks: usize) -> serde_json::Value {
        json!({
            "model": engine.info().file,
            "device": engine.info().device,
            "file": args.file.display().to_string(),
            "perplexity": self.perplexity(),
            "standard_error": self.error(),
            "nats_per_token": self.mean(),
            "bits_per_byte": self.bits_per_byte(),
            "tokens": self.tokens,
            "bytes": self.bytes,
            "chunks": chunks,
            "chunk_tokens": size,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_surprise_is_that_of_the_softmax() {
        let logits = [0.0, 1000.0, 1000.0, -1000.0];
        assert!((surprise(&logits, 1) - 2f64.ln()).abs() < 1e-12);
        assert!((surprise(&logits, 0) - 1000.0 - 2f64.ln()).abs() < 1e-9);
        let uniform = [3.5; 10];
        assert!((surprise(&uniform, 7) - 10f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn the_figures_follow_their_definitions() {
        let mut score = Score::default();
        [1.0, 2.0, 3.0].iter().for_each(|&x| score.add(x, 2));
        assert!((score.perplexity() - 2f64.exp()).abs() < 1e-12);
        // Variance 2/3 of 3 values: the error of the mean is sqrt(2/3 / 2).
        assert!((score.error() - 2f64.exp() * (1f64 / 3.0).sqrt()).abs() < 1e-12);
        assert!((score.bits_per_byte() - 1.0 / std::f64::consts::LN_2).abs() < 1e-12);
    }
}
