//! Sixteen rows interleaved at the speed of memory: the moving behind `layout.rs`.
//!
//! Rows are read through windows of sixteen bytes: sixteen loads and a transpose yield four vectors, each one
//! word of all rows, which is what most fields are stored as. A word may also be a pair of halves, stored one after the
//! other. What no window serves well (a half between words, a row of a few bytes) is copied unit by unit.
//! Which windows a format takes follows from its fields, once for a matrix; windows lie inside the block, so nothing
//! behind a row is read. The last window of a long field may repeat words of the one before it.
//!
//! Processors do not follow sixteen short streams at once by themselves, so while a group is moved the bytes behind it
//! are asked for, to the second-level cache: the next group, wherever groups are taken one after the other.

use super::simd::{LANES, Simd};
use crate::quant::Field;

/// Bytes that are read of a row at once.
const WINDOW: usize = 16;

/// Rows that are multiples of this long meet in one or two sets of the first-level cache, which has room for eight to
/// twelve of their lines: each line would come four times.
const COLLIDES: usize = 2048;

/// Bytes of such rows that are brought together at once.
const STAGED: usize = 256;

/// How far apart they lie then.
const APART: usize = STAGED + 64;

/// What a word of a window is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Another step's, or part of no whole word.
    Skip,
    /// A word, for byte `16 * .0` of the block column.
    Whole(usize),
    /// Two halves of two fields that follow each other.
    Halves(usize),
}

/// One move of bytes of sixteen rows: `from` counts bytes of a row's block, `16 * to` those of the block column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A field of at least a window, of words or (`halves`) of halves.
    Run { from: usize, to: usize, len: usize, halves: bool },
    /// Four words, each with a place of its own.
    Window { from: usize, words: [Word; 4] },
    /// One unit.
    Unit { from: usize, to: usize, unit: usize },
}

/// The steps that move blocks with these fields.
pub fn steps(fields: &[Field], block_bytes: usize) -> Vec<Step> {
    let mut out = vec![];
    let mut to = 0;
    let mut fields = fields.iter().peekable();
    while let Some(&Field { at, len, unit }) = fields.next() {
        match unit {
            2 | 4 if len >= WINDOW => out.push(Step::Run { from: at, to, len, halves: unit == 2 }),
            4 => (0..len).step_by(4).for_each(|i| place(&mut out, at + i, Word::Whole(to + i), block_bytes)),
            2 if len == 2 && fields.next_if_eq(&&Field { at: at + 2, len: 2, unit: 2 }).is_some() => {
                place(&mut out, at, Word::Halves(to), block_bytes);
                to += 2;
            }
            _ => out.extend((0..len).step_by(unit).map(|i| Step::Unit { from: at + i, to: to + i, unit })),
        }
        to += len;
    }
    out
}

/// Adds a word at byte `at` of the block to the last window if it lies in it, or to a new one.
fn place(steps: &mut Vec<Step>, at: usize, word: Word, block_bytes: usize) {
    if let Some(Step::Window { from, words }) = steps.last_mut()
        && let Some(free) = at.checked_sub(*from).filter(|d| d % 4 == 0).and_then(|d| words.get_mut(d / 4))
    {
        *free = word;
        return;
    }
    let mut words = [Word::Skip; 4];
    match (0..4).find(|w| at >= 4 * w && at - 4 * w + WINDOW <= block_bytes) {
        Some(w) => {
            words[w] = word;
            steps.push(Step::Window { from: at - 4 * w, words });
        }
        None => match word {
            Word::Whole(to) => steps.push(Step::Unit { from: at, to, unit: 4 }),
            Word::Halves(to) => {
                steps.extend([0, 2].map(|i| Step::Unit { from: at + i, to: to + i, unit: 2 }));
            }
            Word::Skip => {}
        },
    }
}

/// Moves sixteen rows, block column by block column: `steps` say how for `period` bytes of each row.
#[inline(always)]
pub fn interleave<S: Simd>(s: S, steps: &[Step], period: usize, rows: &[u8], group: &mut [u8]) {
    let stride = rows.len() / LANES;
    let mut next = rows.len();
    for (column, out) in group.chunks_exact_mut(period * LANES).enumerate() {
        let first = column * period;
        for step in steps {
            match *step {
                Step::Run { from, to, len, halves } => {
                    let out = &mut out[to * LANES..(to + len) * LANES];
                    if stride.is_multiple_of(COLLIDES) && len == stride {
                        staged(s, rows, first + from, halves, out, &mut next);
                    } else {
                        windows(s, (rows, first + from, stride), halves, out, (rows, &mut next));
                    }
                }
                Step::Window { from, words } => {
                    let loaded = s.load_rows(rows, first + from, stride);
                    ask(s, rows, &mut next);
                    for (word, loaded) in words.into_iter().zip(loaded) {
                        match word {
                            Word::Skip => {}
                            Word::Whole(to) => s.store_words(loaded, out, to * LANES),
                            Word::Halves(to) => s.store_halves(loaded, out, to * LANES),
                        }
                    }
                }
                Step::Unit { from, to, unit } => match unit {
                    4 => copy::<4>(rows, first + from, stride, out, to * LANES),
                    2 => copy::<2>(rows, first + from, stride, out, to * LANES),
                    _ => copy::<1>(rows, first + from, stride, out, to * LANES),
                },
            }
        }
    }
}

/// Moves whole rows that collide, part by part, by way of a small room: each of their lines is touched once.
#[inline(always)]
fn staged<S: Simd>(s: S, rows: &[u8], from: usize, halves: bool, out: &mut [u8], next: &mut usize) {
    let (stride, len) = (rows.len() / LANES, out.len() / LANES);
    let mut room = [0; LANES * APART];
    for i in (0..len).step_by(STAGED) {
        for (r, part) in room.chunks_exact_mut(APART).enumerate() {
            part[..STAGED].copy_from_slice(&rows[from + i + r * stride..][..STAGED]);
        }
        windows(s, (&room, 0, APART), halves, &mut out[i * LANES..(i + STAGED) * LANES], (rows, next));
    }
}

/// Moves a field window by window: of sixteen rows of `p`, the first at byte `at`, `stride` bytes apart.
#[inline(always)]
fn windows<S: Simd>(
    s: S,
    (p, at, stride): (&[u8], usize, usize),
    halves: bool,
    out: &mut [u8],
    (rows, next): (&[u8], &mut usize),
) {
    let (len, mut i) = (out.len() / LANES, 0);
    loop {
        let words = s.load_rows(p, at + i, stride);
        ask(s, rows, next);
        for (w, word) in words.into_iter().enumerate() {
            if halves {
                s.store_halves(word, out, i * LANES + w * 64);
            } else {
                s.store_words(word, out, i * LANES + w * 64);
            }
        }
        if i + WINDOW >= len {
            break;
        }
        i = (i + WINDOW).min(len - WINDOW);
    }
}

/// Asks for as many bytes as a window of sixteen rows has, `next` behind the start of `rows`.
#[inline(always)]
fn ask<S: Simd>(s: S, rows: &[u8], next: &mut usize) {
    for line in 0..WINDOW * LANES / 64 {
        s.prefetch_second(rows, *next + line * 64);
    }
    *next += WINDOW * LANES;
}

/// Copies one unit of each row.
#[inline(always)]
fn copy<const UNIT: usize>(rows: &[u8], from: usize, stride: usize, out: &mut [u8], to: usize) {
    let rows = &rows[from..from + (LANES - 1) * stride + UNIT];
    let (places, _) = out[to..to + UNIT * LANES].as_chunks_mut::<UNIT>();
    for (r, place) in places.iter_mut().enumerate() {
        place.copy_from_slice(&rows[r * stride..r * stride + UNIT]);
    }
}
