//! Special tokens: which ids mean beginning, end and padding, and how a text is cut where their texts stand in it.
//!
//! Files name some ids by keys; others are known only by their text, as in llama.cpp, whose lists are followed here.
//! A token whose text is in those lists is a control token whatever its kind in the file says. Cutting takes the
//! longest special texts first, over the whole text, then shorter ones in what is left, in n log n steps.

use super::finder::Finder;
use super::vocab::{TokenKind, Vocab};
use crate::error::Result;
use crate::meta::Meta;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Roles of special tokens: name, metadata key, and the texts that are taken for it when the key is absent.
const ROLES: [(&str, &str, &[&str]); 14] = [
    ("bos", "tokenizer.ggml.bos_token_id", &[]),
    ("eos", "tokenizer.ggml.eos_token_id", &[]),
    (
        "eot",
        "tokenizer.ggml.eot_token_id",
        &[
            "<|eot_id|>",
            "<|im_end|>",
            "<|end|>",
            "<end_of_turn>",
            "<|endoftext|>",
            "<|end_of_text|>",
            "<EOT>",
            "_<EOT>",
            "[EOT]",
            "<｜end▁of▁sentence｜>",
            "<end_of_utterance>",
        ],
    ),
    ("eom", "tokenizer.ggml.eom_token_id", &["<|eom_id|>"]),
    ("unk", "tokenizer.ggml.unknown_token_id", &[]),
    ("sep", "tokenizer.ggml.seperator_token_id", &[]),
    ("pad", "tokenizer.ggml.padding_token_id", &[]),
    ("mask", "tokenizer.ggml.mask_token_id", &[]),
    (
        "fim_pre",
        "tokenizer.ggml.fim_pre_token_id",
        &["<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>"],
    ),
    (
        "fim_suf",
        "tokenizer.ggml.fim_suf_token_id",
        &["<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>"],
    ),
    (
        "fim_mid",
        "tokenizer.ggml.fim_mid_token_id",
        &["<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>"],
    ),
    ("fim_pad", "tokenizer.ggml.fim_pad_token_id", &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    (
        "fim_rep",
        "tokenizer.ggml.fim_rep_token_id",
        &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
    ),
    ("fim_sep", "tokenizer.ggml.fim_sep_token_id", &["<|file_sep|>"]),
];

/// Roles whose token ends a generation.
const ENDING_ROLES: [&str; 6] = ["eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep"];

/// Texts whose token ends a generation.
const ENDING_TEXTS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Texts that a reader should see although the file calls them control tokens (the harmony format).
const SHOWN: [&str; 4] = ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// Most bytes that all special texts together may have, because looking for them takes twenty times that. Real
/// vocabularies have up to 100 000.
const MAX_BYTES: usize = 2 << 20;

/// The special tokens of a vocabulary.
#[derive(Debug, Clone, Default)]
pub(super) struct Specials {
    roles: Vec<(&'static str, u32)>,
    /// Tokens that end a generation, ascending.
    ends: Vec<u32>,
    /// Tokens that are looked for in a text, longest first.
    found: Vec<u32>,
    /// Looks for them, by their place in `found`.
    finder: Finder,
    /// Tokens that swallow the white space after them.
    strip_right: Vec<u32>,
}

/// A text, cut: token ids and what lies between.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fragment<'a> {
    Text(&'a str),
    Token(u32),
}

impl Specials {
    /// Reads the keys, derives what they leave open, and corrects kinds in `vocab` accordingly. `defaults` are ids
    /// of roles that the kind of tokenizer fixes when the file is silent.
    pub(super) fn from_meta(meta: &Meta, vocab: &mut Vocab, defaults: &[(&'static str, u32)]) -> Result<Self> {
        let mut specials = Specials::default();
        for (role, key, texts) in ROLES {
            if let Some(id) = role_of(meta, vocab, role, key, texts, defaults)? {
                specials.roles.push((role, id));
            }
        }
        specials.find_ends(vocab);
        specials.find_specials(meta, vocab)?;
        Ok(specials)
    }

    /// The token of a role such as `bos`.
    pub(super) fn role(&self, name: &str) -> Option<u32> {
        self.roles.iter().find(|(role, _)| *role == name).map(|(_, id)| *id)
    }

    /// All roles that have a token.
    pub(super) fn roles(&self) -> &[(&'static str, u32)] {
        &self.roles
    }

    /// Tokens that end a generation, ascending.
    pub(super) fn ends(&self) -> &[u32] {
        &self.ends
    }

    fn find_ends(&mut self, vocab: &mut Vocab) {
        self.ends = ENDING_ROLES.iter().filter_map(|role| self.role(role)).collect();
        let has = |vocab: &Vocab, text: &str| vocab.find(text.as_bytes());
        for text in ENDING_TEXTS {
            if let Some(id) = has(vocab, text) {
                vocab.kinds[id as usize] = TokenKind::Control;
                self.ends.push(id);
            }
        }
        for id in SHOWN.map(|text| has(vocab, text)).into_iter().flatten() {
            vocab.kinds[id as usize] = TokenKind::UserDefined;
        }
        // In the harmony format `<|end|>` ends a message, not the answer; Gemma 4 has a normal `</s>`.
        let harmony = has(vocab, "<|return|>").is_some() && has(vocab, "<|call|>").is_some();
        let solar = has(vocab, "<|flush|>").is_some() && has(vocab, "<|calls|>").is_some();
        if harmony || solar {
            self.is_no_end(vocab, "<|end|>", TokenKind::UserDefined);
        }
        if has(vocab, "<|tool_response>").is_some() {
            self.is_no_end(vocab, "</s>", TokenKind::Normal);
        }
        self.ends.sort_unstable();
        self.ends.dedup();
    }

    fn is_no_end(&mut self, vocab: &mut Vocab, text: &str, kind: TokenKind) {
        if let Some(id) = vocab.find(text.as_bytes()) {
            self.ends.retain(|&end| end != id);
            vocab.kinds[id as usize] = kind;
        }
    }

    fn find_specials(&mut self, meta: &Meta, vocab: &Vocab) -> Result<()> {
        self.found = (0..vocab.len() as u32)
            .filter(|&id| {
                vocab.kind(id).is_special() && std::str::from_utf8(vocab.text(id)).is_ok_and(|t| !t.is_empty())
            })
            .collect();
        let bytes: usize = self.found.iter().map(|&id| vocab.text(id).len()).sum();
        if bytes > MAX_BYTES {
            let problem = format!("the special tokens have {bytes} bytes of text; at most {MAX_BYTES} are possible");
            return Err(meta.error("tokenizer.ggml.tokens", problem));
        }
        self.found.sort_by_key(|&id| Reverse(vocab.text(id).len()));
        self.finder = Finder::new(self.found.iter().map(|&id| vocab.text(id)));
        let name = meta.opt_str("general.name").ok().flatten().unwrap_or_default().to_ascii_lowercase();
        if name.contains("phi-3") || name.contains("phi3") {
            let keeps = [&b"<unk>"[..], b"<s>", b"<|endoftext|>"];
            self.strip_right = self.found.iter().copied().filter(|&id| !keeps.contains(&vocab.text(id))).collect();
            self.strip_right.sort_unstable();
        }
        Ok(())
    }

    /// Cuts `text` where special tokens stand: all of them when `parse` is set, else only user-defined ones.
    ///
    /// The longest token goes first; of one token the leftmost, and of equally long ones the lowest id. A place where
    /// the longest does not fit, because a part of it is taken, falls to the next shorter one that begins there.
    pub(super) fn cut<'a>(&self, vocab: &Vocab, text: &'a str, parse: bool) -> Vec<Fragment<'a>> {
        let wanted = |&n: &u32| parse || !vocab.kind(self.found[n as usize]).is_reserved();
        let best = |n: Option<u32>| std::iter::successors(n, |&n| self.finder.shorter(n)).find(wanted);
        let mut places = vec![];
        self.finder.find(text.as_bytes(), |at, longest| places.extend(best(Some(longest)).map(|n| Reverse((n, at)))));
        let mut places = BinaryHeap::from(places);
        let mut taken: BTreeMap<usize, (usize, u32)> = BTreeMap::new();
        while let Some(Reverse((n, at))) = places.pop() {
            if taken.range(..=at).next_back().is_some_and(|(_, &(end, _))| at < end) {
                continue;
            }
            let free = taken.range(at..).next().map_or(text.len(), |(&start, _)| start);
            let id = self.found[n as usize];
            let end = at + vocab.text(id).len();
            if end <= free {
                taken.insert(at, (end + self.stripped(id, &text[end..free]), id));
            } else {
                places.extend(best(self.finder.shorter(n)).map(|n| Reverse((n, at))));
            }
        }
        let mut out = Vec::with_capacity(2 * taken.len() + 1);
        let mut from = 0;
        let gap = |from: usize, to: usize| (from < to).then(|| Fragment::Text(&text[from..to]));
        for (start, (end, id)) in taken {
            out.extend(gap(from, start));
            out.push(Fragment::Token(id));
            from = end;
        }
        out.extend(gap(from, text.len()));
        out
    }

    /// Bytes of white space that a token swallows from what follows it.
    fn stripped(&self, id: u32, after: &str) -> usize {
        match self.strip_right.binary_search(&id) {
            Ok(_) => after.len() - after.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']).len(),
            Err(_) => 0,
        }
    }
}

/// The token of one role: by key, by text (it is a control token then), or by default.
fn role_of(
    meta: &Meta,
    vocab: &mut Vocab,
    role: &str,
    key: &str,
    texts: &[&str],
    defaults: &[(&'static str, u32)],
) -> Result<Option<u32>> {
    if let Some(id) = meta.opt_u32(key)? {
        if id as usize >= vocab.len() {
            return Err(meta.error(key, format!("{id} is no token; the vocabulary has {}", vocab.len())));
        }
        return Ok(Some(id));
    }
    if let Some(id) = texts.iter().find_map(|t| vocab.find(t.as_bytes())) {
        vocab.kinds[id as usize] = TokenKind::Control;
        return Ok(Some(id));
    }
    let default = defaults.iter().find(|(name, _)| *name == role).map(|(_, id)| *id);
    Ok(default.filter(|&id| (id as usize) < vocab.len()))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{meta_of, set};
    use super::*;
    use crate::meta::Value;
    use Fragment::{Text, Token};

    fn read(tokens: &[(&str, i32)], keys: &[(&str, u32)]) -> (Vocab, Specials) {
        let mut meta = meta_of("gpt2", tokens);
        keys.iter().for_each(|(k, v)| set(&mut meta, k, Value::U32(*v)));
        let mut vocab = Vocab::from_meta(&meta).unwrap();
        let specials = Specials::from_meta(&meta, &mut vocab, &[]).unwrap();
        (vocab, specials)
    }

    #[test]
    fn the_longest_special_text_wins_over_the_whole_text() {
        let (vocab, s) = read(&[("x", 1), ("ab", 3), ("bcd", 3), ("<u>", 4), ("<u>>", 4)], &[]);
        assert_eq!(s.cut(&vocab, "xabcdab", true), [Text("xa"), Token(2), Token(1)]);
        assert_eq!(s.cut(&vocab, "ab<u>>y<u>", false), [Text("ab"), Token(4), Text("y"), Token(3)]);
        assert_eq!(s.cut(&vocab, "abab", true), [Token(1), Token(1)]);
        assert_eq!(s.cut(&vocab, "", true), []);
    }

    /// By the definition: token after token, the longest first, over all that is still text.
    fn naive<'a>(s: &Specials, vocab: &Vocab, text: &'a str, parse: bool) -> Vec<Fragment<'a>> {
        let mut fragments = if text.is_empty() { vec![] } else { vec![Text(text)] };
        for &id in s.found.iter().filter(|&&id| parse || !vocab.kind(id).is_reserved()) {
            let needle = std::str::from_utf8(vocab.text(id)).unwrap();
            let mut out = vec![];
            for fragment in fragments {
                let Text(mut rest) = fragment else {
                    out.push(fragment);
                    continue;
                };
                while let Some((before, after)) = rest.split_once(needle) {
                    out.extend([Text(before), Token(id)]);
                    rest = if s.strip_right.contains(&id) { after.trim_start_matches([' ', '\n']) } else { after };
                }
                out.push(Text(rest));
            }
            fragments = out;
        }
        fragments.into_iter().filter(|f| *f != Text("")).collect()
    }

    #[test]
    fn cuts_are_those_of_the_definition() {
        let mut seed = 1u64;
        let mut below = |n: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize % n
        };
        let mut cuts = 0;
        for case in 0..3000 {
            let mut word = |most: usize| -> String {
                (0..1 + below(most)).map(|_| ["a", "b", " ", "é", "ab", "\n"][below(6)]).collect()
            };
            let mut words: Vec<String> = (0..6).map(|_| word(4)).collect();
            let text = word(30);
            words.sort();
            words.dedup();
            let tokens: Vec<(&str, i32)> = words.iter().map(|w| (w.as_str(), [3, 4, 4, 1][below(4)])).collect();
            let mut meta = meta_of("gpt2", &tokens);
            if case % 3 == 0 {
                set(&mut meta, "general.name", Value::String(b"phi-3".to_vec()));
            }
            let mut vocab = Vocab::from_meta(&meta).unwrap();
            let s = Specials::from_meta(&meta, &mut vocab, &[]).unwrap();
            for parse in [true, false] {
                let got = s.cut(&vocab, &text, parse);
                assert_eq!(got, naive(&s, &vocab, &text, parse), "{text:?} of {tokens:?}");
                cuts += got.len();
            }
        }
        assert!(cuts > 30_000, "{cuts}");
    }

    /// A token that nearly stands everywhere, and many tokens that do: with a step for each pair of token and byte,
    /// these would take minutes.
    #[test]
    fn many_and_long_special_tokens_are_no_trouble() {
        let long = "a".repeat(100_000) + "b";
        let (vocab, s) = read(&[(&long, 3), ("c", 1)], &[]);
        let text = "a".repeat(300_000);
        assert_eq!(s.cut(&vocab, &text, true), [Text(&text)]);
        let letters = || (b'a'..=b'z').map(char::from);
        let all =
            letters().flat_map(|a| letters().flat_map(move |b| letters().map(move |c| String::from_iter([a, b, c]))));
        let all: Vec<String> = all.collect();
        let tokens: Vec<(&str, i32)> = all.iter().map(|t| (t.as_str(), 3)).collect();
        let (vocab, s) = read(&tokens, &[]);
        let text = all.iter().rev().fold(String::new(), |text, t| text + t);
        let cut = s.cut(&vocab, &text, true);
        assert!(cut.len() > all.len() / 2 && cut[0] == Token(all.len() as u32 - 1));
        let (vocab, s) = read(&[("aaaa", 3), ("aaa", 4), ("a", 4)], &[]);
        assert_eq!(s.cut(&vocab, "aaaaa", false), [Token(1), Token(2), Token(2)]);
    }

    #[test]
    fn special_texts_without_measure_are_refused() {
        let meta = meta_of("gpt2", &[(&"a".repeat(MAX_BYTES + 1), 3)]);
        let mut vocab = Vocab::from_meta(&meta).unwrap();
        let e = Specials::from_meta(&meta, &mut vocab, &[]).unwrap_err().to_string();
        assert!(
            e.starts_with("vocab.gguf: tokenizer.ggml.tokens at byte 7: the special tokens have 2097153 bytes"),
            "{e}"
        );
    }

    #[test]
    fn ends_come_from_keys_and_from_texts() {
        let tokens = [("a", 1), ("<|im_end|>", 1), ("<|endoftext|>", 3), ("<|fim_pad|>", 4), ("</s>", 1)];
        let (vocab, s) = read(&tokens, &[("tokenizer.ggml.eos_token_id", 0)]);
        assert_eq!(s.ends(), [0, 1, 2, 3, 4]);
        assert_eq!((s.role("eot"), s.role("fim_pad"), s.role("bos")), (Some(1), Some(3), None));
        assert_eq!(vocab.kind(1), TokenKind::Control, "a control-looking text is a control token");
        let harmony = [("<|end|>", 3), ("<|return|>", 3), ("<|call|>", 3), ("<|channel|>", 3)];
        let (vocab, s) = read(&harmony, &[]);
        assert_eq!(
            (s.ends(), vocab.kind(0), vocab.kind(3)),
            (&[1, 2][..], TokenKind::UserDefined, TokenKind::UserDefined)
        );
    }

    #[test]
    fn an_id_beyond_the_vocabulary_is_refused() {
        let mut meta = meta_of("gpt2", &[("a", 1)]);
        set(&mut meta, "tokenizer.ggml.eos_token_id", Value::U32(1));
        let mut vocab = Vocab::from_meta(&meta).unwrap();
        let e = Specials::from_meta(&meta, &mut vocab, &[]).unwrap_err().to_string();
        assert_eq!(e, "vocab.gguf: tokenizer.ggml.eos_token_id at byte 7: 1 is no token; the vocabulary has 1");
    }

    #[test]
    fn phi_3_tokens_swallow_the_space_after_them() {
        let mut meta = meta_of("llama", &[("<s>", 3), ("<|user|>", 3)]);
        set(&mut meta, "general.name", Value::String(b"Phi3 mini".to_vec()));
        let mut vocab = Vocab::from_meta(&meta).unwrap();
        let s = Specials::from_meta(&meta, &mut vocab, &[]).unwrap();
        assert_eq!(s.cut(&vocab, "<s> <|user|> \n x", true), [Token(0), Text(" "), Token(1), Text("x")]);
    }
}
