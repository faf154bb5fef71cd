//! The model in the program: about 5 M parameters trained on Shakespeare (`scripts/train_demo.py`), so that everything
//! can be tried without a download.

use crate::error::Result;
use crate::format::{Catalogue, gguf};
use crate::source::Source;
use std::sync::Arc;

static MODEL: &[u8] = include_bytes!("demo.gguf");

/// The demo model's catalogue.
///
/// # Errors
/// Never for the file as it is in the repository; a damaged one is reported like any other.
pub fn demo() -> Result<Catalogue> {
    gguf::open_source(Arc::new(Source::embedded("embedded demo model", MODEL)))
}
