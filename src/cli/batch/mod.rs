//! `air batch`: a file of requests, answered together.
//!
//! As many requests run at once as there is memory for their sequences: a pass carries all weights once, whatever the
//! number of sequences that ride on it. Answers are appended to the output as they end. The output is the only record
//! of what is done: the same command goes on where an earlier one was ended, by whatever it was, and each request has
//! its line exactly once.

mod input;
mod journal;
mod work;

use super::settings::Uses;
use super::{human, interrupt, model, output, progress, sampling};
use crate::engine::{ChatFormat, Engine, LoadOptions, MAX_SEQUENCES, StateSize};
use crate::error::{Error, Result};
use crate::sample::Params;
use input::{Index, Lines};
use journal::Journal;
use serde_json::json;
use std::path::PathBuf;
use std::sync::LazyLock;
use work::{Totals, Work};

/// Rows of a pass, at least: prompts are read beside all sequences that generate.
const MIN_ROWS: usize = 512;

/// Requests that wait in the engine, so that one is there when another ends.
const AHEAD: usize = 64;

/// Answer a file of requests in OpenAI's batch format, many at once
#[derive(clap::Args)]
#[command(
    after_help = "Each input line: {\"custom_id\": …, \"method\": \"POST\", \"url\": \"/v1/chat/completions\" or \
    \"/v1/completions\", \"body\": {…}}. What a body does not say, the flags do. Run the same command again to go on \
    where it ended."
)]
pub struct Args {
    /// The requests, one a line
    #[arg(value_name = "IN.jsonl")]
    input: PathBuf,
    /// Where the answers are appended, one a line, as they end; requests that it answers already are skipped
    #[arg(value_name = "OUT.jsonl")]
    output: PathBuf,
    /// Append to the output though it holds answers to what the input does not ask
    #[arg(long)]
    force: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: model::RunArgs<Batching>,
}

static KEYS: LazyLock<Vec<&str>> =
    LazyLock::new(|| [sampling::Generating::keys(), &["batch.max-num-seqs"]].concat().to_vec());

/// The settings of this command.
struct Batching;

impl Uses for Batching {
    fn keys() -> &'static [&'static str] {
        &KEYS
    }
}

/// Answers and reports.
pub fn run(args: Args) -> Result<()> {
    let settings = args.model.settings.resolve()?;
    let (lines, metadata) = Lines::open(&args.input)?;
    let index = Index::read(lines)?;
    let mut journal = Journal::open(&args.output, &metadata)?;
    let done = journal.finished(&index, args.force)?;
    let (all, left) = (index.len(), index.len() - done.len());
    if !done.is_empty() {
        output::note(format_args!("{} of {all} requests are answered already", done.len()));
    }
    let mut summary =
        json!({ "requests": all, "answered_before": done.len(), "input": args.input.display().to_string() });
    if left == 0 {
        return report(&args, summary, &Totals::default());
    }

    let most = settings.number("batch.max-num-seqs").unwrap_or(MAX_SEQUENCES).min(left);
    let max_tokens = settings.number("generate.max-tokens").unwrap_or(u32::MAX);
    let options = LoadOptions {
        max_sequences: most,
        state: StateSize::UpTo(index.positions(most, max_tokens)),
        max_rows: MIN_ROWS,
        ..model::options(&settings, args.model.how())?
    };
    let engine = model::load(&model::open(&settings)?, &options)?;
    // Until here nothing is written, and Ctrl-C ends the process; from here the second one does.
    let ctrl_c = interrupt::watch()?;
    let bar = progress::steps("batch", all as u64).with_position(done.len() as u64);
    bar.reset_eta();
    let mut work = Work {
        chat: ChatFormat::new(&engine)?,
        engine: &engine,
        sampling: Params { seed: settings.number("sampling.seed"), ..sampling::params(&settings, &[]) },
        max_tokens,
        ahead: most + most.min(AHEAD),
        journal: &mut journal,
        bar,
        totals: Totals::default(),
    };
    let (mut lines, _) = Lines::open(&args.input)?;
    let result = work.run(&mut lines, &index, &done, &ctrl_c);
    work.bar.finish_and_clear();
    let totals = work.totals;
    let answered = done.len() as u64 + totals.written;
    if let Err(e) = result {
        // What could not be brought to the drive is answered again.
        let _ = journal.sync();
        output::note(format_args!("{answered} of {all} requests are answered; the same command goes on from there"));
        return Err(e);
    }
    if answered < all as u64 {
        let name = args.input.display();
        return Err(Error::Invalid(format!("{name}: lines are gone that were there at the beginning")));
    }
    about(&engine, most, &mut summary);
    report(&args, summary, &totals)
}

fn about(engine: &Engine, most: usize, summary: &mut serde_json::Value) {
    let info = engine.info();
    summary["model"] = info.file.as_str().into();
    summary["device"] = info.device.as_str().into();
    summary["max_num_seqs"] = most.into();
    summary["state_positions"] = info.state_positions.into();
    summary["context"] = info.context.into();
    summary["load_ms"] = (info.load_time.as_secs_f64() * 1e3).into();
}

/// The summary: what `air batch` says at the end.
fn report(args: &Args, mut summary: serde_json::Value, t: &Totals) -> Result<()> {
    let answered = t.written - t.errors;
    if args.json {
        summary["output"] = args.output.display().to_string().into();
        summary["answered"] = answered.into();
        summary["errors"] = t.errors.into();
        summary["prompt_tokens"] = t.prompt_tokens.into();
        summary["kept_tokens"] = t.kept_tokens.into();
        summary["generated_tokens"] = t.generated_tokens.into();
        summary["wall_s"] = t.time.as_secs_f64().into();
        summary["generated_tps"] = (t.generated_tokens > 0).then(|| t.tps()).into();
        return output::json(&summary);
    }
    let mut rows = vec![
        ("requests", human::thousands(summary["requests"].as_u64().unwrap_or(0))),
        ("answered before", human::thousands(summary["answered_before"].as_u64().unwrap_or(0))),
        ("answered now", human::thousands(answered)),
        ("errors", human::thousands(t.errors)),
    ];
    if answered > 0 {
        rows.extend([
            ("prompts", format!("{} tokens, {} of them shared", human::thousands(t.prompt_tokens), t.kept_tokens)),
            ("answers", format!("{} tokens, {:.1} tok/s together", human::thousands(t.generated_tokens), t.tps())),
            ("time", format!("{:.1} s", t.time.as_secs_f64())),
        ]);
    }
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(k, v)| vec![k.to_string(), v]).collect();
    output::report(&human::table(&rows, &[]))
}
