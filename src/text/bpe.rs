//! Byte-level BPE (`tokenizer.ggml.model = gpt2`): bytes merged by a list of ranked pairs.
//!
//! The pre-tokenizer cuts the text, then each piece starts as single bytes and merges pairs in the order of the list
//! (Radford et al. 2019, "Language models are unsupervised multitask learners"). Vocabularies spell a byte as a
//! printable character: itself where it is one in Latin-1, else one of U+0100 and up. A byte that the vocabulary
//! does not spell is dropped, as llama.cpp does (Falcon's has no token for some control characters).

use super::merge::{Merge, NO_TOKEN, Symbol, merge_all};
use super::split::{Rule, pre_tokenizers, rule};
use super::vocab::{Vocab, show};
use crate::error::{Error, Result};
use crate::meta::Meta;
use hashbrown::HashMap;

const MERGES: &str = "tokenizer.ggml.merges";

/// The character that spells each byte.
pub(super) const BYTE_CHARS: [char; 256] = byte_chars();

const fn byte_chars() -> [char; 256] {
    let mut out = ['\0'; 256];
    let (mut byte, mut next) = (0usize, 0x100u32);
    while byte < 256 {
        if matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) {
            out[byte] = byte as u8 as char;
        } else {
            out[byte] = char::from_u32(next).expect("below the surrogates");
            next += 1;
        }
        byte += 1;
    }
    out
}

/// The byte that a character spells.
fn byte_of(c: char) -> Option<u8> {
    match c as u32 {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => Some(code as u8),
        0x100..=0x143 => BYTE_CHARS.iter().position(|&b| b == c).map(|b| b as u8),
        _ => None,
    }
}

/// The bytes that a token's text spells; characters that spell none stand for themselves.
pub(super) fn unspell(text: &[u8]) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(text) else { return text.to_vec() };
    let mut out = Vec::with_capacity(text.len());
    for c in text.chars() {
        match byte_of(c) {
            Some(b) => out.push(b),
            None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out
}

/// The model: the pre-tokenizer, the merges and the tokens of bytes.
#[derive(Debug, Clone)]
pub(super) struct Bpe {
    pub(super) rule: &'static Rule,
    bytes: Vec<u32>,
    merges: HashMap<(u32, u32), Merge>,
}

impl Bpe {
    /// Reads the pre-tokenizer's name and the merges.
    pub(super) fn from_meta(meta: &Meta, vocab: &Vocab) -> Result<Self> {
        let name = meta.opt_str("tokenizer.ggml.pre")?.unwrap_or("default");
        let rule = rule(name).ok_or_else(|| Error::Unsupported {
            what: format!("{}: the pre-tokenizer `{}` (tokenizer.ggml.pre)", meta.file(), show(name.as_bytes())),
            instead: format!("air has {}", pre_tokenizers().collect::<Vec<_>>().join(", ")),
        })?;
        let spelled = |c: &char| vocab.find(c.encode_utf8(&mut [0; 4]).as_bytes()).unwrap_or(NO_TOKEN);
        let bytes = BYTE_CHARS.iter().map(spelled).collect();
        Ok(Bpe { rule, bytes, merges: read_merges(meta, vocab)? })
    }

    /// Appends the ids of `text`.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        let mut symbols = Vec::new();
        let mut spelled = String::new();
        self.rule.split(text, &mut |piece| {
            if self.rule.ignore_merges {
                spelled.clear();
                spelled.extend(piece.bytes().map(|b| BYTE_CHARS[b as usize]));
                if let Some(id) = vocab.find_plain(spelled.as_bytes()) {
                    return out.push(id);
                }
            }
            symbols.clear();
            symbols.extend(piece.bytes().enumerate().map(|(i, b)| {
                let id = self.bytes[b as usize];
                Symbol { start: i, end: i + 1, id }
            }));
            merge_all(&mut symbols, |l, r| self.merges.get(&(l.id, r.id)).copied());
            out.extend(symbols.iter().map(|s| s.id).filter(|&id| id != NO_TOKEN));
        });
    }
}

fn read_merges(meta: &Meta, vocab: &Vocab) -> Result<HashMap<(u32, u32), Merge>> {
    let missing = || meta.error(MERGES, "the list of merges is missing; a tokenizer of model `gpt2` needs it");
    if meta.get(MERGES).is_none() {
        return Err(missing());
    }
    let mut merges = HashMap::new();
    let Some(list) = meta.opt_strings(MERGES)? else { return Ok(merges) };
    merges.reserve(list.len());
    let mut joined = Vec::new();
    for (rank, text) in list.iter().enumerate() {
        let fail = |problem: &str| meta.error(MERGES, format!("merge {rank} `{}` {problem}", show(text)));
        // A space may be the first byte of a token, never of the separator.
        let space = text.iter().skip(1).position(|&b| b == b' ').map(|at| at + 1);
        let at = space.ok_or_else(|| fail("is not two tokens with a space between them"))?;
        let (left, right) = (&text[..at], &text[at + 1..]);
        let find =
            |part: &[u8]| vocab.find(part).ok_or_else(|| fail(&format!("names `{}`, which is no token", show(part))));
        joined.clear();
        joined.extend([left, right].concat());
        let (pair, id) = ((find(left)?, find(right)?), find(&joined)?);
        merges.entry(pair).or_insert(Merge { rank: rank as u32, id });
    }
    Ok(merges)
}

#[cfg(test)]
mod tests {
    use super::super::Tokenizer;
    use super::super::testing::{bpe, set};
    use super::*;
    use crate::meta::{Array, Value};

    fn pieces(merges: &[&str], pre: &str, text: &str) -> Vec<String> {
        let mut meta = bpe(merges, &["<|end|>"]);
        set(&mut meta, "tokenizer.ggml.pre", Value::String(pre.into()));
        let t = Tokenizer::from_meta(&meta).unwrap();
        t.encode(text, false, false).iter().map(|&id| show(t.token_text(id))).collect()
    }

    #[test]
    fn merges_follow_the_list_within_pieces() {
        assert_eq!(pieces(&["a b", "b c", "Ġ a"], "gpt-2", "abc abc"), ["ab", "c", "Ġ", "ab", "c"]);
        assert_eq!(pieces(&["b c", "a b"], "gpt-2", "abc"), ["a", "bc"]);
        assert_eq!(pieces(&["Ã ©"], "gpt-2", "é"), ["Ã©"]);
    }

    #[test]
    fn a_piece_that_is_a_token_is_taken_whole_where_the_rule_says_so() {
        let merges = ["b c", "a b", "ab c"];
        assert_eq!(pieces(&merges, "qwen2", "abc"), ["a", "bc"]);
        assert_eq!(pieces(&merges, "llama-bpe", "abc"), ["abc"]);
    }

    #[test]
    fn bytes_are_spelled_one_to_one() {
        for (b, &c) in BYTE_CHARS.iter().enumerate() {
            assert_eq!(byte_of(c), Some(b as u8));
        }
        assert_eq!((BYTE_CHARS[0], BYTE_CHARS[32], BYTE_CHARS[255]), ('Ā', 'Ġ', 'ÿ'));
        assert_eq!(unspell("Ġaé中".as_bytes()), [b" a\xe9".as_slice(), "中".as_bytes()].concat());
    }

    #[test]
    fn broken_merges_are_refused_by_place_and_text() {
        for (bad, want) in [
            ("ab", "is not two tokens"),
            ("", "is not two tokens"),
            ("a 中", "names `中`, which is no token"),
            ("a zz", "names `zz`"),
            ("a b", "names `ab`"),
            (" a", "is not two tokens"),
        ] {
            let mut meta = bpe(&["x y"], &[]);
            set(&mut meta, MERGES, Value::Array(Array::String(["x y", bad].into_iter().collect())));
            let e = Tokenizer::from_meta(&meta).unwrap_err().to_string();
            assert!(e.starts_with("vocab.gguf: tokenizer.ggml.merges at byte 7: merge 1 ") && e.contains(want), "{e}");
        }
        let mut meta = bpe(&[], &[]);
        set(&mut meta, MERGES, Value::Array(Array::U8(vec![1])));
        assert!(Tokenizer::from_meta(&meta).unwrap_err().to_string().contains("must be an array of strings"));
        meta.remove(MERGES);
        assert!(Tokenizer::from_meta(&meta).unwrap_err().to_string().contains("the list of merges is missing"));
    }

    #[test]
    fn an_unknown_pre_tokenizer_is_refused_by_name() {
        let mut meta = bpe(&[], &[]);
        set(&mut meta, "tokenizer.ggml.pre", Value::String(b"tekken".to_vec()));
        let e = Tokenizer::from_meta(&meta).unwrap_err().to_string();
        assert!(e.contains("`tekken`") && e.contains("llama-bpe"), "{e}");
    }
}
