"""What `scripts/gpu_report.sh` says: runs the steps, keeps what each found, and makes the table."""

import json
import os
import pathlib
import sys
import time

import steps
import table
from programs import CACHE, Missing, Programs, pack

WORK = pathlib.Path(os.environ.get("AIR_GPU", CACHE / "air-gpu")).resolve()


def log(text):
    print(text, file=sys.stderr, flush=True)


def step(which, programs, sizes):
    """Runs a step and writes what it found, or why it found nothing."""
    start = time.monotonic()
    programs.begin()
    try:
        found = which(programs, sizes)
    except Missing as why:
        found = {"missing": str(why)}
    found["seconds"] = round(time.monotonic() - start, 1)
    (programs.work / f"{which.__name__}.json").write_text(json.dumps(found, indent=1) + "\n")
    log(f"{which.__name__}: {found.get('missing', 'done')} ({found['seconds']:.0f} s)")
    return found


def main(args):
    if args[:1] == ["--pack"] and len(args) == 2:
        pack(pathlib.Path(args[1]), ["--release"])
        return 0
    rehearse = args[:1] == ["--rehearse"]
    wanted = args[1:] if rehearse else args
    known = {s.__name__: s for s in steps.ALL}
    unknown = [name for name in wanted if name not in known and name != "table"]
    if unknown:
        log(f"{unknown[0]} is no step; there are {' '.join(known)} table")
        return 2
    programs = Programs(WORK / "rehearsal" if rehearse else WORK, rehearse)
    sizes = steps.Sizes(rehearse)
    for name, which in known.items():
        if name in wanted or not wanted:
            step(which, programs, sizes)
    if wanted and "table" not in wanted:
        return 0
    found = {name: table.read(programs.work / f"{name}.json") for name in known}
    (programs.work / "report.json").write_text(json.dumps(found, indent=1) + "\n")
    text, rows = table.markdown(found, rehearse)
    (programs.work / "report.md").write_text(text)
    print(text)
    log(f"raw figures: {programs.work / 'report.json'}")
    # A rehearsal must fill every row, but for a tool that only machines with a GPU have, and the rate of a drive, which
    # a file so small does not show.
    allowed = ("compute-sanitizer", "share of the drive")
    empty = [r for r in rows if rehearse and r.missing and not any(a in r.title for a in allowed)]
    for row in empty:
        log(f"the rehearsal left a row empty: {row.title}: {row.missing}")
    return int(bool(empty))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
