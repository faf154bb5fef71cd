//! `--synthetic`: a model with random weights that is made for the measurement and removed after it.

use crate::cli::interrupt::{self, Doomed};
use crate::cli::{output, synth};
use crate::error::Result;
use crate::format::output::part;
use std::path::PathBuf;

/// A synthetic model's file, which goes when this does, or the process by a second Ctrl-C.
pub struct Made {
    /// Where it is.
    pub path: PathBuf,
    /// For people.
    pub name: String,
    _doomed: [Doomed; 2],
}

impl Made {
    /// Makes it in the temporary folder.
    ///
    /// # Errors
    /// Those of `synth::create`.
    pub fn new(shape: &str, quant: &str) -> Result<Self> {
        let name = format!("synthetic {shape}:{quant}");
        let path = std::env::temp_dir().join(format!("air-bench-{}.gguf", std::process::id()));
        let interrupt = interrupt::watch()?;
        let doomed = [Doomed::new(path.clone()), Doomed::new(part(&path))];
        synth::create(shape, quant, &path, &interrupt)?;
        Ok(Made { path, name, _doomed: doomed })
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.path) {
            output::note(format_args!("{}: cannot remove: {e}", self.path.display()));
        }
    }
}
