//! Pages of keys and values on the device.
//!
//! A page of a group holds, for each of its layers, `PAGE` positions: all keys, then all values, each as
//! `[head][position][element]`, so that attention reads a head's part of a page as one stretch.

use super::driver::{Address, Driver};
use super::kernels::STATE;
use super::memory::Buffer;
use crate::error::{Error, Result};
use crate::hal::{KvGroup, KvLayer, KvLayout, PAGE};
use crate::quant::Format;

/// The pages of one group.
#[derive(Debug)]
pub(super) struct Pages {
    buffer: Buffer,
    /// Bytes of a page.
    pub(super) page_bytes: u64,
    /// Pages in memory.
    pub(super) pages: usize,
    /// Positions that a row sees.
    pub(super) window: Option<u32>,
    layers: Vec<(KvLayer, u64)>,
    /// Formats of keys and of values.
    pub(super) k: &'static Format,
    pub(super) v: &'static Format,
}

impl Pages {
    /// Reserves the pages of a group.
    ///
    /// # Errors
    /// `Unsupported` for a format; `Limit` when memory is short.
    pub(super) fn new(d: &mut dyn Driver, layout: &KvLayout, group: &KvGroup) -> Result<Pages> {
        for f in [layout.k, layout.v] {
            if !STATE.contains(&f.kind) {
                let names = STATE.map(|k| k.format().name).join(", ");
                let what = format!("sequence state in {} on a CUDA device", f.name);
                return Err(Error::Unsupported { what, instead: format!("{names} work") });
            }
        }
        let mut layers = vec![];
        let mut page_bytes = 0;
        for l in &group.layers {
            layers.push((*l, page_bytes));
            let position = l.kv_heads * (layout.k.row_bytes(l.head_dim) + layout.v.row_bytes(l.v_dim));
            page_bytes += (position * PAGE) as u64;
        }
        let bytes = page_bytes.saturating_mul(group.pages as u64);
        let buffer = Buffer::new(d, bytes, "sequence state")?;
        let (pages, window) = (group.pages, group.window);
        Ok(Pages { buffer, page_bytes, pages, window, layers, k: layout.k, v: layout.v })
    }

    /// Gives the memory back.
    pub(super) fn free(&mut self, d: &mut dyn Driver) -> Result<()> {
        std::mem::take(&mut self.buffer).free(d)
    }

    /// Where the pages begin.
    pub(super) fn start(&self) -> Address {
        self.buffer.at
    }

    /// A layer, and where in a page its keys and its values begin.
    pub(super) fn layer(&self, layer: usize) -> (KvLayer, u64, u64) {
        let (l, at) = self.layers[layer];
        (l, at, at + (l.kv_heads * self.k.row_bytes(l.head_dim) * PAGE) as u64)
    }

    /// Copies a page to another.
    pub(super) fn copy(&self, d: &mut dyn Driver, from: u32, to: u32) -> Result<()> {
        let at = |page: u32| self.buffer.at.offset(u64::from(page) * self.page_bytes);
        d.copy(at(from), at(to), self.page_bytes)
    }
}
