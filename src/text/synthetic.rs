//! Vocabularies for models without a trained one.
//!
//! A synthetic model needs a tokenizer of exactly as many tokens as its head has rows: one borrowed from a real
//! model, or the 256 bytes, either filled up with unused tokens.

use super::bpe::BYTE_CHARS;
use crate::error::{Error, Result};
use crate::meta::{Array, Meta, Strings, Value};

const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const UNUSED: i32 = 5;

/// A byte-level vocabulary without merges: the 256 bytes and `<|endoftext|>`, which ends a text.
pub fn bytes() -> Meta {
    let mut meta = Meta::new("the byte vocabulary");
    let mut tokens = Strings::default();
    BYTE_CHARS.iter().for_each(|c| tokens.push(c.to_string().as_bytes()));
    tokens.push(b"<|endoftext|>");
    let mut kinds = vec![NORMAL; 256];
    kinds.push(CONTROL);
    let mut set = |key: &str, value: Value| meta.insert(&format!("tokenizer.ggml.{key}"), value, None);
    set("model", Value::String(b"gpt2".to_vec()));
    set("pre", Value::String(b"gpt-2".to_vec()));
    set("tokens", Value::Array(Array::String(tokens)));
    set("token_type", Value::Array(Array::I32(kinds)));
    set("merges", Value::Array(Array::String(Strings::default())));
    set("bos_token_id", Value::U32(256));
    set("eos_token_id", Value::U32(256));
    set("add_bos_token", Value::Bool(false));
    meta
}

/// Copies the tokenizer's keys of `from` to `to`, with unused tokens `<|pad_N|>` up to `size` tokens.
///
/// # Errors
/// `Invalid` when `from` has more tokens than `size`; `File` when it has no vocabulary, or none of the usual types.
pub fn copy_padded(from: &Meta, to: &mut Meta, size: usize) -> Result<()> {
    let missing = || from.error(TOKENS, "the list of tokens is missing; the file has no tokenizer");
    let mut tokens = from.opt_strings(TOKENS)?.filter(|t| !t.is_empty()).ok_or_else(missing)?.clone();
    let n = tokens.len();
    if n > size {
        let file = from.file();
        return Err(Error::Invalid(format!(
            "{file}: its {n} tokens are more than the model's {size}; use another --vocab"
        )));
    }
    for (key, value) in from.iter().filter(|(key, _)| key.starts_with("tokenizer.")) {
        to.insert(key, value.clone(), None);
    }
    (n..size).for_each(|i| tokens.push(format!("<|pad_{i}|>").as_bytes()));
    to.insert(TOKENS, Value::Array(Array::String(tokens)), None);
    let mut kinds = from.opt_integers(KINDS)?.unwrap_or_else(|| vec![NORMAL.into(); n]);
    kinds.resize(size, UNUSED.into());
    let kinds = kinds.into_iter().map(|k| i32::try_from(k).unwrap_or(NORMAL)).collect();
    to.insert(KINDS, Value::Array(Array::I32(kinds)), None);
    if let Some(mut scores) = from.opt_floats(SCORES)? {
        // below every other: a pad is never the best way to write a text
        let least = scores.iter().copied().fold(0.0, f32::min);
        scores.resize(size, least - 1.0);
        to.insert(SCORES, Value::Array(Array::F32(scores)), None);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Tokenizer;

    #[test]
    fn bytes_are_a_tokenizer() {
        let mut meta = Meta::new("test");
        copy_padded(&bytes(), &mut meta, 1000).unwrap();
        let tokenizer = Tokenizer::from_meta(&meta).unwrap();
        let ids = tokenizer.encode("aß <|pad_300|>", true, false);
        assert_eq!(ids[..4], [97, 0xc3, 0x9f, 32]);
        assert!(ids[4..].iter().all(|&id| id < 256), "{ids:?}");
        assert_eq!(meta.opt_strings(TOKENS).unwrap().unwrap().len(), 1000);
    }

    #[test]
    fn a_vocabulary_that_is_too_large() {
        let error = copy_padded(&bytes(), &mut Meta::new("test"), 256).unwrap_err().to_string();
        assert!(error.contains("257 tokens are more than the model's 256"), "{error}");
        assert!(copy_padded(&Meta::new("empty"), &mut Meta::new("test"), 256).is_err());
    }
}
