//! Logits of every family and shape against Hugging Face transformers.
//!
//! The goldens are tiny random checkpoints and the float32 logits that transformers computes for them, at every
//! position (`scripts/goldens/families.py`). The interpreter must agree to 1e-5 of the largest logit; the table is
//! printed (`cargo test --test families -- --nocapture`).

#[path = "common/evaluate.rs"]
mod evaluate;
#[path = "common/npy.rs"]
mod npy;

use air_rs::engine::{LoadOptions, load};
use air_rs::format::gguf;
use evaluate::evaluate;
use std::path::Path;

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    family: String,
    covers: String,
    tokens: Vec<u32>,
}

fn goldens() -> (std::path::PathBuf, Vec<Case>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/families");
    let index = std::fs::read_to_string(dir.join("index.json")).expect("the goldens are in the repository");
    (dir, serde_json::from_str(&index).expect("the index is JSON"))
}

/// Largest difference over largest reference logit.
fn difference(have: &[f32], want: &[f32]) -> f32 {
    assert_eq!(have.len(), want.len());
    let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    have.iter().zip(want).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

#[test]
fn exact_logits_equal_transformers() {
    let (dir, cases) = goldens();
    let mut families = std::collections::BTreeMap::<String, usize>::new();
    let mut wrong = vec![];
    for c in &cases {
        let catalogue = gguf::open(&dir.join(format!("{}.gguf", c.name))).unwrap();
        let options = LoadOptions { exact: true, ..LoadOptions::default() };
        let (_, mut runner) = load(&catalogue, &options, &mut |_, _| ()).unwrap();
        let (shape, want) = npy::read(&dir.join(format!("{}.logits.npy", c.name)));
        assert_eq!(shape, [c.tokens.len(), runner.vocab()], "{}", c.name);
        let d = difference(&evaluate(&mut runner, &c.tokens, 64), &want);
        println!("{:<22} {:<9} {:>9.1e}  {}", c.name, c.family, d, c.covers);
        if d.is_nan() || d > 1e-5 {
            wrong.push(format!("{}: {d:.1e}", c.name));
        }
        *families.entry(c.family.clone()).or_default() += 1;
    }
    assert!(wrong.is_empty(), "over 1e-5 of the largest logit: {wrong:?}");
    assert!(families.values().all(|&n| n >= 3), "three shapes a family: {families:?}");
    let names: Vec<&str> = families.keys().map(String::as_str).collect();
    assert_eq!(names, ["llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3moe"]);
}
