//! The specification: programs interpreted in plain Rust.
