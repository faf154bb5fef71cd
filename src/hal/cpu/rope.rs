//! Rotary embedding: tables of sine and cosine for the rows of a batch, and the rotation.
//!
//! A table belongs to one kind of rotation and to the positions of one tile of the current pass; all layers share it,
//! so angles are computed once a pass. Sine and cosine come from the pure Rust `libm`, in float64, rounded once:
//! the bits do not depend on the system's C library.

use super::pool::Pool;
use super::values::Mat;
use crate::error::Result;
use crate::hal::{Batch, WeightId};
use crate::op::{Op, Pairing, Program, Rope};

/// Tables of the kinds of rotation that were used.
#[derive(Debug, Default)]
pub struct Tables(Vec<Table>);

#[derive(Debug)]
struct Table {
    rope: Rope,
    factors: Option<WeightId>,
    /// Where its tile begins.
    first: usize,
    positions: Vec<u32>,
    /// `[row][cosines, sines]`
    turns: Vec<f32>,
}

impl Tables {
    /// Forgets everything (weights may have changed).
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Bytes of the tables of a pass, where all layers rotate alike.
    pub fn bytes<'a>(programs: impl Iterator<Item = &'a Program>, rows: usize) -> u64 {
        let turned = programs.flat_map(|p| &p.ops).map(|op| if let Op::Rope { rope, .. } = op { rope.dims } else { 0 });
        (turned.max().unwrap_or(0) as u64).saturating_mul(4 * rows as u64)
    }

    /// The table for a batch: `[row][cos of each pair, sin of each pair]`.
    pub fn get(
        &mut self,
        rope: &Rope,
        factors: Option<(WeightId, &[f32])>,
        batch: &Batch,
        pool: &mut Pool,
    ) -> Result<&[f32]> {
        let (id, first, rows) = (factors.map(|f| f.0), batch.first, batch.rows);
        let at = match self.0.iter().position(|t| t.rope == *rope && (t.factors, t.first) == (id, first)) {
            Some(at) => at,
            None => {
                self.0.push(Table { rope: *rope, factors: id, first, positions: vec![], turns: vec![] });
                self.0.len() - 1
            }
        };
        let table = &mut self.0[at];
        if !table.positions.iter().copied().eq(rows.iter().map(|r| r.pos)) {
            table.positions.clear();
            table.positions.extend(rows.iter().map(|r| r.pos));
            table.turns.resize(rows.len() * rope.dims, 0.0);
            let out = Mat { start: table.turns.as_mut_ptr(), width: rope.dims, rows: rows.len() };
            pool.run(rows.len(), &|_, r| {
                // SAFETY: each task has its own row.
                let turns = unsafe { out.row_mut(r) };
                fill(rope, factors.map(|f| f.1), rows[r].pos, turns);
            })?;
        }
        Ok(&table.turns)
    }
}

fn fill(rope: &Rope, factors: Option<&[f32]>, pos: u32, turns: &mut [f32]) {
    let magnitude = f64::from(rope.magnitude());
    let (cos, sin) = turns.split_at_mut(rope.dims / 2);
    for (i, (c, s)) in cos.iter_mut().zip(sin).enumerate() {
        let angle = rope.angle(pos, i, factors.map_or(1.0, |f| f[i]));
        *c = (libm::cos(angle) * magnitude) as f32;
        *s = (libm::sin(angle) * magnitude) as f32;
    }
}

/// Turns every head of a row.
pub fn rotate(rope: &Rope, head_dim: usize, turns: &[f32], x: &[f32], out: &mut [f32]) {
    let half = rope.dims / 2;
    let (cos, sin) = turns.split_at(half);
    for (x, out) in x.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
        out[rope.dims..].copy_from_slice(&x[rope.dims..]);
        match rope.pairing {
            Pairing::Interleaved => {
                let pairs = x.as_chunks::<2>().0.iter().zip(out.as_chunks_mut::<2>().0);
                for (([a, b], y), (c, s)) in pairs.zip(cos.iter().zip(sin)) {
                    *y = [a * c - b * s, a * s + b * c];
                }
            }
            Pairing::HalfSplit => {
                let (low, high) = out.split_at_mut(half);
                for i in 0..half {
                    let (a, b) = (x[i], x[i + half]);
                    low[i] = a * cos[i] - b * sin[i];
                    high[i] = a * sin[i] + b * cos[i];
                }
            }
        }
    }
}
