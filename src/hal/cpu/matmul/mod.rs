//! Products of weight matrices with activations.
//!
//! A task is a range of row groups of one matrix, for a list of activation rows. `integer.rs` serves the
//! quantised formats, `float.rs` the plain ones; `blocks32.rs` and `blocks256.rs` say for each quantised format how
//! sixteen rows of a block yield integers, scales and minima. The arithmetic of an output, whatever the task:
//! for each block in order, the exact integer sum of the block (of a superblock: the sum over its sub-blocks of
//! sub-scale times dot), then `acc = fma(sum, d_weight * d_activation, acc)`; formats with minima follow with
//! `acc = fma(minus_sum, m_weight * d_activation, acc)`. Plain formats: `acc = fma(w, x, acc)` in order of k.
//! The bias is added last. `amx.rs` computes the same on tiles, for many rows of quantised formats.

#[cfg(target_arch = "x86_64")]
pub mod amx;
mod blocks256;
mod blocks32;
mod float;
mod integer;

pub use blocks32::{Iq4Nl, Mxfp4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
pub use blocks256::{Iq4Xs, Q2K, Q3K, Q4K, Q5K, Q6K};
pub use float::{Bf16, F16, F32, FloatFormat, multiply_float};
pub use integer::{IntFormat, multiply_int};
use integer::{Words, two};

use super::activation::{Block32, Block256};
use super::simd::{LANES, Simd};
use crate::quant::Kind;

/// Which form of the activations a format reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// float32
    Plain,
    /// int8 with a scale for each 32
    Blocks32,
    /// int8 with a scale for each 256
    Blocks256,
}

impl Form {
    /// The form that a weight format reads.
    pub fn of(kind: Kind) -> Self {
        match kind.format().block_len {
            1 => Form::Plain,
            32 => Form::Blocks32,
            _ => Form::Blocks256,
        }
    }
}

/// One activation row and the output row that it yields.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    /// Row of the activations.
    pub input: u32,
    /// Row of the output.
    pub output: u32,
}

/// The activations of a job, in the forms that its weights read; the others are empty.
#[derive(Debug, Clone, Copy)]
pub struct Activations<'a> {
    /// `[row][k]`
    pub plain: &'a [f32],
    /// `[block column][row]`
    pub blocks32: &'a [Block32],
    /// `[block column][row]`
    pub blocks256: &'a [Block256],
    /// Rows.
    pub rows: usize,
}

/// Where outputs go: rows of `stride` elements, of which a task writes its own columns.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// First element of the first row.
    pub start: *mut f32,
    /// Elements of a row.
    pub stride: usize,
}

// SAFETY: tasks write disjoint columns or rows; whoever builds the tasks sees to it.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

/// A range of row groups of one matrix, times some activation rows.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    /// The interleaved bytes of these groups.
    pub weights: &'a [u8],
    /// Bytes of a group.
    pub group_bytes: usize,
    /// Output column of the first group's first row.
    pub first: usize,
    /// Rows of the matrix: columns from here on do not exist.
    pub rows: usize,
    /// Elements of a row.
    pub cols: usize,
    /// Activations of all rows.
    pub x: Activations<'a>,
    /// Which rows, and where their outputs go.
    pub pairs: &'a [Pair],
    /// `[rows]`
    pub bias: Option<&'a [f32]>,
    /// Outputs.
    pub out: Output,
}

impl Task<'_> {
    /// Adds the bias to a group's sums and writes those that exist.
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, group: usize, output: u32, acc: S::F) {
        let column = self.first + group * LANES;
        let n = LANES.min(self.rows - column);
        let mut lanes = [0.0; LANES];
        s.store(acc, &mut lanes, 0);
        if let Some(bias) = self.bias {
            for (lane, b) in lanes[..n].iter_mut().zip(&bias[column..]) {
                *lane += b;
            }
        }
        // SAFETY: row `output` has `stride >= rows` elements, and no other task writes these columns of it.
        unsafe {
            let to = self.out.start.add(output as usize * self.out.stride + column);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, n);
        }
    }
}

/// One group's sums for each pair.
pub type Sums = Vec<[f32; LANES]>;

/// A thread's scratch.
#[derive(Debug, Default)]
pub struct Room {
    /// Sums of a task.
    pub sums: Sums,
    /// Activations that are brought together for tiles.
    #[cfg(target_arch = "x86_64")]
    pub apart: amx::Apart,
}
