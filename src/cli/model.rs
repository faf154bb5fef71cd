//! Opening and loading the model that the settings name.

use super::settings::{SettingArgs, Uses};
use super::{interrupt, output, progress};
use crate::config::{Device, Settings};
use crate::engine::{self, Engine, Event, FinishReason, Finished, Generation, LoadOptions, ModelInfo, PromptProgress};
use crate::error::{Error, Result};
use crate::format::{Catalogue, gguf};
use crate::io;
use crate::quant::{Format, Kind};
use indicatif::{ProgressBar, ProgressDrawTarget};
use std::path::Path;
use std::time::{Duration, Instant};

/// Settings of every command that runs a model.
pub const KEYS: [&str; 11] = [
    "model.path",
    "model.ctx-size",
    "compute.device",
    "memory.vram-budget",
    "memory.ram-budget",
    "memory.io",
    "cpu.threads",
    "cpu.threads-batch",
    "kv.type",
    "kv.k-type",
    "kv.v-type",
];

/// Commands that run a model.
pub struct Running;

impl Uses for Running {
    fn keys() -> &'static [&'static str] {
        &KEYS
    }
}

/// Flags of commands that run a model.
#[derive(clap::Args)]
pub struct RunArgs<U: Uses> {
    /// Use the plain interpreter, the specification, instead of the fast kernels
    #[arg(long)]
    exact: bool,
    /// Overwrite the GPU's memory with zeros before it is given back, so that no other program finds prompts there
    #[arg(long)]
    secure: bool,
    #[command(flatten)]
    pub settings: SettingArgs<U>,
}

/// How a model is run, beside settings.
#[derive(Clone, Copy)]
pub struct How {
    exact: bool,
    secure: bool,
}

impl<U: Uses> RunArgs<U> {
    /// How the model is run, beside settings.
    pub fn how(&self) -> How {
        How { exact: self.exact, secure: self.secure }
    }
}

/// Opens the model's file, or the embedded demo model: headers only.
///
/// # Errors
/// Those of `gguf::open`.
pub fn open(settings: &Settings) -> Result<Catalogue> {
    match settings.text("model.path") {
        Some(path) => gguf::open(Path::new(path)),
        None => engine::demo(),
    }
}

/// Rows whose logits one pass gives, for commands that look at all of them.
pub const OUTPUTS: usize = 64;

/// How to load it, by the settings.
///
/// # Errors
/// `Invalid` for a format that does not exist, and for a device that computes nothing: nobody takes noise for an answer,
/// or a pause for a speed.
pub fn options(settings: &Settings, how: How) -> Result<LoadOptions> {
    let options = options_of_server(settings, how)?;
    match options.device {
        Device::Fake(_) => Err(Error::Invalid("the fake device computes nothing: only air serve takes it".into())),
        _ => Ok(options),
    }
}

/// As `options`; what stands around a model may be tried on a device that computes nothing.
///
/// # Errors
/// `Invalid` for a format that does not exist.
pub fn options_of_server(settings: &Settings, how: How) -> Result<LoadOptions> {
    let How { exact, secure } = how;
    let kind = |key: &str| -> Result<Option<Kind>> {
        let name = settings.text(key).or(settings.text("kv.type"));
        name.map(|n| Format::by_name(n).map(|f| f.kind)).transpose()
    };
    Ok(LoadOptions {
        exact,
        secure,
        device: settings.number("compute.device").unwrap_or_default(),
        threads: settings.number("cpu.threads"),
        threads_batch: settings.number("cpu.threads-batch"),
        context: settings.number("model.ctx-size"),
        ram_budget: settings.number("memory.ram-budget"),
        vram_budget: settings.number("memory.vram-budget"),
        reader: io::Options {
            kind: io::Kind::named(settings.text("memory.io").unwrap_or("auto"))?,
            faults: io::Faults::from_env()?,
            ..io::Options::default()
        },
        k_type: kind("kv.k-type")?,
        v_type: kind("kv.v-type")?,
        // One token at a time is chosen; what is evaluated says so itself.
        max_outputs: 1,
        say: |line| output::note(line),
        ..LoadOptions::default()
    })
}

/// A load that takes no longer than this shows no bar.
const SHORT: Duration = Duration::from_millis(300);

/// A prompt that takes no longer than this shows no bar.
const LONG: Duration = Duration::from_secs(1);

/// A progress bar for loading, and the function that moves it.
pub fn loading() -> (ProgressBar, impl FnMut(u64, u64)) {
    let bar = progress::bytes("loading", 0);
    bar.set_draw_target(ProgressDrawTarget::hidden());
    let (moved, start, mut shown) = (bar.clone(), Instant::now(), false);
    (bar, move |done, total| {
        if !shown && start.elapsed() > SHORT {
            moved.set_draw_target(ProgressDrawTarget::stderr());
            shown = true;
        }
        moved.set_length(total);
        moved.set_position(done);
    })
}

/// Loads a model and says on stderr which device runs it.
///
/// # Errors
/// Those of `Engine::load`.
pub fn load(catalogue: &Catalogue, options: &LoadOptions) -> Result<Engine> {
    let (bar, mut moved) = loading();
    let engine = Engine::load(catalogue, options, &mut moved)?;
    bar.finish_and_clear();
    said(engine.info());
    Ok(engine)
}

/// Says on stderr which device runs a model, and how it reads.
pub fn said(info: &ModelInfo) {
    output::note(format_args!("device: {}", info.device));
    if let Some(note) = &info.note {
        output::note(note);
    }
}

/// Opens and loads the model that the settings name.
///
/// # Errors
/// Those of `options`, `open` and `load`.
pub fn engine(settings: &Settings, how: How) -> Result<Engine> {
    load(&open(settings)?, &options(settings, how)?)
}

/// The end of a generation, unless Ctrl-C was it.
///
/// # Errors
/// `Cancelled`.
pub fn not_cancelled(finished: Finished) -> Result<Finished> {
    if finished.reason == FinishReason::Cancelled { Err(Error::Cancelled) } else { Ok(finished) }
}

/// Follows a generation to its end. Ctrl-C cancels it; what came until then counts.
///
/// # Errors
/// Those of the generation and of `heard`, which cancels it too.
pub fn follow(generation: Generation, heard: &mut dyn FnMut(&str) -> Result<()>) -> Result<Finished> {
    let _forward = interrupt::forward(generation.cancel_flag())?;
    if interrupt::was_pressed() {
        // Between `watch` and here.
        generation.cancel();
    }
    let (mut bar, start) = (None, Instant::now());
    for event in generation {
        match event? {
            Event::Prompt(PromptProgress { read, all }) if start.elapsed() > LONG => {
                bar.get_or_insert_with(|| progress::steps("prompt", all.into())).set_position(read.into());
            }
            Event::Prompt(_) | Event::Read(_) => {}
            Event::Token(token) => {
                bar.take().inspect(ProgressBar::finish_and_clear);
                heard(&token.text)?;
            }
            Event::Finished(finished) => {
                heard(&finished.text)?;
                return Ok(finished);
            }
        }
    }
    Err(Error::Engine("the generation ended without its last event".into()))
}

#[cfg(test)]
mod tests {
    use crate::config::{Kind, setting};
    use crate::io::KINDS;

    #[test]
    fn the_setting_lists_every_reader() {
        let Kind::OneOf(words) = setting("memory.io").unwrap().kind else { panic!("the readers are words") };
        assert_eq!(words, KINDS.iter().map(|k| k.0).collect::<Vec<_>>());
    }
}
