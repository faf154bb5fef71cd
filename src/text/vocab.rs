//! The tokens of a vocabulary: their text, their kind, and the way back from a text to a token.
//!
//! Tokens are byte strings as the file has them: byte-level vocabularies spell bytes as printable characters,
//! SentencePiece ones write U+2581 for a space. What the spelling means is the tokenizer's. The counts of the file's
//! arrays agree, every text belongs to one token, and every byte token names a byte; a file that breaks one of these
//! is refused with the key and its offset.

use crate::error::Result;
use crate::meta::{Array, Meta, Strings, Value};
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";

/// What a token is for, as `tokenizer.ggml.token_type` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A part of text.
    Normal,
    /// Stands for what the vocabulary cannot spell.
    Unknown,
    /// Structure, such as the end of a turn: never part of a text unless special tokens are asked for.
    Control,
    /// Added by the model's maker: found in every text before anything else.
    UserDefined,
    /// A place kept free.
    Unused,
    /// One byte, written `<0x0A>`.
    Byte,
    /// Anything else.
    Undefined,
}

impl TokenKind {
    fn from_ggml(value: i64) -> Self {
        match value {
            1 => TokenKind::Normal,
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            6 => TokenKind::Byte,
            _ => TokenKind::Undefined,
        }
    }

    /// Whether the text is found as a whole, before a text is cut up.
    pub fn is_special(self) -> bool {
        matches!(self, TokenKind::Unknown | TokenKind::Control | TokenKind::UserDefined)
    }

    /// Whether plain text must not turn into it.
    pub fn is_reserved(self) -> bool {
        matches!(self, TokenKind::Unknown | TokenKind::Control)
    }
}

/// The tokens of a model.
#[derive(Debug, Clone)]
pub(super) struct Vocab {
    texts: Strings,
    pub kinds: Vec<TokenKind>,
    /// Ids by text; tokens without text are not in it.
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    longest: usize,
}

impl Vocab {
    /// Reads tokens and kinds.
    pub(super) fn from_meta(meta: &Meta) -> Result<Self> {
        let missing = || meta.error(TOKENS, "the list of tokens is missing or empty; the file has no tokenizer");
        let texts = meta.opt_strings(TOKENS)?.filter(|t| !t.is_empty()).ok_or_else(missing)?.clone();
        if texts.len() >= u32::MAX as usize {
            return Err(meta.error(TOKENS, format!("{} tokens are more than ids can name", texts.len())));
        }
        let kinds = match meta.opt_integers(KINDS)? {
            None => vec![TokenKind::Normal; texts.len()],
            Some(k) => k.into_iter().map(TokenKind::from_ggml).collect(),
        };
        check_count(meta, KINDS, kinds.len(), texts.len())?;
        let mut vocab = Vocab { kinds, longest: 0, index: HashTable::new(), hasher: Default::default(), texts };
        vocab.fill_index(meta)?;
        Ok(vocab)
    }

    fn fill_index(&mut self, meta: &Meta) -> Result<()> {
        let Vocab { texts, index, hasher, kinds, longest } = self;
        let hash = |id: &u32| hasher.hash_one(texts.get(*id as usize));
        index.reserve(texts.len(), hash);
        for (id, text) in texts.iter().enumerate() {
            if kinds[id] == TokenKind::Byte && byte_of(text).is_none() {
                let problem =
                    format!("token {id} is a byte token, but its text is `{}`, not <0x00> … <0xFF>", show(text));
                return Err(meta.error(TOKENS, problem));
            }
            if text.is_empty() {
                continue;
            }
            *longest = text.len().max(*longest);
            let code = hasher.hash_one(Some(text));
            if let Some(other) = index.find(code, |&other| texts.get(other as usize) == Some(text)) {
                let problem = format!("tokens {other} and {id} have the same text `{}`", show(text));
                return Err(meta.error(TOKENS, problem));
            }
            index.insert_unique(code, id as u32, hash);
        }
        Ok(())
    }

    /// Number of tokens.
    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    /// A token's text as the file spells it; empty for an id that does not exist.
    pub(super) fn text(&self, id: u32) -> &[u8] {
        self.texts.get(id as usize).unwrap_or_default()
    }

    /// The kind of a token.
    pub(super) fn kind(&self, id: u32) -> TokenKind {
        self.kinds.get(id as usize).copied().unwrap_or(TokenKind::Undefined)
    }

    /// The token that is spelled so.
    pub(super) fn find(&self, text: &[u8]) -> Option<u32> {
        if text.len() > self.longest || text.is_empty() {
            return None;
        }
        let code = self.hasher.hash_one(Some(text));
        self.index.find(code, |&id| self.texts.get(id as usize) == Some(text)).copied()
    }

    /// The token that plain text of this spelling may become.
    pub(super) fn find_plain(&self, text: &[u8]) -> Option<u32> {
        self.find(text).filter(|&id| !self.kind(id).is_reserved())
    }
}

/// The scores, one for each token and none of them NaN.
pub(super) fn scores(meta: &Meta, tokens: usize) -> Result<Vec<f32>> {
    let scores = match meta.get(SCORES) {
        Some(Value::Array(Array::I32(v))) => v.iter().map(|&x| x as f32).collect(),
        _ => meta.opt_floats(SCORES)?.ok_or_else(|| {
            meta.error(SCORES, "this metadata key is missing; a tokenizer of model `llama` needs one score per token")
        })?,
    };
    check_count(meta, SCORES, scores.len(), tokens)?;
    match scores.iter().position(|s| s.is_nan()) {
        Some(id) => Err(meta.error(SCORES, format!("the score of token {id} is not a number"))),
        None => Ok(scores),
    }
}

fn check_count(meta: &Meta, key: &str, is: usize, tokens: usize) -> Result<()> {
    if is == tokens {
        return Ok(());
    }
    Err(meta.error(key, format!("has {is} elements, but {TOKENS} has {tokens}")))
}

/// The byte that `<0x0A>` names.
pub(super) fn byte_of(text: &[u8]) -> Option<u8> {
    let [b'<', b'0', b'x', high, low, b'>'] = text else { return None };
    let digit = |b: u8| (b as char).to_digit(16);
    Some((digit(*high)? * 16 + digit(*low)?) as u8)
}

/// A token's text for a message: at most 64 characters, line breaks escaped.
pub(super) fn show(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let cut: String = text.escape_debug().take(64).collect();
    if cut.len() < text.len() && cut.chars().count() == 64 { cut + "…" } else { cut }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{meta_of, set};
    use super::*;

    fn error(meta: &Meta) -> String {
        Vocab::from_meta(meta).expect_err("a bad vocabulary").to_string()
    }

    #[test]
    fn tokens_are_found_by_text_and_text_by_token() {
        let meta = meta_of("llama", &[("<unk>", 2), ("a", 1), ("", 5), ("", 5), ("<s>", 3), ("<0x0A>", 6)]);
        let vocab = Vocab::from_meta(&meta).unwrap();
        assert_eq!((vocab.len(), vocab.find(b"a"), vocab.find(b""), vocab.find(b"b")), (6, Some(1), None, None));
        assert_eq!((vocab.find(b"<s>"), vocab.find_plain(b"<s>"), vocab.find_plain(b"a")), (Some(4), None, Some(1)));
        assert_eq!((vocab.text(4), vocab.text(6), vocab.kind(0)), (&b"<s>"[..], &b""[..], TokenKind::Unknown));
        assert_eq!((byte_of(b"<0x0A>"), byte_of(b"<0xfF>"), byte_of(b"<0x+1>")), (Some(10), Some(255), None));
    }

    #[test]
    fn a_broken_vocabulary_is_refused_with_key_and_offset() {
        let mut meta = meta_of("llama", &[("a", 1), ("b", 1)]);
        set(&mut meta, KINDS, Value::Array(Array::I32(vec![1])));
        assert_eq!(
            error(&meta),
            "vocab.gguf: tokenizer.ggml.token_type at byte 7: has 1 elements, but tokenizer.ggml.tokens has 2"
        );
        set(&mut meta, KINDS, Value::Array(Array::F32(vec![1.0, 1.0])));
        assert!(error(&meta).contains("token_type at byte 7: the value must be an array of integers"));
        assert!(error(&meta_of("llama", &[("a", 1), ("a", 1)])).contains("tokens 0 and 1 have the same text `a`"));
        for bad in ["<0x>", "<0xG0>", "0x0A", "<0x0A> "] {
            assert!(error(&meta_of("llama", &[(bad, 6)])).contains("not <0x00> … <0xFF>"), "{bad}");
        }
        assert!(error(&Meta::new("f")).contains("the file has no tokenizer"));
    }

    #[test]
    fn scores_are_one_number_for_each_token() {
        let mut meta = Meta::new("vocab.gguf");
        assert!(scores(&meta, 2).unwrap_err().to_string().contains("needs one score per token"));
        set(&mut meta, SCORES, Value::Array(Array::F32(vec![0.5, -1.0])));
        assert_eq!(scores(&meta, 2).unwrap(), [0.5, -1.0]);
        assert!(scores(&meta, 3).unwrap_err().to_string().contains("has 2 elements, but tokenizer.ggml.tokens has 3"));
        set(&mut meta, SCORES, Value::Array(Array::F32(vec![0.5, f32::NAN])));
        assert!(scores(&meta, 2).unwrap_err().to_string().contains("token 1 is not a number"));
        set(&mut meta, SCORES, Value::Array(Array::U8(vec![1, 2])));
        assert!(scores(&meta, 2).unwrap_err().to_string().contains("it is array of uint8"));
    }
}
