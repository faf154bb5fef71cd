#!/usr/bin/env python3
"""`air serve` beside llama.cpp's server on this machine's processor: streams together, one alone, a shared beginning.

    scripts/compare_llama_server.py            # five pairs: about 10 minutes
    scripts/compare_llama_server.py --quick    # two pairs of short answers, llama.cpp with its defaults

Both serve the same synthetic model of random weights with the same threads, slots and context, and are asked in turn (A
B A B …) by the same client, which takes its share of the cores: streams of /v1/completions, prompts as token ids that
nobody has asked before, greedy, neither the end of the text nor parts of characters ever chosen, so that all answers
are equally long and told token by token. The tokens of each are counted twice, by events and by `usage`; an answer of
another length ends the script. Tokens a second are those of all streams from the first request to the last end, prompts
of 16 tokens included. Time to the first token is that of a prompt's only token; what of a prompt was known the servers
say themselves (`cached_tokens`).

llama.cpp's server is built from source with clang by fetch_oracles.sh, and gets the best of a few of its settings for
many streams, found in short trials. On stdout: a Markdown table for benches/RESULTS.md; raw figures go to
benches/results/, progress to stderr. Needs Python 3.9 or newer, Rust, clang-16 and 2 GB in $AIR_ORACLES.
The parts are in scripts/compare: `servers` the two and the client, `programs` what must be there first.
"""

import argparse
import contextlib
import os
import pathlib
import statistics
import sys
import time

from compare import servers
from compare.machine import machine
from compare.programs import commit, output, prepare, save, synthetic
from compare.table import rows, spread

SHAPE, QUANT = "llama-1.5b-bench", "Q4_K"
PROMPT = 16  # tokens before the answers of streams
PREFIX, REST = 1000, 8  # tokens that two prompts share, and those in which they differ
CONTEXT = 2048  # of each slot
PAUSE = 0.5  # seconds after each run: llama.cpp's threads spin for 0.2 more
# What llama.cpp is tried with, one at a time.
SETTINGS = {
    "its defaults": [],
    "no flash attention": ["-fa", "off"],
    "not repacked": ["--no-repack"],
    "one cache for all slots": ["--kv-unified"],
    "no cache in memory": ["--cache-ram", "0"],
}


def log(text):
    print(text, file=sys.stderr, flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two pairs, answers of 32 tokens, no trials")
    parser.add_argument("--pairs", type=int, help="runs of each [default: 5]")
    parser.add_argument("--streams", type=int, default=16, help="at once, and slots of both [default: 16]")
    parser.add_argument("--tokens", type=int, help="of each answer [default: 128]")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=cores, help="of both [default: all cores]")
    parser.add_argument("--air", type=pathlib.Path, help="the program [default: built from this tree]")
    parser.add_argument("--out", type=pathlib.Path, help="raw JSON [default: benches/results/DATE-server-CPU.json]")
    args = parser.parse_args()
    args.pairs = args.pairs or (2 if args.quick else 5)
    args.tokens = args.tokens or (32 if args.quick else 128)
    if args.pairs < 5 and not args.quick:
        parser.error("fewer than 5 pairs say nothing")
    return args


def prompts(seed, n):
    return [servers.prompt(f"{seed}, stream {i}", PROMPT) for i in range(n)]


def runs(args):
    """What is measured of each server: a name, and how, with a seed that no other pair has."""
    return {
        "one": lambda at, seed: servers.together(at, prompts(f"{seed}, alone", 1), args.tokens),
        "many": lambda at, seed: servers.together(at, prompts(seed, args.streams), args.tokens),
        "shared": lambda at, seed: servers.shared(at, seed, PREFIX, REST),
    }


def best_setting(args, model):
    """llama.cpp's fastest setting for many streams, and what each reached."""
    if args.quick:
        return next(iter(SETTINGS)), {}
    tried = {}
    for name, flags in SETTINGS.items():
        server = servers.llama(model, args.threads, args.streams, CONTEXT, flags)
        try:
            servers.together(server.address, prompts("warm", args.streams), 4)
            trials = [prompts(f"trial {i}", args.streams) for i in range(2)]
            tried[name] = max(servers.together(server.address, trial, 24)["tps"] for trial in trials)
        finally:
            server.close()
        log(f"llama.cpp, {name}: {tried[name]:.1f} tok/s")
    return max(tried, key=tried.get), tried


def measure(args, ours, theirs):
    """Of each run the results of both, pair by pair."""
    results = {name: {"air": [], "llama_cpp": []} for name in runs(args)}
    for pair in ["to warm up", *range(args.pairs)]:
        for name, run in runs(args).items():
            for who, server in (("air", ours), ("llama_cpp", theirs)):
                time.sleep(PAUSE)
                result = run(server.address, f"pair {pair}")
                if pair != "to warm up":
                    results[name][who].append(result)
        if pair != "to warm up":
            log(f"pair {pair + 1}: {', '.join(summary(results))}")
    return results


def summary(results):
    for name, _, of in FIGURES:
        a, b = (of(results, who)[-1] for who in ("air", "llama_cpp"))
        yield f"{name} {a:.1f} against {b:.1f}"


def field(run, key, scale=1.0):
    return lambda results, who: [r[key] * scale for r in results[run][who]]


def sooner(results, who):
    return [r["first"] / r["second"] for r in results["shared"][who]]


def gained(results, who):
    return [many["tps"] / one["tps"] for many, one in zip(results["many"][who], results["one"][who])]


# A name, its digits, and its values in the pairs' order.
FIGURES = [
    ("one stream, tok/s", 1, field("one", "tps")),
    ("streams together, tok/s", 1, field("many", "tps")),
    ("as many times one alone", 1, gained),
    ("between their tokens, p50, ms", 0, field("many", "p50", 1e3)),
    ("between their tokens, p99, ms", 0, field("many", "p99", 1e3)),
    ("first token of a new prompt, ms", 0, field("shared", "first", 1e3)),
    ("first token of one that begins like it, ms", 0, field("shared", "second", 1e3)),
    ("as many times sooner", 1, sooner),
]


def table(result):
    lines = []
    for name, digits, of in FIGURES:
        air, llama = (of(result["runs"], who) for who in ("air", "llama_cpp"))
        ratio = [a / b for a, b in zip(air, llama)]
        lines.append([name, spread(air, digits), spread(llama, digits), spread(ratio, 2)])
    return rows(["measured", "air", "llama-server", "air / llama-server"], lines)


def targets(result):
    """What air is held to, and whether the medians hold it."""
    results = result["runs"]
    together = field("many", "tps")
    ratio = [a / b for a, b in zip(together(results, "air"), together(results, "llama_cpp"))]
    asked = [
        (f"{result['streams']} streams together, against llama-server's", ratio, 1.5),
        (f"{result['streams']} streams together, against one alone", gained(results, "air"), 5),
        ("first token of a prompt that begins like another, as many times sooner", sooner(results, "air"), 10),
    ]
    verdict = lambda seen, least: "holds" if statistics.median(seen) >= least else "**missed**"
    lines = [[what, f"{least} times", spread(seen, 2), verdict(seen, least)] for what, seen, least in asked]
    return rows(["target", "at least", "air", ""], lines)


def markdown(result):
    about, peer = result["machine"], result["peer"]
    shape = f"{result['streams']} streams at once, answers of {result['tokens']} tokens after {PROMPT}"
    tried = "; ".join(f"{name} {tps:.1f}" for name, tps in peer["tried"].items())
    return "\n".join([
        f"### Servers, {result['date']}, {about['cpu']}, {about['cores']} cores, {result['threads']} threads",
        "",
        f"air {result['commit']} (`{result['flags']}`); llama-server {peer['version']}",
        f"(`{peer['flags']}`), {peer['setting']}{f', tried in tok/s: {tried}' if tried else ''}.",
        f"{SHAPE} at {QUANT}; {shape}; a prompt of {PREFIX + REST} tokens, and another with its first {PREFIX}.",
        f"The processor has {' '.join(about['sets'])}. Load before: {about['load_before']:.1f}.",
        f"Medians of {result['pairs']} alternating pairs (min–max), by the client's clock; of times less is better.",
        "",
        *table(result),
        "",
        *targets(result),
    ])  # fmt: skip


def main():
    args = arguments()
    prepare(args, servers.LLAMA_SERVER, "--server")
    model, _ = synthetic(args, SHAPE, QUANT, CONTEXT)
    start, about = time.time(), machine()
    if about["load_before"] > 0.3 * about["cores"]:
        log(f"warning: other programs are running (load {about['load_before']:.1f}); they disturb the figures")
    setting, tried = best_setting(args, model)
    with contextlib.ExitStack() as running:
        ours = servers.air(args.air, model, args.threads, args.streams, CONTEXT)
        running.callback(ours.close)
        theirs = servers.llama(model, args.threads, args.streams, CONTEXT, SETTINGS[setting])
        running.callback(theirs.close)
        found = measure(args, ours, theirs)
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": about,
        "commit": commit(),
        "flags": ours.flags,
        "peer": {"version": servers.llama_version(), "flags": theirs.flags, "setting": setting, "tried": tried},
        "threads": args.threads,
        "streams": args.streams,
        "tokens": args.tokens,
        "pairs": args.pairs,
        "runs": found,
        "seconds": round(time.time() - start),
    }
    path = output(args, about, "server-")
    save(path, result)
    print(markdown(result))
    log(f"{result['seconds']} s; raw figures are in {path}")


main()
