//! Where the programs and the data are that air is compared with.

use std::path::PathBuf;

/// `$AIR_ORACLES`, or where `scripts/fetch_oracles.sh` puts them without it.
pub fn oracles() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/air-oracles");
    std::env::var_os("AIR_ORACLES").map_or_else(home, PathBuf::from)
}
