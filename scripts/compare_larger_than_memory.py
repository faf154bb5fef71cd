#!/usr/bin/env python3
"""air beside llama.cpp where the model is larger than the memory: under one limit, alternately, on the same file.

    scripts/compare_larger_than_memory.py            # all rows: about 75 minutes
    scripts/compare_larger_than_memory.py --quick    # 1.5B Q8_0 at 60% and 40%: under five minutes

Every run is a new process under a cgroup's memory limit that counts everything, the page cache too; before it, `sync`
(what was just written stays in memory otherwise), and the caches are dropped. Both have the same context and threads.
llama.cpp gets the best of its own settings for each row, found in short trials: reading by mmap or directly, repacked
weights or not, rows computed at a time; settings that are killed for memory or hang are named. What Python itself
needs is not counted against it. Loading is not timed; the pass over the prompt warms both before an answer is timed.

The law: a pass takes the longest of the bytes that air's plan streams over the drive's speed, the bytes that it touches
over the memory's, and its operations over the measured peak. The drive's speed is fio's, direct, with block size and
depth as `air probe` says, measured before each pair. Bytes that were really read are the kernel's count
(/proc/PID/io). "Least" is what any program must read: what a pass touches less the whole budget. The peak is what the
cgroup was charged in one more run of air, with the same budget under a limit four times as high.

A run can be ended and continued: with `--json FILE`, what is known is kept after each pair, and `--continue` takes what
is missing; `--seconds N` begins no other step after so long. Progress goes to stderr, Markdown to stdout.

Needs root or a delegated cgroup, fio, what compare_llama_cpp.py needs, and 9 GB in $AIR_ORACLES. The mixture of experts
is taken with `--models moe` and needs 19 GB; `moe-quarter` is a quarter of its layers under a quarter of its budget.
The parts are in scripts/compare: `streamed` the rows and one run, `limit` the cgroup, `drive` fio, `larger_table` the
output.
"""

import argparse
import json
import os
import pathlib
import sys
import time

from compare import drive, larger_table, streamed
from compare.limit import Limit
from compare.machine import limits, machine
from compare.programs import commit, peer_package, prepare, synthetic
from compare.streamed import Row

SHARES = [0.9, 0.73, 0.6, 0.4, 0.2]


def decode(shape, quant, answer, pairs, shares=SHARES):
    return [Row(shape, quant, share, "decode", answer=answer, pairs=pairs) for share in shares]


SMALL = "llama-1.5b-bench", "Q8_0"
GROUPS = {
    "1.5b": [
        *decode(*SMALL, answer=16, pairs=5),
        Row(*SMALL, 0.4, "prefill", prompt=4096, context=4352, pairs=3),
        Row(*SMALL, 0.4, "decode", answer=16, batch=32, context=256, pairs=3),
    ],
    "3b": decode("llama-3b-bench", "Q4_K_M", answer=10, pairs=5),
    # Slow ones have fewer pairs, which the table says.
    "8b": decode("llama-3.1-8b", "Q4_K_M", answer=6, pairs=3),
    "moe": [Row("qwen3-30b-a3b", "Q4_K_M", 4e9, "decode", answer=12, pairs=3)],
    "moe-quarter": [Row("qwen3-30b-a3b", "Q4_K_M", 1e9, "decode", answer=16, pairs=5, layers=12)],
}
QUICK = decode(*SMALL, answer=10, pairs=3, shares=[0.6, 0.4])


def log(text):
    print(text, file=sys.stderr, flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rows, three pairs")
    parser.add_argument("--models", nargs="+", choices=[*GROUPS, "all"], default=["1.5b", "3b", "8b"], metavar="MODEL",
                        help="1.5b 3b 8b moe moe-quarter, or all [default: the dense ones]")
    parser.add_argument("--pairs", type=int, help="runs of each [default: 5, of slow rows 3]")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=cores, help="of both [default: all cores]")
    parser.add_argument("--air", type=pathlib.Path, help="the program [default: built from this tree]")
    parser.add_argument("--json", type=pathlib.Path, metavar="OUT", help="raw figures")
    parser.add_argument("--continue", dest="more", action="store_true", help="take what OUT lacks")
    parser.add_argument("--seconds", type=float, default=1e9, help="end, to be continued, after so long")
    args = parser.parse_args()
    if (args.more or args.seconds < 1e9) and not args.json:
        parser.error("what is continued needs --json")
    return args


def begin(args):
    """What is known before the first row: of an earlier run, or nothing but the machine."""
    about = machine()
    if args.more and args.json.exists():
        known = json.loads(args.json.read_text())
        if known["commit"] != commit() or known["threads"] != args.threads:
            log("warning: the earlier part was taken of another commit or with other threads")
        return known
    if about["load_before"] > 0.3 * about["cores"]:
        log(f"warning: other programs are running (load {about['load_before']:.1f}); they disturb the figures")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": about,
        "commit": commit(),
        "threads": args.threads,
        "peer": {"package": peer_package()},
        "seconds": 0.0,
        "limits": None,
        "rows": {},
    }


class Run:
    """The rows, one after another, and what is kept after each step."""

    def __init__(self, args):
        self.args, self.result = args, begin(args)
        self.start, self.before = time.monotonic(), self.result["seconds"]

    def save(self):
        self.result["seconds"] = round(self.before + time.monotonic() - self.start, 1)
        if self.args.json:
            self.args.json.write_text(json.dumps(self.result, indent=1, ensure_ascii=False) + "\n")

    def over(self):
        return time.monotonic() - self.start > self.args.seconds

    def row(self, row, path):
        """Takes a row's steps that are missing; whether it is complete, which it is not when the time is over."""
        if row.name() not in self.result["rows"]:
            log(f"{row.name()} ({row.limit(path) / 1e9:.2f} GB):")
        kept = self.result["rows"].setdefault(row.name(), {
            "model": row.model(), "budget": row.at(), "what": row.what(), "limit": row.limit(path),
            "pass": row.rows_of_pass(), "pairs": self.args.pairs or row.pairs, "tried": {}, "failed": [],
            "fio": [], "air": [], "llama_cpp": [],
        })
        for step in self.steps(row, path, kept):
            if self.over():
                return False
            step()
            self.save()
        return True

    def steps(self, row, path, kept):
        """What is missing of a row, each to be taken before the next is asked for."""
        if "drive" not in kept:
            yield lambda: self.drive(path, kept)
        for setting in streamed.settings(row):
            if streamed.setting_name(setting) not in kept["tried"] and not self.hopeless(row, setting):
                yield lambda: self.trial(row, path, kept, setting)
        while len(kept["air"]) < kept["pairs"]:
            yield lambda: self.pair(row, path, kept)
        if "peak" not in kept:
            yield lambda: self.peak(row, path, kept)

    def peak(self, row, path, kept):
        kept["peak"] = streamed.run_air(self.args, row, path, kept["limit"] * streamed.ABOVE)["peak"]

    def drive(self, path, kept):
        kept["drive"] = drive.probed(self.args, path)
        drive.read_whole(path, kept["drive"])

    def hopeless(self, row, setting):
        """Whether loading so has failed already: rows of a model go from larger budgets to smaller ones."""
        same = [r for r in self.result["rows"].values() if r["model"] == row.model()]
        return any(list(setting) in r["failed"] for r in same)

    def trial(self, row, path, kept, setting):
        tps = streamed.try_setting(self.args, row, path, setting, max(kept["tried"].values(), default=None))
        name = streamed.setting_name(setting)
        if tps is None:
            kept["failed"].append(list(setting))
            log(f"  llama.cpp cannot with {name}")
        else:
            kept["tried"][name] = tps
            log(f"  llama.cpp with {name}: {tps:.2f} tok/s")

    def pair(self, row, path, kept):
        settings = {streamed.setting_name(s): s for s in streamed.settings(row)}
        if not kept["tried"]:
            raise SystemExit(f"llama.cpp runs with no setting under {kept['limit'] / 1e9:.2f} GB")
        kept["setting"] = max(kept["tried"], key=kept["tried"].get)
        kept["fio"].append(drive.speed(path, kept["drive"], len(kept["fio"])))
        ours = streamed.run_air(self.args, row, path, kept["limit"])
        theirs = streamed.run_peer(self.args, row, path, settings[kept["setting"]])
        kept["report"] = ours.pop("report")
        self.result["peer"] |= theirs.pop("about")
        kept["air"].append(ours)
        kept["llama_cpp"].append(theirs)
        log(f"  {ours['tps']:.2f} against {theirs['tps']:.2f} tok/s")


def main():
    args = arguments()
    drive.needed()
    prepare(args)
    with Limit(1 << 30):
        pass  # says at once where none can be made
    run = Run(args)
    if not run.result["limits"]:
        run.result["limits"] = limits(args, synthetic(args, "tiny-llama", "Q8_0")[0])
    groups = GROUPS if "all" in args.models else args.models
    rows = QUICK if args.quick else [row for group in groups for row in GROUPS[group]]
    for row in rows:
        if not run.row(row, synthetic(args, row.shape, row.quant, layers=row.layers)[0]):
            log("the time is over; --continue takes the rest")
            sys.exit(3)
    run.save()
    print(larger_table.markdown(run.result))
    log(f"{run.result['seconds']:.0f} s")


main()
