//! How weights lie in this backend's memory: sixteen rows interleaved, field by field.
//!
//! Rows come in groups of sixteen. Of a group, block columns follow each other; of a block column, the fields in
//! the order of the format's table; of a field, its units; of a unit, the sixteen rows. So one vector load
//! finds the same unit of sixteen rows side by side. It is a pure permutation of whole units: rows go in and come back
//! byte for byte, and formats whose fields are listed in the table need no code here. Missing rows of a last group are
//! zero bytes, which decode to zeros or at least to finite numbers in every format; their outputs are dropped.
//!
//! Whole groups are moved by a kernel (`interleave.rs`), groups that lack rows by the few lines here that define the
//! layout.

use super::interleave::{Step, steps};
use super::isa::{Isa, Kernels};
use super::simd::LANES;
use crate::quant::{Field, Format};

/// How the rows of one matrix lie.
#[derive(Debug)]
pub struct Layout {
    format: &'static Format,
    row_bytes: usize,
    /// Bytes of a row that `steps` move; then they start again.
    period: usize,
    steps: Vec<Step>,
    kernels: &'static Kernels,
}

impl Layout {
    /// The layout of rows of `cols` elements (a multiple of the block), and who interleaves them: an instruction set
    /// that is available.
    pub fn new(isa: Isa, format: &'static Format, cols: usize) -> Self {
        let row_bytes = format.row_bytes(cols);
        let (period, steps) = match format.fields {
            // Blocks of one field make a row of one field.
            [field] => (row_bytes, steps(&[Field { len: row_bytes, ..*field }], row_bytes)),
            fields => (format.block_bytes, steps(fields, format.block_bytes)),
        };
        Layout { format, row_bytes, period, steps, kernels: isa.kernels() }
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Bytes of sixteen rows.
    pub fn group_bytes(&self) -> usize {
        self.row_bytes * LANES
    }

    /// Interleaves up to sixteen consecutive rows; writes the whole group, zero bytes for the rows that are missing.
    ///
    /// # Panics
    /// Where `rows` are not whole rows, or `group` is not `group_bytes()` long or has not room for them.
    pub fn interleave(&self, rows: &[u8], group: &mut [u8]) {
        assert_eq!(group.len(), self.group_bytes());
        assert!(rows.len().is_multiple_of(self.row_bytes) && rows.len() <= group.len(), "whole rows, sixteen at most");
        if rows.len() == group.len() {
            // SAFETY: the kernels are those of an available set, and the lengths are those of sixteen rows.
            unsafe { (self.kernels.interleave)(&self.steps, self.period, rows, group) }
        } else {
            group.fill(0);
            self.interleave_some(rows, group);
        }
    }

    /// Interleaves consecutive rows, the last group perhaps not whole, as `interleave`.
    pub fn interleave_all(&self, rows: &[u8], groups: &mut [u8]) {
        let group_bytes = self.group_bytes();
        for (source, group) in rows.chunks(group_bytes).zip(groups.chunks_exact_mut(group_bytes)) {
            self.interleave(source, group);
        }
    }

    /// The definition: each unit of each row to its place.
    fn interleave_some(&self, rows: &[u8], group: &mut [u8]) {
        let block_bytes = self.format.block_bytes;
        for (r, row) in rows.chunks_exact(self.row_bytes).enumerate() {
            for (block, column) in row.chunks_exact(block_bytes).zip(group.chunks_exact_mut(block_bytes * LANES)) {
                let mut to = 0;
                for field in self.format.fields {
                    for unit in block[field.at..][..field.len].chunks_exact(field.unit) {
                        column[to * LANES + r * field.unit..][..field.unit].copy_from_slice(unit);
                        to += field.unit;
                    }
                }
            }
        }
    }

    /// Takes one row (of sixteen) out of a group.
    pub fn gather_row(&self, group: &[u8], row: usize, out: &mut [u8]) {
        let mut from = 0;
        for block in out.chunks_exact_mut(self.format.block_bytes) {
            for field in self.format.fields {
                let (places, units) = (&group[from * LANES..], &mut block[field.at..][..field.len]);
                match field.unit {
                    4 => gather::<4>(places, row, units),
                    2 => gather::<2>(places, row, units),
                    _ => gather::<1>(places, row, units),
                }
                from += field.len;
            }
        }
    }
}

/// Takes one row's units of a field out of those of sixteen rows.
fn gather<const UNIT: usize>(places: &[u8], row: usize, out: &mut [u8]) {
    let ((places, _), (units, _)) = (places.as_chunks::<UNIT>(), out.as_chunks_mut::<UNIT>());
    for (unit, sixteen) in units.iter_mut().zip(places.chunks_exact(LANES)) {
        *unit = sixteen[row];
    }
}

/// Groups that `rows` rows take.
pub fn groups(rows: usize) -> usize {
    rows.div_ceil(LANES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::FORMATS;

    /// Rows whose bytes differ from their neighbours' in every direction, and are never zero.
    fn rows(n: usize, row_bytes: usize) -> Vec<u8> {
        let byte = |i: usize| (i.wrapping_mul(0x9e37_79b9) >> 11) as u8 | 1;
        (0..n * row_bytes).map(byte).collect()
    }

    #[test]
    fn rows_come_back_as_they_went_in() {
        for format in FORMATS {
            assert!(format.fields.iter().all(|f| [1, 2, 4].contains(&f.unit)), "{}", format.name);
            let layout = Layout::new(Isa::Scalar, format, 3 * format.block_len);
            let row_bytes = layout.row_bytes();
            for n in [1, 5, 16] {
                let source = rows(n, row_bytes);
                let mut group = vec![0xff; layout.group_bytes()];
                layout.interleave(&source, &mut group);
                let mut back = vec![0; row_bytes];
                for (r, row) in source.chunks_exact(row_bytes).enumerate() {
                    layout.gather_row(&group, r, &mut back);
                    assert_eq!(back, row, "{} row {r} of {n}", format.name);
                }
                assert_eq!(group.iter().filter(|&&b| b != 0).count(), source.len(), "{} of {n}", format.name);
            }
        }
    }

    #[test]
    fn every_instruction_set_interleaves_alike() {
        for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
            for format in FORMATS {
                // Rows of formats without structure end anywhere in a vector.
                // Long ones of 2048 bytes or a multiple are staged.
                let (most, long) = if format.block_len == 1 { (70, Some(1024)) } else { (5, None) };
                for blocks in (1..most).chain(long) {
                    let layout = Layout::new(isa, format, blocks * format.block_len);
                    for n in 1..=LANES {
                        let source = rows(n, layout.row_bytes());
                        let mut want = vec![0; layout.group_bytes()];
                        layout.interleave_some(&source, &mut want);
                        let mut group = vec![0xff; layout.group_bytes()];
                        layout.interleave(&source, &mut group);
                        assert!(group == want, "{} {}: {n} rows of {blocks} blocks", isa.name(), format.name);
                    }
                }
            }
        }
    }
}
