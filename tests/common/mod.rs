//! What several test programs share.
#![allow(dead_code, reason = "each test program uses a part")]

use air_rs::engine::{Chunk, Outputs, Runner};
use std::path::Path;

/// A float32 array from a `.npy` file, version 1, C order.
pub struct Npy {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl Npy {
    pub fn read(path: &Path) -> Npy {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00", "{}: npy version 1", path.display());
        let header = 10 + u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
        let text = std::str::from_utf8(&bytes[10..header]).unwrap();
        assert!(text.contains("'<f4'") && text.contains("False"), "float32 in C order: {text}");
        let shape = text.split_once('(').unwrap().1.split_once(')').unwrap().0;
        let shape = shape.split(',').filter_map(|d| d.trim().parse().ok()).collect();
        let values = bytes[header..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        Npy { shape, values }
    }
}

/// Logits at every position of a new sequence, fed in chunks.
pub fn evaluate(runner: &mut Runner, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let seq = runner.kv().create();
    let mut out = vec![];
    for tokens in tokens.chunks(chunk) {
        runner.run([Chunk { seq, tokens, outputs: Outputs::All }]).unwrap();
        out.extend_from_slice(runner.logits());
    }
    runner.kv().release(seq);
    out
}
