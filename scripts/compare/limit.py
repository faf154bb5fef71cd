"""A memory limit around a process, what it was charged and what it read, and caches that hold nothing.

The limit is a cgroup's, of either version, and counts everything: the page cache too. Version 1 is used where its
memory controller is mounted. Making one needs root, or a version 2 group that was delegated to the user (systemd-run
--user --scope -p Delegate=yes gives one).
"""

import contextlib
import os
import pathlib
import time

V1 = pathlib.Path("/sys/fs/cgroup/memory")
V2 = pathlib.Path("/sys/fs/cgroup")
HELP = "a memory limit needs root, or a delegated cgroup: systemd-run --user --scope -p Delegate=yes COMMAND"


class Limit:
    """A cgroup of its own for one process at a time; `with` removes it, and what still runs in it."""

    def __init__(self, limit):
        self.version = 1 if (V1 / "memory.limit_in_bytes").exists() else 2
        parent = V1 if self.version == 1 else self.own_group()
        self.folder = parent / f"compare-{os.getpid()}-{time.monotonic_ns()}"
        try:
            self.folder.mkdir()
            if self.version == 1:
                self.write("memory.limit_in_bytes", limit)
                self.write("memory.swappiness", 0)
            else:
                self.write("memory.max", limit)
                # A kernel without swap has no such file.
                with contextlib.suppress(FileNotFoundError):
                    self.write("memory.swap.max", 0)
        except OSError as e:
            with contextlib.suppress(OSError):
                self.folder.rmdir()
            raise SystemExit(f"no cgroup with a memory limit can be made in {parent} ({e.strerror}); {HELP}")

    @staticmethod
    def own_group():
        """The version 2 group to make groups in, with the memory controller handed on to them.

        Root takes the topmost where it hands memory on already, as systemd leaves it. Another group that hands on
        controllers must hold no process, so this one and its neighbours move to a group beside.
        """
        line = next((x for x in open("/proc/self/cgroup") if x.startswith("0::")), None)
        if line is None or not (V2 / "cgroup.controllers").exists():
            raise SystemExit(f"no cgroup of either version with a memory controller is mounted; {HELP}")
        hands_on = lambda group: "memory" in (group / "cgroup.subtree_control").read_text().split()
        if os.geteuid() == 0 and hands_on(V2):
            return V2
        own = V2 / line[3:].strip().lstrip("/")
        group = own.parent if own.name == "compare-self" else own
        try:
            if not hands_on(group):
                beside = group / "compare-self"
                beside.mkdir(exist_ok=True)
                for pid in (group / "cgroup.procs").read_text().split():
                    (beside / "cgroup.procs").write_text(pid)
                (group / "cgroup.subtree_control").write_text("+memory")
        except OSError as e:
            raise SystemExit(f"{group} cannot hand the memory controller on ({e.strerror}); {HELP}")
        return group

    def write(self, name, value):
        (self.folder / name).write_text(str(value))

    def procs(self):
        """The file that takes the number of a process to limit."""
        return self.folder / "cgroup.procs"

    def peak(self):
        """The most bytes charged at a time; none where the kernel does not keep it (version 2 before 5.19)."""
        path = self.folder / ("memory.max_usage_in_bytes" if self.version == 1 else "memory.peak")
        return int(path.read_text()) if path.exists() else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        deadline = time.monotonic() + 10
        while True:
            for pid in self.procs().read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), 9)
            try:
                return self.folder.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def join(procs):
    """For `preexec_fn`: the child is limited from its first instruction on."""
    return lambda: procs.write_text(str(os.getpid()))


def read_bytes(pid):
    """Bytes that a process has had read from drives so far, faults of its maps and read-ahead included."""
    lines = pathlib.Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("read_bytes"))


def drop_caches(path):
    """Leaves nothing of a file in memory.

    What was just written is dirty, and pages that are dirty stay: first `sync`. Root drops everything, so that the
    tables which describe files are cold too.
    """
    os.sync()
    with open(path, "rb") as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with contextlib.suppress(PermissionError):
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
