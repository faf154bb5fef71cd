//! `air bench`: how fast a model reads a prompt and generates, and how much of the machine that is.
//!
//! A run reads a prompt and generates greedily after it, for one sequence or a batch of them, at the start of the
//! context or behind `--depth` tokens that were read before. One run before them warms up and does not count. Figures
//! are medians over the runs. `runs` makes and times the passes, `work` counts what they carry and compute, `report`
//! sets the figures beside the limits of the machine or its GPU, which `limits` measures, `kernels` lists what a GPU launched.

mod kernels;
mod limits;
mod report;
mod runs;
mod synthetic;
mod work;

use super::{interrupt, model, output, progress, synth};
use crate::engine::{LoadOptions, ModelInfo, available_memory, cores, load};
use crate::error::{Error, Result};
use crate::format::gguf;
use kernels::Table;
pub use limits::{Limits, MEMORY_ROOM};
use report::Report;
pub use runs::Lengths;
use runs::{Bench, Run};
use serde_json::json;
use std::io::BufRead;
use std::time::Instant;
use synthetic::Made;
pub use work::Work;

/// Measure how fast a model reads prompts and generates
#[derive(clap::Args)]
pub struct Args {
    /// Tokens of the prompt
    #[arg(short = 'p', long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    n_prompt: u32,
    /// Tokens to generate
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(2..))]
    n_tokens: u32,
    /// Tokens that stand before the prompt; they are read once and not timed
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    depth: u32,
    /// Sequences that run together; rates are of all of them
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    batch: u32,
    /// Runs that count
    #[arg(short, long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Measure a model of this shape and type with random weights, made in the temporary folder for this run
    /// (`air synth --list` shows the shapes)
    #[arg(long, value_name = "SHAPE:QUANT", conflicts_with = "model.path", value_parser = synth::parse)]
    synthetic: Option<(String, String)>,
    /// Measure the machine's memory, arithmetic and drive thoroughly, and show the share reached of each
    #[arg(long)]
    limits: bool,
    /// List the kernels that a GPU launches for a prompt and an answer, with their times and bytes
    #[arg(long)]
    kernels: bool,
    /// Wait for a line of input before each run and answer it with a line of JSON, to alternate with other programs
    #[arg(long)]
    wait: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: model::RunArgs<model::Running>,
}

/// Measures and prints.
pub fn run(args: Args) -> Result<()> {
    let settings = args.model.settings.resolve()?;
    // Removed when the measuring has ended, however it ends.
    let made = args.synthetic.as_ref().map(|(shape, quant)| Made::new(shape, quant)).transpose()?;
    let catalogue = made.as_ref().map_or_else(|| model::open(&settings), |made| gguf::open(&made.path))?;
    let options = LoadOptions {
        // A sequence that was read before and those that go on from it share pages, but not the last.
        max_sequences: args.batch as usize * if args.depth > 0 { 2 } else { 1 },
        ..model::options(&settings, args.model.how())?
    };
    let start = Instant::now();
    let (bar, mut moved) = model::loading();
    let (spec, runner) = load(&catalogue, &options, &mut moved)?;
    bar.finish_and_clear();
    let info = ModelInfo::new(&catalogue, spec, &runner, start.elapsed())?;
    model::said(&info);

    let asked = Lengths { depth: args.depth, prompt: args.n_prompt, answer: args.n_tokens, batch: args.batch };
    let lengths = asked.clamp(info.context)?;
    if lengths != asked {
        let (context, Lengths { prompt, answer, .. }) = (info.context, lengths);
        let measured = format!("measuring {prompt} of prompt and {answer} of answer");
        output::note(format_args!("the context holds {context} tokens: {measured}"));
    }
    let mut bench = Bench::new(runner, lengths, interrupt::watch()?)?;
    bench.run()?;
    let launched = if args.kernels { Some(bench.kernels()?) } else { None };
    let runs = if args.wait { on_demand(&mut bench, args.runs)? } else { at_once(&mut bench, args.runs)? };

    // A GPU is measured when nothing else is in its memory.
    drop(bench);

    // Before the probes, whose working sets are not the model's.
    let peak_rss = report::peak_rss();
    let threads = options.threads.unwrap_or_else(cores);
    let batch = options.threads_batch.unwrap_or(threads);
    // A budget that somebody asked for holds for what is measured beside the model too, unless the machine is measured.
    let plan = &info.residence.plan;
    let given = options.ram_budget.map(|_| plan.budget.saturating_sub(plan.memory()));
    let room = given.unwrap_or(u64::MAX).min(available_memory());
    let limits = match args.limits {
        _ if info.residence.on_gpu => Limits::gpu(options.device, args.limits.then_some(&catalogue)),
        true => Limits::thorough(threads, batch, &catalogue),
        false => Limits::quick(threads, room),
    };
    let work = Work::count(&catalogue, &info.spec, info.touched_bytes, &options, &lengths);
    let name = made.as_ref().map_or(info.file.clone(), |made| made.name.clone());
    let kernels = launched.map(|launched| Table::new(&launched, &work));
    let report = Report { info: &info, name, lengths, runs, peak_rss, limits, work, kernels };
    let mean = format!("Mean TPS: {:.2}", report.mean_tps());
    if args.json || args.wait {
        output::note(mean);
        if args.wait { output::line(report.json()) } else { output::json(&report.json()) }
    } else {
        output::report(&report.text())?;
        output::line(mean)
    }
}

/// All runs, one after the other.
fn at_once(bench: &mut Bench, n: u32) -> Result<Vec<Run>> {
    let bar = progress::steps("run", n.into());
    let mut runs = vec![];
    for _ in 0..n {
        runs.push(bench.run()?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(runs)
}

/// A run for each line of input, at most `n`; fewer when the input ends.
fn on_demand(bench: &mut Bench, n: u32) -> Result<Vec<Run>> {
    let mut lines = std::io::stdin().lock().lines();
    let mut runs = vec![];
    output::line(json!({ "ready": n }))?;
    while runs.len() < n as usize {
        match lines.next() {
            Some(line) => line.map_err(|e| Error::io("stdin", "cannot read", &e))?,
            None if runs.is_empty() => return Err(Error::Invalid("the input ended before the first run".into())),
            None => break,
        };
        let run = bench.run()?;
        output::line(json!({ "prefill_tps": run.prefill_tps(), "decode_tps": run.decode_tps() }))?;
        runs.push(run);
    }
    Ok(runs)
}
