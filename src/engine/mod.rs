//! The engine: load a model, submit requests, stream what comes, cancel.
//!
//! One thread owns the device and everything on it; handles talk to it over a bounded queue. This is the one
//! public interface of the library: the command line and every server stand on it. It knows nothing of JSON,
//! HTTP or terminals.

mod chat;
mod clock;
mod demo;
mod device;
mod fair;
mod foresight;
mod job;
mod load;
mod memory;
mod pace;
mod pass;
mod pressure;
mod pulse;
mod relief;
mod request;
mod residence;
mod runner;
mod scheduler;
mod together;

use crate::arch::ModelSpec;
use crate::error::{Error, Result};
use crate::format::Catalogue;
use crate::stream::{Counters, Meter};
use crate::text::Tokenizer;
pub use chat::ChatFormat;
use crossbeam::channel::{Sender, TrySendError, bounded, unbounded};
pub use demo::demo;
use job::Bounds;
pub use load::{LoadOptions, Outlook, Progress, StateSize, load, outlook};
pub use memory::{available as available_memory, cores};
pub use pass::Watch;
pub use pressure::{Level, Reading};
pub use pulse::Occupancy;
use pulse::Pulse;
pub use relief::{Gauge, PressureReport};
use relief::{Relief, Seen};
use request::{Command, gone};
pub use request::{
    Evaluation, Event, FinishReason, Finished, Generation, Logits, PromptProgress, Request, Sink, Token, Usage,
};
pub use residence::Residence;
pub use runner::{Chunk, MAX_SEQUENCES, Outputs, Runner};
use scheduler::{Queue, Scheduler};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
pub use together::Together;

/// Requests that may wait, before the engine's thread has seen them and again when it has.
const QUEUE: usize = 4096;

/// A loaded model and the thread that runs it.
#[derive(Debug)]
pub struct Engine {
    commands: Option<Sender<Command>>,
    closed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    tokenizer: Arc<Tokenizer>,
    info: ModelInfo,
    seen: Arc<Seen>,
    meter: Meter,
    bounds: Bounds,
    pulse: Arc<Pulse>,
}

/// What was loaded.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// Path, or the embedded model's name.
    pub file: String,
    /// `general.name`, if the file has one.
    pub name: Option<String>,
    /// The model's description.
    pub spec: ModelSpec,
    /// Positions of one sequence.
    pub context: u32,
    /// Positions of state that all sequences share.
    pub state_positions: u32,
    /// The chat template, if the file has one.
    pub chat_template: Option<String>,
    /// Texts that end an answer in a chat (`air.chat.stop`).
    pub chat_stop: Vec<String>,
    /// The device in use, in words.
    pub device: String,
    /// Bytes of all weights.
    pub weight_bytes: u64,
    /// Bytes of weights that a decode step touches: all matrices once, one row of the embedding, the used experts.
    pub touched_bytes: u64,
    /// Time from opening to ready.
    pub load_time: Duration,
    /// What lives where.
    pub residence: Residence,
    /// How the drive is read, in words.
    pub reader: String,
    /// What about reading the drive is not as it should be.
    pub note: Option<String>,
}

impl ModelInfo {
    /// What `load` made of a checkpoint, and how long that took.
    ///
    /// # Errors
    /// `File` for metadata of the wrong type.
    pub fn new(catalogue: &Catalogue, spec: ModelSpec, runner: &Runner, load_time: Duration) -> Result<ModelInfo> {
        let owned = |key: &str| catalogue.meta.opt_str(key).map(|s| s.map(str::to_owned));
        let stops = catalogue.meta.opt_strings("air.chat.stop")?;
        Ok(ModelInfo {
            file: catalogue.file().into(),
            name: owned("general.name")?,
            context: runner.context(),
            state_positions: runner.state_positions(),
            chat_template: owned("tokenizer.chat_template")?,
            chat_stop: stops.map_or(vec![], |s| s.iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect()),
            device: runner.description(),
            weight_bytes: catalogue.tensors.values().map(|t| t.extent.len).sum(),
            touched_bytes: load::touched_bytes(catalogue, &spec),
            load_time,
            residence: runner.residence().clone(),
            reader: runner.stream().description().into(),
            note: runner.stream().note().map(str::to_owned),
            spec,
        })
    }
}

impl Engine {
    /// Loads a model; `progress` is told the bytes of weights loaded so far and in all.
    ///
    /// # Errors
    /// Of the file, the metadata, the architecture, a format or memory; see [`Error`].
    pub fn load(catalogue: &Catalogue, options: &LoadOptions, progress: &mut Progress) -> Result<Engine> {
        let start = Instant::now();
        let tokenizer = Arc::new(Tokenizer::from_meta(&catalogue.meta)?);
        // before the weights are read, which can take minutes
        let (names, rows) = (tokenizer.len(), crate::arch::spec(catalogue)?.vocab);
        if names != rows {
            let problem = format!("the vocabulary has {names} tokens, the embedding {rows} rows");
            return Err(catalogue.meta.error("tokenizer.ggml.tokens", problem));
        }
        let (spec, runner) = load(catalogue, options, progress)?;
        let info = ModelInfo::new(catalogue, spec, &runner, start.elapsed())?;
        let (commands, inbox) = bounded(QUEUE);
        let closed = Arc::new(AtomicBool::new(false));
        let relief = Relief::new(&runner, options);
        let (seen, meter) = (relief.seen(), runner.stream().meter());
        let (bounds, pulse) = (Bounds::of(&runner), Arc::new(Pulse::new()));
        let most_kept = options.prefix_cache.map_or(u64::MAX, |size| size.of(runner.state().bytes()));
        let queue = Queue { commands: inbox, closed: closed.clone(), pulse: pulse.clone() };
        let scheduler = Scheduler::new(runner, relief, tokenizer.clone(), queue, options.max_sequences, most_kept);
        let thread = std::thread::Builder::new()
            .name("air-engine".into())
            .spawn(|| scheduler.run())
            .map_err(|e| Error::Engine(format!("cannot start the engine's thread: {e}")))?;
        Ok(Engine {
            commands: Some(commands),
            closed,
            thread: Some(thread),
            tokenizer,
            info,
            seen,
            meter,
            bounds,
            pulse,
        })
    }

    /// What was loaded.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// How short of memory it is and was.
    pub fn pressure(&self) -> PressureReport {
        self.seen.report()
    }

    /// What has come from the drive since loading began, and how long the cores have waited for it.
    pub fn streamed(&self) -> Counters {
        self.meter.counters()
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// Starts a generation.
    ///
    /// # Errors
    /// `Busy` when too many requests wait, `Engine` when the engine has stopped. What is wrong with the request
    /// itself comes as the generation's first event.
    pub fn submit(&self, request: Request) -> Result<Generation> {
        // Bounded by the request's max_tokens.
        let (events, inbox) = unbounded();
        let cancel = Arc::new(AtomicBool::new(false));
        let generation = Generation::new(inbox, cancel.clone());
        self.submit_to(request, cancel, Arc::new(move |event| events.send(event).is_ok()))?;
        Ok(generation)
    }

    /// Whether a request can be answered at all: its tokens, its length, its sampling, its stop texts.
    ///
    /// # Errors
    /// Those that the generation's first event would be.
    pub fn check(&self, request: &Request) -> Result<()> {
        self.bounds.check(&request.prompt, request.max_tokens)?;
        request.sampling.check(self.bounds.vocab)?;
        crate::sample::StopFilter::new(request.stop.clone()).map(drop)
    }

    /// Tokens of the longest answer to a prompt of `n` tokens.
    pub fn longest_answer(&self, n: usize) -> u32 {
        let Bounds { context, state, .. } = self.bounds;
        // An empty one gets a token to start from. The last one of an answer is not read any more.
        context.min(state).saturating_sub(u32::try_from(n.max(1)).unwrap_or(u32::MAX)).saturating_add(1)
    }

    /// How long the engine's thread has shown no sign of life; `None` when it has ended. It shows one between passes,
    /// between the launches of a pass, and every few seconds while there is nothing to do.
    pub fn silent_for(&self) -> Option<Duration> {
        let runs = self.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        runs.then(|| self.pulse.silent_for())
    }

    /// How full it is, as its thread showed when it last had a look.
    pub fn occupancy(&self) -> Occupancy {
        let now = self.pulse.occupancy();
        Occupancy { waiting: now.waiting + self.commands.as_ref().map_or(0, Sender::len), ..now }
    }

    /// Starts a generation whose events go to `sink`, for whoever cannot wait in a thread. Setting `cancel` ends it.
    ///
    /// # Errors
    /// As `submit`.
    pub fn submit_to(&self, request: Request, cancel: Arc<AtomicBool>, sink: Sink) -> Result<()> {
        self.send(Command::Generate { request, events: sink, cancel, submitted: Instant::now() })
    }

    /// Nothing running yet: for several generations that are heard together.
    pub fn together(&self) -> Together<'_> {
        Together::new(self)
    }

    /// Logits at every position of a text, in order, in pieces. Dropping the handle ends it.
    ///
    /// # Errors
    /// As `submit`.
    pub fn evaluate(&self, tokens: Vec<u32>) -> Result<Evaluation<'_>> {
        let (rows, inbox) = bounded(2);
        let positions = tokens.len();
        self.send(Command::Evaluate { tokens, rows })?;
        Ok(Evaluation::new(inbox, positions))
    }

    fn send(&self, command: Command) -> Result<()> {
        let commands = self.commands.as_ref().ok_or_else(gone)?;
        commands.try_send(command).map_err(|e| match e {
            TrySendError::Full(_) => Error::Busy(format!("{QUEUE} requests are waiting already; try again later")),
            TrySendError::Disconnected(_) => gone(),
        })
    }
}

impl Drop for Engine {
    /// Ends what is running, and the pass that runs now with its next launch.
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        // Wakes the thread where it waits for a command.
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has reported itself through its channels.
            let _ = thread.join();
        }
    }
}
