//! The first eight bytes: is it a GGUF that air can read, and if not, what is it?
//!
//! People hand over safetensors, checkpoints of PyTorch, half downloads and web pages that say "not found". Telling
//! them what they have costs a table of signatures.

use super::cursor::Cursor;
use crate::error::Result;

const MAGIC: [u8; 4] = *b"GGUF";

/// Beginnings of files that are no GGUF, and what to say of them.
const OTHERS: &[(&[u8], &str)] = &[
    (b"PK\x03\x04", "is a zip archive, probably a PyTorch checkpoint; convert it to GGUF"),
    (b"\x80\x02", "is a pickle, probably a PyTorch checkpoint; convert it to GGUF"),
    (b"tjgg", "is a GGJT file, which GGUF replaced; convert the original model again"),
    (b"lmgg", "is a GGML file, which GGUF replaced; convert the original model again"),
    (b"fmgg", "is a GGMF file, which GGUF replaced; convert the original model again"),
    (b"algg", "is a GGLA adapter, which GGUF replaced; convert the original adapter again"),
    (b"FUGG", "is a byte-swapped GGUF; only little-endian files work"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"),
    (b"\x1f\x8b", "is gzip-compressed; decompress it first"),
    (b"\x28\xb5\x2f\xfd", "is zstd-compressed; decompress it first"),
    (b"<", "is a web page or XML, probably a failed download"),
    (b"{", "is JSON, not a model"),
    (b"\0\0\0\0", "begins with zeros, probably an unfinished download"),
];

/// Reads magic and version.
pub(super) fn check(c: &mut Cursor) -> Result<()> {
    c.set_field("magic");
    if c.left() == 0 {
        return Err(c.error(0, "the file is empty"));
    }
    let head = c.left().min(24) as usize;
    let head = c.take(head)?.to_vec();
    if head.len() < 4 || head[..4] != MAGIC {
        return Err(c.error(0, format!("no GGUF: {}", describe(&head))));
    }
    c.rewind(4);
    c.set_field("version");
    match c.u32()? {
        2 | 3 => Ok(()),
        1 => Err(c.error(4, "GGUF version 1 is not supported; versions 2 and 3 are, so convert the model again")),
        v @ 0x0100_0000..=0x0300_0000 if v & 0xff_ffff == 0 => {
            Err(c.error(4, "the file is big-endian; only little-endian files work, so convert the model again"))
        }
        v => Err(c.error(4, format!("GGUF version {v} is not known; versions 2 and 3 are supported"))),
    }
}

fn describe(head: &[u8]) -> String {
    // safetensors: the header's length, then its JSON
    if head.len() > 8 && head[8] == b'{' && head[5..8] == [0, 0, 0] {
        return "the file is a safetensors checkpoint; convert it to GGUF".into();
    }
    match OTHERS.iter().find(|(start, _)| head.starts_with(start)) {
        Some((_, what)) => format!("the file {what}"),
        None => format!("the file begins with \"{}\"", head[..head.len().min(4)].escape_ascii()),
    }
}
