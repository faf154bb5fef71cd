//! How a model's bytes divide among formats, for people and scripts.

use super::human;
use serde_json::{Value as Json, json};

/// Tensors of one format.
pub struct Share {
    /// Its name.
    pub format: &'static str,
    /// Their number.
    pub tensors: usize,
    /// Elements of all of them.
    pub elements: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// Adds tensors (format, elements, bytes) up by format, the largest share first.
pub fn of(tensors: impl Iterator<Item = (&'static str, u64, u64)>) -> Vec<Share> {
    let mut shares: Vec<Share> = Vec::new();
    for (format, elements, bytes) in tensors {
        let i = shares.iter().position(|s| s.format == format).unwrap_or_else(|| {
            shares.push(Share { format, tensors: 0, elements: 0, bytes: 0 });
            shares.len() - 1
        });
        shares[i].tensors += 1;
        shares[i].elements += elements;
        shares[i].bytes += bytes;
    }
    shares.sort_by_key(|s| std::cmp::Reverse(s.bytes));
    shares
}

/// Cells of a table: format, tensors, bytes, share, bits. All but the first are to be aligned right.
pub fn rows(shares: &[Share]) -> Vec<Vec<String>> {
    let total = shares.iter().map(|s| s.bytes).sum::<u64>().max(1) as f64;
    let row = |s: &Share| {
        vec![
            s.format.to_string(),
            format!("{} tensor{}", s.tensors, if s.tensors == 1 { "" } else { "s" }),
            human::bytes(s.bytes),
            format!("{:.1}%", s.bytes as f64 / total * 100.0),
            format!("{} bits", bits(s.bytes, s.elements)),
        ]
    };
    shares.iter().map(row).collect()
}

/// The same for scripts.
pub fn json(shares: &[Share]) -> Vec<Json> {
    let share =
        |s: &Share| json!({ "format": s.format, "tensors": s.tensors, "elements": s.elements, "bytes": s.bytes });
    shares.iter().map(share).collect()
}

/// Bits of one element.
pub fn bits(bytes: u64, elements: u64) -> String {
    format!("{:.2}", bytes as f64 * 8.0 / elements.max(1) as f64)
}
