//! Pre-tokenizers: how a text is cut into pieces before byte-pair merges, by `tokenizer.ggml.pre`.
//!
//! Models define these cuts by regular expressions. They are written here as scanners, because a scanner reads each
//! character a bounded number of times whatever the text is, and a backtracking expression does not. Each scanner
//! names the expression that it follows. A rule is a sequence of cuts: each cuts the pieces of the one before it, and
//! a gap between two matches is a piece of its own. Merges never cross a cut. No scanner allocates.
//!
//! The names and what they imply (`ignore_merges`, `add_bos`) are those that llama.cpp gives to converted models.

use super::unicode::{Kind, kind_at, run};

/// One cut of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    Gpt2,
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    Tiktoken { digits: usize },
    /// `[\p{P}$+<=>^~|]+`, with or without the backtick among them.
    Punctuation { backtick: bool },
    /// `\p{N}{1,most}`
    Numbers { most: usize },
    /// `[0-9][0-9][0-9]`
    Thousands,
}

/// What a name in `tokenizer.ggml.pre` means.
#[derive(Debug)]
pub(super) struct Rule {
    /// The names that share it.
    names: &'static [&'static str],
    cuts: &'static [Cut],
    /// A piece that is a token as a whole is taken, before any merge.
    pub ignore_merges: bool,
    /// Whether a text begins with the BOS token when the file does not say.
    pub add_bos: bool,
}

const GPT2: &[Cut] = &[Cut::Gpt2];
const TIKTOKEN_3: &[Cut] = &[Cut::Tiktoken { digits: 3 }];
const TIKTOKEN_1: &[Cut] = &[Cut::Tiktoken { digits: 1 }];
const DIGITS_GPT2: &[Cut] = &[Cut::Numbers { most: 1 }, Cut::Gpt2];
const FALCON: &[Cut] = &[Cut::Punctuation { backtick: true }, Cut::Gpt2, Cut::Thousands];
const DEFAULT: &[Cut] =
    &[Cut::Punctuation { backtick: false }, Cut::Gpt2, Cut::Numbers { most: usize::MAX }, Cut::Thousands];

#[rustfmt::skip]
static RULES: [Rule; 8] = [
    Rule { cuts: DEFAULT, ignore_merges: false, add_bos: false, names: &["default"] },
    Rule { cuts: TIKTOKEN_3, ignore_merges: true, add_bos: true, names: &[
        "llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"] },
    Rule { cuts: TIKTOKEN_3, ignore_merges: true, add_bos: false, names: &["glm4", "glm5"] },
    Rule { cuts: TIKTOKEN_3, ignore_merges: false, add_bos: false, names: &["dbrx", "smaug-bpe", "chatglm-bpe"] },
    Rule { cuts: TIKTOKEN_1, ignore_merges: false, add_bos: false, names: &[
        "qwen2", "deepseek-r1-qwen", "megrez", "kormo", "f2llmv2", "stablelm2", "hunyuan", "solar-open", "grok-2"] },
    Rule { cuts: GPT2, ignore_merges: false, add_bos: false, names: &[
        "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4", "gigachat", "a.x-4.0",
        "mellum"] },
    Rule { cuts: DIGITS_GPT2, ignore_merges: false, add_bos: false, names: &[
        "starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"] },
    Rule { cuts: FALCON, ignore_merges: false, add_bos: false, names: &["falcon"] },
];

/// The rule of a name, if air has it.
pub(super) fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|r| r.names.contains(&name))
}

/// Every name that `rule` knows.
pub fn pre_tokenizers() -> impl Iterator<Item = &'static str> {
    RULES.iter().flat_map(|r| r.names).copied()
}

impl Rule {
    /// Calls `piece` with each piece of `text`, in order; together they are the text.
    pub(super) fn split<'a>(&self, text: &'a str, piece: &mut dyn FnMut(&'a str)) {
        split(self.cuts, text, piece);
    }
}

fn split<'a>(cuts: &[Cut], mut text: &'a str, piece: &mut dyn FnMut(&'a str)) {
    let Some((cut, rest)) = cuts.split_first() else { return piece(text) };
    while !text.is_empty() {
        let (head, tail) = text.split_at(cut.first(text));
        split(rest, head, piece);
        text = tail;
    }
}

impl Cut {
    /// Length in bytes of the first piece of a text that is not empty: at least one character.
    fn first(self, text: &str) -> usize {
        match self {
            Cut::Gpt2 => gpt2(text),
            Cut::Tiktoken { digits } => tiktoken(text, digits),
            Cut::Punctuation { backtick } => class_or_gap(text, |kind, b| {
                kind == Kind::Punctuation || b"$+<=>^~|".contains(&b) || (backtick && b == b'`')
            }),
            Cut::Numbers { most } => match numbers(text, most) {
                0 => run(text, 0, |k| k != Kind::Number),
                n => n,
            },
            Cut::Thousands => thousands(text),
        }
    }
}

/// The run of characters that are in the class, or the run of those that are not.
fn class_or_gap(text: &str, class: impl Fn(Kind, u8) -> bool) -> usize {
    let mut at = 0;
    let mut inside = None;
    loop {
        let (kind, len) = kind_at(text, at);
        if len == 0 || *inside.get_or_insert(class(kind, text.as_bytes()[at])) != class(kind, text.as_bytes()[at]) {
            return at;
        }
        at += len;
    }
}

/// Bytes of the at most `most` numerals at the start.
fn numbers(text: &str, most: usize) -> usize {
    let mut at = 0;
    for _ in 0..most {
        let (kind, len) = kind_at(text, at);
        if kind != Kind::Number {
            break;
        }
        at += len;
    }
    at
}

/// Three ASCII digits, or what stands before the first three in a row.
fn thousands(text: &str) -> usize {
    match text.as_bytes().windows(3).position(|w| w.iter().all(u8::is_ascii_digit)) {
        None => text.len(),
        Some(0) => 3,
        Some(gap) => gap,
    }
}

/// The length of an English contraction at the start (`'s 't 'm 'd 're 've 'll`), or 0.
fn contraction(text: &str, any_case: bool) -> usize {
    let fold = |i: usize| text.as_bytes().get(i).map(|b| if any_case { b.to_ascii_lowercase() } else { *b });
    match (fold(0), fold(1), fold(2)) {
        (Some(b'\''), Some(b's' | b't' | b'm' | b'd'), _) => 2,
        (Some(b'\''), Some(b'r' | b'v'), Some(b'e')) | (Some(b'\''), Some(b'l'), Some(b'l')) => 3,
        _ => 0,
    }
}

/// White space at the start: all of it at the end of a text, else all but the last character, which belongs to the
/// next word (`\s+(?!\S)|\s+`).
fn spaces(text: &str) -> usize {
    let end = run(text, 0, |k| k == Kind::Space);
    let last = text[..end].chars().next_back().map_or(0, char::len_utf8);
    if end < text.len() && last < end { end - last } else { end }
}

fn gpt2(text: &str) -> usize {
    match contraction(text, false) {
        0 => {}
        n => return n,
    }
    let start = text.starts_with(' ') as usize;
    match kind_at(text, start).0 {
        Kind::Letter => run(text, start, |k| k == Kind::Letter),
        Kind::Number => run(text, start, |k| k == Kind::Number),
        Kind::Other | Kind::Punctuation => run(text, start, is_symbol),
        Kind::Space | Kind::End => spaces(text),
    }
}

/// `[^\s\p{L}\p{N}]`
fn is_symbol(kind: Kind) -> bool {
    matches!(kind, Kind::Other | Kind::Punctuation)
}

fn tiktoken(text: &str, digits: usize) -> usize {
    match contraction(text, true) {
        0 => {}
        n => return n,
    }
    let (kind, len) = kind_at(text, 0);
    let newline = matches!(text.as_bytes()[0], b'\r' | b'\n');
    if kind == Kind::Letter || (kind != Kind::Number && !newline && kind_at(text, len).0 == Kind::Letter) {
        return run(text, len, |k| k == Kind::Letter);
    }
    if kind == Kind::Number {
        return numbers(text, digits);
    }
    let start = text.starts_with(' ') as usize;
    if is_symbol(kind_at(text, start).0) {
        let end = run(text, start, is_symbol);
        return end + text.as_bytes()[end..].iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    }
    let white = run(text, 0, |k| k == Kind::Space);
    match text.as_bytes()[..white].iter().rposition(|b| matches!(b, b'\r' | b'\n')) {
        Some(newline) => newline + 1,
        None => spaces(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces<'a>(name: &str, text: &'a str) -> Vec<&'a str> {
        let mut out = Vec::new();
        rule(name).expect("a known name").split(text, &mut |p| out.push(p));
        out
    }

    #[test]
    fn gpt2_cuts_words_numbers_and_symbols() {
        let text = "I'm 12345 I'M  two\n\n x!? \u{3000}y ";
        let want = ["I", "'m", " 12345", " I", "'", "M", " ", " two", "\n\n", " x", "!?", " ", "\u{3000}", "y", " "];
        assert_eq!(pieces("gpt-2", text), want);
    }

    #[test]
    fn llama3_cuts_three_digits_and_qwen2_one() {
        let want = ["I", "'M", " ", "123", "45", "\n", ".txt", "?\r\n", " ", " x", " \n \n", "  "];
        assert_eq!(pieces("llama-bpe", "I'M 12345\n.txt?\r\n  x \n \n  "), want);
        assert_eq!(pieces("qwen2", " 123a\u{301}b"), [" ", "1", "2", "3", "a", "\u{301}b"]);
        assert_eq!(pieces("llama-bpe", "'é'ſ'rE'lL'v"), ["'é", "'ſ", "'rE", "'lL", "'v"]);
    }

    #[test]
    fn default_and_falcon_cut_in_several_steps() {
        assert_eq!(pieces("default", "a=b 12345 `x`"), ["a", "=", "b", " ", "123", "45", " `", "x", "`"]);
        assert_eq!(pieces("falcon", "x`` 1234"), ["x", "``", " ", "123", "4"]);
        assert_eq!(pieces("smollm", "a 12"), ["a", " ", "1", "2"]);
    }

    #[test]
    fn every_rule_gives_back_the_whole_text_in_linear_time() {
        let long = [" ", "a", "1", "\n", "'", "中", "\u{301}", " \n", "a ", "=-"].map(|s| s.repeat(200_000 / s.len()));
        for name in pre_tokenizers() {
            for text in &long {
                let mut rest = text.as_str();
                rule(name).expect("listed").split(text, &mut |p| {
                    assert!(!p.is_empty(), "{name}");
                    rest = rest.strip_prefix(p).unwrap_or_else(|| panic!("{name}: {p:?} is not what comes next"));
                });
                assert!(rest.is_empty(), "{name} on {:?}…", text.chars().next());
            }
        }
    }

    #[test]
    fn names_are_distinct_and_unknown_ones_have_no_rule() {
        let mut names: Vec<_> = pre_tokenizers().collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(rule("tekken").is_none() && rule("").is_none());
    }
}
