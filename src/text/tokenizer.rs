//! The tokenizer of a model, whichever kind it is.
//!
//! Encoding cuts the text at special tokens and gives what lies between to the model. Two things are the caller's
//! choice: `add_special` puts BOS before and EOS behind where the vocabulary wants them, `parse_special` takes control
//! tokens written out in the text for what they say. Text that a user typed is encoded without `parse_special`, so
//! that it cannot end its own turn. User-defined tokens are found always.

use super::bpe::{self, Bpe};
use super::detokenizer::Detokenizer;
use super::special::{Fragment, Specials};
use super::spm::{SPACE, Spm};
use super::vocab::{TokenKind, Vocab, byte_of};
use crate::error::{Error, Result};
use crate::meta::Meta;
use std::borrow::Cow;

const MODEL: &str = "tokenizer.ggml.model";

/// Text to ids and ids to text. Immutable once read, so that threads share it.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    vocab: Vocab,
    specials: Specials,
    model: Model,
    add_bos: bool,
    add_eos: bool,
    add_space_prefix: bool,
}

#[derive(Debug, Clone)]
enum Model {
    Spm(Spm),
    Bpe(Bpe),
}

impl Tokenizer {
    /// Reads the tokenizer from `tokenizer.ggml.*`, as the GGUF document and llama.cpp define these keys.
    ///
    /// # Errors
    /// `File` with key and offset when arrays are missing, of a wrong type or disagree; when tokens repeat, byte
    /// tokens name no byte, merges name no token, or a special id is beyond the vocabulary. `Unsupported` for a
    /// tokenizer model or pre-tokenizer that air does not have, by name.
    pub fn from_meta(meta: &Meta) -> Result<Self> {
        let kind = meta.str(MODEL)?;
        match kind {
            "llama" => Self::spm(meta),
            "gpt2" => Self::bpe(meta),
            other => Err(Error::Unsupported {
                what: format!(
                    "{}: the tokenizer model `{}` ({MODEL})",
                    meta.file(),
                    super::vocab::show(other.as_bytes())
                ),
                instead: "air has `llama` (SentencePiece BPE) and `gpt2` (byte-level BPE)".into(),
            }),
        }
    }

    fn spm(meta: &Meta) -> Result<Self> {
        let mut vocab = Vocab::from_meta(meta)?;
        let specials = Specials::from_meta(meta, &mut vocab, &[("unk", 0), ("bos", 1), ("eos", 2)])?;
        let model = Model::Spm(Spm::from_meta(meta, &vocab, specials.role("unk").unwrap_or(0))?);
        let add_space_prefix = meta.opt_bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        Self::new(meta, vocab, specials, model, true, add_space_prefix)
    }

    fn bpe(meta: &Meta) -> Result<Self> {
        let mut vocab = Vocab::from_meta(meta)?;
        let specials = Specials::from_meta(meta, &mut vocab, &[])?;
        let bpe = Bpe::from_meta(meta, &vocab)?;
        let add_bos = bpe.rule.add_bos;
        Self::new(meta, vocab, specials, Model::Bpe(bpe), add_bos, false)
    }

    fn new(
        meta: &Meta,
        vocab: Vocab,
        specials: Specials,
        model: Model,
        add_bos: bool,
        add_space_prefix: bool,
    ) -> Result<Self> {
        let add_bos = meta.opt_bool("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos);
        let add_eos = meta.opt_bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        Ok(Tokenizer { vocab, specials, model, add_bos, add_eos, add_space_prefix })
    }

    /// The ids of a text. `add_special` adds BOS and EOS as the vocabulary says; `parse_special` reads control tokens
    /// in the text.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Vec<u32> {
        let mut out = Vec::with_capacity(text.len() / 3 + 2);
        if add_special && self.add_bos {
            out.extend(self.bos());
        }
        let mut after_special = true;
        for fragment in self.specials.cut(&self.vocab, text, parse_special) {
            match (fragment, &self.model) {
                (Fragment::Token(id), _) => out.push(id),
                (Fragment::Text(text), Model::Bpe(bpe)) => bpe.encode(&self.vocab, text, &mut out),
                (Fragment::Text(text), Model::Spm(spm)) => {
                    spm.encode(&self.vocab, text, after_special && self.add_space_prefix, &mut out);
                    after_special = false;
                    continue;
                }
            }
            after_special = true;
        }
        if add_special && self.add_eos {
            out.extend(self.eos());
        }
        out
    }

    /// The text of ids from its beginning; `special` shows control tokens.
    pub fn decode(&self, ids: &[u32], special: bool) -> String {
        let mut detokenizer = Detokenizer::new(special);
        let mut out: String = ids.iter().map(|&id| detokenizer.push(self, id)).collect();
        out += &detokenizer.finish();
        out
    }

    /// The bytes that a token stands for; special tokens stand for their own text, an id beyond the vocabulary for
    /// nothing.
    pub fn token_bytes(&self, id: u32) -> Cow<'_, [u8]> {
        let text = self.vocab.text(id);
        match (self.vocab.kind(id), &self.model) {
            (TokenKind::Unknown | TokenKind::Control | TokenKind::UserDefined, _) => Cow::Borrowed(text),
            (TokenKind::Byte, _) => Cow::Owned(byte_of(text).into_iter().collect()),
            (TokenKind::Normal, Model::Bpe(_)) => Cow::Owned(bpe::unspell(text)),
            (TokenKind::Normal, Model::Spm(_)) => match std::str::from_utf8(text) {
                Ok(text) if text.contains(SPACE) => Cow::Owned(text.replace(SPACE, " ").into_bytes()),
                _ => Cow::Borrowed(text),
            },
            (TokenKind::Unused | TokenKind::Undefined, _) => Cow::Borrowed(&[]),
        }
    }

    /// A token's text as the file spells it.
    pub fn token_text(&self, id: u32) -> &[u8] {
        self.vocab.text(id)
    }

    /// What a token is for.
    pub fn token_kind(&self, id: u32) -> TokenKind {
        self.vocab.kind(id)
    }

    /// The token that is spelled `text`, special or not.
    pub fn find(&self, text: &str) -> Option<u32> {
        self.vocab.find(text.as_bytes())
    }

    /// Number of tokens.
    #[expect(clippy::len_without_is_empty, reason = "a vocabulary is never empty")]
    pub fn len(&self) -> usize {
        self.vocab.len()
    }

    /// The kind of tokenizer, for people.
    pub fn name(&self) -> &'static str {
        match self.model {
            Model::Spm(_) => "SentencePiece BPE",
            Model::Bpe(_) => "byte-level BPE",
        }
    }

    /// The token before a text.
    pub fn bos(&self) -> Option<u32> {
        self.specials.role("bos")
    }

    /// The token behind a text.
    pub fn eos(&self) -> Option<u32> {
        self.specials.role("eos")
    }

    /// Roles such as `bos`, `eot`, `fim_pre` and their tokens.
    pub fn roles(&self) -> &[(&'static str, u32)] {
        self.specials.roles()
    }

    /// Whether a token ends a generation.
    pub fn is_eog(&self, id: u32) -> bool {
        self.specials.ends().binary_search(&id).is_ok()
    }

    /// All tokens that end a generation, ascending.
    pub fn eog(&self) -> &[u32] {
        self.specials.ends()
    }

    /// Whether `add_special` puts BOS before a text.
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.bos().is_some()
    }

    /// Whether `add_special` puts EOS behind a text.
    pub fn adds_eos(&self) -> bool {
        self.add_eos && self.eos().is_some()
    }

    /// Whether a space is put before a text and after each special token.
    pub fn adds_space_prefix(&self) -> bool {
        self.add_space_prefix
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{bpe, meta_of, set, spm};
    use super::*;
    use crate::meta::Value;

    #[test]
    fn bos_and_eos_follow_the_model_and_the_keys() {
        let mut meta = spm(&["▁a", "a", "▁"]);
        let t = Tokenizer::from_meta(&meta).unwrap();
        assert_eq!(t.encode("a", true, false), [1, 259]);
        assert_eq!(t.encode("", true, false), [1]);
        assert!(t.encode("", false, false).is_empty());
        set(&mut meta, "tokenizer.ggml.add_bos_token", Value::Bool(false));
        set(&mut meta, "tokenizer.ggml.add_eos_token", Value::Bool(true));
        set(&mut meta, "tokenizer.ggml.add_space_prefix", Value::Bool(false));
        let t = Tokenizer::from_meta(&meta).unwrap();
        assert_eq!(t.encode("a", true, false), [260, 2]);

        let mut meta = bpe(&[], &["<|begin|>"]);
        assert_eq!(Tokenizer::from_meta(&meta).unwrap().encode("a", true, false), [97]);
        set(&mut meta, "tokenizer.ggml.bos_token_id", Value::U32(256));
        assert!(!Tokenizer::from_meta(&meta).unwrap().adds_bos(), "no rule asks for BOS");
        set(&mut meta, "tokenizer.ggml.pre", Value::String(b"llama-bpe".to_vec()));
        assert_eq!(Tokenizer::from_meta(&meta).unwrap().encode("a", true, false), [256, 97]);
    }

    #[test]
    fn typed_text_cannot_become_a_control_token() {
        let t = Tokenizer::from_meta(&bpe(&["< |"], &["<|end|>"])).unwrap();
        assert_eq!(t.encode("a<|end|>b", false, true), [97, 257, 98]);
        assert!(!t.encode("a<|end|>b", false, false).contains(&257));
        let t = Tokenizer::from_meta(&spm(&["</", "</s", "s", "<", "/", ">", "▁"])).unwrap();
        assert_eq!(t.encode("</s>", false, true), [2]);
        assert!(!t.encode("</s>", false, false).contains(&2), "nor by merging its letters");
    }

    #[test]
    fn pieces_are_the_bytes_that_a_token_stands_for() {
        let t = Tokenizer::from_meta(&spm(&["▁a▁b"])).unwrap();
        let piece = |id| t.token_bytes(id).into_owned();
        assert_eq!((piece(259), piece(1), piece(3 + 0xC3)), (b" a b".to_vec(), b"<s>".to_vec(), vec![0xC3]));
        assert_eq!((piece(1000), t.token_kind(1000)), (vec![], TokenKind::Undefined));
        assert_eq!((t.len(), t.find("▁a▁b"), t.eog(), t.is_eog(2)), (260, Some(259), &[2][..], true));
    }

    #[test]
    fn an_unknown_tokenizer_model_is_refused_by_name() {
        for model in ["t5", "bert", "no_vocab", ""] {
            let e = Tokenizer::from_meta(&meta_of(model, &[("a", 1)])).unwrap_err().to_string();
            assert!(e.contains(&format!("`{model}`")) && e.contains("`gpt2`"), "{e}");
        }
        assert!(Tokenizer::from_meta(&Meta::new("f")).unwrap_err().to_string().contains("tokenizer.ggml.model"));
    }
}
