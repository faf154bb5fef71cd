//! GGUF, versions 2 and 3 (specification: `docs/gguf.md` of the ggml project).
//!
//! ```text
//! "GGUF"  version u32  tensor count u64  metadata count u64
//! metadata:      key string, value type u32, value                                 (read.rs, value.rs)
//! tensor infos:  name string, dimension count u32, dimensions u64, type u32, offset u64
//! padding to `general.alignment`, then the tensors' data, each at its offset from here
//! ```
//!
//! Everything is little-endian. The header is read once, front to back, through a bounded buffer; the data is not
//! touched. A model may be split over files `NAME-00001-of-0000N.gguf` (split.rs). Nothing here knows what a key
//! means, other than the few that describe the container itself. `Writer` makes version 3 files, front to back too.

mod cursor;
mod magic;
mod read;
mod split;
mod value;
mod write;

use super::Catalogue;
use crate::error::Result;
use crate::source::Source;
use std::path::Path;
use std::sync::Arc;

pub use write::{TensorPlan, Writer, outline};

/// Alignment of tensor data where the file does not say otherwise.
const DEFAULT_ALIGNMENT: u32 = 32;
/// The key that says otherwise.
const ALIGNMENT_KEY: &str = "general.alignment";

/// Opens a GGUF file, or all files of a split model by its first.
///
/// # Errors
/// `Io` when a file cannot be read; `File`, with field and offset, when it is no sound GGUF.
pub fn open(path: &Path) -> Result<Catalogue> {
    let source = Arc::new(Source::open(path)?);
    let first = read::read(source, 0)?;
    match split::count(&first)? {
        1 => read::catalogue(vec![first]),
        count => read::catalogue(split::open_rest(path, first, count)?),
    }
}

/// Opens a GGUF that is one source, such as the embedded model.
///
/// # Errors
/// As `open`; also when it is a part of a split model.
pub fn open_source(source: Arc<Source>) -> Result<Catalogue> {
    let part = read::read(source, 0)?;
    match split::count(&part)? {
        1 => read::catalogue(vec![part]),
        count => {
            Err(part.meta.error(split::COUNT, format!("it is one of {count} files; only a whole model works here")))
        }
    }
}
