//! Whole models: every family's golden, mixes of formats, the demo model, stage by stage on both backends.

use crate::case::{Shelf, assert_bits, cuda, in_groups};
use crate::device::Device;
use crate::npy;
use air_rs::arch;
use air_rs::engine::demo;
use air_rs::format::{Catalogue, TensorInfo, gguf};
use air_rs::hal::cpu::{Cpu, CpuOptions};
use air_rs::hal::cuda::Cuda;
use air_rs::hal::exact::Exact;
use air_rs::hal::{
    Backend, Batch, Bindings, Home, Hybrid, KvGroup, KvLayout, PAGE, Panel, Reservation, Row, Supply, WeightDesc,
};
use air_rs::lower::{self, LOGITS, Lowered};
use air_rs::quant::Kind;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Rows of a panel, where some are brought.
const ROWS: usize = 48;

/// How a model is fed.
#[derive(Clone, Copy)]
struct Feed {
    /// Rows of a pass.
    pass: usize,
    /// Rows of a launch, but for programs that run whole.
    tile: usize,
    /// Format of keys and values.
    state: Kind,
    /// Where weights are.
    homes: Homes,
}

/// Where a model's weights are.
#[derive(Clone, Copy, PartialEq)]
enum Homes {
    /// All on the device.
    Device,
    /// Of each matrix some panels are brought in each pass, and of the embedding single rows.
    Brought,
    /// Of every other layer the feed-forward part is beside the device.
    Beside,
}

/// The panels of a tensor: one in memory, or several whose homes take turns.
fn cut(shelf: &mut Shelf, t: &TensorInfo, bytes: &[u8], homes: Homes, tied: bool) -> Vec<Panel> {
    let (all, row_bytes) = (t.rows() as usize, t.row_bytes() as usize);
    let experts = t.name.contains("_exps.");
    let layer = t.name.split('.').nth(1).and_then(|n| n.parse::<usize>().ok());
    let part = ["ffn_gate.", "ffn_up.", "ffn_down.", "_exps."].iter().any(|p| t.name.contains(p));
    let apart = match homes {
        Homes::Device => false,
        Homes::Brought => all > ROWS && t.shape.len() == 2,
        Homes::Beside => part && layer.is_some_and(|n| n % 2 == 1),
    };
    let rows = match apart {
        true if experts => t.shape[1] as usize,
        true => ROWS,
        false => all,
    };
    let turns = match t.name.as_str() {
        _ if !apart => [Home::Memory; 3],
        _ if homes == Homes::Beside && experts => [Home::Cache; 3],
        _ if homes == Homes::Beside => [Home::Stream, Home::Host, Home::Host],
        "token_embd.weight" if !tied => [Home::Drive, Home::Memory, Home::Drive],
        _ => [Home::Stream, Home::Memory, Home::Host],
    };
    let panel = |(n, first): (usize, usize)| {
        let rows = first..(first + rows).min(all);
        let (bytes, home) = (&bytes[rows.start * row_bytes..rows.end * row_bytes], turns[n % 3]);
        let arranged = homes == Homes::Beside && home == Home::Host;
        let number = shelf.add(if arranged { in_groups(t.format, t.shape[0] as usize, bytes) } else { bytes.to_vec() });
        Panel { number, rows, home }
    };
    (0..all).step_by(rows).enumerate().map(panel).collect()
}

/// Logits of all tokens of one sequence, `[tokens, vocab]`.
fn logits(backend: &mut dyn Backend, catalogue: &Catalogue, tokens: &[u32], feed: Feed) -> Vec<f32> {
    let lowered: Lowered = lower::lower(&arch::spec(catalogue).unwrap());
    let mut shelf = Shelf::default();
    let mut panels = vec![];
    for need in &lowered.weights {
        let t = catalogue.tensor(&need.tensor).unwrap();
        let mut bytes = vec![0; t.extent.len as usize];
        catalogue.sources[t.extent.source].read_at(t.extent.offset, &mut bytes).unwrap();
        panels.push(cut(&mut shelf, t, &bytes, feed.homes, !catalogue.tensors.contains_key("output.weight")));
    }
    let supply: Arc<dyn Supply> = Arc::new(shelf);
    let programs: Vec<_> = lowered.programs.iter().map(|p| backend.compile(p).unwrap()).collect();
    let mut weights = vec![];
    for (i, (need, panels)) in lowered.weights.iter().zip(&panels).enumerate() {
        let dim = |d: usize| need.shape.get(d).copied().unwrap_or(1);
        let (name, format) = (&need.tensor[..], catalogue.tensor(&need.tensor).unwrap().format);
        let (cols, rows, experts, matrix) = (dim(0), dim(1), dim(2), lowered.is_matrix(i));
        let desc =
            WeightDesc { name, format, cols, rows, experts, matrix, panels, arranged: feed.homes == Homes::Beside };
        weights.push(backend.load(&desc, &supply).unwrap());
    }
    // Pages in descending order.
    let pages = tokens.len().div_ceil(PAGE);
    let group = |g: &lower::StateGroup| KvGroup { layers: g.layers.clone(), window: g.window, pages };
    let state = feed.state.format();
    let kv = KvLayout { k: state, v: state, groups: lowered.groups.iter().map(group).collect() };
    let (carries, pass_rows, max_rows) = (&lowered.carries[..], feed.pass, feed.tile);
    let ring = if feed.homes == Homes::Device { (0, 0) } else { (3, 1 << 20) };
    backend.reserve(&Reservation { carries, pass_rows, max_rows, max_outputs: pass_rows, kv: &kv, ring }).unwrap();
    let table: Vec<Vec<u32>> = kv.groups.iter().map(|_| (0..pages as u32).rev().collect()).collect();
    let tables = [&table[..]];
    let rows = tokens.iter().zip(0..).map(|(&token, pos)| Row { token, seq: 0, pos, output: true });
    let rows: Vec<Row> = rows.collect();
    let mut out = vec![];
    for pass in rows.chunks(feed.pass) {
        for stage in &lowered.stages {
            let bound = stage.weights.iter().map(|&w| weights[w]).collect();
            let bindings = Bindings { weights: bound, layer: stage.layer };
            let tile = if lowered.programs[stage.program].runs_whole() { pass.len() } else { feed.tile };
            for (n, rows) in pass.chunks(tile).enumerate() {
                let batch = Batch { rows, first: n * tile, tables: &tables };
                backend.launch(programs[stage.program], &bindings, &batch).unwrap();
            }
        }
        let mut y = vec![0.0; pass.len() * lowered.vocab()];
        backend.read(LOGITS, &mut y);
        out.extend(y);
    }
    out
}

/// Fails where logits are far from the specification's, or another token is the likeliest though the specification
/// tells the first two apart by more than a hundredth of the largest logit. Gives the error.
fn compare(name: &str, got: &[f32], want: &[f32], vocab: usize, most: f64) -> f64 {
    let error: f64 = got.iter().zip(want).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let error = error / want.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>();
    assert!(error <= most, "{name}: error {error:.2e}, at most {most:.0e}");
    for (row, (got, want)) in got.chunks_exact(vocab).zip(want.chunks_exact(vocab)).enumerate() {
        let best = |x: &[f32]| (0..vocab).max_by(|&a, &b| x[a].total_cmp(&x[b])).unwrap();
        let first = best(want);
        let others = want.iter().enumerate().filter(|(i, _)| *i != first);
        let second = others.map(|(_, x)| *x).fold(f32::NEG_INFINITY, f32::max);
        let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
        let clear = want[first] - second > 0.01 * largest;
        assert!(!clear || best(got) == first, "{name}: another token is the likeliest after {row}");
    }
    error
}

fn tokens(n: u32) -> Vec<u32> {
    (0..n).map(|i| 5 + (i * i * 31 + i * 7) % 900).collect()
}

#[derive(serde::Deserialize)]
struct Golden {
    name: String,
    tokens: Vec<u32>,
}

/// The goldens of transformers, in float32: as near as the interpreter but for the order of sums, and for what products
/// with many rows round.
pub fn every_golden_family() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/families");
    let index = std::fs::read_to_string(dir.join("index.json")).unwrap();
    let cases: Vec<Golden> = serde_json::from_str(&index).unwrap();
    for c in &cases {
        let catalogue = gguf::open(&dir.join(format!("{}.gguf", c.name))).unwrap();
        let (shape, want) = npy::read(&dir.join(format!("{}.logits.npy", c.name)));
        for (chunk, reversed) in [(64, false), (3, true)] {
            let feed = Feed { pass: chunk, tile: chunk, state: Kind::F32, homes: Homes::Device };
            let got = logits(&mut cuda(reversed), &catalogue, &c.tokens, feed);
            // Tensor cores round activations to the format of weights in half floats.
            let rounded =
                chunk > 8 && catalogue.tensors.values().any(|t| matches!(t.format.kind, Kind::F16 | Kind::BF16));
            let error = compare(&c.name, &got, &want, shape[1], if rounded { 1e-5 } else { 1e-9 });
            println!("{:<22} chunks of {chunk:<2} {error:>8.1e}", c.name);
        }
    }
    assert!(cases.len() >= 18, "three shapes of each of six families");
}

/// A synthetic model of a shape.
fn synthetic(dir: &Path, shape: &str, kind: &str) -> Catalogue {
    let path = dir.join(format!("{shape}-{kind}.gguf"));
    let mut c = Command::new(env!("CARGO_BIN_EXE_air"));
    c.env_clear().args(["synth", shape, "--quant", kind, "-o"]).arg(&path);
    let o = c.output().unwrap();
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
    gguf::open(&path).unwrap()
}

/// Families and the mixes of formats in which models come, with a prompt and single tokens behind it.
pub fn every_mix_of_formats() {
    let dir = tempfile::tempdir().unwrap();
    for (shape, kind) in [
        ("tiny-llama", "Q4_K_M"),
        ("tiny-llama", "IQ4_XS"),
        ("tiny-qwen2", "Q8_0"),
        ("tiny-qwen3", "Q5_K_M"),
        ("tiny-qwen3moe", "Q4_K_M"),
        ("tiny-mixtral", "Q4_0"),
    ] {
        let catalogue = synthetic(dir.path(), shape, kind);
        let tokens = tokens(20);
        let vocab = arch::spec(&catalogue).unwrap().vocab;
        let feed = Feed { pass: 18, tile: 18, state: Kind::F16, homes: Homes::Device };
        let want = logits(&mut Exact::new(2), &catalogue, &tokens, feed);
        let got = logits(&mut cuda(false), &catalogue, &tokens, feed);
        let error = compare(&format!("{shape} {kind}"), &got, &want, vocab, 1e-3);
        println!("{shape:<14} {kind:<7} {error:>8.1e}");
    }
}

/// The embedded model, with each format of the state.
pub fn the_demo_model() {
    let catalogue = demo().unwrap();
    let tokens = tokens(40);
    let vocab = arch::spec(&catalogue).unwrap().vocab;
    for state in [Kind::F16, Kind::Q8_0] {
        let feed = Feed { pass: 36, tile: 36, state, homes: Homes::Device };
        let want = logits(&mut Exact::new(2), &catalogue, &tokens, feed);
        let got = logits(&mut cuda(false), &catalogue, &tokens, feed);
        let error = compare(&format!("the demo model, {state:?}"), &got, &want, vocab, 1e-3);
        println!("demo, {state:?} {error:>8.1e}");
    }
}

/// A pass that goes through each stage tile by tile is the pass as a whole.
pub fn tiles_of_one_pass() {
    let dir = tempfile::tempdir().unwrap();
    let catalogue = synthetic(dir.path(), "tiny-qwen3moe", "Q8_0");
    let tokens = tokens(40);
    let vocab = arch::spec(&catalogue).unwrap().vocab;
    let whole = Feed { pass: 40, tile: 40, state: Kind::F16, homes: Homes::Device };
    let want = logits(&mut Exact::new(2), &catalogue, &tokens, whole);
    let got = logits(&mut cuda(true), &catalogue, &tokens, Feed { tile: 16, ..whole });
    compare("tiles", &got, &want, vocab, 1e-3);
}

/// Where weights are changes no bit.
pub fn weights_that_are_brought() {
    let dir = tempfile::tempdir().unwrap();
    for (shape, kind) in [("tiny-llama", "Q4_K_M"), ("tiny-qwen3", "Q8_0"), ("tiny-qwen3moe", "Q5_K_M")] {
        let catalogue = synthetic(dir.path(), shape, kind);
        let tokens = tokens(22);
        let here = Feed { pass: 18, tile: 18, state: Kind::F16, homes: Homes::Device };
        let want = logits(&mut cuda(false), &catalogue, &tokens, here);
        for reversed in [false, true] {
            let got = logits(&mut cuda(reversed), &catalogue, &tokens, Feed { homes: Homes::Brought, ..here });
            assert_bits(&got, &want, &format!("{shape} {kind}"));
        }
    }
}

/// With few rows a processor computes feed-forward parts beside the device, with many it is carried what they need; and
/// experts that the device does not have it computes in any case.
pub fn a_processor_beside() {
    let dir = tempfile::tempdir().unwrap();
    for (shape, kind) in [("tiny-llama", "Q4_K_M"), ("tiny-qwen3moe", "Q8_0")] {
        let catalogue = synthetic(dir.path(), shape, kind);
        let tokens = tokens(22);
        let vocab = arch::spec(&catalogue).unwrap().vocab;
        let here = Feed { pass: 18, tile: 18, state: Kind::F16, homes: Homes::Device };
        let want = logits(&mut Exact::new(2), &catalogue, &tokens, here);
        let alone = logits(&mut cuda(false), &catalogue, &tokens, here);
        let processor = Cpu::new(CpuOptions { threads: Some(2), ..CpuOptions::default() }).unwrap();
        let mut both = Hybrid::new(Box::new(cuda(false)), Box::new(processor));
        let got = logits(&mut both, &catalogue, &tokens, Feed { homes: Homes::Beside, ..here });
        let error = compare(&format!("{shape} {kind}"), &got, &want, vocab, 1e-4);
        println!("{shape:<14} {kind:<7} {error:>8.1e}");
        let (prompt, dense) = (18 * vocab, shape == "tiny-llama");
        let same = got[..prompt].iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits());
        assert_eq!(same, dense, "a prompt is the device's alone, but for experts");
        assert!(got[prompt..] != alone[prompt..], "few tokens are both's");
    }
}

/// Passes of one token are the same launches again: all but two are graphs, over the ends of pages. The first one also
/// makes the frequencies of rotations.
pub fn passes_become_graphs() {
    let dir = tempfile::tempdir().unwrap();
    for shape in ["tiny-llama", "tiny-qwen3moe"] {
        let catalogue = synthetic(dir.path(), shape, "Q8_0");
        let tokens = tokens(40);
        let vocab = arch::spec(&catalogue).unwrap().vocab;
        let single = Feed { pass: 1, tile: 1, state: Kind::F16, homes: Homes::Device };
        let want = logits(&mut Exact::new(2), &catalogue, &tokens, Feed { pass: 40, tile: 40, ..single });
        let device = Device::new(true);
        let done = device.done.clone();
        let got = logits(&mut Cuda::new(Box::new(device)).unwrap(), &catalogue, &tokens, single);
        compare(shape, &got, &want, vocab, 1e-3);
        let [launches, graphs] = [&done[0], &done[1]].map(|n| n.load(Relaxed));
        println!("{shape:<14} {launches} launches, {graphs} graphs");
        assert!(graphs == tokens.len() - 2 && launches > 0, "{launches} launches, {graphs} graphs");
    }
}
