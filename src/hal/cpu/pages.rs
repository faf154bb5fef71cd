//! Pages of keys and values, in the layout that the attention kernels read in place.
//!
//! A page holds `PAGE` positions of all layers of its group. Of a layer: for each key head, the positions in two
//! interleaved panels of sixteen, as weights are (but byte by byte where weights move words: an element of sixteen
//! positions is one load); then for each value head, the positions' rows as the format encodes them. So scores are
//! computed with positions in the lanes, and sums of values with elements in the lanes. Encoding is the format
//! table's. It does not know which page belongs to whom.

use super::memory::{Memory, PAD};
use super::simd::LANES;
use crate::error::{Error, Result};
use crate::hal::{KvGroup, KvLayer, KvLayout, PAGE};
use crate::quant::{Format, Kind};

/// The pages of one group.
#[derive(Debug)]
pub struct Pages {
    k: &'static Format,
    v: &'static Format,
    /// Shapes, and where a layer begins in a page.
    layers: Vec<(KvLayer, usize)>,
    page_bytes: usize,
    memory: Memory,
}

/// One head of one layer in one page.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Two panels of sixteen positions.
    pub keys: &'a [u8],
    /// `PAGE` rows, with some readable bytes behind.
    pub values: &'a [u8],
}

/// Where the key and the value of one head of one position go.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Layer of the group.
    pub layer: usize,
    /// Page.
    pub page: usize,
    /// Position in the page.
    pub slot: usize,
    /// Key head.
    pub head: usize,
}

impl Pages {
    /// Reserves a group's pages.
    ///
    /// # Errors
    /// `Unsupported` for formats that cannot hold state; `Limit` when memory is short.
    pub fn new(layout: &KvLayout, group: usize) -> Result<Self> {
        let (k, v) = (layout.k, layout.v);
        for format in [k, v] {
            let known = matches!(format.kind, Kind::F32 | Kind::F16 | Kind::Q8_0 | Kind::Q4_0);
            if !known || format.encode.is_none() {
                return Err(Error::Unsupported {
                    what: format!("sequence state in {}", format.name),
                    instead: "use f16, q8_0 or q4_0".into(),
                });
            }
        }
        let g: &KvGroup = &layout.groups[group];
        let mut layers = vec![];
        let mut offset = 0;
        for l in &g.layers {
            for (format, n) in [(k, l.head_dim), (v, l.v_dim)] {
                if n % format.block_len != 0 {
                    return Err(Error::Unsupported {
                        what: format!("sequence state in {} with heads of {n} elements", format.name),
                        instead: "use f16".into(),
                    });
                }
            }
            if k.row_bytes(l.head_dim) > MAX_KEY_BYTES {
                return Err(Error::Unsupported {
                    what: format!("a key head of {} elements in {}", l.head_dim, k.name),
                    instead: format!("heads take up to {MAX_KEY_BYTES} bytes"),
                });
            }
            layers.push((*l, offset));
            offset += PAGE * l.kv_heads * (k.row_bytes(l.head_dim) + v.row_bytes(l.v_dim));
        }
        debug_assert_eq!(offset, layout.page_bytes(group));
        let total = offset.checked_mul(g.pages).ok_or_else(|| Error::Limit("too many pages".into()))?;
        Ok(Pages { k, v, layers, page_bytes: offset, memory: Memory::new(total, "sequence state")? })
    }

    /// Number of pages.
    pub fn count(&self) -> usize {
        self.memory.len() / self.page_bytes.max(1)
    }

    /// Formats of keys and values.
    pub fn formats(&self) -> (Kind, Kind) {
        (self.k.kind, self.v.kind)
    }

    /// Whether there is such a layer.
    pub fn has(&self, layer: usize) -> bool {
        layer < self.layers.len()
    }

    /// Shape of a layer.
    pub fn layer(&self, layer: usize) -> KvLayer {
        self.layers[layer].0
    }

    /// Copies a page.
    pub fn copy(&mut self, from: usize, to: usize) {
        let n = self.page_bytes;
        self.memory.bytes_mut().copy_within(from * n..(from + 1) * n, to * n);
    }

    /// Gives the memory of some pages (ascending) back to the system; they are zeros then.
    pub fn forget(&mut self, pages: &[u32]) {
        for run in pages.chunk_by(|a, b| a + 1 == *b) {
            let first = run[0] as usize;
            self.memory.give_back(first * self.page_bytes..(first + run.len()) * self.page_bytes);
        }
    }

    /// Where the keys and the values of a head begin.
    fn offsets(&self, layer: usize, page: usize, head: usize) -> (usize, usize) {
        let (l, offset) = &self.layers[layer];
        let start = page * self.page_bytes + offset;
        let keys = PAGE * self.k.row_bytes(l.head_dim);
        let values = PAGE * self.v.row_bytes(l.v_dim);
        (start + head * keys, start + l.kv_heads * keys + head * values)
    }

    /// One head of one layer in one page.
    pub fn head(&self, layer: usize, page: usize, head: usize) -> Head<'_> {
        let l = &self.layers[layer].0;
        let (keys, values) = self.offsets(layer, page, head);
        let bytes = self.memory.padded();
        Head {
            keys: &bytes[keys..keys + PAGE * self.k.row_bytes(l.head_dim)],
            values: &bytes[values..values + PAGE * self.v.row_bytes(l.v_dim) + PAD],
        }
    }

    /// Encodes the key and the value of one head at its place.
    ///
    /// # Safety
    /// Nobody else uses this head of this layer in this page meanwhile.
    pub unsafe fn store(&self, place: Place, k: &[f32], v: &[f32]) {
        let Place { layer, page, slot, head } = place;
        let (keys, values) = self.offsets(layer, page, head);
        let (kb, vb) = (self.k.row_bytes(k.len()), self.v.row_bytes(v.len()));
        let encode = |f: &Format| f.encode.expect("Pages::new admits only formats that can be encoded");
        let mut row = [0u8; MAX_KEY_BYTES];
        let row = &mut row[..kb];
        encode(self.k)(k, row);
        let (panel, place) = (keys + slot / LANES * LANES * kb, values + slot * vb);
        assert!(slot < PAGE && panel + LANES * kb <= self.memory.len() && place + vb <= self.memory.len());
        // SAFETY: both lie in the area, which is only handed out as bytes, and within this head's part of the page,
        // which is the caller's.
        let (panel, place) = unsafe {
            let start = self.memory.as_ptr();
            let part = |at: usize, len: usize| std::slice::from_raw_parts_mut(start.add(at), len);
            (part(panel, LANES * kb), part(place, vb))
        };
        match self.k.fields[0].unit {
            2 => put_key::<2>(self.k.block_bytes, row, panel, slot % LANES),
            unit => {
                debug_assert_eq!(unit, 4, "scales are float16, plain elements at most float32");
                put_key::<4>(self.k.block_bytes, row, panel, slot % LANES);
            }
        }
        encode(self.v)(v, place);
    }
}

/// Most bytes of an encoded key head.
const MAX_KEY_BYTES: usize = 4096;

/// Interleaves one encoded key into a panel of sixteen positions.
fn put_key<const HEAD: usize>(block_bytes: usize, row: &[u8], panel: &mut [u8], lane: usize) {
    // The scale (or a plain element) moves whole, everything else byte by byte.
    for (block, panel) in row.chunks_exact(block_bytes).zip(panel.chunks_exact_mut(block_bytes * LANES)) {
        let (head, rest) = block.split_at(HEAD);
        panel[lane * HEAD..][..HEAD].copy_from_slice(head);
        for (byte, place) in rest.iter().zip(panel[HEAD * LANES..].chunks_exact_mut(LANES)) {
            place[lane] = *byte;
        }
    }
}
