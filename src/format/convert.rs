//! Re-encoding a checkpoint's tensors, front to back, in bounded memory.
//!
//! A tensor is a flat sequence of elements here: rows are a multiple of the block in both formats, so no chunk needs
//! to know where a row ends. Threads read, decode, check and encode chunks of a batch while the batch before is
//! written. At most two batches are in memory, however large the model.
//!
//! What is encoded is decoded again: a value that the format cannot hold is an error, not an infinity in a file, and
//! the caller learns the rounding error that was made. It does not decide formats, and does not look into tensors
//! whose format stays.

use super::gguf::{TensorPlan, Writer};
use super::{Catalogue, TensorInfo};
use crate::error::{Error, Result};
use crate::quant::{Encode, Format};
use rayon::prelude::*;

/// Elements of a batch.
const BATCH: u64 = 8 << 20;
/// Elements that a thread takes at a time; a multiple of every block.
const CHUNK: usize = 64 << 10;

/// The rounding error of some elements, as sums of squares.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rounding {
    /// Of the differences.
    pub error: f64,
    /// Of the values.
    pub signal: f64,
}

impl Rounding {
    /// Root-mean-square error over root-mean-square value; zero where nothing was rounded.
    pub fn relative(self) -> f64 {
        if self.error == 0.0 { 0.0 } else { (self.error / self.signal).sqrt() }
    }
}

impl std::ops::AddAssign for Rounding {
    fn add_assign(&mut self, other: Rounding) {
        self.error += other.error;
        self.signal += other.signal;
    }
}

/// Writes the tensors of `plans`, each read from the catalogue's tensor of that name, and finishes the file.
/// `advance` learns the source bytes of each batch when it was read, and may end the work by an error.
///
/// Returns the rounding error of each tensor; zero where the format stayed.
///
/// # Errors
/// `File` when a tensor is missing, or holds what is no number or what its new format cannot hold; `Unsupported` when
/// air cannot encode that format; `Io`; what `advance` returned. The writer removes its part file.
pub fn convert(
    catalogue: &Catalogue,
    plans: &[TensorPlan],
    mut writer: Writer,
    advance: &mut (dyn FnMut(u64) -> Result<()> + Send),
) -> Result<Vec<Rounding>> {
    let mut roundings = Vec::with_capacity(plans.len());
    let (mut done, mut next) = (Vec::new(), Vec::new());
    for plan in plans {
        let work = Work::new(catalogue, plan)?;
        let mut rounding = Rounding::default();
        let elements = work.tensor.elements();
        for first in (0..elements).step_by(BATCH as usize) {
            let len = BATCH.min(elements - first) as usize;
            let (written, filled) = rayon::join(|| writer.write(&done), || work.fill(first, len, &mut next));
            written?;
            rounding += filled?;
            advance(work.tensor.format.row_bytes(len) as u64)?;
            std::mem::swap(&mut done, &mut next);
        }
        roundings.push(rounding);
    }
    writer.write(&done)?;
    writer.finish()?;
    Ok(roundings)
}

/// One tensor on its way.
struct Work<'a> {
    catalogue: &'a Catalogue,
    tensor: &'a TensorInfo,
    target: &'static Format,
    /// `None` where the format stays.
    encode: Option<Encode>,
}

impl<'a> Work<'a> {
    fn new(catalogue: &'a Catalogue, plan: &TensorPlan) -> Result<Self> {
        let tensor = catalogue.tensor(&plan.name)?;
        let target = plan.format;
        let encode = match target.encode {
            _ if tensor.format == target => None,
            Some(encode) => Some(encode),
            None => {
                let instead = "air reads it, but writes other formats".into();
                return Err(Error::Unsupported { what: format!("writing {}", target.name), instead });
            }
        };
        Ok(Work { catalogue, tensor, target, encode })
    }

    /// Fills `out` with the blocks of `len` elements from `first` on.
    fn fill(&self, first: u64, len: usize, out: &mut Vec<u8>) -> Result<Rounding> {
        out.resize(self.target.row_bytes(len), 0);
        let Some(encode) = self.encode else {
            self.read(first, out)?;
            return Ok(Rounding::default());
        };
        let chunk_bytes = self.target.row_bytes(CHUNK);
        let scratch = || (Vec::new(), Vec::new());
        let roundings: Vec<Rounding> = out
            .par_chunks_mut(chunk_bytes)
            .enumerate()
            .map_init(scratch, |(raw, values), (i, blocks)| {
                let n = CHUNK.min(len - i * CHUNK);
                self.recode(first + (i * CHUNK) as u64, n, encode, raw, values, blocks)
            })
            .collect::<Result<_>>()?;
        let mut sum = Rounding::default();
        roundings.into_iter().for_each(|r| sum += r); // in order: the same sum for every number of threads
        Ok(sum)
    }

    fn recode(
        &self,
        first: u64,
        n: usize,
        encode: Encode,
        raw: &mut Vec<u8>,
        values: &mut Vec<f32>,
        blocks: &mut [u8],
    ) -> Result<Rounding> {
        raw.resize(self.tensor.format.row_bytes(n), 0);
        self.read(first, raw)?;
        values.resize(2 * n, 0.0);
        let (x, back) = values.split_at_mut(n);
        (self.tensor.format.decode)(raw, x);
        encode(x, blocks);
        (self.target.decode)(blocks, back);
        let mut sum = Rounding::default();
        for (i, (x, y)) in x.iter().zip(&*back).enumerate() {
            if !x.is_finite() || !y.is_finite() {
                return Err(self.not_a_number(first + i as u64, *x));
            }
            let (x, y) = (f64::from(*x), f64::from(*y));
            sum += Rounding { error: (x - y) * (x - y), signal: x * x };
        }
        Ok(sum)
    }

    fn read(&self, first: u64, out: &mut [u8]) -> Result<()> {
        let format = self.tensor.format;
        self.catalogue.read(self.tensor, first / format.block_len as u64 * format.block_bytes as u64, out)
    }

    fn not_a_number(&self, element: u64, x: f32) -> Error {
        let (from, to) = (self.tensor.format, self.target);
        let problem = match x.is_finite() {
            true => format!("element {element} is {x:e}, more than {} can hold; BF16 could", to.name),
            false => format!("element {element} is {x}; the model is damaged"),
        };
        let offset = element / from.block_len as u64 * from.block_bytes as u64;
        Error::File {
            file: self.catalogue.sources[self.tensor.extent.source].name().into(),
            field: format!("tensor {}", self.tensor.name),
            offset: Some(self.tensor.extent.offset + offset),
            problem,
        }
    }
}
