//! What this machine gives: the limits that figures are measured against.
//!
//! Each probe does as little as it can besides what it measures, and of several tries the fastest counts, because
//! everything that disturbs one only slows it. None of them knows a model.

mod arithmetic;
mod memory;

pub use arithmetic::{Arithmetic, arithmetic};
pub use memory::{WORKING_SET, read_bandwidth};
