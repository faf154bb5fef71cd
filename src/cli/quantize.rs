//! `air quantize`: a model again, in smaller formats.
//!
//! The mix decides the format of each tensor, `format::convert` moves the bytes; here are the questions before (is
//! the output safe to write, may this be quantised again) and the report after. Nothing is left behind when it
//! fails or is stopped: the output appears under its name when it is whole.

use super::settings::{SettingArgs, Uses};
use super::target;
use super::{human, interrupt, output, progress, shares};
use crate::error::{Error, Result};
use crate::format::convert::{Rounding, convert};
use crate::format::gguf::{TensorPlan, Writer};
use crate::format::output::part;
use crate::format::{Catalogue, gguf};
use crate::meta::{Meta, Value};
use crate::quant::mix::{Facts, MIXES, Mix};
use serde_json::{Value as Json, json};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// ggml's version of the block layouts (`general.quantization_version`).
const QUANTIZATION_VERSION: u32 = 2;

/// Commands that compute, but run no model.
struct Computing;

impl Uses for Computing {
    fn keys() -> &'static [&'static str] {
        &["cpu.threads"]
    }
}

/// Write a model again in smaller formats
#[derive(clap::Args)]
#[command(after_help = types())]
pub struct Args {
    /// Model to read: a GGUF file, or the first part of a split one
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// GGUF file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// What to quantise to (see below)
    #[arg(value_name = "TYPE", value_parser = |name: &str| Mix::by_name(name).map_err(|e| e.to_string()))]
    mix: &'static Mix,
    /// Replace OUT if it exists
    #[arg(long)]
    force: bool,
    /// Quantise also what is quantised already; errors add up, so start from F16 or BF16 if you can
    #[arg(long)]
    allow_requantize: bool,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingArgs<Computing>,
}

fn types() -> String {
    let rows: Vec<_> = MIXES.iter().map(|m| vec![m.name.to_string(), m.about.to_string()]).collect();
    format!("Types:\n{}", human::table(&rows, &[]))
}

/// Quantises and prints the report.
pub fn run(args: Args) -> Result<()> {
    let threads = args.settings.resolve()?.number("cpu.threads").unwrap_or(0);
    let catalogue = gguf::open(&args.input)?;
    let plans = plan(&catalogue, args.mix)?;
    if !args.allow_requantize {
        refuse_requantising(&catalogue, &plans)?;
    }
    let done = if args.dry_run {
        None
    } else {
        check_output(&args.output, &catalogue)?;
        let _part = target::claim(&args.output, args.force)?;
        let start = Instant::now();
        let roundings = write(&args, &catalogue, &plans, threads)?;
        Some((roundings, start.elapsed()))
    };
    let report = Report::new(&args, &catalogue, &plans, done)?;
    if args.json { output::json(&report.json()) } else { output::report(&report.text()) }
}

/// The tensors of the output, in the input's order.
fn plan(catalogue: &Catalogue, mix: &Mix) -> Result<Vec<TensorPlan>> {
    if catalogue.tensors.is_empty() {
        return Err(Error::Invalid(format!("{}: holds no tensors, there is nothing to quantise", catalogue.file())));
    }
    let facts = Facts::new(&catalogue.meta, !catalogue.tensors.contains_key("output.weight"))?;
    let plan = |t: &crate::format::TensorInfo| TensorPlan {
        name: t.name.clone(),
        format: mix.format(&facts, &t.name, &t.shape).unwrap_or(t.format),
        shape: t.shape.clone(),
    };
    Ok(catalogue.tensors.values().map(plan).collect())
}

fn refuse_requantising(catalogue: &Catalogue, plans: &[TensorPlan]) -> Result<()> {
    let lossy = catalogue.tensors.values().zip(plans).find(|(t, p)| t.format.block_len > 1 && t.format != p.format);
    let Some((t, p)) = lossy else { return Ok(()) };
    Err(Error::Invalid(format!(
        "{}: tensor {} is {} already, and quantising it again (to {}) adds errors; start from an F32, F16 or BF16 \
         model, or say --allow-requantize",
        catalogue.file(),
        t.name,
        t.format.name,
        p.format.name
    )))
}

/// Refuses an output that is the input, by whatever name.
fn check_output(output: &Path, catalogue: &Catalogue) -> Result<()> {
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let inputs: Vec<_> = catalogue.sources.iter().filter_map(|s| identity(Path::new(s.name()))).collect();
    let same = |path: &Path| identity(path).is_some_and(|id| inputs.contains(&id));
    match same(output) || same(&part(output)) {
        true => {
            let problem = "the output would overwrite the input; give it another name";
            Err(Error::Invalid(format!("{}: {problem}", output.display())))
        }
        false => Ok(()),
    }
}
fn write(args: &Args, catalogue: &Catalogue, plans: &[TensorPlan], threads: usize) -> Result<Vec<Rounding>> {
    let interrupt = interrupt::watch()?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|e| Error::Engine(format!("cannot start threads: {e}")))?;
    let bar = progress::bytes("quantising", catalogue.tensors.values().map(|t| t.extent.len).sum());
    let mut meta: Meta = catalogue.meta.clone();
    meta.insert("general.quantization_version", Value::U32(QUANTIZATION_VERSION), None);
    meta.insert("general.file_type", Value::U32(args.mix.file_type), None);
    let writer = Writer::create(&args.output, &meta, plans)?;
    let mut advance = |bytes: u64| {
        bar.inc(bytes);
        interrupt.check()
    };
    let roundings = pool.install(|| convert(catalogue, plans, writer, &mut advance));
    bar.finish_and_clear();
    roundings
}

struct Report<'a> {
    args: &'a Args,
    shares: Vec<shares::Share>,
    /// Rounding error of each share; none before the work was done.
    errors: Option<Vec<Rounding>>,
    took: Option<Duration>,
    bytes_in: u64,
    bytes_out: u64,
    elements: u64,
}

impl<'a> Report<'a> {
    fn new(
        args: &'a Args,
        catalogue: &Catalogue,
        plans: &[TensorPlan],
        done: Option<(Vec<Rounding>, Duration)>,
    ) -> Result<Self> {
        let mut sizes = Vec::new();
        for (t, p) in catalogue.tensors.values().zip(plans) {
            sizes.push((p.format.name, t.elements(), p.bytes()?));
        }
        let shares = shares::of(sizes.into_iter());
        let (roundings, took) = done.unzip();
        let errors = roundings.map(|roundings| {
            let of = |share: &shares::Share| {
                let mut sum = Rounding::default();
                let own = plans.iter().zip(&roundings).filter(|(p, _)| p.format.name == share.format);
                own.for_each(|(_, r)| sum += *r);
                sum
            };
            shares.iter().map(of).collect()
        });
        Ok(Report {
            args,
            errors,
            took,
            bytes_in: catalogue.tensors.values().map(|t| t.extent.len).sum(),
            bytes_out: shares.iter().map(|s| s.bytes).sum(),
            elements: shares.iter().map(|s| s.elements).sum(),
            shares,
        })
    }

    fn text(&self) -> String {
        let (from, to) = (human::bytes(self.bytes_in), human::bytes(self.bytes_out));
        let bits = shares::bits(self.bytes_out, self.elements);
        let (name, output) = (self.args.mix.name, self.args.output.display());
        let speed = self.took.map(|t| {
            let rate = human::bytes((self.bytes_in as f64 / t.as_secs_f64()) as u64);
            format!(", in {:.1} s ({rate}/s read)", t.as_secs_f64())
        });
        let verb = if self.took.is_some() { "is" } else { "would be" };
        let speed = speed.unwrap_or_default();
        let mut rows = shares::rows(&self.shares);
        if let Some(errors) = &self.errors {
            for (row, error) in rows.iter_mut().zip(errors) {
                row.push(match error.relative() {
                    0.0 => "as it was".into(),
                    e => format!("error {:.3}%", e * 100.0),
                });
            }
        }
        let table = human::table(&rows, &[1, 2, 3, 4, 5]);
        format!("{output} {verb} {name}: {to} from {from}, {bits} bits a weight{speed}\n{table}")
    }

    fn json(&self) -> Json {
        let mut formats = shares::json(&self.shares);
        if let Some(errors) = &self.errors {
            formats.iter_mut().zip(errors).for_each(|(f, e)| f["relative_rms_error"] = json!(e.relative()));
        }
        json!({
            "input": self.args.input.display().to_string(),
            "output": self.args.output.display().to_string(),
            "type": self.args.mix.name,
            "written": self.took.is_some(),
            "weights_bytes_in": self.bytes_in,
            "weights_bytes_out": self.bytes_out,
            "seconds": self.took.map(|t| t.as_secs_f64()),
            "formats": formats,
        })
    }
}
