//! How weights lie in this backend's memory: sixteen rows interleaved, field by field.
//!
//! Rows come in groups of sixteen. Of a group, block columns follow each other; of a block column, the fields in
//! the order of the format's table; of a field, its units; of a unit, the sixteen rows. So one vector load
//! finds the same unit of sixteen rows side by side. It is a pure permutation of whole units: rows go in and come back
//! byte for byte, and formats whose fields are listed in the table need no code here. Missing rows of a last group are zero
//! bytes, which decode to zeros or at least to finite numbers in every format; their outputs are dropped.

use super::simd::LANES;
use crate::quant::Format;

/// Bytes of one group of rows.
pub fn group_bytes(format: &Format, cols: usize) -> usize {
    format.row_bytes(cols) * LANES
}

/// Groups that `rows` rows take.
pub fn groups(rows: usize) -> usize {
    rows.div_ceil(LANES)
}

/// Interleaves up to sixteen consecutive rows into a zeroed group.
pub fn interleave(format: &Format, rows: &[u8], row_bytes: usize, group: &mut [u8]) {
    let columns = row_bytes / format.block_bytes;
    for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
        let mut to = 0;
        for column in 0..columns {
            for field in format.fields {
                let source = &row[column * format.block_bytes + field.at..][..field.len];
                let target = &mut group[to * LANES..(to + field.len) * LANES];
                match field.unit {
                    4 => spread::<4>(source, target, r),
                    2 => spread::<2>(source, target, r),
                    1 => spread::<1>(source, target, r),
                    unit => unreachable!("{} has units of {unit} bytes; a test enumerates them", format.name),
                }
                to += field.len;
            }
        }
    }
}

/// Writes the units of a field of one row to that row's places.
fn spread<const UNIT: usize>(source: &[u8], target: &mut [u8], row: usize) {
    let (units, _) = source.as_chunks::<UNIT>();
    let (places, _) = target.as_chunks_mut::<UNIT>();
    for (unit, place) in units.iter().zip(places.chunks_exact_mut(LANES)) {
        place[row] = *unit;
    }
}

/// Takes one row (of sixteen) out of a group.
pub fn gather_row(format: &Format, group: &[u8], row: usize, out: &mut [u8]) {
    let mut from = 0;
    for block in out.chunks_exact_mut(format.block_bytes) {
        for field in format.fields {
            for unit in block[field.at..field.at + field.len].chunks_exact_mut(field.unit) {
                unit.copy_from_slice(&group[from * LANES + row * field.unit..][..field.unit]);
                from += field.unit;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::FORMATS;

    #[test]
    fn rows_come_back_as_they_went_in() {
        for format in FORMATS {
            assert!(format.fields.iter().all(|f| [1, 2, 4].contains(&f.unit)), "{}", format.name);
            let row_bytes = format.block_bytes * 3;
            for rows in [1, 5, 16] {
                let source: Vec<u8> = (0..rows * row_bytes).map(|i| (i * 37 + i / 251) as u8).collect();
                let mut group = vec![0; row_bytes * LANES];
                interleave(format, &source, row_bytes, &mut group);
                let mut back = vec![0; row_bytes];
                for (r, row) in source.chunks_exact(row_bytes).enumerate() {
                    gather_row(format, &group, r, &mut back);
                    assert_eq!(back, row, "{} row {r} of {rows}", format.name);
                }
                let padding = group.iter().filter(|&&b| b != 0).count();
                assert_eq!(padding, source.iter().filter(|&&b| b != 0).count());
            }
        }
    }
}
