//! `air debug`: what a model computes, for comparison with other programs.

use super::target;
use super::{model, output};
use crate::engine::{Chunk, LoadOptions, Outputs, Runner, load};
use crate::error::{Error, Result};
use crate::format::output::Output;
use std::path::{Path, PathBuf};

/// Write what a model computes, for comparison with other programs
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Logits(LogitsArgs),
}

/// Write the logits at every position of a list of tokens as a float32 array [n_tokens, n_vocab] (.npy)
#[derive(clap::Args)]
struct LogitsArgs {
    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',', required = true)]
    tokens: Vec<u32>,
    /// File to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    model: model::RunArgs<model::Running>,
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<()> {
    match args.what {
        What::Logits(args) => logits(&args),
    }
}

fn logits(args: &LogitsArgs) -> Result<()> {
    let settings = args.model.settings.resolve()?;
    let options = LoadOptions { max_outputs: model::OUTPUTS, ..model::options(&settings, args.model.how())? };
    let catalogue = model::open(&settings)?;
    let (bar, mut moved) = model::loading();
    let (_, mut runner) = load(&catalogue, &options, &mut moved)?;
    bar.finish_and_clear();
    output::note(format_args!("device: {}", runner.description()));
    check(&args.tokens, &runner)?;
    write(&args.output, &args.tokens, &mut runner)?;
    let (rows, cols) = (args.tokens.len(), runner.vocab());
    output::note(format_args!("{}: float32 [{rows}, {cols}]", args.output.display()));
    Ok(())
}

fn check(tokens: &[u32], runner: &Runner) -> Result<()> {
    let (n, vocab, context) = (tokens.len(), runner.vocab(), runner.context());
    if let Some(id) = tokens.iter().find(|&&t| t as usize >= vocab) {
        return Err(Error::Invalid(format!("--tokens: {id} is not a token; the vocabulary has {vocab}")));
    }
    if n > context as usize {
        return Err(Error::Limit(format!("--tokens: {n} tokens do not fit into the context of {context}")));
    }
    Ok(())
}

fn write(path: &Path, tokens: &[u32], runner: &mut Runner) -> Result<()> {
    let _part = target::claim(path, true)?;
    let mut out = Output::create(path)?;
    out.write(&npy_header(tokens.len(), runner.vocab()))?;
    let seq = runner.kv().create();
    for tokens in tokens.chunks(runner.pass_rows().min(runner.max_outputs())) {
        runner.run([Chunk { seq, tokens, outputs: Outputs::All }])?;
        runner.logits().iter().try_for_each(|x| out.write(&x.to_le_bytes()))?;
    }
    runner.kv().release(seq);
    out.finish()
}

/// The header of a float32 array in C order (NumPy's format, version 1.0): a multiple of 64 bytes.
fn npy_header(rows: usize, cols: usize) -> Vec<u8> {
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
    let padding = (64 - (10 + text.len() + 1) % 64) % 64;
    text.extend(std::iter::repeat_n(' ', padding));
    text.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((text.len() as u16).to_le_bytes());
    header.extend(text.into_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_numpy_s() {
        let header = npy_header(3, 128_256);
        assert_eq!(&header[..10], b"\x93NUMPY\x01\x00\x76\x00");
        assert_eq!((header.len(), header[127]), (128, b'\n'));
        let text = std::str::from_utf8(&header[10..]).unwrap();
        assert!(text.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 128256), } "));
    }
}
