//! 20,000 damaged model files, each opened, tokenised with and run for one token: nothing panics, hangs, or allocates
//! more than the file's size and 64 MB.
//!
//! Half of the mutations know the header's structure and change counts, types, lengths, offsets and names; half change,
//! cut, insert and delete bytes anywhere. All follow from `SEED`. A file that does harm is written to the path that the
//! failure names. Only one test is in this program, because it watches the allocator.

#[path = "common/fields.rs"]
mod fields;

use air_rs::arch::shapes::Shape;
use air_rs::arch::synthetic::Draw;
use air_rs::engine::{Chunk, LoadOptions, Outputs, load};
use air_rs::error::Result;
use air_rs::format::gguf::{self, TensorPlan, Writer};
use air_rs::meta::{Array, Meta, Value};
use air_rs::quant::random::{self, Blocks};
use air_rs::quant::{self, Format};
use air_rs::source::Source;
use air_rs::text::{ChatTemplate, Message, RenderOptions, Tokenizer, synthetic};
use fields::{Field, Kind};
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const MUTATIONS: usize = 20_000;
const SEED: u64 = 2026;
/// Bytes that may be allocated beyond the file's size.
const ALLOWANCE: usize = 64 << 20;
/// A mutation that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// The system's allocator, counting.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static PANICS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(p, layout) }
    }
}

fn count(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Random numbers: a counter through the library's mixing function.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 += 1;
        random::seed(&[SEED, self.0])
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

const SHAPE: Shape = Shape {
    name: "mutant",
    architecture: "llama",
    width: 64,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    head_dim: 32,
    ffn: 64,
    vocab: 300,
    context: 128,
    rope_base: 10_000.0,
    rope_stretch: None,
    tied: true,
    experts: None,
};

/// Valid models of every family and both kinds of tokenizer.
fn models() -> Vec<Vec<u8>> {
    let bpe = byte_level();
    let spm = sentencepiece();
    let model = |shape: Shape, tokenizer: &Meta, format: &str| write(&shape, tokenizer, format);
    vec![
        model(SHAPE, &spm, "Q4_0"),
        model(Shape { rope_stretch: Some(8.0), tied: false, ..SHAPE }, &bpe, "F32"),
        model(Shape { experts: Some((4, 2)), ..SHAPE }, &spm, "Q8_0"),
        model(Shape { architecture: "qwen2", ..SHAPE }, &bpe, "F16"),
        model(Shape { architecture: "qwen3", ..SHAPE }, &bpe, "IQ4_NL"),
        model(Shape { architecture: "qwen3moe", experts: Some((8, 3)), ..SHAPE }, &bpe, "MXFP4"),
        model(Shape { width: 256, ffn: 256, heads: 8, layers: 1, ..SHAPE }, &spm, "Q4_K"),
    ]
}

fn byte_level() -> Meta {
    // GPT-2's spelling of bytes: printable ones as themselves, the others from U+0100 on
    let printable = |b: &u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let bytes = (0..256).filter(printable).chain(256..324).map(|c| char::from_u32(c).unwrap().to_string());
    let merges = ["h e", "l l", "ll o", "he llo", "Ġ w"];
    let words = merges.iter().map(|m| m.replace(' ', ""));
    let all: Vec<String> = bytes.chain(words).chain(["<|endoftext|>".into()]).collect();
    let kinds = (0..all.len()).map(|i| if i + 1 < all.len() { 1 } else { 3 }).collect();
    let last = all.len() as u32 - 1;
    let mut meta = Meta::new("bpe");
    let mut set = |key: &str, value: Value| meta.insert(&format!("tokenizer.{key}"), value, None);
    set("ggml.model", Value::String(b"gpt2".to_vec()));
    set("ggml.pre", Value::String(b"llama-bpe".to_vec()));
    set("ggml.tokens", Value::Array(Array::String(all.iter().map(String::as_str).collect())));
    set("ggml.token_type", Value::Array(Array::I32(kinds)));
    set("ggml.merges", Value::Array(Array::String(merges.into_iter().collect())));
    set("ggml.bos_token_id", Value::U32(last));
    set("ggml.eos_token_id", Value::U32(last));
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}{{ eos_token }}";
    set("chat_template", Value::String(template.into()));
    meta
}

fn sentencepiece() -> Meta {
    let mut meta = Meta::new("spm");
    let bytes = (0..256).map(|b| (format!("<0x{b:02X}>"), 0.0, 6));
    let special = [("<unk>", 2), ("<s>", 3), ("</s>", 3)].map(|(t, kind)| (t.to_string(), 0.0, kind));
    let words = ["\u{2581}", "h", "e", "l", "o", "he", "ll", "hell", "hello", "\u{2581}w"];
    let words = words.iter().enumerate().map(|(i, w)| (w.to_string(), -(i as f32), 1));
    let all: Vec<_> = special.into_iter().chain(bytes).chain(words).collect();
    let mut set = |key: &str, value: Value| meta.insert(&format!("tokenizer.ggml.{key}"), value, None);
    set("model", Value::String(b"llama".to_vec()));
    set("tokens", Value::Array(Array::String(all.iter().map(|t| t.0.as_str()).collect())));
    set("scores", Value::Array(Array::F32(all.iter().map(|t| t.1).collect())));
    set("token_type", Value::Array(Array::I32(all.iter().map(|t| t.2).collect())));
    set("bos_token_id", Value::U32(1));
    set("eos_token_id", Value::U32(2));
    set("add_bos_token", Value::Bool(true));
    meta
}

fn write(shape: &Shape, tokenizer: &Meta, format: &str) -> Vec<u8> {
    let mut meta = shape.metadata();
    synthetic::copy_padded(tokenizer, &mut meta, shape.vocab as usize).unwrap();
    let (format, plain) = (Format::by_name(format).unwrap(), quant::Kind::F32.format());
    let tensors = shape.tensors();
    let plan = |t: &air_rs::arch::synthetic::Tensor| {
        let matrix = t.shape.len() > 1 && !t.name.contains("gate_inp");
        let format = if matrix { format } else { plain };
        TensorPlan { name: t.name.clone(), format, shape: t.shape.clone() }
    };
    let plans: Vec<_> = tensors.iter().map(plan).collect();
    let path: PathBuf = std::env::temp_dir().join(format!("air-mutations-{}.gguf", std::process::id()));
    let mut writer = Writer::create(&path, &meta, &plans).unwrap();
    for (t, plan) in tensors.iter().zip(&plans) {
        let mut bytes = vec![0; plan.bytes().unwrap() as usize];
        match &t.draw {
            Draw::Random(std) => Blocks::new(plan.format, *std).fill(7, &mut bytes),
            Draw::Given(values) => (plain.encode.unwrap())(values, &mut bytes),
        }
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    bytes
}

/// Changes one to three fields of the header.
fn structured(bytes: &mut [u8], fields: &[Field], rng: &mut Rng) {
    for _ in 0..1 + rng.below(3) {
        // a quarter of the picks are for what is rare: counts and types
        let rare = rng.below(4) == 0;
        let field = loop {
            let f = fields[rng.below(fields.len())];
            if f.len > 0 && (!rare || matches!(f.kind, Kind::Count | Kind::Type)) {
                break f;
            }
        };
        let here = field.offset..field.offset + field.len;
        if field.kind == Kind::Text {
            match rng.below(3) {
                0 => bytes[field.offset + rng.below(field.len)] = rng.next() as u8,
                1 => bytes[here].reverse(),
                _ => {
                    // another text of the file, as far as it fits
                    let other = fields[rng.below(fields.len())];
                    let n = other.len.min(field.len);
                    bytes.copy_within(other.offset..other.offset + n, field.offset);
                }
            }
            continue;
        }
        let mut word = [0; 8];
        word[..field.len].copy_from_slice(&bytes[here.clone()]);
        let old = u64::from_le_bytes(word);
        let new = match rng.below(10) {
            0 => 0,
            1 => 1,
            2 => old.wrapping_add(1),
            3 => old.wrapping_sub(1),
            4 => old.wrapping_mul(2),
            5 => u64::MAX,
            6 => 1 << rng.below(64),
            7 => rng.next() % 64,
            8 => rng.next(),
            _ => old ^ (1 << rng.below(8 * field.len)),
        };
        bytes[here].copy_from_slice(&new.to_le_bytes()[..field.len]);
    }
}

/// Changes bytes without knowing what they mean; half of the times within the header.
fn raw(bytes: &mut Vec<u8>, header: usize, rng: &mut Rng) {
    let reach = if rng.below(2) == 0 { header } else { bytes.len() };
    let at = rng.below(reach);
    match rng.below(6) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..(at + 1 + rng.below(64)).min(bytes.len()))),
        2 => {
            let new: Vec<u8> = (0..1 + rng.below(64)).map(|_| rng.next() as u8).collect();
            drop(bytes.splice(at..at, new));
        }
        3 => {
            let end = (at + 1 + rng.below(64)).min(bytes.len());
            bytes[at..end].fill([0, 0xff][rng.below(2)]);
        }
        _ => {
            for _ in 0..1 + rng.below(8) {
                bytes[rng.below(reach)] ^= 1 << rng.below(8);
            }
        }
    }
}

/// How far a file got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Got {
    Nowhere,
    Opened,
    Loaded,
    Ran,
}

/// What a user would do with a file.
fn try_file(bytes: Vec<u8>, exact: bool) -> Got {
    let source = Source::embedded("mutant", bytes);
    let Ok(catalogue) = gguf::open_source(Arc::new(source)) else { return Got::Nowhere };
    let tokens = match Tokenizer::from_meta(&catalogue.meta) {
        Ok(tokenizer) => {
            let ids = tokenizer.encode("hello wörld </s> <|endoftext|> \n 123", true, true);
            tokenizer.decode(&ids, true);
            if let Ok(Some(template)) = ChatTemplate::from_meta(&catalogue.meta, &tokenizer) {
                let _ = template.render(&[Message::new("user", "hello")], &RenderOptions::default());
            }
            ids
        }
        Err(_) => vec![1],
    };
    let context = Some(64);
    let options = LoadOptions { exact, threads: Some(1), context, max_rows: 8, ..LoadOptions::default() };
    let Ok((_, mut runner)) = load(&catalogue, &options, &mut |_, _| ()) else { return Got::Opened };
    let seq = runner.kv().create();
    let token = tokens.first().map_or(0, |t| t % runner.vocab() as u32);
    let run: Result<()> = runner.run([Chunk { seq, tokens: &[token], outputs: Outputs::Last }]);
    if run.is_ok() { Got::Ran } else { Got::Loaded }
}

/// The mutation that is being tried, and its number.
static CURRENT: Mutex<(usize, Vec<u8>)> = Mutex::new((0, Vec::new()));

/// Writes the current mutation where it can be looked at.
fn keep() -> String {
    let current = CURRENT.lock().unwrap();
    let path = std::env::temp_dir().join("air-mutant.gguf");
    std::fs::write(&path, &current.1).unwrap();
    format!("mutation {}, kept as {}", current.0, path.display())
}

/// Ends the program when one mutation takes longer than `PATIENCE`.
fn watch() {
    std::thread::spawn(|| {
        let (mut last, mut since) = (usize::MAX, Instant::now());
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let now = CURRENT.lock().unwrap().0;
            if now != last {
                (last, since) = (now, Instant::now());
            } else if since.elapsed() > PATIENCE {
                eprintln!("{} hangs", keep());
                std::process::abort();
            }
        }
    });
}

#[test]
fn damaged_files_do_no_harm() {
    let models = models();
    let fields: Vec<_> = models.iter().map(|m| fields::fields(m)).collect();
    for (model, fields) in models.iter().zip(&fields) {
        for exact in [true, false] {
            assert_eq!(try_file(model.clone(), exact), Got::Ran, "the undamaged file of {} fields", fields.len());
        }
    }
    std::panic::set_hook(Box::new(|info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        eprintln!("{info}");
    }));
    watch();
    let mut got = [0usize; 4];
    let (mut slowest, mut largest) = (Duration::ZERO, 0);
    for i in 0..MUTATIONS {
        let mut rng = Rng((i as u64) << 32);
        let which = i / 2 % models.len();
        let mut bytes = models[which].clone();
        let header = fields[which].last().map_or(0, |f| f.offset + f.len);
        if i % 2 == 0 {
            structured(&mut bytes, &fields[which], &mut rng)
        } else {
            raw(&mut bytes, header, &mut rng)
        }
        let size = bytes.len();
        *CURRENT.lock().unwrap() = (i, bytes.clone());
        let before = LIVE.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let started = Instant::now();
        let exact = rng.next().is_multiple_of(2);
        let outcome = std::panic::catch_unwind(|| try_file(bytes, exact));
        slowest = slowest.max(started.elapsed());
        let used = PEAK.load(Ordering::Relaxed).saturating_sub(before);
        largest = largest.max(used);
        assert!(outcome.is_ok() && PANICS.load(Ordering::Relaxed) == 0, "{} panics", keep());
        assert!(used <= size + ALLOWANCE, "{} allocates {used} bytes", keep());
        got[outcome.unwrap() as usize] += 1;
    }
    let _ = std::panic::take_hook();
    println!(
        "{MUTATIONS} mutations: {} refused, {} opened, {} loaded, {} ran; slowest {slowest:?}, most memory beside \
         the file {:.1} MB",
        got[0],
        got[1],
        got[2],
        got[3],
        largest as f64 / 1e6
    );
    assert!(got[0] > MUTATIONS / 5 && got[3] > MUTATIONS / 50, "the mutations reach every stage: {got:?}");
}
