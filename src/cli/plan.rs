//! `air plan`: what of a model lives where, what a pass carries, and how fast that can be at best.
//!
//! Nothing is loaded. The law gives the prediction: counted bytes over the rates that are measured now (memory, cores)
//! or when the drive was probed. It is no promise: measured figures come from `air bench`.

use super::bench::{Lengths, Limits, Work};
use super::settings::Uses;
use super::{human, model, output, serve, synth};
use crate::config::{Device, Origin, Size};
use crate::engine::{LoadOptions, ModelInfo, Outlook, cores, outlook};
use crate::error::Result;
use crate::format::Catalogue;
use crate::hal::{Home, gpu_limits};
use crate::plan::{Plan, Prediction, Rates, Traffic, Use};
use serde_json::{Value, json};
use std::sync::LazyLock;

/// Characters of the bar of all weights.
const BAR: usize = 40;
/// Tokens of the prompt whose time is predicted.
const PROMPT: u32 = 512;
/// Sequences together that are predicted besides one.
const TOGETHER: u32 = 16;

/// Show what of a model would live where, and how fast it can be at best
#[derive(clap::Args)]
pub struct Args {
    /// Plan for a model of this shape and type, which need not be there (`air synth --list` shows the shapes)
    #[arg(long, value_name = "SHAPE:QUANT", conflicts_with = "model.path", requires = "drive_rate",
        value_parser = synth::parse)]
    synthetic: Option<(String, String)>,
    /// Plan for a machine whose drive gives so many bytes per second (7GB), instead of measuring this one
    #[arg(long, value_name = "RATE", value_parser = rate)]
    drive_rate: Option<f64>,
    /// The same for its memory; what its cores can do is then left out
    #[arg(long, value_name = "RATE", value_parser = rate)]
    memory_rate: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: model::RunArgs<Planning>,
}

static KEYS: LazyLock<Vec<&str>> = LazyLock::new(|| [&model::KEYS[..], &["batch.max-num-seqs"]].concat());

/// The settings of this command.
struct Planning;

impl Uses for Planning {
    fn keys() -> &'static [&'static str] {
        &KEYS
    }

    fn defaults() -> &'static [(&'static str, &'static str)] {
        &[("batch.max-num-seqs", "one; with it, as air serve plans")]
    }
}

/// Plans and prints.
pub fn run(args: Args) -> Result<()> {
    let settings = args.model.settings.resolve()?;
    let catalogue = match &args.synthetic {
        Some((shape, quant)) => synth::outline(shape, quant)?,
        None => model::open(&settings)?,
    };
    let drive_rate = args.drive_rate;
    let how = args.model.how();
    let of_server = settings.row("batch.max-num-seqs").origin != Origin::Default;
    let options = if of_server { serve::load_options(&settings, how)? } else { model::options(&settings, how)? };
    let mut options = LoadOptions { drive_rate, ..options };
    let another = drive_rate.is_some() || args.memory_rate.is_some();
    if another && options.device == Device::Auto {
        // This machine's GPU is not that one's.
        options.device = Device::Cpu;
    }
    let threads = options.threads.unwrap_or_else(cores);
    // Of another machine nothing is known but what is given.
    let limits = match (drive_rate, args.memory_rate) {
        (None, None) => Limits::machine(threads, options.threads_batch.unwrap_or(threads)),
        (_, memory) => Limits { memory: memory.map(|rate| (threads, rate)).into_iter().collect(), ..Limits::default() },
    };
    let mut forecast = Forecast::new(&catalogue, &options, &limits)?;
    if forecast.outlook.residence.on_gpu {
        let wanted = if let Device::Cuda(n) = options.device { n } else { None };
        let gpu = if another { None } else { gpu_limits(wanted).ok() };
        let (link, device) = (gpu.map(|g| g.up), gpu.map(|g| g.copy));
        // The cores are not what computes most.
        forecast.rates = Rates { link, device, cores: None, ..forecast.rates };
    }
    if let Some((shape, quant)) = &args.synthetic {
        forecast.file = format!("synthetic {shape}:{quant}");
    }
    // What one would have to pay for.
    let budget = forecast.outlook.residence.plan.budget;
    let more = LoadOptions { ram_budget: Some(Size::Bytes(budget + (8 << 30))), say: |_| (), ..options.clone() };
    let roomier = (forecast.streams() && !forecast.outlook.residence.on_gpu)
        .then(|| Forecast::new(&catalogue, &more, &limits).ok())
        .flatten();
    match args.json {
        true => output::json(&forecast.json(roomier.as_ref())),
        false => output::report(&forecast.text(roomier.as_ref())),
    }
}

/// How long a token of one answer takes at best, by what was loaded where and the rate of the memory: the first ones, as
/// later ones read the state of those before them too. None where nothing that binds it is known.
pub fn at_best(info: &ModelInfo, memory: Option<f64>) -> Option<Prediction> {
    let residence = &info.residence;
    let rates = Rates { drive: residence.drive_rate(), memory, link: None, device: None, cores: None };
    // Of a GPU's memory nothing is known here.
    let known = !residence.on_gpu;
    known.then(|| rates.pass(residence.plan.traffic(&residence.units, 1), 0.0)).flatten()
}

/// Bytes per second: `7GB`, `7 GB/s`.
fn rate(text: &str) -> std::result::Result<f64, String> {
    let text = text.trim();
    match text.strip_suffix("/s").unwrap_or(text).parse() {
        Ok(Size::Bytes(n)) if n > 0 => Ok(n as f64),
        _ => Err("must be bytes per second, such as 7GB".into()),
    }
}

/// A use of weights: its name, and which are of it.
type Kind = (&'static str, fn(&Use) -> bool);

/// A plan and what the law says of it.
struct Forecast {
    outlook: Outlook,
    rates: Rates,
    lengths: Lengths,
    work: Work,
    file: String,
}

impl Forecast {
    fn new(catalogue: &Catalogue, options: &LoadOptions, limits: &Limits) -> Result<Forecast> {
        let outlook = outlook(catalogue, options)?;
        let prompt = PROMPT.min(outlook.context / 2).max(1);
        let lengths = Lengths { depth: 0, prompt, answer: 2, batch: 1 };
        let work = Work::count(catalogue, &outlook.spec, outlook.touched_bytes, options, &lengths);
        let rates = Rates {
            drive: outlook.residence.drive_rate(),
            memory: limits.best_memory(),
            link: None,
            device: None,
            cores: limits.peak(work.numbers),
        };
        Ok(Forecast { outlook, rates, lengths, work, file: catalogue.file().into() })
    }

    fn plan(&self) -> &Plan {
        &self.outlook.residence.plan
    }

    fn streams(&self) -> bool {
        self.plan().brings()
    }

    /// A pass of `rows` tokens of as many sequences.
    fn pass(&self, rates: &Rates, rows: u32) -> Option<Prediction> {
        let state = self.work.decode_bytes.unwrap_or(0).saturating_sub(self.outlook.touched_bytes);
        let mut traffic = self.plan().traffic(&self.outlook.residence.units, rows);
        let state_in = if self.outlook.residence.on_gpu { &mut traffic.device } else { &mut traffic.memory };
        *state_in += state * u64::from(rows);
        rates.pass(traffic, self.work.decode_ops * f64::from(rows))
    }

    /// Passes that a prompt of `tokens` takes.
    fn passes(&self, tokens: u32) -> u64 {
        u64::from(tokens).div_ceil(self.outlook.residence.pass_rows as u64)
    }

    /// The prompt: what is streamed comes once for each pass, experts and what goes through memory once for each of
    /// their tiles.
    fn prompt(&self) -> Option<Prediction> {
        let tokens = self.lengths.prompt;
        let rows = tokens.min(self.outlook.max_rows as u32);
        let tiles = u64::from(tokens.div_ceil(rows));
        let tile = self.plan().traffic(&self.outlook.residence.units, rows);
        let streamed = self.plan().streamed();
        let drive = streamed * self.passes(tokens) + (tile.drive - streamed) * tiles;
        let link = tile.link * self.passes(tokens);
        let traffic = Traffic { drive, memory: tile.memory * tiles, link, device: tile.device * tiles };
        // How fast a GPU computes is not known, only how fast weights come to it.
        let known = !self.outlook.residence.on_gpu || self.rates.link.is_some() && link > 0;
        known.then(|| self.rates.pass(traffic, self.work.prefill_ops * f64::from(tokens))).flatten()
    }

    fn json(&self, roomier: Option<&Forecast>) -> Value {
        let (plan, residence) = (self.plan(), &self.outlook.residence);
        let traffic = plan.traffic(&residence.units, 1);
        let said = |p: Option<Prediction>, tokens: f64| {
            p.map(|p| json!({ "tps": tokens / p.seconds, "bound": p.bound.name() }))
        };
        let faster = Rates { drive: self.rates.drive.map(|r| r * 2.0), ..self.rates };
        json!({
            "model": self.file,
            "device": self.outlook.device,
            "context": self.outlook.context,
            "memory": {
                "budget_bytes": plan.budget,
                "others_bytes": residence.others,
                "planned_bytes": plan.memory(),
                "process_bytes": plan.needs.process,
                "workspace_bytes": plan.needs.workspace,
                "state_bytes": plan.needs.state,
                "ring_bytes": plan.ring_used(),
                "kept_bytes": plan.kept,
            },
            "host_memory": plan.host.map(|budget| json!({
                "budget_bytes": budget,
                "ring_bytes": plan.ring(),
                "kept_bytes": plan.hosted(),
                "experts_bytes": plan.cache.bytes(),
            })),
            "weights_bytes": residence.units.iter().map(|u| u.extent.len).sum::<u64>(),
            "streamed_bytes": plan.streamed(),
            "bytes_per_pass": { "disk": traffic.drive, "pcie": traffic.link, "mem": traffic.memory,
                "vram": traffic.device },
            "tokens_per_pass": residence.pass_rows,
            "passes_of_full_context": self.passes(self.outlook.context),
            "drive": residence.drive.as_ref().map(|d| json!({
                "gbps": d.best.rate / 1e9, "block_bytes": d.best.block, "depth": d.best.depth, "reader": d.reader,
            })),
            "rates": {
                "disk_gbps": self.rates.drive.map(|r| r / 1e9),
                "mem_gbps": self.rates.memory.map(|r| r / 1e9),
                "pcie_gbps": self.rates.link.map(|r| r / 1e9),
                "vram_gbps": self.rates.device.map(|r| r / 1e9),
                "cores_gops": self.rates.cores.map(|r| r / 1e9),
            },
            "predicted": {
                "decode": said(self.pass(&self.rates, 1), 1.0),
                "decode_together": { "sequences": TOGETHER,
                    "all": said(self.pass(&self.rates, TOGETHER), TOGETHER.into()) },
                "ttft_ms": { "prompt": self.lengths.prompt, "ms": self.prompt().map(|p| p.seconds * 1e3) },
                "decode_with_8_gib_more": roomier.and_then(|r| said(r.pass(&r.rates, 1), 1.0)),
                "decode_with_twice_the_drive": self.streams().then(|| said(self.pass(&faster, 1), 1.0)),
            },
        })
    }

    fn text(&self, roomier: Option<&Forecast>) -> String {
        let (plan, residence) = (self.plan(), &self.outlook.residence);
        let bytes = human::bytes;
        let others = match residence.others {
            0 => String::new(),
            held => format!("; other programs hold {}", bytes(held)),
        };
        let mut rows = vec![
            ("model", self.file.clone()),
            ("device", self.outlook.device.clone()),
            ("context", format!("{} tokens", self.outlook.context)),
            (
                if residence.on_gpu { "GPU memory" } else { "memory" },
                format!("{} planned of {}{others}", bytes(plan.memory()), bytes(plan.budget)),
            ),
        ];
        let parts = [
            ("weights", plan.kept),
            ("context", plan.needs.state),
            ("workspace", plan.needs.workspace),
            ("ring", plan.ring_used()),
            ("program", plan.needs.process),
        ];
        rows.push(("", parts.map(|(name, n)| format!("{name} {}", bytes(n))).join(", ")));
        rows.extend(plan.host.filter(|_| plan.brings()).map(|budget| {
            let (kept, ring, experts) = (plan.hosted(), plan.ring(), plan.cache.bytes());
            let all = format!("{} planned of {}", bytes(kept + ring + experts), bytes(budget));
            let experts = if experts > 0 { format!(", experts {}", bytes(experts)) } else { String::new() };
            ("memory", format!("{all}: weights {}{experts}, ring {}", bytes(kept), bytes(ring)))
        }));
        rows.extend(residence.drive.as_ref().map(|d| {
            let (rate, block) = (bytes(d.best.rate as u64), bytes(d.best.block as u64));
            ("drive", format!("{rate}/s in reads of {block}, {} at once ({})", d.best.depth, d.reader))
        }));
        let traffic = plan.traffic(&residence.units, 1);
        let drive =
            if traffic.drive > 0 { format!("{} from the drive, ", bytes(traffic.drive)) } else { String::new() };
        let link = if traffic.link > 0 { format!("{} to the GPU, ", bytes(traffic.link)) } else { String::new() };
        let through = [(traffic.device, "the GPU's memory"), (traffic.memory, "memory")];
        let through = through.iter().filter(|(n, _)| *n > 0).map(|(n, name)| format!("{} through {name}", bytes(*n)));
        rows.push(("a pass", format!("{drive}{link}{}", through.collect::<Vec<_>>().join(", "))));
        let at_best = |p: Option<Prediction>, tokens: f64| match p {
            Some(p) => format!("{:.2} tok/s, bound by the {}", tokens / p.seconds, p.bound.words()),
            None => "not known: nothing that binds it was measured".into(),
        };
        let passes = self.passes(self.outlook.context);
        let (most, plural) = (residence.pass_rows, if passes == 1 { "" } else { "es" });
        rows.push(("a prompt", format!("up to {most} tokens a pass, {passes} pass{plural} for a full context")));
        rows.push(("predicted", at_best(self.pass(&self.rates, 1), 1.0)));
        rows.push(("", format!("{TOGETHER} together: {}", at_best(self.pass(&self.rates, TOGETHER), TOGETHER.into()))));
        rows.extend(self.prompt().map(|p| {
            let (n, by) = (self.lengths.prompt, p.bound.words());
            ("", format!("first token after a prompt of {n}: {:.1} s, bound by the {by}", p.seconds))
        }));
        if traffic.drive > 0 {
            let faster = Rates { drive: self.rates.drive.map(|r| r * 2.0), ..self.rates };
            rows.push(("", format!("with a drive twice as fast: {}", at_best(self.pass(&faster, 1), 1.0))));
            rows.extend(roomier.map(|r| ("", format!("with 8 GiB more: {}", at_best(r.pass(&r.rates, 1), 1.0)))));
        }
        let rows: Vec<Vec<String>> = rows.into_iter().map(|(k, v)| vec![k.to_string(), v]).collect();
        format!("{}\n{}", human::table(&rows, &[]), self.homes())
    }

    /// Weights by use, each with the bytes of its homes and a bar.
    fn homes(&self) -> String {
        let residence = &self.outlook.residence;
        let total: u64 = residence.units.iter().map(|u| u.extent.len).sum();
        let kinds: [Kind; 4] = [
            ("layers", |u| matches!(u, Use::Pass)),
            ("experts", |u| matches!(u, Use::Experts(_))),
            ("head", |u| matches!(u, Use::Outputs | Use::OutputsAndRows)),
            ("embedding", |u| matches!(u, Use::Rows)),
        ];
        let mut rows = vec![];
        for (name, is) in kinds {
            let mine = residence.plan.parts.iter().filter(|p| is(&residence.units[p.unit].usage));
            let of = |is: fn(Home) -> bool| mine.clone().filter(|p| is(p.home)).map(|p| p.extent.len).sum::<u64>();
            let (kept, hosted) = (of(|h| h == Home::Memory), of(|h| h == Home::Host));
            let away = of(|h| !matches!(h, Home::Memory | Home::Host));
            if kept + hosted + away == 0 {
                continue;
            }
            let cells = |n: u64| (n as f64 / total as f64 * BAR as f64).round() as usize;
            let bar = "█".repeat(cells(kept)) + &"▒".repeat(cells(hosted)) + &"░".repeat(cells(away));
            let mut row: Vec<String> = vec![name.into()];
            if residence.on_gpu {
                row.push(format!("{} on the GPU", human::bytes(kept)));
                row.push(format!("{} in memory", human::bytes(hosted)));
            } else {
                row.push(format!("{} in memory", human::bytes(kept)));
            }
            row.extend([format!("{} on the drive", human::bytes(away)), bar]);
            rows.push(row);
        }
        let numbers: &[usize] = if residence.on_gpu { &[1, 2, 3] } else { &[1, 2] };
        human::table(&rows, numbers)
    }
}
