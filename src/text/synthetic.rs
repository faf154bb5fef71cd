//! Vocabularies for models without a trained one.
//!
//! A synthetic model needs a tokenizer of exactly as many tokens as its head has rows: one borrowed from a real
//! model and filled up with unused tokens.

use crate::error::{Error, Result};
use crate::meta::{Array, Meta, Value};

const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const NORMAL: i32 = 1;
const UNUSED: i32 = 5;

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
    use crate::text::testing::{bpe, spm};

    #[test]
    fn padding_is_never_written() {
        for from in [bpe(&["a b"], &[]), spm(&["a", "b", "<|pad_300|"])] {
            let mut meta = Meta::new("test");
            copy_padded(&from, &mut meta, 1000).unwrap();
            let tokenizer = Tokenizer::from_meta(&meta).unwrap();
            assert_eq!(tokenizer.len(), 1000);
            let n = from.opt_strings(TOKENS).unwrap().unwrap().len() as u32;
            let ids = tokenizer.encode("ab a<|pad_300|>", true, false);
            assert!(!ids.is_empty() && ids.iter().all(|&id| id < n), "{ids:?}");
        }
    }

    #[test]
    fn a_vocabulary_that_is_too_large() {
        let from = bpe(&["a b"], &[]);
        let n = from.opt_strings(TOKENS).unwrap().unwrap().len();
        let error = copy_padded(&from, &mut Meta::new("test"), n - 1).unwrap_err().to_string();
        assert!(error.contains(&format!("{n} tokens are more than the model's {}", n - 1)), "{error}");
        assert!(copy_padded(&Meta::new("empty"), &mut Meta::new("test"), 256).is_err());
    }
}
