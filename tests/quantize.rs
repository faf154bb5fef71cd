//! `air quantize`: every type, what it refuses, and llama.cpp's quantiser beside it.

#[path = "common/oracles.rs"]
mod oracles;

use air_rs::format::gguf::{self, TensorPlan, Writer};
use air_rs::meta::{Meta, Value};
use air_rs::quant::mix::{Facts, MIXES, Mix};
use air_rs::quant::{Format, Kind};
use oracles::oracles;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const LAYERS: u32 = 9;
const VOCAB: u64 = 320;

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("air-quantize-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = entries.collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn air(args: &[&Path]) -> Output {
    let mut c = Command::new(env!("CARGO_BIN_EXE_air"));
    c.arg("quantize").args(args).current_dir(std::env::temp_dir()).env_clear().output().unwrap()
}

fn quantize(input: &Path, output: &Path, kind: &str, flags: &[&str]) -> Output {
    let mut args = vec![input, output, Path::new(kind)];
    args.extend(flags.iter().map(Path::new));
    air(&args)
}

fn refused(o: &Output, words: &[&str]) {
    let message = String::from_utf8_lossy(&o.stderr);
    assert_eq!(o.status.code(), Some(1), "{message}");
    words.iter().for_each(|w| assert!(message.contains(w), "`{w}` is missing in: {message}"));
}

/// Numbers like those of trained weights: nearly normal, from a linear congruential generator (seeds far apart).
fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut state = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    state ^= state >> 29;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..n).map(|_| (0..6).map(|_| uniform()).sum::<f32>() * 0.08).collect()
}

/// A llama of nine layers, float32. `rows`: elements of a row of the residual stream.
fn model(path: &Path, rows: u64, change: impl Fn(&str, &mut Vec<f32>)) {
    let mut meta = Meta::new("test");
    let mut set = |key: &str, value: Value| assert!(meta.insert(key, value, None));
    set("general.architecture", Value::String("llama".into()));
    set("general.name", Value::String("quantise me".into()));
    set("tokenizer.ggml.model", Value::String("no_vocab".into()));
    for (key, n) in [
        ("block_count", LAYERS),
        ("context_length", 64),
        ("embedding_length", rows as u32),
        ("feed_forward_length", 256),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("rope.dimension_count", rows as u32 / 4),
        ("vocab_size", VOCAB as u32),
    ] {
        set(&format!("llama.{key}"), Value::U32(n));
    }
    set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    let mut shapes: Vec<(String, Vec<u64>)> = vec![
        ("token_embd.weight".into(), vec![rows, VOCAB]),
        ("output.weight".into(), vec![rows, VOCAB]),
        ("output_norm.weight".into(), vec![rows]),
    ];
    for i in 0..LAYERS {
        for (name, shape) in [
            ("attn_norm", vec![rows]),
            ("attn_q", vec![rows, rows]),
            ("attn_k", vec![rows, rows / 2]),
            ("attn_v", vec![rows, rows / 2]),
            ("attn_output", vec![rows, rows]),
            ("ffn_norm", vec![rows]),
            ("ffn_gate", vec![rows, 256]),
            ("ffn_up", vec![rows, 256]),
            ("ffn_down", vec![256, rows]),
        ] {
            shapes.push((format!("blk.{i}.{name}.weight"), shape));
        }
    }
    let plan = |(name, shape): &(String, Vec<u64>)| TensorPlan {
        name: name.clone(),
        format: Kind::F32.format(),
        shape: shape.clone(),
    };
    let plans: Vec<_> = shapes.iter().map(plan).collect();
    let mut writer = Writer::create(path, &meta, &plans).unwrap();
    for (i, (name, shape)) in shapes.iter().enumerate() {
        let n = shape.iter().product::<u64>() as usize;
        let mut x = if name.contains("norm") { vec![1.0; n] } else { numbers(i as u64, n) };
        change(name, &mut x);
        writer.write(&x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    }
    writer.finish().unwrap();
}

fn plain(_: &str, _: &mut Vec<f32>) {}

fn tensor(catalogue: &air_rs::format::Catalogue, name: &str) -> (&'static Format, Vec<u8>) {
    let t = catalogue.tensor(name).unwrap();
    let mut bytes = vec![0; t.extent.len as usize];
    catalogue.read(t, 0, &mut bytes).unwrap();
    (t.format, bytes)
}

#[test]
fn every_type_holds_what_its_mix_and_encoder_say() {
    let folder = Folder::new("types");
    let (input, output) = (folder.file("in.gguf"), folder.file("out.gguf"));
    model(&input, 256, plain);
    let source = gguf::open(&input).unwrap();
    let facts = Facts::new(&source.meta, false).unwrap();
    for mix in MIXES {
        let o = quantize(&input, &output, &mix.name.to_lowercase(), &["--force"]);
        assert!(o.status.success(), "{}: {}", mix.name, String::from_utf8_lossy(&o.stderr));
        assert!(String::from_utf8_lossy(&o.stdout).contains(mix.name));
        let made = gguf::open(&output).unwrap();
        assert!(made.tensors.keys().eq(source.tensors.keys()), "{}: the tensors, in their order", mix.name);
        for (name, t) in &source.tensors {
            let (_, raw) = tensor(&source, name);
            let (format, bytes) = tensor(&made, name);
            let wanted = mix.format(&facts, name, &t.shape).unwrap_or(Kind::F32.format());
            let mut x = vec![0.0; t.elements() as usize];
            (Kind::F32.format().decode)(&raw, &mut x);
            let mut blocks = vec![0; bytes.len()];
            wanted.encode.unwrap()(&x, &mut blocks);
            assert!(format == wanted && bytes == blocks, "{} {name}", mix.name);
        }
        assert_eq!(made.meta.u32("general.file_type").unwrap(), mix.file_type);
        assert_eq!(made.meta.u32("general.quantization_version").unwrap(), 2);
        let kept = made.meta.iter().filter(|(key, _)| source.meta.get(key).is_some());
        assert!(kept.eq(source.meta.iter()), "{}: the metadata is copied", mix.name);
    }
}

#[test]
fn rows_that_k_quants_do_not_fit() {
    let folder = Folder::new("odd");
    let (input, output) = (folder.file("in.gguf"), folder.file("out.gguf"));
    model(&input, 96, plain);
    assert!(quantize(&input, &output, "Q4_K_M", &[]).status.success());
    let made = gguf::open(&output).unwrap();
    let format = |name: &str| made.tensor(name).unwrap().format.name;
    assert_eq!((format("output.weight"), format("blk.3.attn_q.weight")), ("Q8_0", "Q5_0"));
    assert_eq!((format("blk.2.ffn_down.weight"), format("blk.4.ffn_down.weight")), ("Q4_K", "Q4_K"));
    assert_eq!(format("blk.3.ffn_down.weight"), "Q6_K");
}

#[test]
fn the_report_as_json_and_the_dry_run() {
    let folder = Folder::new("json");
    let (input, output) = (folder.file("in.gguf"), folder.file("out.gguf"));
    model(&input, 256, plain);
    let json = |flags: &[&str]| -> serde_json::Value {
        let o = quantize(&input, &output, "Q4_K_M", flags);
        assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
        serde_json::from_slice(&o.stdout).unwrap()
    };
    let planned = json(&["--json", "--dry-run"]);
    assert!(!output.exists() && planned["written"] == false);
    let made = json(&["--json", "--threads", "1"]);
    assert!(made["written"] == true && made["weights_bytes_out"] == planned["weights_bytes_out"]);
    let bytes = std::fs::metadata(&output).unwrap().len();
    let header = bytes - made["weights_bytes_out"].as_u64().unwrap();
    assert!((1000..20_000).contains(&header), "weights and a small header: {header}");
    let q4 = made["formats"].as_array().unwrap().iter().find(|f| f["format"] == "Q4_K").unwrap();
    let error = q4["relative_rms_error"].as_f64().unwrap();
    assert!(error > 0.05 && error < 0.09, "the rounding error of Q4_K on normal numbers is about 7%: {error}");

    let one = std::fs::read(&output).unwrap();
    json(&["--json", "--force", "--threads", "5"]);
    assert!(one == std::fs::read(&output).unwrap(), "the file does not depend on the number of threads");
}

#[test]
fn the_output_is_safe() {
    let folder = Folder::new("output");
    let (input, output) = (folder.file("in.gguf"), folder.file("out.gguf"));
    model(&input, 256, plain);
    let before = std::fs::read(&input).unwrap();
    std::fs::hard_link(&input, folder.file("link.gguf")).unwrap();
    std::fs::hard_link(&input, folder.file("other.gguf.part")).unwrap();
    for name in ["in.gguf", "link.gguf", "other.gguf"] {
        refused(&quantize(&input, &folder.file(name), "Q8_0", &["--force"]), &[name, "overwrite the input"]);
    }
    refused(&quantize(&input, &folder.0, "Q8_0", &["--force"]), &["is a directory"]);
    refused(&quantize(&input, Path::new("/dev/null"), "Q8_0", &["--force"]), &["/dev/null", "not a regular file"]);
    refused(&quantize(&input, &folder.file("no/out.gguf"), "Q8_0", &[]), &["no/out.gguf.part", "cannot create"]);
    std::fs::write(&output, "mine").unwrap();
    refused(&quantize(&input, &output, "Q8_0", &[]), &["out.gguf", "exists", "--force"]);
    assert_eq!(std::fs::read(&output).unwrap(), b"mine");
    assert_eq!(std::fs::read(&input).unwrap(), before);

    let o = quantize(&input, &output, "Q3_K_M", &["--force"]);
    let message = String::from_utf8_lossy(&o.stderr);
    assert!(o.status.code() == Some(2) && message.contains("Q4_K_M"), "{message}");
}

#[test]
fn quantising_again_must_be_wanted() {
    let folder = Folder::new("again");
    let (input, q8, q4) = (folder.file("in.gguf"), folder.file("q8.gguf"), folder.file("q4.gguf"));
    model(&input, 256, plain);
    assert!(quantize(&input, &q8, "Q8_0", &[]).status.success());
    refused(&quantize(&q8, &q4, "Q4_K_M", &[]), &["token_embd.weight", "Q8_0", "--allow-requantize"]);
    assert!(!q4.exists());
    assert!(quantize(&q8, &q4, "Q4_K_M", &["--allow-requantize"]).status.success());
    // The same type again copies every byte.
    let copy = folder.file("copy.gguf");
    assert!(quantize(&q8, &copy, "Q8_0", &[]).status.success());
    assert!(std::fs::read(&q8).unwrap() == std::fs::read(&copy).unwrap());
}

#[test]
fn damaged_models_leave_nothing_behind() {
    let folder = Folder::new("damaged");
    let (input, output) = (folder.file("in.gguf"), folder.file("out.gguf"));
    let poison = |value: f32| {
        model(&input, 256, |name, x| {
            if name == "blk.8.ffn_down.weight" {
                x[1234] = value;
            }
        })
    };
    poison(f32::NAN);
    let offset = gguf::open(&input).unwrap().tensor("blk.8.ffn_down.weight").unwrap().extent.offset + 4 * 1234;
    let at = format!("at byte {offset}");
    refused(
        &quantize(&input, &output, "Q4_K_M", &[]),
        &["in.gguf", "blk.8.ffn_down.weight", &at, "element 1234 is NaN"],
    );
    poison(f32::INFINITY);
    refused(&quantize(&input, &output, "Q8_0", &[]), &["element 1234 is inf"]);
    poison(70000.0);
    refused(&quantize(&input, &output, "F16", &[]), &["element 1234 is 7e4", "BF16"]);
    assert!(quantize(&input, &output, "BF16", &[]).status.success());
    std::fs::remove_file(&output).unwrap();

    let whole = std::fs::read(&input).unwrap();
    std::fs::write(&input, &whole[..whole.len() - 100]).unwrap();
    refused(&quantize(&input, &output, "Q8_0", &[]), &["in.gguf", "truncated"]);
    assert_eq!(folder.names(), ["in.gguf"]);
}

/// Ctrl-C while it runs: exit code 130, and no half file. The input is sparse, so that it is large for free.
#[test]
fn an_interrupted_run_leaves_nothing_behind() {
    let folder = Folder::new("interrupted");
    let (input, output) = (folder.file("in.gguf"), folder.file("out.gguf"));
    let mut meta = Meta::new("test");
    meta.insert("general.architecture", Value::String("llama".into()), None);
    meta.insert("llama.block_count", Value::U32(1), None);
    let shape = vec![4096, 65536];
    let plan = TensorPlan { name: "blk.0.ffn_up.weight".into(), format: Kind::F32.format(), shape };
    let small = TensorPlan { shape: vec![4096, 1], ..plan.clone() };
    // The header of the large tensor has the length of the small one's: only a dimension differs.
    let mut writer = Writer::create(&input, &meta, &[small]).unwrap();
    writer.write(&[0; 4 * 4096]).unwrap();
    writer.finish().unwrap();
    let mut bytes = std::fs::read(&input).unwrap();
    let dims = [4096u64.to_le_bytes(), 1u64.to_le_bytes()].concat();
    let at = bytes.windows(16).position(|w| w == dims).unwrap() + 8;
    bytes[at..at + 8].copy_from_slice(&65536u64.to_le_bytes());
    std::fs::write(&input, &bytes).unwrap();
    std::fs::File::options().write(true).open(&input).unwrap().set_len(plan.bytes().unwrap() + 4096).unwrap();

    let mut c = Command::new(env!("CARGO_BIN_EXE_air"));
    let mut child = c.arg("quantize").args([&input, &output]).args(["Q4_K_M", "--threads", "1"]).spawn().unwrap();
    while !folder.names().contains(&"out.gguf.part".to_string()) {
        assert!(child.try_wait().unwrap().is_none(), "it runs until the part file is there");
        std::thread::yield_now();
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(folder.names(), ["in.gguf"]);
}

/// Formats, errors and logits beside llama.cpp's own files (`scripts/check_quantize.py`).
#[test]
fn files_are_like_those_of_llama_cpp() {
    let python = oracles().join("llama/bin/python");
    if !python.exists() {
        eprintln!("skipped: llama_cpp is not at {}; scripts/fetch_oracles.sh --peers brings it", python.display());
        return;
    }
    let folder = Folder::new("oracle");
    let input = folder.file("in.gguf");
    model(&input, 256, plain);
    let mut pairs = vec![];
    for mix in MIXES {
        let output = folder.file(&format!("{}.gguf", mix.name));
        assert!(quantize(&input, &output, mix.name, &[]).status.success());
        pairs.push(format!("{}={}", Mix::by_name(mix.name).unwrap().name, output.display()));
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/check_quantize.py");
    let o = Command::new(&python).arg(script).arg(&input).args(&pairs).output().unwrap();
    println!("{}", String::from_utf8_lossy(&o.stdout));
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
}
