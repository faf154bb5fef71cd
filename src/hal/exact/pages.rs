//! Pages of keys and values, encoded in the state's formats.

use crate::hal::{KvGroup, KvLayer, PAGE};
use crate::quant::Format;

/// The pages of one group: page, layer, position, then the key row and the value row of all heads.
#[derive(Debug)]
pub struct Pages {
    k: &'static Format,
    v: &'static Format,
    layers: Vec<(KvLayer, usize)>,
    page_bytes: usize,
    bytes: Vec<u8>,
}

impl Pages {
    pub fn new(k: &'static Format, v: &'static Format, group: &KvGroup) -> Self {
        let mut offset = 0;
        let mut layers = vec![];
        for l in &group.layers {
            layers.push((*l, offset));
            offset += PAGE * l.kv_heads * (k.row_bytes(l.head_dim) + v.row_bytes(l.v_dim));
        }
        Pages { k, v, layers, page_bytes: offset, bytes: vec![0; offset * group.pages] }
    }

    pub fn copy(&mut self, from: usize, to: usize) {
        let n = self.page_bytes;
        self.bytes.copy_within(from * n..(from + 1) * n, to * n);
    }

    /// Byte ranges of the key and the value of one head at one place of a page.
    fn ranges(&self, layer: usize, page: u32, slot: usize, head: usize) -> [std::ops::Range<usize>; 2] {
        let (l, offset) = &self.layers[layer];
        let (kb, vb) = (self.k.row_bytes(l.head_dim), self.v.row_bytes(l.v_dim));
        let row = page as usize * self.page_bytes + offset + slot * l.kv_heads * (kb + vb);
        let k = row + head * kb;
        let v = row + l.kv_heads * kb + head * vb;
        [k..k + kb, v..v + vb]
    }

    /// Encodes the key and the value of one head.
    pub fn store(&mut self, layer: usize, page: u32, slot: usize, head: usize, k: &[f32], v: &[f32]) {
        let [kr, vr] = self.ranges(layer, page, slot, head);
        let encode = |f: &Format| f.encode.expect("the engine admits only formats that can be encoded");
        encode(self.k)(k, &mut self.bytes[kr]);
        encode(self.v)(v, &mut self.bytes[vr]);
    }

    /// Decodes the key and the value of one head.
    pub fn load(&self, layer: usize, page: u32, slot: usize, head: usize, k: &mut [f32], v: &mut [f32]) {
        let [kr, vr] = self.ranges(layer, page, slot, head);
        (self.k.decode)(&self.bytes[kr], k);
        (self.v.decode)(&self.bytes[vr], v);
    }

    /// Shape of a layer.
    pub fn layer(&self, layer: usize) -> KvLayer {
        self.layers[layer].0
    }
}
