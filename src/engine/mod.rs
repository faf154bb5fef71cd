//! The engine: load, submit, stream, cancel.

mod load;
mod memory;
mod runner;

pub use load::{LoadOptions, Progress, load};
pub use runner::{Chunk, Outputs, Runner};
