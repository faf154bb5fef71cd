#!/usr/bin/env python3
"""Writes src/text/unicode_table.rs: which code points are letters, numbers, punctuation, white space.

Needs the Unicode Character Database at the version below: `pip install unicodedata2==15.1.0`, then
`python scripts/unicode_table.py | rustfmt > src/text/unicode_table.rs`. The version is that of llama.cpp's
tables, so that both split text alike; white space is the property White_Space, as the regex `\\s` means it.
"""

import unicodedata2

VERSION = "15.1.0"
OTHER, LETTER, NUMBER, PUNCTUATION, SPACE = range(5)
WHITE_SPACE = {*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}


def kind(code: int) -> int:
    if code in WHITE_SPACE:
        return SPACE
    return {"L": LETTER, "N": NUMBER, "P": PUNCTUATION}.get(unicodedata2.category(chr(code))[0], OTHER)


def main() -> None:
    assert unicodedata2.unidata_version == VERSION, unicodedata2.unidata_version
    starts, last = [], None
    for code in range(0x110000):
        if kind(code) != last:
            last = kind(code)
            starts.append(code << 3 | last)
    print("//! Ranges of Unicode %s by kind: the data behind `unicode.rs`." % VERSION)
    print("//!")
    print("//! Written by `scripts/unicode_table.py`; not edited by hand. Each entry is `first code point << 3 | kind`, and")
    print("//! its range ends where the next begins.\n")
    print("pub(super) const RANGES: [u32; %d] = [" % len(starts))
    print(", ".join("0x%06x" % s for s in starts))
    print("];")


main()
