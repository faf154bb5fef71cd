//! `air serve`: OpenAI's API over one model.

use super::bench::{Limits, MEMORY_ROOM};
use super::settings::Uses;
use super::{human, interrupt, model, output, plan, sampling};
use crate::config::{Device, Origin, Settings};
use crate::engine::{Engine, LoadOptions, StateSize, available_memory, cores};
use crate::error::{Error, Result};
use crate::format::Catalogue;
use crate::sample::Params;
use crate::serve::{Options, Patience, Server, TlsFiles, Told};
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;
use tracing_subscriber::filter::LevelFilter;

/// Sequences that run at once, unless it is said.
const SEQUENCES: usize = 32;
/// Positions of state for each of them, where memory allows that and the context is as long.
const POSITIONS: u64 = 4096;
/// Rows of a batch: prompts are read beside all sequences that generate.
const ROWS: usize = 512;
/// Bytes of weights from which on a speed is predicted: the processor's caches keep much of fewer.
const SMALL: u64 = 256 << 20;
/// Answers that may wait for each that may run, unless it is said.
const WAITING: usize = 4;
/// Answers that may run or wait at most.
const MOST_ANSWERS: usize = 4096;

/// Answer OpenAI's API over HTTP
#[derive(clap::Args)]
#[command(after_help = "Endpoints: /v1/chat/completions, /v1/completions, /v1/models, /tokenize, /detokenize, \
    /apply-template, /openapi.json, /health, /ready, /metrics; with --metrics-port the last is on that port only, the two \
    before it on both. What a request does not say, the flags do. Each has a line on stderr when it ends: times, tokens, \
    and why. Ctrl-C (or SIGTERM) takes nothing new and lets answers end; the second one ends at once. SIGHUP reads keys \
    and certificate again, and the log says what came of it. --device fake computes nothing, in no time, and fake:MS in \
    so many milliseconds a pass: for tests of what stands around a model.")]
pub struct Args {
    /// Listen on an address that other machines reach, though no keys are asked for
    #[arg(long)]
    insecure: bool,
    /// A further name of the model, which answers bear; may be given several times
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Answers that may run or wait at once; more are refused with 429 [default: 5 for each sequence]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MOST_ANSWERS as i64))]
    max_queue: Option<u32>,
    /// Seconds that an answer may take, waiting included; requests may ask for fewer [default: no limit]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout: Option<u32>,
    /// Seconds that answers may go on after the first Ctrl-C
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    grace: u32,
    #[command(flatten)]
    model: model::RunArgs<Serving>,
}

static KEYS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let own: &[&str] = &[
        "serve.host",
        "serve.port",
        "serve.api-key-file",
        "serve.tls-cert",
        "serve.tls-key",
        "serve.metrics-host",
        "serve.metrics-port",
        "serve.log",
        "batch.max-num-seqs",
        "batch.prefix-cache",
    ];
    [sampling::Generating::keys(), own].concat()
});

/// The settings of this command.
struct Serving;

impl Uses for Serving {
    fn keys() -> &'static [&'static str] {
        &KEYS
    }

    fn defaults() -> &'static [(&'static str, &'static str)] {
        // As `options` has it.
        &[("generate.max-tokens", "the rest of the context")]
    }
}

/// Serves until it is told to end.
pub fn run(args: Args) -> Result<()> {
    let settings = args.model.settings.resolve()?;
    log(&settings);
    interrupt::live_on_closed_pipe();
    interrupt::live_on_hangup()?;
    let sequences = sequences(&settings);
    let server = Server::bind(options(&args, &settings, sequences)?)?;
    let catalogue = model::open(&settings)?;
    let load_options = load_options(&settings, args.model.how())?;
    let at = server.url();
    output::note(format_args!("{at} answers when the model is loaded"));
    if let Some(at) = server.metrics_url() {
        output::note(format_args!("{at} has figures for Prometheus"));
    }
    let rate = Cell::new(None);
    let ready = |engine: &Engine| {
        // Until here Ctrl-C ends the process; from here the second one does.
        interrupt::watch()?;
        about(engine, sequences, rate.get());
        output::line(format_args!("ready: {at}/v1"))
    };
    let load = || {
        rate.set(memory_rate(&catalogue, &load_options));
        model::load(&catalogue, &load_options)
    };
    server.run(load, ready, told)
}

fn sequences(settings: &Settings) -> usize {
    settings.number("batch.max-num-seqs").unwrap_or(SEQUENCES)
}

/// How a server loads a model.
///
/// # Errors
/// `Invalid` for a format of the context that does not exist.
pub fn load_options(settings: &Settings, how: model::How) -> Result<LoadOptions> {
    let (context, sequences) = (settings.number("model.ctx-size").unwrap_or(u32::MAX), sequences(settings));
    Ok(LoadOptions {
        max_sequences: sequences,
        state: StateSize::UpTo(sequences as u64 * POSITIONS.min(context.into())),
        max_rows: ROWS,
        // Prompts that are read aloud want all of theirs.
        max_outputs: model::OUTPUTS,
        prefix_cache: settings.number("batch.prefix-cache"),
        ..model::options_of_server(settings, how)?
    })
}

/// What signals say.
fn told() -> Told {
    if interrupt::was_pressed() {
        output::note("ending: answers that run may end; once more ends at once");
        return Told::End;
    }
    if interrupt::was_hung_up() { Told::Reload } else { Told::Nothing }
}

/// Lines about what the server does go to stderr, from this level on.
fn log(settings: &Settings) {
    let level = settings.number("serve.log").unwrap_or(LevelFilter::INFO);
    let lines = tracing_subscriber::fmt().with_max_level(level).with_target(false).with_ansi(false);
    // A second server of one process writes where the first one does.
    let _ = lines.with_writer(std::io::stderr).try_init();
}

fn options(args: &Args, settings: &Settings, sequences: usize) -> Result<Options> {
    // Not the default: a client that asks for no length wants the answer whole.
    let said = settings.row("generate.max-tokens").origin != Origin::Default;
    let max_tokens = settings.number("generate.max-tokens").filter(|_| said);
    Ok(Options {
        host: settings.text("serve.host").unwrap_or("127.0.0.1").into(),
        port: settings.number("serve.port").unwrap_or(8080),
        metrics: metrics(settings)?,
        keys: settings.text("serve.api-key-file").map(PathBuf::from),
        tls: tls(settings)?,
        insecure: args.insecure,
        aliases: args.alias.clone(),
        sampling: Params { seed: settings.number("sampling.seed"), ..sampling::params(settings, &[]) },
        max_tokens,
        most: args.max_queue.map_or(sequences * (1 + WAITING), |n| n as usize).min(MOST_ANSWERS),
        timeout: args.timeout.map(|s| Duration::from_secs(s.into())),
        grace: Duration::from_secs(args.grace.into()),
        patience: Patience::default(),
    })
}

/// Where the figures are, if not with the rest.
fn metrics(settings: &Settings) -> Result<Option<(String, u16)>> {
    let host = settings.row("serve.metrics-host");
    match settings.number("serve.metrics-port") {
        Some(port) => Ok(Some((host.value.clone().unwrap_or_default(), port))),
        None if host.origin == Origin::Default => Ok(None),
        None => Err(Error::Invalid("a host for the metrics needs a port: give --metrics-port N too".into())),
    }
}

/// The certificate and its key, of which nobody has one alone.
fn tls(settings: &Settings) -> Result<Option<TlsFiles>> {
    let file = |key| settings.text(key).map(PathBuf::from);
    match (file("serve.tls-cert"), file("serve.tls-key")) {
        (Some(certificate), Some(key)) => Ok(Some(TlsFiles { certificate, key })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(Error::Invalid("a certificate needs its key: give --tls-key FILE too".into())),
        (None, Some(_)) => Err(Error::Invalid("a key needs its certificate: give --tls-cert FILE too".into())),
    }
}

/// Bytes per second that the memory gives, for the prediction; of a small model caches hold much, and nothing is
/// measured. Before it is loaded, when there is room to measure in, if the budget allows that.
fn memory_rate(catalogue: &Catalogue, options: &LoadOptions) -> Option<f64> {
    let weights: u64 = catalogue.tensors.values().map(|t| t.extent.len).sum();
    let threads = options.threads.unwrap_or_else(cores);
    let worth = weights >= SMALL && matches!(options.device, Device::Auto | Device::Cpu);
    let free = available_memory();
    let room = options.ram_budget.map_or(free, |size| size.of(free).min(free));
    // In less the drive is what binds.
    (worth && room >= MEMORY_ROOM).then(|| Limits::quick(threads, room).best_memory()).flatten()
}

/// What was loaded, and how fast it can be, for whoever started the server.
fn about(engine: &Engine, sequences: usize, memory_rate: Option<f64>) {
    let info = engine.info();
    let name = info.name.as_deref().unwrap_or(&info.file);
    let share = if sequences == 1 { "sequence has" } else { "sequences share" };
    output::note(format_args!(
        "{name}: {} of weights, loaded in {:.1} s; {sequences} {share} {} positions in {}, the context has {}",
        human::bytes(info.weight_bytes),
        info.load_time.as_secs_f64(),
        human::thousands(info.state_positions.into()),
        human::bytes(info.residence.plan.needs.state),
        human::thousands(info.context.into()),
    ));
    if sequences > 1 && info.residence.plan.brings() {
        output::note("fewer sequences (--max-num-seqs) leave more memory to weights");
    }
    if let Some(p) = plan::at_best(info, memory_rate) {
        let (rate, by) = (1.0 / p.seconds, p.bound.words());
        output::note(format_args!(
            "predicted: at most {rate:.2} tok/s for one answer, by the {by} (air plan --max-num-seqs {sequences} says more)"
        ));
    }
}
