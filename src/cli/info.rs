//! `air info`: what a model file holds, read from its header alone.
//!
//! It opens what `gguf::open` accepts, also models that air cannot run, and then says why it cannot. Text from the file
//! is escaped before it reaches the terminal.

use super::settings::{ModelOnly, SettingArgs};
use super::shares::{self, Share};
use super::{human, model, output};
use crate::arch::{self, Ffn, ModelSpec};
use crate::error::Result;
use crate::format::{Catalogue, gguf};
use crate::meta::{Array, Value};
use serde_json::{Value as Json, json};
use std::path::PathBuf;

/// Characters of a string that are shown.
const SHOWN: usize = 80;
/// Elements of an array that are shown.
const ELEMENTS: usize = 6;

/// Show what a model file holds: metadata, formats, sizes, and whether air runs it
#[derive(clap::Args)]
pub struct Args {
    /// Model file, as with --model
    #[arg(value_name = "FILE", conflicts_with = "model.path")]
    file: Option<PathBuf>,
    /// List the tensors too
    #[arg(long)]
    tensors: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingArgs<ModelOnly>,
}

/// Prints the report.
pub fn run(args: Args) -> Result<()> {
    let catalogue = open(&args)?;
    let report = Report::new(&catalogue);
    if args.json { output::json(&report.json(args.tensors)) } else { output::report(&report.text(args.tensors)) }
}

fn open(args: &Args) -> Result<Catalogue> {
    match &args.file {
        Some(file) => gguf::open(file),
        None => model::open(&args.settings.resolve()?),
    }
}

struct Report<'a> {
    catalogue: &'a Catalogue,
    spec: Result<ModelSpec>,
    /// Formats, the largest first.
    mix: Vec<Share>,
    file_bytes: u64,
}

impl<'a> Report<'a> {
    fn new(catalogue: &'a Catalogue) -> Self {
        let mix = shares::of(catalogue.tensors.values().map(|t| (t.format.name, t.elements(), t.extent.len)));
        let file_bytes = catalogue.sources.iter().map(|s| s.len()).sum();
        Report { catalogue, spec: arch::spec(catalogue), mix, file_bytes }
    }

    fn string(&self, key: &str) -> Option<&[u8]> {
        match self.catalogue.meta.get(key) {
            Some(Value::String(s)) => Some(s),
            _ => None,
        }
    }

    fn architecture(&self) -> Option<String> {
        self.string("general.architecture").map(|s| human::foreign(s, SHOWN))
    }

    fn context(&self) -> Option<i64> {
        let key = format!("{}.context_length", String::from_utf8_lossy(self.string("general.architecture")?));
        self.catalogue.meta.get(&key)?.integer()
    }

    fn vocabulary(&self) -> Option<usize> {
        self.catalogue.meta.opt_strings("tokenizer.ggml.tokens").ok().flatten().map(|s| s.len())
    }

    fn parameters(&self) -> u64 {
        self.mix.iter().map(|s| s.elements).sum()
    }

    fn bytes(&self) -> u64 {
        self.mix.iter().map(|s| s.bytes).sum()
    }

    /// Whether air runs the model, or why not.
    fn verdict(&self) -> Result<(), String> {
        match &self.spec {
            _ if self.catalogue.tensors.is_empty() => Err("the file holds no tensors (a vocabulary?)".into()),
            Ok(_) => Ok(()),
            Err(e) => Err(e.to_string()),
        }
    }

    fn text(&self, tensors: bool) -> String {
        let mut out = human::table(&self.summary(), &[]);
        if !self.mix.is_empty() {
            out += &format!("\nFormats\n{}", human::table(&shares::rows(&self.mix), &[1, 2, 3, 4]));
        }
        out += &format!("\nMetadata\n{}", human::table(&self.metadata_rows(), &[]));
        if tensors {
            out += &format!("\nTensors\n{}", human::table(&self.tensor_rows(), &[3]));
        }
        out
    }

    fn summary(&self) -> Vec<Vec<String>> {
        let sources = self.catalogue.sources.len();
        let files = if sources == 1 { String::new() } else { format!(" in {sources} files") };
        let mut rows = vec![("file", format!("{}, {}{files}", self.catalogue.file(), human::bytes(self.file_bytes)))];
        if let Some(name) = self.string("general.name") {
            rows.push(("name", human::foreign(name, SHOWN)));
        }
        rows.push(("architecture", self.architecture().unwrap_or_else(|| "not named".into())));
        if !self.mix.is_empty() {
            let (n, bytes) = (self.parameters(), self.bytes());
            let bits = shares::bits(bytes, n);
            rows.push(("parameters", format!("{} in {}, {bits} bits each", human::count(n), human::bytes(bytes))));
        }
        if let Ok(spec) = &self.spec {
            rows.push(("layers", layers(spec)));
        }
        if let Some(n) = self.context() {
            rows.push(("context", format!("{} tokens", human::thousands(n.max(0) as u64))));
        }
        if let Some(n) = self.vocabulary() {
            let kind = self.tokenizer().unwrap_or_else(|| "kind not named".into());
            rows.push(("tokenizer", format!("{kind}, {} tokens", human::thousands(n as u64))));
        }
        if let Some(t) = self.string("tokenizer.chat_template") {
            rows.push(("template", format!("{} bytes", human::thousands(t.len() as u64))));
        }
        let runs = self.verdict().map_or_else(|why| format!("no: {why}"), |()| "yes, on the CPU".into());
        rows.push(("runs", runs));
        rows.into_iter().map(|(k, v)| vec![k.to_string(), v]).collect()
    }

    fn tokenizer(&self) -> Option<String> {
        let kind = human::foreign(self.string("tokenizer.ggml.model")?, SHOWN);
        let pre = self.string("tokenizer.ggml.pre").map(|s| format!(" ({})", human::foreign(s, SHOWN)));
        Some(kind + &pre.unwrap_or_default())
    }

    fn metadata_rows(&self) -> Vec<Vec<String>> {
        let row = |(key, value): (&str, &Value)| vec![human::foreign(key.as_bytes(), SHOWN), show(value)];
        self.catalogue.meta.iter().map(row).collect()
    }

    fn tensor_rows(&self) -> Vec<Vec<String>> {
        let row = |t: &crate::format::TensorInfo| {
            let shape: Vec<String> = t.shape.iter().map(u64::to_string).collect();
            let name = human::foreign(t.name.as_bytes(), SHOWN);
            vec![name, shape.join(" x "), t.format.name.into(), human::bytes(t.extent.len)]
        };
        self.catalogue.tensors.values().map(row).collect()
    }

    fn json(&self, tensors: bool) -> Json {
        let metadata: serde_json::Map<String, Json> =
            self.catalogue.meta.iter().map(|(k, v)| (k.to_string(), value_json(v))).collect();
        let mut out = json!({
            "file": self.catalogue.file(),
            "files": self.catalogue.sources.len(),
            "file_bytes": self.file_bytes,
            "architecture": self.string("general.architecture").map(String::from_utf8_lossy),
            "supported": self.verdict().is_ok(),
            "unsupported_because": self.verdict().err(),
            "parameters": self.parameters(),
            "weights_bytes": self.bytes(),
            "context": self.context(),
            "tokenizer": self.string("tokenizer.ggml.model").map(String::from_utf8_lossy),
            "vocabulary": self.vocabulary(),
            "chat_template": self.string("tokenizer.chat_template").map(String::from_utf8_lossy),
            "formats": shares::json(&self.mix),
            "metadata": metadata,
        });
        if tensors {
            let row = |t: &crate::format::TensorInfo| {
                let (source, offset, bytes) = (t.extent.source, t.extent.offset, t.extent.len);
                let file = self.catalogue.sources[source].name();
                let format = t.format.name;
                json!({ "name": t.name, "shape": t.shape, "format": format, "bytes": bytes, "offset": offset, "file": file })
            };
            out["tensors"] = self.catalogue.tensors.values().map(row).collect();
        }
        out
    }
}

fn layers(spec: &ModelSpec) -> String {
    let text = format!("{} of width {}", spec.layers.len(), spec.width);
    match spec.layers.first().map(|l| &l.ffn) {
        Some(Ffn::Moe { experts, used, .. }) => format!("{text}, {used} of {experts} experts"),
        _ => text,
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::String(s) => human::foreign(s, SHOWN),
        Value::Array(a) => show_array(a),
        Value::F32(x) => x.to_string(),
        Value::F64(x) => x.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::U64(n) => n.to_string(),
        other => other.integer().map_or_else(String::new, |n| n.to_string()),
    }
}

fn show_array(a: &Array) -> String {
    let n = a.len();
    let mut shown: Vec<String> = (0..n.min(ELEMENTS)).map(|i| element(a, i)).collect();
    if n > ELEMENTS {
        shown.push("…".into());
    }
    format!("{} {} [{}]", human::thousands(n as u64), a.element_type(), shown.join(", "))
}

fn element(a: &Array, i: usize) -> String {
    match a {
        Array::U8(v) => v[i].to_string(),
        Array::I8(v) => v[i].to_string(),
        Array::U16(v) => v[i].to_string(),
        Array::I16(v) => v[i].to_string(),
        Array::U32(v) => v[i].to_string(),
        Array::I32(v) => v[i].to_string(),
        Array::U64(v) => v[i].to_string(),
        Array::I64(v) => v[i].to_string(),
        Array::F32(v) => v[i].to_string(),
        Array::F64(v) => v[i].to_string(),
        Array::Bool(v) => v[i].to_string(),
        Array::String(v) => format!("\"{}\"", human::foreign(v.get(i).unwrap_or_default(), 20)),
        Array::Array(v) => format!("[{}]", v[i].len()),
    }
}

fn value_json(value: &Value) -> Json {
    match value {
        Value::String(s) => String::from_utf8_lossy(s).into(),
        Value::Array(a) => json!({ "type": a.element_type(), "length": a.len() }),
        Value::F32(x) => json!(x),
        Value::F64(x) => json!(x),
        Value::Bool(b) => json!(b),
        Value::U64(n) => json!(n),
        other => json!(other.integer()),
    }
}
