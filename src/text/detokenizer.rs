//! Tokens back to text, one at a time, as a model produces them.
//!
//! A token is bytes, not characters: a character may be spread over several. What is handed out is always whole
//! UTF-8; the bytes of an unfinished character wait for the next token, and bytes that can never become a character
//! are replaced by U+FFFD, as `String::from_utf8_lossy` does, at the latest by [`Detokenizer::finish`]. The space
//! that the encoder put before a word, at the start of a text or after a special token, is taken away again.

use super::Tokenizer;

/// The state between two tokens of one text.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    /// Bytes of an unfinished character.
    held: Vec<u8>,
    /// The encoder would have put a space before what comes next.
    prefixed: bool,
    special: bool,
}

impl Detokenizer {
    /// For a text from its beginning. `special` renders control tokens; otherwise they give no text.
    pub fn new(special: bool) -> Self {
        Detokenizer { held: Vec::new(), prefixed: true, special }
    }

    /// For what follows on a text that is there already, such as the answer to a prompt.
    pub fn continuing(special: bool) -> Self {
        Detokenizer { prefixed: false, ..Self::new(special) }
    }

    /// Takes a token and returns the text that is complete now, which may be empty. An id beyond the vocabulary
    /// gives no text.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        let kind = tokenizer.token_kind(id);
        let special = kind.is_special();
        if kind.is_reserved() && !self.special {
            self.prefixed = true;
            return String::new();
        }
        let bytes = tokenizer.token_bytes(id);
        let strip = self.prefixed && tokenizer.adds_space_prefix() && !special && bytes.first() == Some(&b' ');
        self.held.extend_from_slice(&bytes[strip as usize..]);
        self.prefixed = special;
        self.take(false)
    }

    /// Ends the text: returns what was held back, an unfinished character as U+FFFD.
    pub fn finish(&mut self) -> String {
        self.take(true)
    }

    fn take(&mut self, all: bool) -> String {
        let mut out = String::new();
        let mut rest = self.held.as_slice();
        while let Err(e) = std::str::from_utf8(rest) {
            let (good, bad) = rest.split_at(e.valid_up_to());
            out.push_str(&String::from_utf8_lossy(good));
            match e.error_len() {
                Some(n) => rest = &bad[n..],
                None if all => rest = &[],
                None => {
                    self.held = bad.to_vec();
                    return out;
                }
            }
            out.push(char::REPLACEMENT_CHARACTER);
        }
        out.push_str(&String::from_utf8_lossy(rest));
        self.held.clear();
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{bpe, spm};
    use super::*;

    #[test]
    fn a_character_is_never_split() {
        let t = Tokenizer::from_meta(&spm(&["▁", "a"])).unwrap();
        let ids = t.encode("a🦙é", false, false);
        assert_eq!(ids.len(), 2 + 4 + 2);
        let mut d = Detokenizer::new(false);
        let chunks: Vec<String> = ids.iter().map(|&id| d.push(&t, id)).collect();
        assert_eq!(chunks, ["", "a", "", "", "", "🦙", "", "é"]);
        assert_eq!(d.finish(), "");
    }

    #[test]
    fn bytes_that_are_no_character_become_replacement_characters() {
        let t = Tokenizer::from_meta(&bpe(&[], &[])).unwrap();
        let text = b"a\xff\xe2\x82b\xf0\x9f\x80";
        let mut d = Detokenizer::new(false);
        let mut out: String = text.iter().map(|&b| d.push(&t, b.into())).collect();
        out += &d.finish();
        assert_eq!(out, String::from_utf8_lossy(text));
        assert_eq!(d.finish(), "");
    }

    #[test]
    fn the_encoders_space_is_taken_away_where_it_was_added() {
        let t = Tokenizer::from_meta(&spm(&["▁a", "▁▁", "a", "▁"])).unwrap();
        for text in ["a", " a", "  a a ", "a</s>a", "</s> a", ""] {
            let ids = t.encode(text, true, true);
            assert_eq!(t.decode(&ids[1..], true), text, "{ids:?}");
        }
        let a = t.encode("a", false, false);
        let mut d = Detokenizer::continuing(false);
        assert_eq!(d.push(&t, a[0]), " a");
        assert_eq!(d.push(&t, 2), "", "a control token is not shown");
        assert_eq!(d.push(&t, a[0]), "a");
        assert_eq!(d.push(&t, 999_999), "");
    }
}
