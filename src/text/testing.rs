//! Hand-made vocabularies for the tests of this folder.

use crate::meta::{Array, Meta, Value};

/// Sets a key at byte 7 of the file.
pub(super) fn set(meta: &mut Meta, key: &str, value: Value) {
    meta.insert(key, value, Some(7));
}

/// Metadata of a vocabulary: tokens with their kinds, all scores zero.
pub(super) fn meta_of(model: &str, tokens: &[(&str, i32)]) -> Meta {
    let mut meta = Meta::new("vocab.gguf");
    set(&mut meta, "tokenizer.ggml.model", Value::String(model.into()));
    let texts = tokens.iter().map(|t| t.0).collect();
    set(&mut meta, "tokenizer.ggml.tokens", Value::Array(Array::String(texts)));
    set(&mut meta, "tokenizer.ggml.token_type", Value::Array(Array::I32(tokens.iter().map(|t| t.1).collect())));
    meta
}

/// A SentencePiece vocabulary: `<unk> <s> </s>`, the 256 bytes, then `words` with falling scores.
pub(super) fn spm(words: &[&str]) -> Meta {
    let bytes: Vec<String> = (0..256).map(|b| format!("<0x{b:02X}>")).collect();
    let mut tokens = vec![("<unk>", 2), ("<s>", 3), ("</s>", 3)];
    tokens.extend(bytes.iter().map(|b| (b.as_str(), 6)));
    tokens.extend(words.iter().map(|w| (*w, 1)));
    let mut meta = meta_of("llama", &tokens);
    let scores = (0..tokens.len()).map(|i| if i < 259 { 0.0 } else { 258.0 - i as f32 }).collect();
    set(&mut meta, "tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    meta
}

/// A byte-level vocabulary: the 256 bytes, the results of `merges` in order, then `control` tokens.
pub(super) fn bpe(merges: &[&str], control: &[&str]) -> Meta {
    let bytes: Vec<String> = super::bpe::BYTE_CHARS.iter().map(|c| c.to_string()).collect();
    let merged: Vec<String> = merges.iter().map(|m| m.replacen(' ', "", 1)).collect();
    let plain = bytes.iter().chain(&merged).map(|t| (t.as_str(), 1));
    let tokens: Vec<_> = plain.chain(control.iter().map(|t| (*t, 3))).collect();
    let mut meta = meta_of("gpt2", &tokens);
    set(&mut meta, "tokenizer.ggml.merges", Value::Array(Array::String(merges.iter().copied().collect())));
    meta
}
