//! Products with weights: one kernel for each part of a matrix, few rows or many, by experts or not.
//!
//! A part that the device does not keep is brought, multiplied with and forgotten. What is written of the result by one
//! part is a range of its columns, so parts know nothing of each other.

use super::driver::Address;
use super::kernels::{self, FEW_ROWS, MatmulArgs, MatvecArgs, MatvecMore, tile_inputs};
use super::launch::Launch;
use super::misfit;
use super::schedule::JOINED;
use super::weights::From;
use crate::error::Result;
use crate::op::{Op, ValueId, WeightSlot};
use crate::quant::Kind;

/// What a product does beside multiplying; zero where it does not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extra {
    /// Added to each row.
    pub(super) bias: Address,
    /// Added to the result.
    pub(super) residual: Address,
    /// The product is a gate for that of this weight with the same input.
    pub(super) up: Address,
    /// Other products of few rows of the same input, with weights of the same format that are kept.
    pub(super) more: [MatvecMore; JOINED - 1],
}

impl Extra {
    /// Nothing.
    pub(super) const NONE: Extra =
        Extra { bias: Address(0), residual: Address(0), up: Address(0), more: [MatvecMore::NONE; JOINED - 1] };
}

/// What products with some weights read beside floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Eight bits, and a scale and sums for each 32.
    Bytes,
    /// A power of two for each row.
    Powers,
}

impl Address {
    /// The address of float `n`, where there are any.
    fn float(self, n: usize) -> Address {
        if self == Address(0) { self } else { self.offset(4 * n as u64) }
    }
}

impl Launch<'_> {
    /// A gate's two products and the gate: one kernel where few rows read weights of one format that are kept.
    pub(super) fn gated(&mut self, gate: usize, up: usize, out: ValueId) -> Result<()> {
        let ops = &self.schedule.program.ops;
        let (Op::MatMul { x, weight: first, .. } | Op::ExpertMatMul { x, weight: first, .. }) = ops[gate] else {
            return self.op(&ops[gate]);
        };
        let (Op::MatMul { weight: second, .. } | Op::ExpertMatMul { weight: second, .. }) = ops[up] else {
            return self.op(&ops[up]);
        };
        let (a, b, n) = (self.weight(first), self.weight(second), self.row_count(x));
        // A product of floats reads the input while others write, of eight bits a copy of it.
        let apart = a.format.block_len > 1 || !self.schedule.overlap(x, out);
        let few = a.format == b.format && (1..=FEW_ROWS).contains(&n);
        let (Some(_), Some(up_at), true) = (a.whole(), b.whole(), few && apart) else {
            return ops[gate..up + 2].iter().try_for_each(|op| self.op(op));
        };
        let extra = Extra { up: up_at, ..Extra::NONE };
        match ops[gate] {
            Op::ExpertMatMul { per_slot, ids, .. } => self.experts(x, per_slot, ids, first, extra, out),
            _ => self.mat_mul(x, first, extra, out),
        }
    }

    /// Products of one input; with few rows those whose weights are of one format and kept whole are one kernel.
    pub(super) fn joined(&mut self, first: usize, count: usize) -> Result<()> {
        let ops = &self.schedule.program.ops[first..first + count];
        let mut left: [Option<&Op>; JOINED] = std::array::from_fn(|i| ops.get(i));
        for (i, op) in ops.iter().enumerate() {
            let Some(&Op::MatMul { x, weight, bias, out }) = left[i].take() else { continue };
            if self.row_count(x) == 0 {
                return Ok(());
            }
            let mut extra = Extra { bias: self.vector(bias)?, ..Extra::NONE };
            let mut places = extra.more.iter_mut();
            for other in &mut left[i + 1..] {
                let matrix = other.map_or(Ok(None), |other| self.beside(op, other))?;
                if let Some(matrix) = matrix
                    && let Some(place) = places.next()
                {
                    (*place, *other) = (matrix, None);
                }
            }
            self.mat_mul(x, weight, extra, out)?;
        }
        Ok(())
    }

    /// A product as one that the kernel of another one computes, too, if it can.
    fn beside(&self, first: &Op, op: &Op) -> Result<Option<MatvecMore>> {
        let (&Op::MatMul { x, weight, .. }, &Op::MatMul { weight: other, bias, out, .. }) = (first, op) else {
            return Ok(None);
        };
        let (a, b) = (self.weight(weight), self.weight(other));
        let few = a.format == b.format && self.row_count(x) <= FEW_ROWS;
        let (Some(_), Some(weight), true) = (a.whole(), b.whole(), few) else { return Ok(None) };
        let (bias, y, rows) = (self.vector(bias)?, self.at(out)?, b.rows as u32);
        Ok(Some(MatvecMore { weight, bias, y, rows, unused: 0 }))
    }

    /// The addresses of what a product with weights of `cols` columns reads: floats, and eight bits with scales or
    /// powers of two, which are made if they are not there.
    fn inputs(&mut self, x: ValueId, kind: Kind, cols: usize) -> Result<[Address; 3]> {
        let (at, q, scales) = (self.at(x)?, self.values.quants.at, self.values.scales.at);
        let form = match kind {
            Kind::F32 | Kind::BF16 => return Ok([at, q, scales]),
            Kind::F16 if self.row_count(x) <= FEW_ROWS => return Ok([at, q, scales]),
            Kind::F16 => Form::Powers,
            _ => Form::Bytes,
        };
        if self.made == Some((x, form)) {
            return Ok([at, q, scales]);
        }
        let (count, cols, unused) = (self.count(x), cols as u32, 0);
        match form {
            Form::Powers => {
                let args = kernels::RowPowersArgs { x: at, powers: scales, cols, rows: count / cols };
                kernels::row_powers(self.d, &args)?;
            }
            Form::Bytes => {
                kernels::quantise(self.d, &kernels::QuantiseArgs { x: at, q, scales, blocks: count / 32, unused })?;
            }
        }
        self.made = Some((x, form));
        Ok([at, q, scales])
    }

    /// A product with a matrix, part by part.
    pub(super) fn mat_mul(&mut self, x: ValueId, slot: WeightSlot, extra: Extra, out: ValueId) -> Result<()> {
        let w = self.weight(slot);
        let (kind, cols, stride) = (w.format.kind, w.cols as u32, w.rows as u32);
        let (n, y, up) = (self.row_count(x), self.at(out)?, extra.up);
        let [x, q, scales] = self.inputs(x, w.format.kind, w.cols)?;
        let (none, share, unused) = (Address(0), 1, 0);
        for part in w.parts() {
            let (weight, here) = match part.from {
                From::Memory(at) => (at, None),
                From::Supply(number) => {
                    let here = self.ring.bring(self.d, &w.supply, number)?;
                    (here.at, Some(here))
                }
                From::Arranged(number) => {
                    let rows = part.rows.len() as u32;
                    (self.ring.restore(self.d, &w.supply, number, w.format, w.cols, rows)?, None)
                }
                From::Drive(_) => return Err(misfit(self.program, format!("tensor {} stays on the drive", w.name))),
            };
            let (first, rows) = (part.rows.start, part.rows.len() as u32);
            let (bias, residual, y) = (extra.bias.float(first), extra.residual.float(first), y.float(first));
            if n <= FEW_ROWS {
                let (n, ids) = (n as u32, none);
                let args = MatvecArgs {
                    weight,
                    up,
                    x,
                    q,
                    scales,
                    bias,
                    residual,
                    ids,
                    y,
                    cols,
                    rows,
                    n,
                    share,
                    stride,
                    unused,
                    more: extra.more,
                };
                kernels::matvec(self.d, kind, &args, 1)?;
            } else {
                let (n, tiles, order) = (n as u32, none, none);
                let args = MatmulArgs {
                    weight,
                    x,
                    q,
                    scales,
                    bias,
                    residual,
                    tiles,
                    order,
                    y,
                    cols,
                    rows,
                    n,
                    share,
                    stride,
                    unused,
                };
                let tile = tile_inputs(kind, rows, n, self.multiprocessors);
                kernels::matmul(self.d, kind, &args, tile, n.div_ceil(tile))?;
            }
            here.map_or(Ok(()), |here| self.ring.used(self.d, here))?;
        }
        Ok(())
    }

    /// A product with the experts that rows have chosen.
    pub(super) fn experts(
        &mut self,
        x: ValueId,
        per_slot: bool,
        ids: ValueId,
        weight: WeightSlot,
        extra: Extra,
        out: ValueId,
    ) -> Result<()> {
        let w = self.weight(weight);
        let (weight, kind, cols, rows) = (w.at()?, w.format.kind, w.cols as u32, w.rows as u32);
        let (n, slots, y, experts) = (self.row_count(x), self.count(ids), self.at(out)?, w.experts as u32);
        let share = if per_slot { 1 } else { self.width(ids) as u32 };
        let [x, q, scales] = self.inputs(x, w.format.kind, w.cols)?;
        let (chosen, stride, unused) = (self.at(ids)?, rows, 0);
        let Extra { bias, residual, up, more } = extra;
        if n <= FEW_ROWS {
            let (ids, n) = (chosen, 1);
            let args = MatvecArgs {
                weight,
                up,
                x,
                q,
                scales,
                bias,
                residual,
                ids,
                y,
                cols,
                rows,
                n,
                share,
                stride,
                unused,
                more,
            };
            return kernels::matvec(self.d, kind, &args, slots);
        }
        let (counts, order, tiles) = (self.values.counts.at, self.values.order.at, self.values.tiles.at);
        let tile = tile_inputs(kind, rows, slots.div_ceil(experts), self.multiprocessors.div_ceil(experts));
        let most_tiles = slots.div_ceil(tile) + experts;
        if self.sorted != Some((ids, tile)) {
            let count = kernels::ExpertCountArgs { ids: chosen, counts, slots, unused: 0 };
            kernels::expert_count(self.d, &count, experts)?;
            let args = kernels::ExpertPlaceArgs { ids: chosen, counts, order, tiles, slots, experts, most_tiles, tile };
            kernels::expert_place(self.d, &args)?;
            self.sorted = Some((ids, tile));
        }
        let n = slots;
        let args =
            MatmulArgs { weight, x, q, scales, bias, residual, tiles, order, y, cols, rows, n, share, stride, unused };
        kernels::matmul(self.d, kind, &args, tile, most_tiles)
    }
}
