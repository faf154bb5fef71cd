#!/usr/bin/env python3
"""Asks `air serve` what its OpenAPI document allows, and what it does not, thousands of times:

    scripts/check_openapi.py [--cases 500] [--seed 1] [--air target/debug/air]

schemathesis draws requests from the document of a server with the embedded model, half of them without keys and half
with. Every answer must have a status, a type, a head and a body that the document has for it, events of streams too;
what does not fit must be refused, what fits must be answered or refused for a reason that no schema can say
(scripts/openapi/hooks.py), and nothing may fail in the server. The same seed draws the same requests. From 4000 cases
on the corners of every field are tried one by one as well.

`scripts/fetch_oracles.sh --clients` fetches schemathesis to $AIR_ORACLES; without it this says so and is no failure.
"""

import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("AIR_ORACLES", pathlib.Path.home() / ".cache/air-oracles"))
SCHEMATHESIS = CACHE / "schemathesis/bin/schemathesis"
# Operations of which thousands of different requests can be drawn, one of them spared: now and then less is drawn than
# was asked for. The others have one request each.
DRAWN = 5
# Cases from which on corners are tried too, and at least how many of them there are.
CORNERS = 4000
CORNER_CASES = 1000
KEY = "a-key-for-this-check"


def serve(air, folder, *arguments):
    """A server that is ready, and its address."""
    log = open(folder / "server.log", "ab")
    command = [air, "serve", "-P", "0", "-n", "8", *arguments]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    line = server.stdout.readline().strip()
    if not line.startswith("ready: "):
        raise SystemExit(f"air serve was not ready: {(folder / 'server.log').read_text()}")
    return server, line.removeprefix("ready: ").removesuffix("/v1")


def draw(address, folder, wanted, seed, arguments):
    """Runs schemathesis once; whether all was well, and what was counted."""
    counts = folder / "counts.json"
    corners = wanted * 2 >= CORNERS
    command = [
        *(SCHEMATHESIS, "run", f"{address}/openapi.json", "--seed", str(seed), "--no-color"),
        *("--phases", "coverage,fuzzing" if corners else "fuzzing"),
        *("-n", str(-(-(wanted - (CORNER_CASES if corners else 0)) // DRAWN))),
        *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
        *("--continue-on-failure", "--generation-database", "none", "--suppress-health-check", "all"),
        *("--output-truncate", "true", "--warnings", "off"),
        *arguments,
    ]
    environment = dict(os.environ, SCHEMATHESIS_HOOKS="hooks", AIR_OPENAPI_COUNTS=str(counts))
    environment["PYTHONPATH"] = str(ROOT / "scripts/openapi")
    run = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    found = json.loads(counts.read_text()) if counts.exists() else {}
    if run.returncode != 0:
        print(run.stdout, run.stderr, sep="\n")
    return run.returncode == 0, collections.Counter(found)


def table(counts):
    """Requests by endpoint, by whether they fit, and by status."""
    rows = collections.defaultdict(collections.Counter)
    for name, n in counts.items():
        endpoint, kind, status = name.rsplit("|", 2)
        if status == "405":
            endpoint = "(other methods)"
        rows[endpoint, kind][status] += n
    for (endpoint, kind), statuses in sorted(rows.items()):
        print(f"  {endpoint:28} {kind:9} {told(statuses)}")


def told(statuses):
    return ", ".join(f"{status}: {n}" for status, n in sorted(statuses.items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--air", default=pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug/air")
    arguments = parser.parse_args()
    if not SCHEMATHESIS.exists():
        print("skipped: no schemathesis; scripts/fetch_oracles.sh --clients fetches it")
        return
    well, counts = True, collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "keys").write_text(KEY + "\n", encoding="utf-8")
        keyed = ["--api-key-file", str(folder / "keys")]
        for options, head in [([], []), (keyed, ["-H", f"Authorization: Bearer {KEY}"])]:
            server, address = serve(pathlib.Path(arguments.air).resolve(), folder, *options)
            try:
                passed, found = draw(address, folder, arguments.cases // 2, arguments.seed, head)
            finally:
                server.terminate()
                ended = server.wait()
            well &= passed and ended == 0
            counts += found
    table(counts)
    statuses = collections.Counter()
    for name, n in counts.items():
        statuses[name.rsplit("|", 1)[1]] += n
    sent = sum(counts.values())
    # Too little was asked, or answered: that shows nothing.
    well &= sent >= arguments.cases and statuses["200"] > sent // 5
    print(f"{sent} requests from seed {arguments.seed}: {told(statuses)}; {'all well' if well else 'FAILED'}")
    if not well:
        sys.exit(1)


if __name__ == "__main__":
    main()
