//! What the machine, and the cgroup that holds this process, leave: memory and cores.

use std::path::{Path, PathBuf};

/// Bytes that can be allocated without swapping: the machine's available memory or what the cgroup's limit leaves,
/// whichever is less. Half of 8 GiB is assumed where the system does not say.
pub fn available() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|s| {
        let line = s.lines().find(|l| l.starts_with("MemAvailable:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
    });
    machine.unwrap_or(4 << 30).min(cgroup_left().unwrap_or(u64::MAX))
}

/// Bytes that this process has now: those of its own and of the files that it has mapped. 0 where the system does not
/// say.
pub fn resident() -> u64 {
    statm(1)
}

/// Those of its own alone.
pub fn own() -> u64 {
    statm(1).saturating_sub(statm(2))
}

/// A field of `/proc/self/statm`, in bytes.
fn statm(field: usize) -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(field).and_then(|n| n.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What the limits of this process's cgroup, and of those around it, leave (v2, then v1).
fn cgroup_left() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let entries = groups.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let (root, limit, usage) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
            c if c.split(',').any(|c| c == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            _ => return None,
        };
        let group = PathBuf::from(root).join(path.trim_start_matches('/'));
        let levels = group.ancestors().take_while(|p| p.starts_with(root));
        levels.filter_map(|dir| left(dir, limit, usage)).min()
    });
    entries.min()
}

/// Limit less usage of one group. The page cache counts as usage, but the kernel drops it where memory is asked for: a
/// model that was just downloaded must not seem to leave no room for itself.
fn left(dir: &Path, limit: &str, usage: &str) -> Option<u64> {
    let number = |name: &str| std::fs::read_to_string(dir.join(name)).ok()?.trim().parse::<u64>().ok();
    Some(number(limit)?.saturating_sub(number(usage)?.saturating_sub(page_cache(dir))))
}

/// Bytes of a group's page cache: of it and the groups below (v1 says `total_` for these, v2 counts them anyway).
fn page_cache(dir: &Path) -> u64 {
    let stat = std::fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let value = |name: &str| stat.lines().find_map(|l| l.strip_prefix(name)?.trim().parse::<u64>().ok());
    let both = |a: &str, b: &str| Some(value(a)?.saturating_add(value(b)?));
    both("total_active_file ", "total_inactive_file ").or_else(|| both("active_file ", "inactive_file ")).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_cache_leaves_room() {
        let dir = std::env::temp_dir().join(format!("air-cgroup-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        let room = || left(&dir, "memory.max", "memory.current");
        assert_eq!(room(), None);
        write("memory.max", "max\n");
        write("memory.current", "900\n");
        assert_eq!(room(), None, "no limit");
        write("memory.max", "1000\n");
        assert_eq!(room(), Some(100));
        write("memory.stat", "anon 200\nfile 700\ninactive_file 500\nactive_file 150\n");
        assert_eq!(room(), Some(750));
        write("memory.stat", "inactive_file 1\nactive_file 1\ntotal_inactive_file 300\ntotal_active_file 10\n");
        assert_eq!(room(), Some(410), "v1 counts the groups below apart");
        write("memory.current", "2000\n");
        assert_eq!(room(), Some(0));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
