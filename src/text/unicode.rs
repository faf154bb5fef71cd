//! What kind of character a code point is, as pre-tokenizers ask it: `\p{L}`, `\p{N}`, `\p{P}`, `\s`.
//!
//! The tables are those of Unicode 15.1, the version of llama.cpp's, so that both split text alike; later versions
//! would move some thousand new code points from `Other` to `Letter`. Reading past the end of a text gives
//! `Kind::End`, which belongs to no class.

use super::unicode_table::RANGES;

/// The kind of a character. The first five are the values of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Other,
    Letter,
    Number,
    Punctuation,
    Space,
    End,
}

const KINDS: [Kind; 5] = [Kind::Other, Kind::Letter, Kind::Number, Kind::Punctuation, Kind::Space];

const BLOCKS: usize = 0x110000 >> 8;

/// For each block of 256 code points, the table's last range that starts at or before the block.
static FIRST: [u16; BLOCKS] = first_ranges();

static ASCII: [Kind; 128] = ascii_kinds();

const fn first_ranges() -> [u16; BLOCKS] {
    let mut out = [0u16; BLOCKS];
    let (mut block, mut range) = (0, 0);
    while block < BLOCKS {
        while range + 1 < RANGES.len() && (RANGES[range + 1] >> 3) as usize <= block << 8 {
            range += 1;
        }
        out[block] = range as u16;
        block += 1;
    }
    out
}

const fn ascii_kinds() -> [Kind; 128] {
    let mut out = [Kind::Other; 128];
    let (mut code, mut range) = (0, 0);
    while code < 128 {
        while (RANGES[range + 1] >> 3) as usize <= code {
            range += 1;
        }
        out[code] = KINDS[(RANGES[range] & 7) as usize];
        code += 1;
    }
    out
}

/// The kind of a code point.
pub(super) fn kind(c: char) -> Kind {
    let code = c as u32;
    if code < 128 {
        return ASCII[code as usize];
    }
    let mut range = FIRST[(code >> 8) as usize] as usize;
    while RANGES.get(range + 1).is_some_and(|next| next >> 3 <= code) {
        range += 1;
    }
    KINDS[(RANGES[range] & 7) as usize]
}

/// The kind of the character at byte `at` of `text` (a character boundary or the end) and its length in bytes.
pub(super) fn kind_at(text: &str, at: usize) -> (Kind, usize) {
    match text.as_bytes().get(at) {
        None => (Kind::End, 0),
        Some(&b) if b < 128 => (ASCII[b as usize], 1),
        Some(_) => text[at..].chars().next().map_or((Kind::End, 0), |c| (kind(c), c.len_utf8())),
    }
}

/// The end of the run of characters from byte `at` whose kind satisfies `want`.
pub(super) fn run(text: &str, mut at: usize, want: impl Fn(Kind) -> bool) -> usize {
    loop {
        let (kind, len) = kind_at(text, at);
        if len == 0 || !want(kind) {
            return at;
        }
        at += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_every_region_of_the_table() {
        for (c, want) in [
            ('a', Kind::Letter),
            ('7', Kind::Number),
            ('_', Kind::Punctuation),
            ('$', Kind::Other),
            ('\u{0b}', Kind::Space),
            ('\u{85}', Kind::Space),
            ('é', Kind::Letter),
            ('½', Kind::Number),
            ('\u{301}', Kind::Other),
            ('中', Kind::Letter),
            ('鿿', Kind::Letter),
            ('、', Kind::Punctuation),
            ('\u{3000}', Kind::Space),
            ('\u{11F04}', Kind::Letter),
            ('\u{1C89}', Kind::Other),
            ('🚀', Kind::Other),
            ('\u{10FFFF}', Kind::Other),
        ] {
            assert_eq!(kind(c), want, "U+{:04X}", c as u32);
        }
    }

    #[test]
    fn the_block_index_agrees_with_a_search_of_the_table() {
        for code in (0..0x110000u32).filter_map(char::from_u32) {
            let range = RANGES.partition_point(|start| start >> 3 <= code as u32) - 1;
            assert_eq!(kind(code), KINDS[(RANGES[range] & 7) as usize], "U+{:04X}", code as u32);
        }
    }
}
