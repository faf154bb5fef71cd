//! SentencePiece BPE (`tokenizer.ggml.model = llama`): merges by score, bytes for what has no token.
//!
//! A space is spelled U+2581. Two neighbours merge when their joint text is a token; the highest score goes first
//! (Kudo and Richardson 2018, "SentencePiece"). A character that is no token becomes its bytes' tokens `<0xNN>`.
//! When no token holds a space after something else, which is usual, merges cannot cross the beginning of a word,
//! and each word is merged on its own: the same ids, in memory that stays in the cache.

use super::merge::{Merge, NO_TOKEN, Symbol, merge_all};
use super::vocab::{Vocab, scores};
use crate::error::Result;
use crate::meta::Meta;

/// How SentencePiece spells a space.
pub(super) const SPACE: &str = "\u{2581}";

/// The model: ranks of tokens and the tokens of bytes.
#[derive(Debug, Clone)]
pub(super) struct Spm {
    /// Rank of each token as a merge: the higher the score, the lower.
    ranks: Vec<u32>,
    /// The token of each byte.
    bytes: Vec<u32>,
    /// Whether words are independent of each other.
    by_word: bool,
}

impl Spm {
    /// Reads scores and byte tokens; bytes without a token become `unknown`.
    pub(super) fn from_meta(meta: &Meta, vocab: &Vocab, unknown: u32) -> Result<Self> {
        let ranks = scores(meta, vocab.len())?.into_iter().map(rank).collect();
        let find =
            |b: u8| vocab.find(format!("<0x{b:02X}>").as_bytes()).or_else(|| vocab.find(&[b])).unwrap_or(unknown);
        let bytes = (0..=255).map(find).collect();
        let by_word = (0..vocab.len() as u32).all(|id| vocab.kind(id).is_special() || !has_inner_space(vocab.text(id)));
        Ok(Spm { ranks, bytes, by_word })
    }

    /// Appends the ids of `text`; `prefix` puts a space before it.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, prefix: bool, out: &mut Vec<u32>) {
        let mut spelled = String::with_capacity(text.len() + text.len() / 2 + SPACE.len());
        if prefix {
            spelled.push_str(SPACE);
        }
        text.split_inclusive(' ').for_each(|part| match part.strip_suffix(' ') {
            Some(word) => spelled.extend([word, SPACE]),
            None => spelled.push_str(part),
        });
        let mut symbols = Vec::new();
        let mut rest = spelled.as_str();
        while !rest.is_empty() {
            let (word, tail) = rest.split_at(if self.by_word { word_len(rest) } else { rest.len() });
            self.encode_word(vocab, word, &mut symbols, out);
            rest = tail;
        }
    }

    fn encode_word(&self, vocab: &Vocab, word: &str, symbols: &mut Vec<Symbol>, out: &mut Vec<u32>) {
        let bytes = word.as_bytes();
        symbols.clear();
        symbols.extend(word.char_indices().map(|(start, c)| {
            let end = start + c.len_utf8();
            Symbol { start, end, id: NO_TOKEN }
        }));
        merge_all(symbols, |l, r| {
            let id = vocab.find_plain(&bytes[l.start..r.end])?;
            Some(Merge { rank: self.ranks[id as usize], id })
        });
        for s in symbols {
            let text = &bytes[s.start..s.end];
            match if s.id == NO_TOKEN { vocab.find_plain(text) } else { Some(s.id) } {
                Some(id) => out.push(id),
                None => out.extend(text.iter().map(|&b| self.bytes[b as usize])),
            }
        }
    }
}

/// A total order of scores from high to low, without NaN: equal scores have equal ranks.
fn rank(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    let rising = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !rising
}

/// Whether a space follows something that is not a space.
fn has_inner_space(token: &[u8]) -> bool {
    let mut rest = token;
    while let Some(tail) = rest.strip_prefix(SPACE.as_bytes()) {
        rest = tail;
    }
    rest.windows(SPACE.len()).any(|w| w == SPACE.as_bytes())
}

/// Bytes of the first word: its leading spaces and what follows up to the next space.
fn word_len(text: &str) -> usize {
    let start = text.len() - text.trim_start_matches(SPACE).len();
    text[start..].find(SPACE).map_or(text.len(), |at| start + at)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{set, spm};
    use super::super::{Tokenizer, vocab::show};
    use super::*;
    use crate::meta::{Array, Value};

    fn ids(words: &[&str], text: &str) -> Vec<String> {
        let t = Tokenizer::from_meta(&spm(words)).unwrap();
        t.encode(text, false, false).iter().map(|&id| show(t.token_text(id))).collect()
    }

    #[test]
    fn the_highest_score_merges_first_and_bytes_fill_in() {
        assert_eq!(ids(&["ab", "bc", "a", "b", "c", "▁"], "abc"), ["▁", "ab", "c"]);
        assert_eq!(ids(&["bc", "ab", "a", "b", "c", "▁"], "abc"), ["▁", "a", "bc"]);
        assert_eq!(ids(&["a", "▁"], "aé"), ["▁", "a", "<0xC3>", "<0xA9>"]);
        assert_eq!(ids(&["▁▁", "▁a", "a", "▁"], "a  a"), ["▁a", "▁▁", "a"]);
    }

    #[test]
    fn words_are_independent_only_when_no_token_crosses_them() {
        assert_eq!(ids(&["a▁b", "▁b", "a", "b", "▁"], "a b"), ["▁", "a▁b"]);
        assert!(has_inner_space("a▁".as_bytes()) && !has_inner_space("▁▁a".as_bytes()));
        assert_eq!(word_len("▁▁ab▁c"), 8);
    }

    #[test]
    fn ranks_fall_with_scores() {
        let scores = [f32::INFINITY, 3.0, 0.5, 0.0, -0.25, -1e9, f32::NEG_INFINITY];
        assert!(scores.windows(2).all(|w| rank(w[0]) < rank(w[1])));
        assert_eq!(rank(0.0), rank(-0.0));
        assert!(rank(f32::NEG_INFINITY) < u32::MAX);
    }

    #[test]
    fn without_byte_tokens_the_unknown_token_stands_in() {
        let mut meta = super::super::testing::meta_of("llama", &[("<unk>", 2), ("a", 1)]);
        set(&mut meta, "tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0; 2])));
        assert_eq!(Tokenizer::from_meta(&meta).unwrap().encode("ab", false, false), [0, 0, 0, 1, 0]);
    }

    #[test]
    fn a_megabyte_without_a_space_is_no_trouble() {
        let words = ["aa", "aaaa", "aaaaaaaa", "▁▁", "▁▁▁▁", "a", "▁"];
        let t = Tokenizer::from_meta(&spm(&words)).unwrap();
        assert_eq!(t.encode(&"a".repeat(1 << 20), false, false).len(), (1 << 17) + 1);
        assert_eq!(t.encode(&" ".repeat(1 << 20), false, false).len(), (1 << 18) + 1);
    }
}
