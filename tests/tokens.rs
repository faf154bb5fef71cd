//! Tokenizers against llama.cpp: its own test vectors, and random Unicode that `scripts/goldens/tokens.py` recorded.
//!
//! The vocabularies are in llama.cpp's sources, under `$AIR_ORACLES/llama-src` (default `~/.cache/air-oracles`). Where
//! they are missing a test says so in one line and passes; the tests inside `src/text` need nothing.

#[path = "common/oracles.rs"]
mod oracles;

use air_rs::format::gguf;
use air_rs::meta::{Array, Meta, Value as MetaValue};
use air_rs::text::Tokenizer;
use oracles::oracles;
use serde_json::Value;
use std::path::PathBuf;

fn vocabulary(file: &str) -> Option<PathBuf> {
    let path = oracles().join("llama-src/vendor/llama.cpp/models").join(file);
    if !path.exists() {
        eprintln!("skipped: {} is missing (scripts/fetch_oracles.sh)", path.display());
        return None;
    }
    Some(path)
}

fn load(path: &std::path::Path) -> Tokenizer {
    let catalogue = gguf::open(path).unwrap_or_else(|e| panic!("{e}"));
    Tokenizer::from_meta(&catalogue.meta).unwrap_or_else(|e| panic!("{e}"))
}

/// Llama.cpp's `.inp` and `.out` beside a vocabulary: texts with a separator line, and a line of ids for each.
fn vectors(name: &str) {
    let Some(path) = vocabulary(&format!("ggml-vocab-{name}.gguf")) else { return };
    let read = |end: &str| std::fs::read_to_string(path.with_extension(end)).expect("vectors beside the vocabulary");
    let (texts, ids) = (read("gguf.inp"), read("gguf.out"));
    let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
    let ids: Vec<&str> = ids.lines().collect();
    // The file ends with a separator, which is followed by no text.
    let texts = &texts[..ids.len()];
    assert!(texts.len() > 40, "{name}");
    let tokenizer = load(&path);
    for (text, want) in texts.iter().zip(ids) {
        let want: Vec<u32> = want.split_whitespace().map(|id| id.parse().expect("an id")).collect();
        assert_eq!(tokenizer.encode(text, false, false), want, "{name}: {text:?}");
        assert_eq!(tokenizer.decode(&want, true), *text, "{name}");
    }
}

#[test]
fn vectors_of_llama_bpe() {
    vectors("llama-bpe");
}

#[test]
fn vectors_of_llama_spm() {
    vectors("llama-spm");
}

#[test]
fn vectors_of_qwen2() {
    vectors("qwen2");
}

#[test]
fn vectors_of_gpt_2() {
    vectors("gpt-2");
}

#[test]
fn vectors_of_phi_3() {
    vectors("phi-3");
}

#[test]
fn vectors_of_rules_that_are_made_of_the_same_cuts() {
    ["starcoder", "refact", "command-r", "falcon", "mpt"].iter().for_each(|name| vectors(name));
}

/// FNV-1a over pieces with their lengths, as the script computes it.
fn fingerprint(tokenizer: &Tokenizer) -> String {
    let mut hash = 0xcbf29ce484222325u64;
    for id in 0..tokenizer.len() as u32 {
        let piece = tokenizer.token_bytes(id);
        for &byte in (piece.len() as u32).to_le_bytes().iter().chain(piece.iter()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100000001b3);
        }
    }
    format!("{hash:016x}")
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("a list").iter().map(|v| v.as_u64().expect("an id") as u32).collect()
}

#[test]
fn random_unicode_gives_the_ids_of_llama_cpp() {
    let Ok(files) = std::fs::read_dir(oracles().join("tokens")) else {
        eprintln!("skipped: no recorded tokens (scripts/goldens/tokens.py)");
        return;
    };
    for file in files {
        let golden = std::fs::read_to_string(file.expect("a listed file").path()).expect("a readable golden");
        let golden: Value = serde_json::from_str(&golden).expect("JSON");
        let name = golden["file"].as_str().expect("a file name");
        let Some(path) = vocabulary(name) else { return };
        let tokenizer = load(&path);
        assert_eq!(tokenizer.adds_bos(), golden["add_bos"], "{name}");
        assert_eq!(tokenizer.eog(), ids(&golden["eog"]), "{name}");
        assert_eq!(
            fingerprint(&tokenizer),
            golden["pieces"].as_str().expect("a hash"),
            "{name}: what tokens stand for"
        );
        let cases = golden["cases"].as_array().expect("cases");
        assert!(cases.len() >= 2000, "{name}");
        for case in cases {
            let (text, bos, parse) = (case[0].as_str().expect("a text"), case[1] == true, case[2] == true);
            assert_eq!(
                tokenizer.encode(text, bos, parse),
                ids(&case[3]),
                "{name}: {text:?}, bos {bos}, special {parse}"
            );
        }
    }
}

/// A generator of numbers below `n` (PCG's multiplier, high bits).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n
    }

    fn word(&mut self, parts: &[&str], most: usize) -> String {
        (0..=self.below(most)).map(|_| parts[self.below(parts.len())]).collect()
    }
}

/// A vocabulary of random words, kinds, scores and merges, often broken.
fn random_meta(random: &mut Random) -> Meta {
    let parts = ["a", "b", "▁", " ", "<", "|", ">", "<0x41>", "\u{301}", "é", "Ġ", "<s>", "<|im_end|>", "ab", "0"];
    let mut tokens: Vec<String> = (0..random.below(40)).map(|_| random.word(&parts, 4)).collect();
    if random.below(8) > 0 {
        tokens.sort();
        tokens.dedup();
    }
    let n = tokens.len() + usize::from(random.below(10) == 0);
    let pick = |random: &mut Random| tokens.get(random.below(tokens.len().max(1))).cloned().unwrap_or_default();
    let merges: Vec<String> = (0..random.below(20)).map(|_| format!("{} {}", pick(random), pick(random))).collect();
    let strict = random.below(4) > 0;
    let merges = merges.iter().filter(|m| !strict || tokens.contains(&m.replacen(' ', "", 1)));
    let kinds = (0..n).map(|_| [1, 1, 1, 1, 1, 1, 2, 3, 4, 5, -1, 9][random.below(12)]).collect();
    let mut meta = Meta::new("random");
    let mut set = |key: &str, value| meta.insert(&format!("tokenizer.ggml.{key}"), value, Some(1));
    set("merges", MetaValue::Array(Array::String(merges.map(String::as_str).collect())));
    set("token_type", MetaValue::Array(Array::I32(kinds)));
    set("scores", MetaValue::Array(Array::F32((0..n).map(|_| random.below(7) as f32 - 3.5).collect())));
    set("tokens", MetaValue::Array(Array::String(tokens.iter().map(String::as_str).collect())));
    set("model", MetaValue::String(["llama", "gpt2"][random.below(2)].into()));
    set("pre", MetaValue::String(["gpt-2", "llama-bpe", "qwen2", "falcon", "default"][random.below(5)].into()));
    if random.below(4) == 0 {
        set("eos_token_id", MetaValue::U32(random.below(20) as u32));
    }
    meta
}

#[test]
fn random_vocabularies_are_refused_or_work() {
    let mut random = Random(7);
    let parts = ["a", "b", "ab", " ", "  ", "▁", "<s>", "<|im_end|>", "é", "\n", "🦙", "<0x41>", "1", "|", "\u{301}"];
    let mut works = 0;
    for _ in 0..20_000 {
        let Ok(tokenizer) = Tokenizer::from_meta(&random_meta(&mut random)) else { continue };
        works += 1;
        let text = random.word(&parts, 60);
        for special in [false, true] {
            let ids = tokenizer.encode(&text, special, special);
            assert!(ids.iter().all(|&id| (id as usize) < tokenizer.len()), "{text:?}");
            tokenizer.decode(&ids, special);
        }
    }
    assert!(works > 2000, "only {works} of the vocabularies were usable");
}
