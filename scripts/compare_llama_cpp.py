#!/usr/bin/env python3
"""air beside llama.cpp on this machine's processor: prefill and decode, ratios, the machine's limit, and the error.

    scripts/compare_llama_cpp.py            # ten formats and the mix Q4_K_M: under an hour
    scripts/compare_llama_cpp.py --quick    # Q4_K_M, Q4_K and Q8_0: under five minutes

Both run the same synthetic model of random weights with the same threads and context, in turn (A B A B …), at least
five pairs; both stay loaded meanwhile, and what stands before a measurement is read once. llama.cpp (through
llama-cpp-python, built from source with clang by fetch_oracles.sh) gets the better of its own settings for each
figure, found in short trials: repacked weights or not, flash attention or not. air's time has the choice of the next
token in it, llama.cpp's has not.

The limit of prefill is the measured arithmetic peak over the operations of a token; that of decoding this or the
memory's measured bandwidth over the bytes that a token touches, whichever is lower. A figure above our own limit would
prove the limit wrong; the script says so and ends with 1, as when llama.cpp is not at its best. On stdout: Markdown
tables, for benches/RESULTS.md. Raw figures go to benches/results/, after each model what is known so far; progress goes
to stderr.

Needs Python 3.9 or newer, Rust, clang-16 and about 20 GB in $AIR_ORACLES (default ~/.cache/air-oracles) for the models.
The parts are in scripts/compare: `engines` the two programs and the cases, `machine` the limits, `accuracy` the error,
`programs` what must be there first, `table` the output.
"""

import argparse
import datetime
import os
import pathlib
import sys
import time

from compare import table
from compare.accuracy import errors, positions
from compare.engines import BASE, OTHERS, Air, Peer
from compare.machine import add_limits, best_limits, limits, machine
from compare.programs import commit, output, peer_package, prepare, save, synthetic

SHAPE = "llama-1.5b-bench"
FORMATS = "Q4_0 Q4_K Q5_K Q6_K Q8_0 IQ4_NL IQ4_XS MXFP4 F16 BF16".split()
MIX = "Q4_K_M"
QUICK = [MIX, "Q4_K", "Q8_0"]
MORE = ["Q4_K", "Q8_0"]  # with other lengths, depths and batches too
PAUSE = 0.3  # seconds after each run: llama.cpp's threads spin for 0.2 more


def log(text):
    print(text, file=sys.stderr, flush=True)


def measure(case, air, peer, settings, pairs):
    """Figures of alternating runs: (air's, the peer's), one list each."""
    peer.run(case, settings)  # warms up, and reads what stands before; air has done so before it was ready
    ours, theirs = [], []
    for _ in range(pairs):
        time.sleep(PAUSE)
        ours.append(air.run())
        time.sleep(PAUSE)
        theirs.append(peer.run(case, settings))
    return ours, theirs


def compare(args, quant, cases):
    """All cases of one model: what the peer is, rows, errors."""
    model, context = model_file(args, quant)
    peer, rows, wrong = Peer(model, args.threads), [], {}
    for case in filter(None, (c.fitted(context) for c in cases)):
        settings = peer.best(case, sample=8 if args.quick else 16)
        air = Air(args.air, model, case, args.threads, args.pairs)
        ours, theirs = measure(case, air, peer, settings, args.pairs)
        report = air.close()
        for figure in case.figures:
            row = {"model": quant, "case": case.name(figure), "figure": figure, "setting": settings[figure]}
            row |= {"air": [r[figure] for r in ours], "llama_cpp": [r[figure] for r in theirs], "report": report}
            row["ratio"] = [a / b for a, b in zip(row["air"], row["llama_cpp"])]
            rows.append(row)
            ratio = table.spread(row["ratio"], 2)
            log(f"  {row['case']}: {table.spread(row['air'])} against {table.spread(row['llama_cpp'])}: {ratio}")
        if not wrong:
            wrong = errors(args, model, peer, settings["prefill"])
            log(f"  error: {wrong['air']:.2e} against {wrong['llama_cpp']:.2e}")
    about = peer.about
    peer.close()
    return about, rows, wrong


def model_file(args, quant):
    """The model's file and its context."""
    longest = max(c.context for c in [BASE, *OTHERS]) if args.shape == SHAPE else 0
    return synthetic(args, args.shape, quant, longest)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three models, one prompt length")
    parser.add_argument("--formats", nargs="+", metavar="TYPE", help="these types only [default: the mix and all ten]")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each [default: 5]")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=cores, help="of both [default: all cores]")
    parser.add_argument("--shape", default=SHAPE, help=f"model shape of `air synth` [default: {SHAPE}]")
    parser.add_argument("--air", type=pathlib.Path, help="the program [default: built from this tree]")
    parser.add_argument("--out", type=pathlib.Path, help="raw JSON [default: benches/results/DATE-CPU.json]")
    args = parser.parse_args()
    if args.pairs < 5:
        parser.error("fewer than 5 pairs say nothing")
    return args


def main():
    args = arguments()
    prepare(args)
    quants = args.formats or (QUICK if args.quick else [MIX, *FORMATS])
    for quant in quants:
        model_file(args, quant)
    start, about = time.time(), machine()
    path = output(args, about)
    if about["load_before"] > 0.3 * about["cores"]:
        log(f"warning: other programs are running (load {about['load_before']:.1f}); they disturb the figures")
    package = peer_package()
    result = {
        "date": str(datetime.date.today()),
        "machine": about,
        "commit": commit(),
        "shape": args.shape,
        "threads": args.threads,
        "pairs": args.pairs,
        "positions": positions(args),
        "rows": [],
        "errors": {},
    }
    measured = [limits(args, model_file(args, quants[0])[0])]
    for quant in quants:
        log(f"{quant}, after {time.time() - start:.0f} s:")
        cases = [BASE] if args.quick or quant not in MORE else [BASE, *OTHERS]
        peer, rows, result["errors"][quant] = compare(args, quant, cases)
        result["peer"] = peer | {"package": package}
        result["rows"] += rows
        save(path, result)
    measured.append(limits(args, model_file(args, quants[0])[0]))
    result["limits"] = best_limits(measured, result["rows"])
    add_limits(result["rows"], result["limits"])
    valid, result["verdicts"] = table.verdicts(result)
    result["seconds"] = round(time.time() - start)
    save(path, result)
    print(table.markdown(result))
    log(f"{result['seconds']} s; raw figures are in {path}")
    if not valid:
        log("this run may not be quoted: " + " ".join(result["verdicts"]))
        sys.exit(1)


main()
