//! Quantised number formats: one table, one row a format.
//!
//! A format packs `block_len` consecutive elements of a row into `block_bytes` bytes. The table says how to decode
//! a block (bit-exact to the `gguf` package's numpy reference), how to encode one where air can, and of which
//! fields a block consists, so that layouts can permute whole fields without knowing their meaning.
//! It knows nothing of files, devices or models.
//!
//! A further format is one file with its decoder (and encoder), one variant of [`Kind`], one row of [`FORMATS`] and an
//! arm of `random` that says where its scales lie; the tests enumerate the table and want a golden for every row. The
//! layouts of the blocks are those of ggml.

#[cfg(test)]
mod encode_tests;
mod float;
mod iq4_nl;
mod iq4_xs;
mod kscales;
pub mod mix;
mod mxfp4;
mod pack;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
pub mod random;
mod refused;
mod search;
mod table;
#[cfg(test)]
mod tests;

pub use table::FORMATS;

use crate::error::{Error, Result};

/// One format: everything that the rest of air knows of it.
#[derive(Debug)]
pub struct Format {
    /// Which one, for matches in kernels.
    pub kind: Kind,
    /// ggml's name, as printed and typed (`Q4_K`).
    pub name: &'static str,
    /// ggml's type number in GGUF files.
    pub ggml_id: u32,
    /// Elements in a block; rows are a multiple of it.
    pub block_len: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// Fields of a block in order; their lengths add up to `block_bytes`.
    pub fields: &'static [Field],
    /// Decodes whole blocks: `bytes` holds n blocks, `out` n times `block_len` elements.
    pub decode: fn(bytes: &[u8], out: &mut [f32]),
    /// Encodes whole blocks, where air can write the format.
    pub encode: Option<Encode>,
}

/// Encodes whole blocks: `x` holds n times `block_len` elements, `out` n blocks.
pub type Encode = fn(x: &[f32], out: &mut [u8]);

/// A field of a block, or a part of one: bytes that an interleaved layout moves in units of `unit` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// First byte in the block.
    pub at: usize,
    /// Bytes of the field.
    pub len: usize,
    /// Bytes moved together; divides `len`.
    pub unit: usize,
}

/// The formats that air decodes, in the table's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the variants are ggml's names")]
#[expect(non_camel_case_types, reason = "the variants are ggml's names")]
pub enum Kind {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
}

impl Kind {
    /// The table row.
    pub fn format(self) -> &'static Format {
        &FORMATS[self as usize]
    }
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

impl Eq for Format {}

impl Format {
    /// Bytes of a row of `cols` elements (a multiple of the block).
    pub fn row_bytes(&self, cols: usize) -> usize {
        cols / self.block_len * self.block_bytes
    }

    /// The format of a ggml type number.
    ///
    /// # Errors
    /// `Unsupported`, by name where ggml has or had the number.
    pub fn by_ggml_id(id: u32) -> Result<&'static Format> {
        FORMATS.iter().find(|f| f.ggml_id == id).ok_or_else(|| Error::Unsupported {
            what: match refused::reason(id) {
                Some((name, why)) => format!("tensor format {name} (ggml type {id}, {why})"),
                None => format!("tensor format number {id}, which ggml does not define,"),
            },
            instead: format!("air reads {}", names()),
        })
    }

    /// The format of a name, in any case.
    ///
    /// # Errors
    /// `Invalid`, with the names that exist.
    pub fn by_name(name: &str) -> Result<&'static Format> {
        FORMATS
            .iter()
            .find(|f| f.name.eq_ignore_ascii_case(name))
            .ok_or_else(|| Error::Invalid(format!("`{name}` is not a tensor format; there are {}", names())))
    }
}

fn names() -> String {
    FORMATS.iter().map(|f| f.name).collect::<Vec<_>>().join(", ")
}
