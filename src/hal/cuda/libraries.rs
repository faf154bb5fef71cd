//! Libraries of NVIDIA's that come beside the driver, or do not: where they are looked for, and what stops one.
//!
//! air starts without any of them. One that was loaded stays, because threads of its own may run in it.

use super::{cufile, nccl};
use crate::hal::gpu::Library;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Why a library, or a call of it, is of no use.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum Refusal {
    /// In the loader's words: there is no such file, or a function is missing in it.
    #[error("{0}")]
    Load(String),
    /// A call ended with an error, whose name follows.
    #[error("{call} ends with {error}")]
    Call {
        /// The function.
        call: &'static str,
        /// Its name or number.
        error: String,
    },
}

/// What is beside the driver; `gpu` says whether there is a GPU for a library to look at.
pub fn libraries(gpu: bool) -> Vec<Library> {
    let words = |e: Refusal| e.to_string();
    vec![
        Library { name: "cuFile", found: cufile::found(gpu).map_err(words) },
        Library { name: "NCCL", found: nccl::found().map_err(words) },
    ]
}

/// Loads the first file of this name: where the loader looks, else in the folder that `scripts/setup_cuda.sh` fills.
///
/// # Errors
/// The loader's, of the file that is there, else of the name.
pub(super) fn load<T>(file: &str, open: impl Fn(&OsStr) -> Result<T, libloading::Error>) -> Result<T, Refusal> {
    let fetched = installed(&|name| std::env::var_os(name).map(PathBuf::from));
    let fetched = fetched.map(|dir| dir.join("nvidia/cu13/lib").join(file)).filter(|path| path.is_file());
    open(OsStr::new(file)).or_else(|e| fetched.map_or(Err(e), |path| open(path.as_os_str()))).map_err(said)
}

/// The folder of `scripts/setup_cuda.sh`.
fn installed(variable: &dyn Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let cache = || variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    variable("AIR_CUDA").or_else(|| Some(cache()?.join("air-cuda"))).filter(|dir| Path::new(dir).is_absolute())
}

/// The loader's own sentence, where it has one.
fn said(e: libloading::Error) -> Refusal {
    use std::error::Error;
    Refusal::Load(e.source().map_or_else(|| e.to_string(), ToString::to_string))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_that_of_the_script() {
        let of = |set: &[(&str, &str)]| {
            installed(&|name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| PathBuf::from(value)))
        };
        assert_eq!(of(&[("HOME", "/h")]), Some("/h/.cache/air-cuda".into()));
        assert_eq!(of(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/c")]), Some("/c/air-cuda".into()));
        assert_eq!(of(&[("HOME", "/h"), ("AIR_CUDA", "/a")]), Some("/a".into()));
        assert_eq!(of(&[("AIR_CUDA", "")]), None, "nothing is loaded from wherever the program happens to run");
        assert_eq!(of(&[]), None);
    }
}
