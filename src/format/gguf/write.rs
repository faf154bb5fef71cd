//! Writing GGUF version 3, front to back, in bounded memory.
//!
//! The header is known before the first tensor byte: names, formats and shapes give all offsets. Then the tensors'
//! bytes come in order, in chunks of any size, into an `Output`: after `finish` the file is there under its name, and
//! a writer that is dropped before leaves nothing. It does not know where the bytes come from, nor does it look into
//! them.

use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, value};
use crate::error::{Error, Result};
use crate::format::data_bytes;
use crate::format::output::Output;
use crate::meta::Meta;
use crate::quant::Format;
use std::collections::HashSet;
use std::path::Path;

/// Alignment of tensor data, in bytes.
const ALIGNMENT: u64 = DEFAULT_ALIGNMENT as u64;

/// A tensor to be written.
#[derive(Debug, Clone)]
pub struct TensorPlan {
    /// Its name, at most 64 bytes.
    pub name: String,
    /// Its format.
    pub format: &'static Format,
    /// Its dimensions, fastest first: 1 to 4, none zero, the first a multiple of the format's block.
    pub shape: Vec<u64>,
}

impl TensorPlan {
    /// Bytes of its data.
    ///
    /// # Errors
    /// `Invalid` when the shape cannot be stored in the format, or overflows.
    pub fn bytes(&self) -> Result<u64> {
        data_bytes(self.format, &self.shape)
            .map_err(|problem| Error::Invalid(format!("tensor {} cannot be written: {problem}", self.name)))
    }
}

/// A GGUF file in the making.
#[derive(Debug)]
pub struct Writer {
    output: Output,
    /// Bytes of each tensor.
    sizes: Vec<u64>,
    /// The tensor being written.
    current: usize,
    /// Bytes of it that are written.
    written: u64,
    header_bytes: u64,
}

impl Writer {
    /// Creates `PATH.part` and writes the header: the metadata (less what described another file: its
    /// alignment, its place in a split model) and the tensors in the order in which their data will come.
    ///
    /// # Errors
    /// `Invalid` for a tensor that cannot be stored, `Io` when the file cannot be written.
    pub fn create(path: &Path, meta: &Meta, tensors: &[TensorPlan]) -> Result<Writer> {
        let sizes = sizes(tensors)?;
        let header = header(meta, tensors, &sizes)?;
        let header_bytes = header.len() as u64;
        let mut output = Output::create(path)?;
        output.write(&header)?;
        Ok(Writer { output, sizes, current: 0, written: 0, header_bytes })
    }

    /// Appends bytes of the current tensor; its last byte ends it, and the next bytes belong to the next tensor.
    ///
    /// # Errors
    /// `Io` when the file cannot be written (a full drive), `Invalid` when the bytes reach beyond the tensor.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let left = self.sizes.get(self.current).map_or(0, |size| size - self.written);
        if bytes.len() as u64 > left {
            let (have, n) = (bytes.len(), self.current);
            return Err(Error::Invalid(format!("{have} bytes do not fit the {left} that are left of tensor {n}")));
        }
        self.output.write(bytes)?;
        self.written += bytes.len() as u64;
        if !bytes.is_empty() && bytes.len() as u64 == left {
            let size = self.written;
            let padding = size.next_multiple_of(ALIGNMENT) - size;
            self.output.write(&[0; ALIGNMENT as usize][..padding as usize])?;
            (self.current, self.written) = (self.current + 1, 0);
        }
        Ok(())
    }

    /// Bytes of the file when it is whole.
    pub fn file_bytes(&self) -> u64 {
        self.header_bytes + data(&self.sizes)
    }

    /// Flushes the file to the drive and gives it its name.
    ///
    /// # Errors
    /// `Io`; `Invalid` when tensors are missing. The part file is removed.
    pub fn finish(self) -> Result<()> {
        if self.current != self.sizes.len() {
            let (have, want) = (self.current, self.sizes.len());
            return Err(Error::Invalid(format!("{have} of {want} tensors were written")));
        }
        self.output.finish()
    }
}

/// Writes a new file that has everything but the tensors' bytes: a hole is in their place, which takes no room. Whoever
/// plans needs no more.
///
/// # Errors
/// Those of `Writer::create`; `Io` also when the file exists.
pub fn outline(path: &Path, meta: &Meta, tensors: &[TensorPlan]) -> Result<()> {
    let sizes = sizes(tensors)?;
    let header = header(meta, tensors, &sizes)?;
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create_new(path)?;
        std::io::Write::write_all(&mut file, &header)?;
        file.set_len(header.len() as u64 + data(&sizes))
    };
    write().map_err(|e| Error::io(path.display().to_string(), "cannot write", &e))
}

/// Bytes of each tensor.
fn sizes(tensors: &[TensorPlan]) -> Result<Vec<u64>> {
    tensors.iter().map(TensorPlan::bytes).collect()
}

/// Bytes of all tensors with the padding behind each.
fn data(sizes: &[u64]) -> u64 {
    sizes.iter().map(|n| n.next_multiple_of(ALIGNMENT)).sum()
}

/// All that stands before the tensors' data, padded.
fn header(meta: &Meta, tensors: &[TensorPlan], sizes: &[u64]) -> Result<Vec<u8>> {
    let own = |key: &str| key == ALIGNMENT_KEY || key.starts_with("split.");
    let keys: Vec<_> = meta.iter().filter(|(key, _)| !own(key)).collect();
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    for (key, v) in keys {
        value::write_string(key.as_bytes(), &mut out);
        value::write(v, &mut out);
    }
    let mut names = HashSet::new();
    let mut offset = 0u64;
    for (t, &size) in tensors.iter().zip(sizes) {
        if t.name.is_empty() || t.name.len() > super::read::MAX_NAME || !names.insert(t.name.as_str()) {
            return Err(Error::Invalid(format!("tensor name \"{}\" is empty, too long or there twice", t.name)));
        }
        value::write_string(t.name.as_bytes(), &mut out);
        out.extend((t.shape.len() as u32).to_le_bytes());
        t.shape.iter().for_each(|d| out.extend(d.to_le_bytes()));
        out.extend(t.format.ggml_id.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = size
            .checked_next_multiple_of(ALIGNMENT)
            .and_then(|n| offset.checked_add(n))
            .ok_or_else(|| Error::Invalid("the tensors' sizes overflow".into()))?;
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
    Ok(out)
}
