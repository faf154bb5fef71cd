//! Rotations by position, and the way of keys and values into the sequence state: op by op, or all of it as one kernel.

use super::driver::Address;
use super::kernels;
use super::launch::Launch;
use super::memory::Buffer;
use super::misfit;
use crate::error::Result;
use crate::op::{Op, Pairing, Rope, ValueId, WeightSlot};

impl Launch<'_> {
    pub(super) fn rope(
        &mut self,
        x: ValueId,
        head_dim: usize,
        rope: &Rope,
        factors: Option<WeightSlot>,
        out: ValueId,
    ) -> Result<()> {
        let frequencies = self.frequencies(rope, factors)?;
        let args = kernels::RopeArgs {
            x: self.at(x)?,
            frequencies,
            positions: self.rows.at(self.rows.positions),
            out: self.at(out)?,
            heads: (self.width(x) / head_dim) as u32,
            head_dim: head_dim as u32,
            dims: rope.dims as u32,
            half_split: u32::from(rope.pairing == Pairing::HalfSplit),
            magnitude: rope.magnitude(),
            unused: 0,
        };
        let rows = self.row_count(x) as u32;
        kernels::rope(self.d, &args, rows)
    }

    /// Angles are proportional to positions, so those at position 1 say all.
    fn frequencies(&mut self, rope: &Rope, factors: Option<WeightSlot>) -> Result<Address> {
        let id = factors.map(|f| self.bindings.weights[f.0 as usize]);
        if let Some((_, _, buffer)) = self.frequencies.iter().find(|(r, f, _)| r == rope && *f == id) {
            return Ok(buffer.at);
        }
        let factors = match id {
            Some(id) => self.weights[id.0 as usize].vector(self.d)?,
            None => vec![1.0; rope.dims / 2],
        };
        let angles = factors.iter().enumerate().map(|(i, f)| rope.angle(1, i, *f));
        let bytes: Vec<u8> = angles.flat_map(f64::to_le_bytes).collect();
        let buffer = Buffer::new(self.d, bytes.len() as u64, "rotary frequencies")?;
        self.frequencies.push((*rope, id, buffer));
        self.d.upload(buffer.at, &bytes)?;
        Ok(buffer.at)
    }

    /// Rotations of queries and keys, and keys and values into pages.
    pub(super) fn position(&mut self, queries: usize, keys: usize, append: usize) -> Result<()> {
        let ops = &self.schedule.program.ops;
        let (&Op::Rope { x: q, head_dim, rope, factors, out }, &Op::Rope { x: k, .. }, &Op::KvAppend { v, .. }) =
            (&ops[queries], &ops[keys], &ops[append])
        else {
            return [queries, keys, append].into_iter().try_for_each(|at| self.op(&ops[at]));
        };
        if self.row_count(q) == 0 {
            return Ok(());
        }
        let frequencies = self.frequencies(&rope, factors)?;
        let (pages, id) = self.state()?;
        let (layer, k_offset, v_offset) = pages.layer(id.layer);
        let (start, page_bytes, formats) = (pages.start(), pages.page_bytes, [pages.k.kind, pages.v.kind]);
        if [self.width(k), self.width(v), head_dim]
            != [layer.kv_heads * layer.head_dim, layer.kv_heads * layer.v_dim, layer.head_dim]
        {
            let what = format!("{} and {} elements for the state of {layer:?}", self.width(k), self.width(v));
            return Err(misfit(self.program, what));
        }
        let args = kernels::PositionArgs {
            q: self.at(q)?,
            k: self.at(k)?,
            v: self.at(v)?,
            frequencies,
            positions: self.rows.at(self.rows.positions),
            out: self.at(out)?,
            pages: start,
            row_pages: self.rows.at(self.rows.groups[id.group].row_pages),
            page_bytes,
            k_offset,
            v_offset,
            heads: (self.width(q) / head_dim) as u32,
            kv_heads: layer.kv_heads as u32,
            head_dim: head_dim as u32,
            v_dim: layer.v_dim as u32,
            dims: rope.dims as u32,
            half_split: u32::from(rope.pairing == Pairing::HalfSplit),
            magnitude: rope.magnitude(),
            unused: 0,
        };
        let [k, v] = formats;
        kernels::position(self.d, k, v, &args, self.batch.rows.len() as u32)
    }

    pub(super) fn kv_append(&mut self, k: ValueId, v: ValueId) -> Result<()> {
        let (pages, id) = self.state()?;
        let (layer, k_offset, v_offset) = pages.layer(id.layer);
        let (start, page_bytes, formats) = (pages.start(), pages.page_bytes, [pages.k.kind, pages.v.kind]);
        let row_pages = self.rows.at(self.rows.groups[id.group].row_pages);
        let positions = self.rows.at(self.rows.positions);
        let (rows, heads) = (self.batch.rows.len() as u32, layer.kv_heads as u32);
        let parts = [(k, k_offset, layer.head_dim), (v, v_offset, layer.v_dim)];
        for ((x, offset, dim), kind) in parts.into_iter().zip(formats) {
            if self.width(x) != layer.kv_heads * dim {
                return Err(misfit(self.program, format!("{} elements for {heads} heads of {dim}", self.width(x))));
            }
            let (x, pages, dim) = (self.at(x)?, start, dim as u32);
            let args = kernels::KvAppendArgs { x, pages, row_pages, positions, page_bytes, offset, heads, dim };
            kernels::kv_append(self.d, kind, &args, rows)?;
        }
        Ok(())
    }
}
