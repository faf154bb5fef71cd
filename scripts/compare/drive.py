"""The drive's speed by `fio`, the judge that neither program wrote."""

import json
import shutil
import subprocess

BLOCK, DEPTH = 1 << 20, 4  # where `air probe` has no better ones


def needed():
    if not shutil.which("fio"):
        raise SystemExit("fio is missing; the drive is measured with it (Debian: apt install fio)")


def probed(args, model):
    """Block size in bytes and depth that `air probe` finds best on the very file."""
    run = subprocess.run([args.air, "probe", "--json", model], capture_output=True, text=True)
    if run.returncode != 0:
        return {"block": BLOCK, "depth": DEPTH, "by": "default"}
    best = json.loads(run.stdout)["best"]
    return {"block": best["block_bytes"], "depth": best["depth"], "by": "air probe"}


def fio(model, shape, *more):
    command = ["fio", "--name=read", f"--filename={model}", "--readonly", "--direct=1", "--rw=read"]
    command += [f"--bs={shape['block']}", f"--iodepth={shape['depth']}", "--output-format=json", *more]
    for engine in ("io_uring", "libaio"):  # the first is forbidden in some containers
        run = subprocess.run([*command, f"--ioengine={engine}"], capture_output=True, text=True)
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
