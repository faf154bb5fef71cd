//! Numbers and foreign text for people at a terminal.

use std::borrow::Cow;

/// Bytes in decimal units: `4.37 GB`.
pub fn bytes(n: u64) -> String {
    scaled(n as f64, &["B", "kB", "MB", "GB", "TB"])
}

/// A count in the field's units: `1.24 B` parameters.
pub fn count(n: u64) -> String {
    scaled(n as f64, &["", "K", "M", "B", "T"])
}

fn scaled(mut x: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while x >= 999.5 && unit + 1 < units.len() {
        (x, unit) = (x / 1000.0, unit + 1);
    }
    let digits = if unit == 0 || x >= 99.95 {
        0
    } else if x >= 9.995 {
        1
    } else {
        2
    };
    format!("{x:.digits$} {}", units[unit]).trim_end().to_string()
}

/// An integer with its thousands apart: `128,256`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Text of a file, safe to print: control characters (which could command the terminal) are escaped, invalid UTF-8
/// is replaced, and more than `max` characters are cut.
pub fn foreign(text: &[u8], max: usize) -> String {
    // enough bytes for the characters that are shown; the rest may be megabytes
    let head = String::from_utf8_lossy(&text[..text.len().min(4 * max + 4)]).into_owned();
    let mut out = String::new();
    for (n, c) in head.chars().enumerate() {
        if n == max {
            return out + "…";
        }
        match c.is_control() || is_invisible(c) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out
}

/// Generated text for a terminal: control characters other than newline and tab are replaced, because a model's file
/// could make them commands.
pub fn harmless(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| c.is_control() && c != '\n' && c != '\t';
    match text.contains(harmful) {
        true => text.replace(harmful, "\u{fffd}").into(),
        false => text.into(),
    }
}

/// Characters that change the direction of the text around them, or cannot be seen.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Rows in columns: all but the last padded to their widest cell, those in `right` aligned right, two spaces apart.
pub fn table(rows: &[Vec<String>], right: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell_width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(cell_width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::from("  ");
        for (c, cell) in row.iter().enumerate() {
            let width = widths[c];
            line += &if right.contains(&c) { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!((bytes(0), bytes(999)), ("0 B".into(), "999 B".into()));
        assert_eq!((bytes(1000), bytes(4_370_000_000)), ("1.00 kB".into(), "4.37 GB".into()));
        assert_eq!((bytes(999_999), bytes(45_600_000)), ("1.00 MB".into(), "45.6 MB".into()));
        assert_eq!((count(1_236_000_000), count(7)), ("1.24 B".into(), "7".into()));
        assert_eq!(
            (thousands(128_256), thousands(12), thousands(1_000_000)),
            ("128,256".into(), "12".into(), "1,000,000".into())
        );
    }

    #[test]
    fn foreign_text_cannot_command_the_terminal() {
        assert_eq!(foreign(b"a\x1b[2Jb\nc\xff", 99), "a\\u{1b}[2Jb\\nc\u{fffd}");
        assert_eq!(foreign("ab\u{202e}ß".as_bytes(), 99), "ab\\u{202e}ß");
        assert_eq!(foreign(b"abcdef", 3), "abc…");
        assert_eq!(foreign("ßßß".as_bytes(), 3), "ßßß");
    }

    #[test]
    fn generated_text_cannot_either() {
        assert_eq!(harmless("a\tb\nc ä\u{202e}"), "a\tb\nc ä\u{202e}");
        assert_eq!(harmless("a\x1b[2Jb\r\u{9b}m"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}m");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".into(), "100".into(), "x".into()], vec!["long".into(), "7".into(), String::new()]];
        assert_eq!(table(&rows, &[1]), "  a     100  x\n  long    7\n");
    }
}
