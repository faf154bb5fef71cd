//! NVIDIA's libraries as their headers declare them: cuFile and NCCL, which no crate of Rust finds by their names.
//!
//! Each is a struct of the functions of one loaded library; loading fails with the name of the first that is missing.
//! bindgen writes the files, scripts/check_ffi.sh compares them with the headers. Whoever calls them is in `hal`.

pub mod cufile;
pub mod nccl;
