//! Checkpoint formats: from files on disk to a `Catalogue` of checked extents, and back.
//!
//! A `Catalogue` is what a checkpoint holds: metadata, and for each tensor a quant format, a shape and the byte
//! range where its data lies. Opening reads headers only. Every size and offset in a `TensorInfo` was multiplied,
//! added and compared with the file's length by `TensorInfo::new`; nothing downstream does arithmetic on
//! untrusted numbers.

pub mod convert;
pub mod gguf;
pub mod output;

use crate::error::{Error, Result};
use crate::meta::Meta;
use crate::quant::Format;
use crate::source::Source;
use indexmap::IndexMap;
use std::sync::Arc;

/// A byte range of one of a catalogue's sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Index into `Catalogue::sources`.
    pub source: usize,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

/// One tensor: where its bytes lie and how to read them.
///
/// Shapes are in GGUF's order, fastest dimension first: a matrix of `[cols, rows]` holds `rows` rows of `cols`
/// contiguous elements; expert stacks are `[cols, rows, experts]`.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// Name as in the file (`blk.0.attn_q.weight`).
    pub name: String,
    /// Element format.
    pub format: &'static Format,
    /// Dimensions, fastest first, without trailing ones; at least one, none zero.
    pub shape: Vec<u64>,
    /// Where the data lies.
    pub extent: Extent,
}

impl TensorInfo {
    /// The one checked constructor: refuses zero dimensions, products that overflow, rows that are no multiple of
    /// the format's block, and data beyond the source's end.
    pub fn new(
        source: &Source,
        source_index: usize,
        name: &str,
        format: &'static Format,
        shape: &[u64],
        offset: u64,
    ) -> Result<Self> {
        let fail = |problem: String| Error::File {
            file: source.name().into(),
            field: format!("tensor {name}"),
            offset: Some(offset),
            problem,
        };
        let len = data_bytes(format, shape).map_err(fail)?;
        if offset.checked_add(len).is_none_or(|end| end > source.len()) {
            let have = source.len();
            return Err(fail(format!("its {len} bytes reach beyond the file's end at {have}; the file is truncated")));
        }
        let keep = shape.iter().rposition(|&d| d != 1).map_or(1, |i| i + 1);
        let extent = Extent { source: source_index, offset, len };
        Ok(TensorInfo { name: name.into(), format, shape: shape[..keep].to_vec(), extent })
    }

    /// Elements in one row (the fastest dimension).
    pub fn cols(&self) -> u64 {
        self.shape[0]
    }

    /// Number of rows over all further dimensions.
    pub fn rows(&self) -> u64 {
        self.shape[1..].iter().product()
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> u64 {
        self.cols() / self.format.block_len as u64 * self.format.block_bytes as u64
    }
}

/// Bytes of a tensor's data; refuses zero dimensions, rows that are no multiple of the format's block, and products
/// that overflow.
///
/// # Errors
/// The problem, in words.
pub fn data_bytes(format: &Format, shape: &[u64]) -> Result<u64, String> {
    if shape.is_empty() || shape.len() > 4 || shape.contains(&0) {
        return Err(format!("the shape {shape:?} must have 1 to 4 dimensions, none of them zero"));
    }
    if !shape[0].is_multiple_of(format.block_len as u64) {
        let (len, name) = (format.block_len, format.name);
        return Err(format!("rows of {} elements cannot be {name} (a multiple of {len} could)", shape[0]));
    }
    let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
    elements
        .and_then(|n| (n / format.block_len as u64).checked_mul(format.block_bytes as u64))
        .filter(|&n| n <= i64::MAX as u64)
        .ok_or_else(|| format!("the shape {shape:?} overflows"))
}

/// What a checkpoint holds.
#[derive(Debug, Clone)]
pub struct Catalogue {
    /// Metadata (of the first file, where there are several).
    pub meta: Meta,
    /// Tensors by name, in file order.
    pub tensors: IndexMap<String, TensorInfo>,
    /// The files.
    pub sources: Vec<Arc<Source>>,
}

impl Catalogue {
    /// The model's name for messages: the first file's path.
    pub fn file(&self) -> &str {
        self.meta.file()
    }

    /// A tensor that must be there.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo> {
        self.tensors.get(name).ok_or_else(|| Error::File {
            file: self.file().into(),
            field: format!("tensor {name}"),
            offset: None,
            problem: "is missing; the file is incomplete or of another architecture".into(),
        })
    }

    /// Reads bytes `start .. start + buf.len()` of a tensor's data.
    pub fn read(&self, tensor: &TensorInfo, start: u64, buf: &mut [u8]) -> Result<()> {
        let end = start + buf.len() as u64;
        assert!(end <= tensor.extent.len, "a read of {} leaves the tensor", tensor.name);
        self.sources[tensor.extent.source].read_at(tensor.extent.offset + start, buf)
    }
}
