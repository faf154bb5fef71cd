//! `air bench`: how fast a model reads a prompt and generates, and how much of the machine that is.
//!
//! Every run is a request through the engine, as users make them: `n_prompt` arbitrary tokens, then `n_gen` greedy
//! ones. One run before them warms up and does not count. Figures are medians over the runs.
//!
//! The limit of decoding is the memory: each token reads the weights that it touches and the keys and values so far,
//! counted, not estimated. The bandwidth is probed with the same number of threads. Their quotient is the predicted
//! rate, and the measured one is shown as its share.

use super::settings::SettingArgs;
use super::{human, interrupt, model, progress, synth};
use crate::arch::{Mixer, ModelSpec};
use crate::engine::{Engine, LoadOptions, Request, Usage, available_memory, cores};
use crate::error::{Error, Result};
use crate::format::gguf;
use crate::hal::probe;
use crate::sample::Params;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Measure how fast a model reads prompts and generates
#[derive(clap::Args)]
pub struct Args {
    /// Tokens of the prompt
    #[arg(short = 'p', long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    n_prompt: u32,
    /// Tokens to generate
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(2..))]
    n_tokens: u32,
    /// Runs that count
    #[arg(short, long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Measure a model of this shape and type with random weights, made in the temporary folder for this run
    /// (`air synth --list` shows the shapes)
    #[arg(long, value_name = "SHAPE:QUANT", conflicts_with = "model.path", value_parser = synthetic)]
    synthetic: Option<(String, String)>,
    /// Use the plain interpreter, the specification, instead of the fast kernels
    #[arg(long)]
    exact: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingArgs<model::Running>,
}

/// Measures and prints.
pub fn run(args: Args) -> Result<()> {
    let settings = args.settings.resolve()?;
    let options = model::options(&settings, args.exact)?;
    // Removed when the measuring has ended, however it ends.
    let made = args.synthetic.as_ref().map(|(shape, quant)| Made::new(shape, quant)).transpose()?;
    let catalogue = made.as_ref().map_or_else(|| model::open(&settings), |made| gguf::open(&made.path))?;
    let engine = model::load(&catalogue, &options)?;
    let (n_prompt, n_gen) = clamp(args.n_prompt, args.n_tokens, engine.info().context)?;
    if (n_prompt, n_gen) != (args.n_prompt, args.n_tokens) {
        let context = engine.info().context;
        eprintln!("the context holds {context} tokens: measuring {n_prompt} of prompt and {n_gen} of answer");
    }
    let bar = progress::steps("run", args.runs.into());
    measure(&engine, n_prompt, n_gen)?;
    let mut runs = vec![];
    for _ in 0..args.runs {
        runs.push(measure(&engine, n_prompt, n_gen)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    // Before the probe, whose working set is not the model's.
    let peak_rss = peak_rss();
    let bandwidth = bandwidth(options.threads.unwrap_or_else(cores));
    let bytes = engine.info().touched_bytes + state_bytes(&engine.info().spec, &options, n_prompt, n_gen);
    let name = made.as_ref().map_or(engine.info().file.clone(), |made| made.name.clone());
    let report = Report { engine: &engine, name, n_prompt, n_gen, runs, peak_rss, bandwidth, bytes };
    if args.json {
        println!("{:#}", report.json());
        eprintln!("Mean TPS: {:.2}", report.mean_tps());
    } else {
        print!("{}", report.text());
        println!("Mean TPS: {:.2}", report.mean_tps());
    }
    Ok(())
}

/// `SHAPE:QUANT`
fn synthetic(text: &str) -> Result<(String, String), String> {
    let (shape, quant) = text.split_once(':').ok_or("must be a shape, `:` and a type, such as llama-3.2-1b:Q4_K_M")?;
    Ok((shape.into(), quant.into()))
}

/// A synthetic model's file, which goes when this does.
struct Made {
    path: PathBuf,
    name: String,
}

impl Made {
    fn new(shape: &str, quant: &str) -> Result<Self> {
        let name = format!("synthetic {shape}:{quant}");
        let path = std::env::temp_dir().join(format!("air-bench-{}.gguf", std::process::id()));
        let interrupt = interrupt::watch()?;
        synth::create(shape, quant, &path, &interrupt)?;
        Ok(Made { path, name })
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.path) {
            eprintln!("{}: cannot remove: {e}", self.path.display());
        }
    }
}

/// Bytes per second that the memory gives, unless too little of it is left to find out.
fn bandwidth(threads: usize) -> Option<f64> {
    let (need, left) = (probe::WORKING_SET as u64 / 4 * 5, available_memory());
    let measured = match left >= need {
        true => probe::read_bandwidth(threads),
        false => Err(Error::Limit(format!("{} are needed, {} are left", human::bytes(need), human::bytes(left)))),
    };
    measured.inspect_err(|e| eprintln!("the memory's bandwidth is not measured: {e}")).ok()
}

/// Prompt and answer that fit into the context: the answer gets at most half of it.
fn clamp(n_prompt: u32, n_gen: u32, context: u32) -> Result<(u32, u32)> {
    if context < 4 {
        return Err(Error::Limit(format!("a context of {context} is too short to measure; it must be at least 4")));
    }
    if n_prompt.saturating_add(n_gen) <= context {
        return Ok((n_prompt, n_gen));
    }
    let n_gen = n_gen.min(context / 2);
    Ok((n_prompt.min(context - n_gen), n_gen))
}

/// One request, from submission to the last token.
fn measure(engine: &Engine, n_prompt: u32, n_gen: u32) -> Result<Usage> {
    let request = Request {
        prompt: prompt(engine, n_prompt),
        max_tokens: n_gen,
        sampling: Params { temperature: 0.0, ..Params::default() },
        ignore_eos: true,
        ..Request::default()
    };
    Ok(model::follow(engine.submit(request)?, &mut |_| ()).and_then(model::not_cancelled)?.usage)
}

/// Arbitrary ordinary tokens: the bytes that a pass carries do not depend on which.
fn prompt(engine: &Engine, n: u32) -> Vec<u32> {
    let (tokenizer, vocab) = (engine.tokenizer(), engine.info().spec.vocab as u64);
    let ordinary = |i: u64| {
        let id = (i.wrapping_mul(6_364_136_223_846_793_005) >> 33) % vocab;
        u32::try_from(id).ok().filter(|&id| !tokenizer.token_kind(id).is_special())
    };
    // A vocabulary of special tokens only is no language model's, but must not loop for ever.
    let first = tokenizer.bos().unwrap_or(0);
    (0..u64::from(n)).map(|i| (0..64).find_map(|j| ordinary(i * 64 + j + 1)).unwrap_or(first)).collect()
}

/// Bytes of keys and values that an average token of the answer reads.
fn state_bytes(spec: &ModelSpec, options: &LoadOptions, n_prompt: u32, n_gen: u32) -> u64 {
    let (k, v) = options.state_formats();
    let positions = u64::from(n_prompt) + u64::from(n_gen) / 2;
    let layer = |l: &crate::arch::LayerSpec| {
        let Mixer::Attention(a) = &l.mixer;
        let seen = a.shape.window.map_or(positions, |w| positions.min(w.into()));
        let row = k.row_bytes(a.shape.head_dim) + v.row_bytes(a.shape.v_dim);
        seen * (a.shape.kv_heads * row) as u64
    };
    spec.layers.iter().map(layer).sum()
}

/// Most memory that the process has had, in bytes.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}

struct Report<'a> {
    engine: &'a Engine,
    name: String,
    n_prompt: u32,
    n_gen: u32,
    runs: Vec<Usage>,
    peak_rss: Option<u64>,
    /// Bytes per second, if it could be measured.
    bandwidth: Option<f64>,
    /// Read from memory for one token.
    bytes: u64,
}

impl Report<'_> {
    fn prefill_tps(&self) -> f64 {
        quantile(&self.runs.iter().filter_map(Usage::prefill_tps).collect::<Vec<_>>(), 0.5)
    }

    fn decode_tps(&self) -> f64 {
        quantile(&self.runs.iter().filter_map(Usage::decode_tps).collect::<Vec<_>>(), 0.5)
    }

    fn mean_tps(&self) -> f64 {
        let rates: Vec<f64> = self.runs.iter().filter_map(Usage::decode_tps).collect();
        rates.iter().sum::<f64>() / rates.len().max(1) as f64
    }

    fn ttft_ms(&self, q: f64) -> f64 {
        quantile(&self.runs.iter().map(|u| u.time_to_first_token().as_secs_f64() * 1e3).collect::<Vec<_>>(), q)
    }

    /// The rate at which the memory gives what a token needs, and the share of it that was reached, in percent.
    fn roofline(&self) -> Option<(f64, f64)> {
        let predicted = self.bandwidth? / self.bytes as f64;
        Some((predicted, self.decode_tps() / predicted * 100.0))
    }

    fn json(&self) -> Value {
        let info = self.engine.info();
        json!({
            "model": self.name,
            "device": info.device,
            "n_prompt": self.n_prompt,
            "n_gen": self.n_gen,
            "runs": self.runs.len(),
            "prefill_tps": self.prefill_tps(),
            "decode_tps": self.decode_tps(),
            "ttft_ms": { "p50": self.ttft_ms(0.5), "p99": self.ttft_ms(0.99) },
            "load_ms": info.load_time.as_secs_f64() * 1e3,
            "weights_bytes": info.weight_bytes,
            "bytes_per_token": { "mem": self.bytes },
            "achieved_gbps": { "mem": self.bytes as f64 * self.decode_tps() / 1e9 },
            "roofline": {
                "bound": "mem",
                "mem_gbps": self.bandwidth.map(|b| b / 1e9),
                "predicted_tps": self.roofline().map(|r| r.0),
                "percent": self.roofline().map(|r| r.1),
            },
            "peak_rss_bytes": self.peak_rss,
            "io_backend": "pread",
        })
    }

    fn text(&self) -> String {
        let info = self.engine.info();
        let rate = |bytes_per_second: f64| format!("{}/s", human::bytes(bytes_per_second as u64));
        let runs = self.runs.len();
        let mut rows = vec![
            ("model", self.name.clone()),
            ("device", info.device.clone()),
            ("measured", format!("{} of prompt, {} of answer, median of {runs}", self.n_prompt, self.n_gen)),
            ("loaded", format!("{} in {:.0} ms", human::bytes(info.weight_bytes), info.load_time.as_secs_f64() * 1e3)),
            ("prefill", format!("{:.1} tok/s", self.prefill_tps())),
            ("decode", format!("{:.2} tok/s", self.decode_tps())),
            ("first token", format!("{:.1} ms (p99 {:.1} ms)", self.ttft_ms(0.5), self.ttft_ms(0.99))),
            ("read a token", human::bytes(self.bytes)),
            ("memory read", rate(self.bytes as f64 * self.decode_tps())),
        ];
        rows.extend(self.bandwidth.map(|b| ("memory gives", rate(b))));
        let share = |(predicted, percent)| format!("{predicted:.2} tok/s by the memory; {percent:.1}% reached");
        rows.extend(self.roofline().map(|r| ("predicted", share(r))));
        rows.extend(self.peak_rss.map(|b| ("peak memory", human::bytes(b))));
        let rows: Vec<Vec<String>> = rows.into_iter().map(|(k, v)| vec![k.to_string(), v]).collect();
        human::table(&rows, &[])
    }
}

/// The value at a fraction of the sorted list, by linear interpolation; 0 for an empty list.
fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let at = q * last as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_clamped_to_the_context() {
        assert_eq!(clamp(512, 128, 4096).unwrap(), (512, 128));
        assert_eq!(clamp(512, 128, 640).unwrap(), (512, 128));
        assert_eq!(clamp(512, 128, 512).unwrap(), (384, 128));
        assert_eq!(clamp(512, 1000, 512).unwrap(), (256, 256));
        assert_eq!(clamp(u32::MAX, u32::MAX, 16).unwrap(), (8, 8));
        assert!(clamp(1, 2, 3).is_err());
    }

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0], 0.5), 1.5);
        assert_eq!(quantile(&[5.0], 0.99), 5.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
