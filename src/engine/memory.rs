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

/// Limit less usage of one group; page cache counts as usage, though the kernel would drop it.
fn left(dir: &Path, limit: &str, usage: &str) -> Option<u64> {
    let number = |name: &str| std::fs::read_to_string(dir.join(name)).ok()?.trim().parse::<u64>().ok();
    Some(number(limit)?.saturating_sub(number(usage)?))
}
