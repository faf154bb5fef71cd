//! What was found out about drives, kept in the user's cache folder for a week.
//!
//! `$XDG_CACHE_HOME/air/drive.json` (`~/.cache` when that is not set) has an entry for each machine, device, file system
//! and reader. It is a convenience: a file that cannot be read, understood or written is as if it were not there. It is
//! replaced in one piece, so two programs at once do no harm but forget what the other one found.

use super::{Drive, MOST_DEPTH};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Older knowledge does not count.
const OLDEST: Duration = Duration::from_secs(7 * 24 * 3600);
/// Changes when entries come to mean something else.
const VERSION: u64 = 1;
/// A larger file is none of ours.
const LARGEST: u64 = 1 << 20;

/// The file.
pub(super) struct Cache {
    path: PathBuf,
}

impl Cache {
    /// In the user's folder; none where there is none.
    pub fn of_user() -> Option<Cache> {
        let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let folder = var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")))?;
        Some(Cache { path: folder.join("air/drive.json") })
    }

    #[cfg(test)]
    pub fn at(path: PathBuf) -> Cache {
        Cache { path }
    }

    /// What is known under a key, and how old it is.
    pub fn get(&self, key: &str) -> Option<(Vec<Drive>, Duration)> {
        let drives = self.drives();
        let entry = drives.get(key)?;
        let then = UNIX_EPOCH.checked_add(Duration::from_secs(entry["at"].as_u64()?))?;
        // a clock that went back makes it old
        let age = SystemTime::now().duration_since(then).ok().filter(|&age| age <= OLDEST)?;
        let tried = entry["tried"].as_array()?.iter().map(drive).collect::<Option<Vec<_>>>()?;
        (!tried.is_empty()).then_some((tried, age))
    }

    /// Remembers.
    pub fn put(&self, key: &str, tried: &[Drive]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let row = |d: &Drive| json!({ "block": d.block, "depth": d.depth, "bytes_per_second": d.rate as u64 });
        let mut drives = self.drives();
        drives.insert(key.into(), json!({ "at": now, "tried": tried.iter().map(row).collect::<Vec<_>>() }));
        self.write(&drives);
    }

    /// Forgets what is known under a key.
    pub fn forget(&self, key: &str) {
        let mut drives = self.drives();
        if drives.remove(key).is_some() {
            self.write(&drives);
        }
    }

    fn write(&self, drives: &Map<String, Value>) {
        let text = format!("{:#}\n", json!({ "version": VERSION, "drives": drives }));
        let part = self.path.with_extension(format!("json.{}", std::process::id()));
        let folder = self.path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let written = folder.and_then(|()| std::fs::write(&part, text));
        if written.and_then(|()| std::fs::rename(&part, &self.path)).is_err() {
            let _ = std::fs::remove_file(&part); // it may not be there
        }
    }

    fn drives(&self) -> Map<String, Value> {
        let read = || {
            std::fs::metadata(&self.path).ok().filter(|m| m.is_file() && m.len() <= LARGEST)?;
            let whole: Value = serde_json::from_slice(&std::fs::read(&self.path).ok()?).ok()?;
            (whole["version"] == VERSION).then(|| whole["drives"].as_object().cloned())?
        };
        read().unwrap_or_default()
    }
}

/// A row, if it makes sense.
fn drive(row: &Value) -> Option<Drive> {
    let number = |name: &str| usize::try_from(row[name].as_u64()?).ok();
    let drive = Drive { block: number("block")?, depth: number("depth")?, rate: row["bytes_per_second"].as_f64()? };
    let sane = drive.block.is_power_of_two() && (1..=MOST_DEPTH).contains(&drive.depth);
    (sane && drive.block <= 1 << 30 && drive.rate > 0.0 && drive.rate.is_finite()).then_some(drive)
}

/// Names the machine, the device and file system that a file is on, and the reader.
pub(super) fn key(file: &File, reader: &str) -> Option<String> {
    let device = file.metadata().ok()?.dev();
    let kind = rustix::fs::fstatfs(file).ok()?.f_type;
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    Some(format!("machine {}, device {device:x}, file system {kind:x}, {reader}", machine.trim()))
}
