"""The drive's speed by `fio`, the judge that neither program wrote, in the fastest way that the machine lets it.

Buffers of huge pages: a read into scattered small pages is split where the drive takes few segments, and gave half the
speed on a virtual drive. Root reserves some for the time of the run; without, the table says so.
"""

import atexit
import json
import pathlib
import re
import shutil
import subprocess

BLOCK, DEPTH = 1 << 20, 4  # where `air probe` has no better ones
HUGE = pathlib.Path("/proc/sys/vm/nr_hugepages")
PAGES = 64  # as many huge pages are enough for any block and depth that `air probe` tries


def free_pages():
    return int(re.search(r"HugePages_Free:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1])


def needed():
    """Checks that fio is there and reserves its huge pages until this program ends."""
    if not shutil.which("fio"):
        raise SystemExit("fio is missing; the drive is measured with it (Debian: apt install fio)")
    if free_pages() < PAGES:
        before = HUGE.read_text()
        try:
            HUGE.write_text(str(int(before) + PAGES))
        except PermissionError:
            return
        atexit.register(HUGE.write_text, before)


def probed(args, model):
    """Block size in bytes and depth that `air probe` finds best on the very file."""
    shape = {"block": BLOCK, "depth": DEPTH, "by": "default", "huge_pages": free_pages() >= PAGES}
    run = subprocess.run([args.air, "probe", "--json", model], capture_output=True, text=True)
    if run.returncode == 0:
        best = json.loads(run.stdout)["best"]
        shape |= {"block": best["block_bytes"], "depth": best["depth"], "by": "air probe", "gbps": best["gbps"]}
    return shape


def fio(model, shape, *more):
    command = ["fio", "--name=read", f"--filename={model}", "--readonly", "--direct=1", "--rw=read"]
    command += [f"--bs={shape['block']}", f"--iodepth={shape['depth']}", "--output-format=json", *more]
    command += ["--mem=shmhuge"] if shape["huge_pages"] else []
    # The first two are forbidden in some containers, the first under a small limit of locked memory.
    for engine in (["--ioengine=io_uring", "--fixedbufs=1"], ["--ioengine=io_uring"], ["--ioengine=libaio"]):
        run = subprocess.run([*command, *engine], capture_output=True, text=True)
        if run.returncode == 0:
            # Notes may stand before the JSON.
            return json.loads(run.stdout[run.stdout.index("{") :])["jobs"][0]["read"]["bw_bytes"]
    raise SystemExit(f"fio cannot read {model}: {run.stderr.strip() or run.stdout.strip()}")


def speed(model, shape, number, seconds=2):
    """Bytes per second of direct reads in order, from another place of the file each time."""
    return fio(model, shape, "--time_based", f"--runtime={seconds}", f"--offset={number * 37 % 80}%")


def read_whole(model, shape):
    """Reads a file once past the page cache: what a drive or a host keeps of it, it then keeps for both programs."""
    return fio(model, shape)
