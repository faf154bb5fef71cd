//! NVIDIA GPUs.
//!
//! `ptx` has the kernels, `gpus` what the driver shows. It does not know model families, files or requests.

mod gpus;
pub mod ptx;

pub use gpus::gpus;
