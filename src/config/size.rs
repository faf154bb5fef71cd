//! Sizes as people write them: `512MB`, `1.5GiB`, `80%`.

use std::str::FromStr;

/// An amount of memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Size {
    /// So many bytes.
    Bytes(u64),
    /// This part of what there is, 0 to 1.
    Share(f64),
}

/// Units, decimal and binary.
const UNITS: [(&str, u64); 13] = [
    ("%", 0),
    ("", 1),
    ("b", 1),
    ("k", 1000),
    ("m", 1_000_000),
    ("g", 1_000_000_000),
    ("kb", 1000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
];

impl Size {
    /// Bytes, where `all` is what there is.
    pub fn of(self, all: u64) -> u64 {
        match self {
            Size::Bytes(n) => n,
            Size::Share(share) => (all as f64 * share) as u64,
        }
    }
}

impl FromStr for Size {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let number: f64 = text[..end].parse().map_err(|_| ())?;
        let name = text[end..].trim().to_ascii_lowercase();
        let &(_, unit) = UNITS.iter().find(|u| u.0 == name).ok_or(())?;
        match unit {
            0 if (0.0..=100.0).contains(&number) => Ok(Size::Share(number / 100.0)),
            0 => Err(()),
            // Also refuses what no computer has.
            unit if number * (unit as f64) < (1u64 << 60) as f64 => Ok(Size::Bytes((number * unit as f64) as u64)),
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let bytes = |text: &str| text.parse::<Size>();
        for (text, n) in [
            ("512MB", 512_000_000),
            ("1.5GiB", 3 << 29),
            ("4 gb", 4_000_000_000),
            ("8G", 8_000_000_000),
            ("0", 0),
            ("123", 123),
            ("64KiB", 65536),
        ] {
            assert_eq!(bytes(text), Ok(Size::Bytes(n)), "{text}");
        }
        assert_eq!(bytes("80%"), Ok(Size::Share(0.8)));
        assert_eq!(Size::Share(0.25).of(1000), 250);
        for text in ["", "GB", "-1GB", "1.2.3", "5 bits", "101%", "1e3", "99999999999TB", "."] {
            assert_eq!(bytes(text), Err(()), "{text}");
        }
    }
}
