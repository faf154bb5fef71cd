//! `air synth`: a GGUF of a real model's shape with random weights, to test a machine without a download.
//!
//! This file turns flags into a plan of the file, and lists shapes; `write` draws and writes.

mod write;

use super::interrupt::{self, Interrupt};
use super::target;
use super::{human, output};
use crate::arch::shapes::{SHAPES, Shape};
use crate::arch::synthetic::Tensor;
use crate::engine;
use crate::error::{Error, Result};
use crate::format::Catalogue;
use crate::format::gguf::{self, TensorPlan};
use crate::meta::{Meta, Value};
use crate::quant::mix::{Facts, MIXES, Mix};
use crate::quant::{FORMATS, Format, Kind};
use crate::text::synthetic as vocabulary;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Types whose sizes `--list` shows.
const LISTED: [&str; 3] = ["Q4_K_M", "Q8_0", "F16"];

/// Write a model of a real model's shape with random weights
#[derive(clap::Args)]
pub struct Args {
    /// Shape, such as llama-3.1-8b; see --list
    #[arg(value_name = "SHAPE", required_unless_present = "list")]
    shape: Option<String>,
    /// File to write
    #[arg(short, long, value_name = "FILE", required_unless_present = "list")]
    output: Option<PathBuf>,
    /// Type of the weights: a mix, as for `air quantize`, or any format for all matrices
    #[arg(long, value_name = "TYPE", default_value = "Q4_K_M")]
    quant: String,
    /// Take the tokenizer of this GGUF (default: the bytes)
    #[arg(long, value_name = "FILE")]
    vocab: Option<PathBuf>,
    /// Seed of the weights
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Write only this many layers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    layers: Option<u32>,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
    /// List the shapes, with parameters and sizes
    #[arg(long)]
    list: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Writes the model, or lists the shapes.
pub fn run(args: Args) -> Result<()> {
    let (Some(shape), Some(path), false) = (&args.shape, &args.output, args.list) else { return list(args.json) };
    let mut shape = Shape::by_name(shape)?.clone();
    shape.layers = args.layers.unwrap_or(shape.layers);
    let model = Model::new(&shape, Type::by_name(&args.quant)?, args.vocab.as_deref())?;
    let _part = target::claim(path, args.force)?;
    let interrupt = interrupt::watch()?;
    let started = std::time::Instant::now();
    let bytes = write::write(&model, path, args.seed, &interrupt)?;
    let seconds = started.elapsed().as_secs_f64();
    let rate = bytes as f64 / seconds;
    if args.json {
        let file = path.display().to_string();
        let report = json!({ "file": file, "shape": shape.name, "quant": args.quant, "parameters": shape.parameters(),
            "bytes": bytes, "seconds": seconds, "bytes_per_second": rate });
        output::json(&report)
    } else {
        let (size, rate) = (human::bytes(bytes), human::bytes(rate as u64));
        output::line(format_args!("{}: {}, {size} in {seconds:.1} s, {rate}/s", path.display(), shape.name))
    }
}

/// Writes the model of a shape's and a type's name, with the bytes as its vocabulary, and returns the bytes written.
///
/// # Errors
/// As `air synth`.
pub fn create(shape: &str, quant: &str, path: &Path, interrupt: &Interrupt) -> Result<u64> {
    write::write(&Model::new(Shape::by_name(shape)?, Type::by_name(quant)?, None)?, path, 0, interrupt)
}

/// The same without the weights: what a plan needs to know, and nothing to run. Leaves no file.
///
/// # Errors
/// As `air synth`; `Io` where the temporary folder takes no file.
pub fn outline(shape: &str, quant: &str) -> Result<Catalogue> {
    let model = Model::new(Shape::by_name(shape)?, Type::by_name(quant)?, None)?;
    // A name that nobody else has, nor an earlier process of this number that was killed.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.as_nanos());
    let path = std::env::temp_dir().join(format!("air-plan-{}-{now}.gguf", std::process::id()));
    let catalogue = gguf::outline(&path, &model.meta, &model.plans).and_then(|()| gguf::open(&path));
    let removed = std::fs::remove_file(&path).map_err(|e| Error::io(path.display().to_string(), "cannot remove", &e));
    catalogue.and_then(|catalogue| removed.map(|()| catalogue))
}

/// `SHAPE:QUANT`
pub fn parse(text: &str) -> Result<(String, String), String> {
    let (shape, quant) = text.split_once(':').ok_or("must be a shape, `:` and a type, such as llama-3.2-1b:Q4_K_M")?;
    Ok((shape.into(), quant.into()))
}

/// What the matrices become.
#[derive(Debug, Clone, Copy)]
enum Type {
    Mix(&'static Mix),
    /// One format for all of them.
    Pure(&'static Format),
}

impl Type {
    fn by_name(name: &str) -> Result<Type> {
        if let Ok(mix) = Mix::by_name(name) {
            return Ok(Type::Mix(mix));
        }
        Format::by_name(name).map(Type::Pure).map_err(|_| {
            let mut names: Vec<_> = MIXES.iter().map(|m| m.name).collect();
            names.extend(FORMATS.iter().map(|f| f.name).filter(|n| Mix::by_name(n).is_err()));
            Error::Invalid(format!("`{name}` is not a type; there are {}", names.join(", ")))
        })
    }

    fn file_type(self) -> Option<u32> {
        match self {
            Type::Mix(mix) => Some(mix.file_type),
            Type::Pure(_) => None,
        }
    }

    /// The format of a tensor.
    fn format(self, facts: &Facts, t: &Tensor) -> &'static Format {
        let kept = Kind::F32.format();
        match self {
            Type::Mix(mix) => mix.format(facts, &t.name, &t.shape).unwrap_or(kept),
            Type::Pure(format) => {
                let half = Mix::by_name("F16").ok().and_then(|mix| mix.format(facts, &t.name, &t.shape));
                let fits = |f: &Format| t.shape[0].is_multiple_of(f.block_len as u64);
                let choice = [format, Kind::Q8_0.format(), Kind::F16.format()].into_iter().find(|f| fits(f));
                if half.is_some() { choice.unwrap_or(kept) } else { kept }
            }
        }
    }
}

/// Everything about the file but the numbers.
struct Model {
    meta: Meta,
    tensors: Vec<Tensor>,
    plans: Vec<TensorPlan>,
}

impl Model {
    fn new(shape: &Shape, kind: Type, vocab: Option<&Path>) -> Result<Model> {
        let mut meta = shape.metadata();
        if let Some(n) = kind.file_type() {
            meta.insert("general.file_type", Value::U32(n), None);
        }
        let source = match vocab {
            Some(path) => gguf::open(path)?.meta,
            None => engine::demo()?.meta,
        };
        vocabulary::copy_padded(&source, &mut meta, shape.vocab as usize)?;
        let facts = Facts::new(&meta, shape.tied)?;
        let tensors = shape.tensors();
        let plan =
            |t: &Tensor| TensorPlan { name: t.name.clone(), format: kind.format(&facts, t), shape: t.shape.clone() };
        let plans = tensors.iter().map(plan).collect();
        Ok(Model { meta, tensors, plans })
    }

    /// Bytes of the tensors.
    fn bytes(&self) -> Result<u64> {
        self.plans.iter().map(TensorPlan::bytes).sum()
    }
}

fn list(json: bool) -> Result<()> {
    let types = LISTED.map(|name| Type::by_name(name).map(|kind| (name, kind)));
    let types = types.into_iter().collect::<Result<Vec<_>>>()?;
    let mut rows = vec![vec!["shape".to_string(), "family".into(), "parameters".into()]];
    rows[0].extend(LISTED.map(String::from));
    let mut shapes = Vec::new();
    for shape in SHAPES {
        let sizes =
            types.iter().map(|(_, kind)| Model::new(shape, *kind, None)?.bytes()).collect::<Result<Vec<_>>>()?;
        let n = shape.parameters();
        let sizes_json: serde_json::Map<_, _> =
            LISTED.iter().map(|n| n.to_string()).zip(sizes.iter().map(|&b| b.into())).collect();
        shapes.push(
            json!({ "shape": shape.name, "architecture": shape.architecture, "parameters": n, "bytes": sizes_json }),
        );
        let cells = [shape.name.into(), shape.architecture.into(), human::count(n)];
        rows.push(cells.into_iter().chain(sizes.into_iter().map(human::bytes)).collect());
    }
    match json {
        true => output::json(&serde_json::Value::Array(shapes)),
        false => output::report(&human::table(&rows, &[2, 3, 4, 5])),
    }
}
