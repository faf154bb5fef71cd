//! `air synth`: every type and family loads, in air and in llama.cpp, with logits that are sound and agree.

#[path = "common/evaluate.rs"]
mod evaluate;
#[path = "common/npy.rs"]
mod npy;
#[path = "common/oracles.rs"]
mod oracles;

use air_rs::engine::{LoadOptions, load};
use air_rs::format::gguf;
use air_rs::quant::FORMATS;
use air_rs::quant::mix::MIXES;
use evaluate::evaluate;
use oracles::oracles;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const FAMILIES: [&str; 5] = ["tiny-llama", "tiny-mixtral", "tiny-qwen2", "tiny-qwen3", "tiny-qwen3moe"];
const TOKENS: [u32; 12] = [1, 2, 3, 400, 511, 0, 77, 78, 77, 300, 1, 2];

/// A folder that is gone when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("air-synth-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn air() -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_air"));
    c.arg("synth").current_dir(std::env::temp_dir()).env_clear();
    c
}

fn synth(shape: &str, kind: &str, path: &Path, more: &[&str]) -> Output {
    air().args([shape, "--quant", kind, "-o"]).arg(path).args(more).output().unwrap()
}

#[track_caller]
fn made(shape: &str, kind: &str, path: &Path, more: &[&str]) {
    let o = synth(shape, kind, path, more);
    assert_eq!(o.status.code(), Some(0), "{shape} {kind}: {}", String::from_utf8_lossy(&o.stderr));
}

fn error_of(o: &Output) -> String {
    assert_eq!(o.status.code(), Some(1));
    String::from_utf8(o.stderr.clone()).unwrap()
}

/// Types that differ: all mixes, and the formats that are no mix.
fn types() -> Vec<&'static str> {
    let mixes = MIXES.iter().map(|m| m.name);
    let pure = FORMATS.iter().map(|f| f.name).filter(|n| MIXES.iter().all(|m| m.name != *n));
    mixes.chain(pure).collect()
}

/// The files of the parity table: every type in one family, every family in one type.
fn table() -> Vec<(&'static str, &'static str)> {
    let types = types().into_iter().map(|kind| ("tiny-llama", kind));
    types.chain(FAMILIES[1..].iter().map(|shape| (*shape, "Q8_0"))).collect()
}

fn logits(path: &Path) -> Vec<f32> {
    let catalogue = gguf::open(path).unwrap();
    let options = LoadOptions { exact: true, ..LoadOptions::default() };
    let (_, mut runner) = load(&catalogue, &options, &mut |_, _| ()).unwrap();
    evaluate(&mut runner, &TOKENS, 64)
}

#[test]
fn logits_are_finite_and_well_scaled() {
    let folder = Folder::new("scale");
    for (shape, kind) in table() {
        let path = folder.path(&format!("{shape}-{kind}.gguf"));
        made(shape, kind, &path, &[]);
        let logits = logits(&path);
        let square: f64 = logits.iter().map(|&x| f64::from(x).powi(2)).sum();
        let std = (square / logits.len() as f64).sqrt();
        assert!(logits.iter().all(|x| x.is_finite()), "{shape} {kind}");
        assert!((2.0..8.0).contains(&std), "{shape} {kind}: standard deviation {std}");
    }
}

#[test]
fn llama_cpp_agrees_on_the_logits() {
    let python = oracles().join("llama/bin/python");
    if !python.exists() {
        eprintln!("skipped: llama_cpp is not in AIR_ORACLES");
        return;
    }
    let folder = Folder::new("parity");
    let ids = TOKENS.map(|t| t.to_string()).join(",");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/parity/llama_logits.py");
    let mut oracle = Command::new(python);
    oracle.arg(script).arg(ids);
    let rows = table();
    let files: Vec<_> = rows.iter().map(|(shape, kind)| folder.path(&format!("{shape}-{kind}.gguf"))).collect();
    for ((shape, kind), file) in rows.iter().zip(&files) {
        made(shape, kind, file, &[]);
        oracle.arg(file).arg(file.with_extension("npy"));
    }
    let o = oracle.output().unwrap();
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
    let mut wrong = vec![];
    for ((shape, kind), file) in rows.iter().zip(&files) {
        let (_, theirs) = npy::read(&file.with_extension("npy"));
        let ours = logits(file);
        assert_eq!(ours.len(), theirs.len());
        let error: f64 = ours.iter().zip(&theirs).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let nmse = error / theirs.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>();
        println!("{shape:<14} {kind:<7} {nmse:>8.1e}");
        if nmse.is_nan() || nmse > 1e-3 {
            wrong.push(format!("{shape} {kind}: {nmse:.1e}"));
        }
    }
    assert!(wrong.is_empty(), "over 1e-3: {wrong:?}");
}

#[test]
fn the_seed_decides() {
    let folder = Folder::new("seed");
    let draw = |name: &str, seed: &str| {
        let path = folder.path(name);
        made("tiny-qwen3", "Q4_K_M", &path, &["--seed", seed]);
        std::fs::read(path).unwrap()
    };
    let (a, b, c) = (draw("a", "1"), draw("b", "1"), draw("c", "2"));
    assert!(a == b && a != c && a.len() == c.len());
}

#[test]
fn real_shapes_with_fewer_layers_and_another_vocabulary() {
    let folder = Folder::new("vocab");
    let small = folder.path("small.gguf");
    made("tiny-llama", "Q8_0", &small, &[]);
    let path = folder.path("real.gguf");
    made("qwen3-0.6b", "Q4_K_M", &path, &["--layers", "1", "--vocab", small.to_str().unwrap()]);
    let catalogue = gguf::open(&path).unwrap();
    assert_eq!(catalogue.meta.u32("qwen3.block_count").unwrap(), 1);
    let tokens = catalogue.meta.opt_strings("tokenizer.ggml.tokens").unwrap().unwrap();
    assert_eq!(tokens.len(), 151_936);
    assert_eq!(catalogue.tensors["token_embd.weight"].shape, [1024, 151_936]);
    let error = error_of(&synth("tiny-llama", "Q8_0", &folder.path("x.gguf"), &["--vocab", path.to_str().unwrap()]));
    assert!(error.contains("151936 tokens are more than the model's 1024"), "{error}");
}

#[test]
fn refusals() {
    let folder = Folder::new("refusals");
    let path = folder.path("x.gguf");
    let error = error_of(&synth("llama-9000b", "Q8_0", &path, &[]));
    assert!(error.contains("`llama-9000b` is not a shape; there are llama-3.2-1b, "), "{error}");
    let error = error_of(&synth("tiny-llama", "Q9_Z", &path, &[]));
    assert!(error.contains("`Q9_Z` is not a type") && error.contains("Q4_K_M") && error.contains("MXFP4"), "{error}");
    std::fs::write(&path, b"precious").unwrap();
    let error = error_of(&synth("tiny-llama", "Q8_0", &path, &[]));
    assert!(error.contains("x.gguf: exists; say --force to replace it"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    let error = error_of(&synth("tiny-llama", "Q8_0", Path::new("/dev/null"), &["--force"]));
    assert!(error.contains("/dev/null: is not a regular file"), "{error}");
    made("tiny-llama", "Q8_0", &path, &["--force"]);
    assert_eq!(folder.files(), ["x.gguf"]);
    let error = error_of(&synth("tiny-llama", "Q8_0", Path::new("/nonexistent/x.gguf"), &[]));
    assert!(error.contains("/nonexistent"), "{error}");
    assert_eq!(air().arg("tiny-llama").output().unwrap().status.code(), Some(2), "no output is named");
}

#[test]
fn the_list() {
    let o = air().arg("--list").output().unwrap();
    let text = String::from_utf8(o.stdout).unwrap();
    let line = text.lines().find(|l| l.contains("llama-3.1-8b")).unwrap();
    assert_eq!(
        line.split_whitespace().collect::<Vec<_>>().join(" "),
        "llama-3.1-8b llama 8.03 B 4.91 GB 8.53 GB 16.1 GB"
    );
    let o = air().args(["--list", "--json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!(json[0]["shape"], "llama-3.2-1b");
}

#[test]
fn ctrl_c_leaves_no_half_file() {
    let folder = Folder::new("ctrl-c");
    let path = folder.path("x.gguf");
    let mut child = air()
        .args(["llama-3.1-8b", "--layers", "6", "-o"])
        .arg(&path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let part = folder.path("x.gguf.part");
    while !part.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it began to write");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(folder.files(), Vec::<String>::new());
}
