//! air: an LLM inference engine that runs models larger than the machine's memory.

pub mod error;
pub mod meta;
pub mod source;

pub mod config;

pub mod op;
pub mod quant;
pub mod sample;
pub mod text;

pub mod format;
pub mod hal;

pub mod kv;

pub mod arch;
pub mod lower;

pub mod engine;

pub mod cli;
