//! The header of one file: metadata and tensor infos, each checked as it is read.
//!
//! After `read` every key and tensor name is unique and UTF-8, the alignment is a power of two, and each tensor lies
//! aligned inside the file and overlaps no other. `catalogue` joins the parts of a model.

use super::cursor::Cursor;
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, magic, value};
use crate::error::{Error, Result};
use crate::format::{Catalogue, TensorInfo};
use crate::meta::Meta;
use crate::quant::Format;
use crate::source::Source;
use indexmap::IndexMap;
use std::sync::Arc;

/// Longest key in bytes (the specification's limit).
const MAX_KEY: usize = u16::MAX as usize;
/// Longest tensor name in bytes (the specification's limit).
pub(super) const MAX_NAME: usize = 64;
/// Most keys and most tensors of one file: a small multiple of what models have, so that memory stays bounded.
const MAX_ENTRIES: usize = 1 << 16;
/// A key without a byte, its type and a one-byte value.
const MIN_ENTRY: u64 = 8 + 4 + 1;
/// A tensor without a name and with one dimension.
const MIN_TENSOR: u64 = 8 + 4 + 8 + 4 + 8;

/// One file, read.
pub(super) struct Part {
    /// Its metadata.
    pub meta: Meta,
    /// Its tensors, in file order, each with the offset of its info.
    pub tensors: Vec<(u64, TensorInfo)>,
    /// The file.
    pub source: Arc<Source>,
}

/// Reads the header of a file; its tensors' extents get `index` as source.
pub(super) fn read(source: Arc<Source>, index: usize) -> Result<Part> {
    let mut c = Cursor::new(&source);
    magic::check(&mut c)?;
    c.set_field("tensor count");
    let tensor_count = entries(&mut c, MIN_TENSOR)?;
    c.set_field("metadata count");
    let key_count = entries(&mut c, MIN_ENTRY)?;

    let mut meta = Meta::new(source.name());
    let mut inner = value::MAX_INNER;
    for i in 0..key_count {
        read_key(&mut c, i, &mut meta, &mut inner)?;
    }
    let alignment = alignment(&meta)?;
    let raw = (0..tensor_count).map(|i| read_tensor(&mut c, i)).collect::<Result<Vec<_>>>()?;

    let data = c.position().next_multiple_of(alignment);
    let tensors = raw.into_iter().map(|t| t.check(&source, index, data, alignment)).collect::<Result<Vec<_>>>()?;
    refuse_overlap(&tensors, source.name())?;
    Ok(Part { meta, tensors, source })
}

fn entries(c: &mut Cursor, min_bytes: u64) -> Result<usize> {
    let at = c.position();
    let n = c.count(min_bytes)?;
    if n > MAX_ENTRIES {
        return Err(c.error(at, format!("{n} are declared; at most {MAX_ENTRIES} are allowed")));
    }
    Ok(n)
}

fn read_key(c: &mut Cursor, i: usize, meta: &mut Meta, inner: &mut usize) -> Result<()> {
    c.set_field(format!("metadata key {i}"));
    let at = c.position();
    let key = c.name(MAX_KEY)?;
    if key.is_empty() {
        return Err(c.error(at, "the key is empty"));
    }
    c.set_field(&key);
    let value = value::read(c, inner)?;
    if !meta.insert(&key, value, Some(at)) {
        return Err(c.error(at, "the key is there twice"));
    }
    Ok(())
}

fn alignment(meta: &Meta) -> Result<u64> {
    let n = meta.opt_u32(ALIGNMENT_KEY)?.unwrap_or(DEFAULT_ALIGNMENT);
    if !n.is_power_of_two() {
        return Err(meta.error(ALIGNMENT_KEY, format!("{n} is not a power of two")));
    }
    Ok(n.into())
}

/// A tensor info as declared.
struct RawTensor {
    at: u64,
    name: String,
    shape: Vec<u64>,
    format: &'static Format,
    offset: u64,
}

fn read_tensor(c: &mut Cursor, i: usize) -> Result<RawTensor> {
    c.set_field(format!("tensor {i}"));
    let at = c.position();
    let name = c.name(MAX_NAME)?;
    if name.is_empty() {
        return Err(c.error(at, "the name is empty"));
    }
    c.set_field(format!("tensor {name}"));
    let dims_at = c.position();
    let dims = c.u32()?;
    if !(1..=4).contains(&dims) {
        return Err(c.error(dims_at, format!("it has {dims} dimensions; 1 to 4 are possible")));
    }
    let mut shape = Vec::with_capacity(dims as usize);
    for d in 0..dims {
        let dim_at = c.position();
        match c.u64()? {
            0 => return Err(c.error(dim_at, format!("dimension {d} is zero"))),
            n => shape.push(n),
        }
    }
    let format_at = c.position();
    let format = Format::by_ggml_id(c.u32()?).map_err(|e| c.error(format_at, e.to_string()))?;
    let offset = c.u64()?;
    Ok(RawTensor { at, name, shape, format, offset })
}

impl RawTensor {
    fn check(self, source: &Source, index: usize, data: u64, alignment: u64) -> Result<(u64, TensorInfo)> {
        let fail = |problem: String| bad_tensor(source.name(), &self.name, self.at, problem);
        if !self.offset.is_multiple_of(alignment) {
            return Err(fail(format!("its offset {} is not a multiple of the alignment {alignment}", self.offset)));
        }
        let start =
            data.checked_add(self.offset).ok_or_else(|| fail(format!("its offset {} overflows", self.offset)))?;
        match TensorInfo::new(source, index, &self.name, self.format, &self.shape, start) {
            Ok(t) => Ok((self.at, t)),
            // what is wrong stands in the tensor's info, not where its data would begin
            Err(Error::File { problem, .. }) => Err(fail(problem)),
            Err(other) => Err(other),
        }
    }
}

fn refuse_overlap(tensors: &[(u64, TensorInfo)], file: &str) -> Result<()> {
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|(_, t)| t.extent.offset);
    for pair in order.windows(2) {
        let ((_, a), (at, b)) = (pair[0], pair[1]);
        let end = a.extent.offset + a.extent.len;
        if b.extent.offset < end {
            let start = b.extent.offset;
            let problem = format!("its data at byte {start} overlaps that of {}, which ends at byte {end}", a.name);
            return Err(bad_tensor(file, &b.name, *at, problem));
        }
    }
    Ok(())
}

fn bad_tensor(file: &str, name: &str, at: u64, problem: impl Into<String>) -> Error {
    Error::File { file: file.into(), field: format!("tensor {name}"), offset: Some(at), problem: problem.into() }
}

/// Joins the parts of a model; the metadata is the first part's.
pub(super) fn catalogue(parts: Vec<Part>) -> Result<Catalogue> {
    let mut tensors = IndexMap::with_capacity(parts.iter().map(|p| p.tensors.len()).sum());
    let mut sources = Vec::with_capacity(parts.len());
    let mut meta = None;
    for part in parts {
        for (at, t) in part.tensors {
            if tensors.contains_key(&t.name) {
                return Err(bad_tensor(part.source.name(), &t.name, at, "the tensor is there twice"));
            }
            tensors.insert(t.name.clone(), t);
        }
        sources.push(part.source);
        meta.get_or_insert(part.meta);
    }
    Ok(Catalogue { meta: meta.unwrap_or_default(), tensors, sources })
}
