//! NVIDIA GPUs.
//!
//! `driver` is all that is asked of a device, `device` does it through NVIDIA's driver and `staging`, `ptx` has the kernels,
//! `gpus` what the driver shows. It does not know model families, files or requests.

mod device;
mod driver;
mod gpus;
pub mod ptx;
mod staging;

pub use device::Device;
pub use driver::{Address, Driver, Grid, Properties};
pub use gpus::gpus;
