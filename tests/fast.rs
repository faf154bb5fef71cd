//! The fast CPU path against the specification, and against itself under every instruction set.
//!
//! For every format and every family: the logits' normalised mean square error against the interpreter is at most
//! 1e-3, and the bits are the same under every instruction set that this machine has.

#[path = "common/evaluate.rs"]
mod evaluate;
#[path = "common/npy.rs"]
mod npy;

use air_rs::engine::{LoadOptions, demo, load};
use air_rs::format::gguf;
use air_rs::quant::FORMATS;
use evaluate::evaluate;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const FAMILIES: [&str; 5] = ["tiny-llama", "tiny-mixtral", "tiny-qwen2", "tiny-qwen3", "tiny-qwen3moe"];

fn air() -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_air"));
    c.env_clear();
    c
}

fn ok(o: Output) -> Output {
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
    o
}

/// Every format in one family, every family in one format.
fn table() -> Vec<(&'static str, &'static str)> {
    let formats = FORMATS.iter().map(|f| ("tiny-llama", f.name));
    formats.chain(FAMILIES[1..].iter().map(|shape| (*shape, "Q4_K_M"))).collect()
}

fn model(dir: &Path, shape: &str, kind: &str) -> PathBuf {
    let path = dir.join(format!("{shape}-{kind}.gguf"));
    ok(air().args(["synth", shape, "--quant", kind, "-o"]).arg(&path).output().unwrap());
    path
}

fn nmse(have: &[f32], want: &[f32]) -> f64 {
    assert_eq!(have.len(), want.len());
    let error: f64 = have.iter().zip(want).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    error / want.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>()
}

fn tokens(n: u32) -> Vec<u32> {
    (0..n).map(|i| 5 + (i * i * 31 + i * 7) % 900).collect()
}

#[test]
fn every_format_and_family_is_near_the_specification() {
    let dir = tempfile::tempdir().unwrap();
    let mut wrong = vec![];
    for (shape, kind) in table() {
        let catalogue = gguf::open(&model(dir.path(), shape, kind)).unwrap();
        let run = |exact| {
            let options = LoadOptions { exact, ..LoadOptions::default() };
            evaluate(&mut load(&catalogue, &options, &mut |_, _| ()).unwrap().1, &tokens(70), 64)
        };
        let error = nmse(&run(false), &run(true));
        println!("{shape:<14} {kind:<7} {error:>8.1e}");
        if error.is_nan() || error > 1e-3 {
            wrong.push(format!("{shape} {kind}: {error:.1e}"));
        }
    }
    assert!(wrong.is_empty(), "over 1e-3: {wrong:?}");
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let ids: Vec<String> = tokens(40).iter().map(u32::to_string).collect();
    for (shape, kind) in table() {
        let path = model(dir.path(), shape, kind);
        let mut first: Option<(String, Vec<u32>)> = None;
        let mut sets = 0;
        for isa in ["scalar", "avx2", "avx512", "amx"] {
            let npy = dir.path().join("out.npy");
            let mut c = air();
            c.env("AIR_CPU", isa).args(["debug", "logits", "--tokens", &ids.join(","), "-m"]).arg(&path);
            let o = c.arg("-o").arg(&npy).output().unwrap();
            let message = String::from_utf8_lossy(&o.stderr);
            if message.contains("AIR_CPU") {
                assert_eq!(o.status.code(), Some(1), "{message}");
                continue;
            }
            assert!(o.status.success(), "{message}");
            sets += 1;
            let bits = npy::read(&npy).1.iter().map(|x| x.to_bits()).collect();
            match &first {
                None => first = Some((isa.into(), bits)),
                Some((other, want)) => assert!(bits == *want, "{shape} {kind}: {isa} differs from {other}"),
            }
        }
        assert!(sets >= 1 && first.is_some(), "scalar always runs");
    }
}

#[test]
fn an_unknown_instruction_set_is_refused() {
    let o = air().env("AIR_CPU", "mmx").args(["generate", "-p", "x", "-n", "1"]).output().unwrap();
    let message = String::from_utf8_lossy(&o.stderr);
    assert_eq!(o.status.code(), Some(1));
    assert!(message.contains("mmx") && message.contains("scalar"), "{message}");
}

/// Quantised keys and values: near the float ones, and read in place alike by both backends.
#[test]
fn quantised_state_stays_near() {
    let catalogue = demo().unwrap();
    let run = |exact, kind: Option<air_rs::quant::Kind>| {
        let options = LoadOptions { exact, k_type: kind, v_type: kind, ..LoadOptions::default() };
        evaluate(&mut load(&catalogue, &options, &mut |_, _| ()).unwrap().1, &tokens(200), 64)
    };
    let want = run(true, None);
    for (kind, most) in [("F16", 1e-6), ("Q8_0", 1e-3), ("Q4_0", 1e-1)] {
        let kind = air_rs::quant::Format::by_name(kind).unwrap().kind;
        let (exact, fast) = (run(true, Some(kind)), run(false, Some(kind)));
        let (a, b) = (nmse(&exact, &want), nmse(&fast, &exact));
        println!("{kind:?}: {a:.1e} from f32, fast {b:.1e} from exact");
        assert!(a < most, "{kind:?}: {a:.1e}");
        assert!(b < 1e-3, "{kind:?}: {b:.1e}");
    }
}

#[test]
fn perplexity_of_the_demo_model_is_that_of_the_specification() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/heldout.txt");
    let run = |more: &[&str]| -> f64 {
        let o = ok(air().args(["perplexity", "--json", "-f"]).arg(&file).args(more).output().unwrap());
        let json: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
        json["perplexity"].as_f64().unwrap()
    };
    let (fast, exact) = (run(&[]), run(&["--exact"]));
    println!("perplexity: fast {fast:.4}, exact {exact:.4}");
    assert!((fast / exact - 1.0).abs() < 0.005, "fast {fast}, exact {exact}");
    // A model that predicts nothing has the perplexity of its vocabulary, 1024.
    assert!(exact < 30.0, "{exact}");
}
