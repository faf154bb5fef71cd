#!/usr/bin/env python3
"""air beside llama.cpp on this machine's processor: prefill and decode, ratios, and the machine's limit.

    scripts/compare_llama_cpp.py            # ten formats and the mix Q4_K_M: under an hour
    scripts/compare_llama_cpp.py --quick    # Q4_K_M, Q4_K and Q8_0: under five minutes

Both run the same synthetic model of random weights with the same threads and context, in turn (A B A B …), at least
five pairs; both stay loaded meanwhile, and what stands before a measurement is read once. llama.cpp (through
llama-cpp-python, built from source with clang by fetch_oracles.sh) gets the better of its own settings for each
figure: repacked weights or not, flash attention or not. air's time has the choice of the next token in it, llama.cpp's
has not.

The limit of decoding is the memory's measured bandwidth over the bytes that a token touches; that of prefill the
measured arithmetic peak over its operations. A figure above our own limit would prove the limit wrong, and the script
says so. On stdout: a Markdown table, for benches/RESULTS.md. Raw figures go to benches/results/, progress to stderr.

Needs Python 3.9 or newer, Rust, clang-16 and about 15 GB in $AIR_ORACLES (default ~/.cache/air-oracles) for the models.
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("AIR_ORACLES", pathlib.Path.home() / ".cache/air-oracles"))
SHAPE = "llama-1.5b-bench"
FORMATS = "Q4_0 Q4_K Q5_K Q6_K Q8_0 IQ4_NL IQ4_XS MXFP4 F16 BF16".split()
MIX = "Q4_K_M"
QUICK = [MIX, "Q4_K", "Q8_0"]
MORE = ["Q4_K", "Q8_0"]  # with other lengths, depths and batches too
PAUSE = 0.3  # seconds after each run: llama.cpp's threads spin for 0.2 more

# llama.cpp on two cores with AMX (clang build, 2026-11-20): tokens per second of prefill 256 and decode 32. A run in
# which it is slower than nine tenths of this, on such a machine, compares with a peer that is not at its best.
REFERENCE = {(MIX, "prefill"): 239.0, (MIX, "decode"): 19.8, ("Q8_0", "prefill"): 254.0, ("Q8_0", "decode"): 19.6}


def log(text):
    print(text, file=sys.stderr, flush=True)


class Child:
    """A process that answers each line with a line of JSON."""

    def __init__(self, command, **options):
        self.command = [str(c) for c in command]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, text=True, **options)
        self.about = self.hear()

    def hear(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self.command)} ended with code {self.process.wait()}")
        return json.loads(line)

    def ask(self, question=""):
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return self.hear()

    def close(self):
        self.process.stdin.close()
        rest = self.process.stdout.read()
        self.process.wait()
        return rest


class Case:
    """What is measured of a model: which figures, behind which depth, for how many sequences."""

    def __init__(self, figures, prompt=1, answer=1, depth=0, batch=1):
        self.figures, self.prompt, self.answer = figures, prompt, answer
        self.depth, self.batch = depth, batch
        self.context = -(-(depth + prompt + answer + 1) // 256) * 256  # whole units of 256, as llama.cpp has them

    def fitted(self, context):
        """The same within a smaller model's context, if that makes sense."""
        if self.context <= context:
            return self
        left = context - self.answer - 1
        return None if self.depth or left < 1 else Case(self.figures, left, self.answer, 0, self.batch)

    def name(self, figure):
        if figure == "prefill":
            return f"prefill {self.prompt}"
        where = f" at depth {self.depth}" if self.depth else ""
        where += f", {self.batch} together" if self.batch > 1 else ""
        return f"decode {self.answer}{where}"


BASE = Case(["prefill", "decode"], prompt=512, answer=32)
OTHERS = [
    Case(["prefill"], prompt=128),
    Case(["prefill"], prompt=2048),
    Case(["decode"], answer=32, depth=2048),
    Case(["decode"], answer=32, depth=8192),
    Case(["decode"], prompt=32, answer=32, batch=4),
    Case(["decode"], prompt=32, answer=32, batch=16),
]


class Air:
    """`air bench`, waiting between its runs."""

    def __init__(self, program, model, case, threads, runs):
        # The first token of an answer comes from the prompt's pass.
        command = [program, "bench", "--wait", "-m", model, "-p", case.prompt, "-n", case.answer + 1, "-r", runs]
        command += ["-d", case.depth, "-b", case.batch, "-c", case.context, "--threads", threads]
        self.child = Child(command, stderr=subprocess.DEVNULL)

    def run(self):
        answer = self.child.ask()
        return {"prefill": answer["prefill_tps"], "decode": answer["decode_tps"]}

    def close(self):
        return json.loads(self.child.close())


class Peer:
    """llama.cpp with a model loaded in both ways (repacked weights or not), and the settings that are best for it."""

    def __init__(self, model, threads):
        python, script = CACHE / "llama/bin/python", ROOT / "scripts/parity/llama_bench.py"
        self.ways = {way: Child([python, script, model, threads, way]) for way in (1, 0)}
        self.about = self.ways[1].about

    def time(self, setting, case, depth, prompt, answer):
        """Seconds of both parts under a setting: (repack, flash attention)."""
        repack, flash = setting
        question = {"flash": flash, "context": case.context, "batch": case.batch}
        question |= {"depth": depth, "prompt": prompt, "answer": answer}
        return self.ways[repack].ask(json.dumps(question))

    def best(self, case, known, sample):
        """The fastest setting for each figure, of all, or of those that `known` figures leave."""
        chosen = {}
        for figure in case.figures:
            settings = [(repack, flash) for repack in (1, 0) for flash in (1, 0)]
            if case.depth > 4096:
                settings = [known["deep"]]
            elif figure in known and case.batch == 1:
                settings = [s for s in settings if s[0] == known[figure][0]]
            trial = {s: self.trial(s, case, figure, sample) for s in settings} if len(settings) > 1 else {}
            chosen[figure] = min(trial, key=trial.get) if trial else settings[0]
        return chosen

    def trial(self, setting, case, figure, sample):
        """Seconds of a short run, after a shorter one."""
        if figure == "prefill":
            prompt = min(case.prompt, sample * 16)
            self.time(setting, case, 0, 32, 0)
            return self.time(setting, case, 0, prompt, 0)["prefill"]
        depth = 32 if case.depth == 0 else case.depth + case.prompt
        self.time(setting, case, depth, 0, 2)
        return self.time(setting, case, depth, 0, sample)["decode"]

    def run(self, case, settings):
        """Tokens per second of each figure."""
        prefill, decode = settings.get("prefill"), settings.get("decode")
        if prefill == decode:
            both = self.time(prefill, case, case.depth, case.prompt, case.answer)
            seconds = {"prefill": both["prefill"], "decode": both["decode"]}
        else:
            seconds = {}
            if prefill:
                seconds["prefill"] = self.time(prefill, case, case.depth, case.prompt, 0)["prefill"]
            if decode:
                seconds["decode"] = self.time(decode, case, case.depth + case.prompt, 0, case.answer)["decode"]
        tokens = {"prefill": case.prompt * case.batch, "decode": case.answer * case.batch}
        return {figure: tokens[figure] / s for figure, s in seconds.items()}

    def close(self):
        for child in self.ways.values():
            child.close()


def setting_name(setting):
    repack, flash = setting
    return f"{'repacked' if repack else 'not repacked'}, flash attention {'on' if flash else 'off'}"


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
    """All cases of one model."""
    model, context = synthetic(args, quant)
    peer = Peer(model, args.threads)
    known, rows = {}, []
    for case in filter(None, (c.fitted(context) for c in cases)):
        settings = peer.best(case, known, sample=8 if args.quick else 16)
        if case.figures == BASE.figures:
            known |= settings
        if case.depth:
            known["deep"] = settings["decode"]
        air = Air(args.air, model, case, args.threads, args.pairs)
        ours, theirs = measure(case, air, peer, settings, args.pairs)
        report = air.close()
        for figure in case.figures:
            row = {"model": quant, "case": case.name(figure), "figure": figure, "setting": settings[figure]}
            row |= {"air": [r[figure] for r in ours], "llama_cpp": [r[figure] for r in theirs], "report": report}
            row["ratio"] = [a / b for a, b in zip(row["air"], row["llama_cpp"])]
            rows.append(row)
            log(f"  {row['case']}: {spread(row['air'])} against {spread(row['llama_cpp'])}: {spread(row['ratio'], 2)}")
    about = peer.about
    peer.close()
    return about, rows


def synthetic(args, quant):
    """The model's file, made unless it is there and whole, and its context."""
    folder = CACHE / "synthetic"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{args.shape}-{quant}.gguf"
    longest = max(c.context for c in [BASE, *OTHERS]) if args.shape == SHAPE else 0
    # Opening checks that every tensor lies within the file.
    if not (context := length(args, path)) or context < longest:
        command = [args.air, "synth", args.shape, "--quant", quant, "--force", "-o", path]
        subprocess.run(command, check=True, stdout=sys.stderr)
        os.sync()
        context = length(args, path)
    return path, context


def length(args, path):
    """The context of a model file; none if it cannot be opened."""
    info = subprocess.run([args.air, "info", "--json", "-m", path], capture_output=True, text=True)
    return json.loads(info.stdout)["context"] if info.returncode == 0 else None


def machine():
    info = pathlib.Path("/proc/cpuinfo").read_text() if pathlib.Path("/proc/cpuinfo").exists() else ""
    field = lambda name: next(iter(re.findall(rf"^{name}\s*: (.*)$", info, re.M)), "")
    memory = re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())
    flags = set(field("flags").split())
    sets = [f for f in "avx2 avx512f avx512_vnni avx512_bf16 avx512_fp16 amx_int8 amx_bf16".split() if f in flags]
    return {
        "cpu": field("model name") or os.uname().machine,
        "family_model": f"{field('cpu family')}/{field('model')}",
        "cores": len(os.sched_getaffinity(0)),
        "sets": sets,
        "memory_gb": round(int(memory[1]) * 1024 / 1e9, 1),
        "kernel": os.uname().release,
        "load_before": os.getloadavg()[0],
    }


def limits(args, model):
    """What `air bench --limits` measures now."""
    command = [args.air, "bench", "--limits", "--json", "-m", model, "-p", "2", "-n", "2", "-r", "1", "-c", "256"]
    command += ["--threads", args.threads]
    out = subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout
    return json.loads(out)["limits"]


def best_limits(measured, rows):
    """The best of what was measured before, between and after the runs: other work only lowers a limit."""
    memory = [g for m in [*measured, *(r["report"]["limits"] for r in rows)] for g in m["mem_gbps"].values()]
    arithmetic = [m["arithmetic"] for m in measured if m["arithmetic"]]
    return {
        "best_mem_gbps": max(memory, default=None),
        "arithmetic": max(arithmetic, key=lambda a: a["int8_tops"], default=None),
        "measured": measured,
    }


def add_limits(rows, measured):
    """Each row's limit in tokens per second, and whether a figure is above it."""
    for r in rows:
        report, cores = r["report"], measured["arithmetic"]
        r["limit"] = None
        if r["figure"] == "decode" and measured["best_mem_gbps"] and report["bytes_per_token"]["mem"]:
            r["limit"] = measured["best_mem_gbps"] * 1e9 / report["bytes_per_token"]["mem"]
        elif r["figure"] == "prefill" and cores:
            tops = cores["f32_tflops"] if r["model"] in ("F16", "BF16") else cores["int8_tops"]
            r["limit"] = tops * 1e12 / report["prefill_ops_per_token"]
        r["above_limit"] = bool(r["limit"]) and max(r["air"] + r["llama_cpp"]) > r["limit"]


def verdicts(rows, about):
    """What a reader must know before believing the table."""
    out = []
    for r in (r for r in rows if r["above_limit"]):
        what, limit = f"{r['model']} {r['case']}", f"{r['limit']:.1f} tok/s"
        out.append(f"**INVALID LIMIT**: {what} ran faster than the limit of {limit} that was measured here.")
    if "amx_int8" not in about["sets"] or about["cores"] != 2:
        out.append("There are no reference figures of llama.cpp for this kind of machine.")
        return out
    for r in (r for r in rows if r["case"] in (BASE.name("prefill"), BASE.name("decode"))):
        known = REFERENCE.get((r["model"], r["figure"]))
        have = statistics.median(r["llama_cpp"])
        if known and have < 0.9 * known:
            what = f"{have:.1f} tok/s in {r['model']} {r['case']}"
            out.append(f"**VOID**: llama.cpp reached {what}; it has reached {known} on such a machine.")
    return out


def spread(values, digits=1):
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def header(result):
    about, peer, measured = result["machine"], result["peer"], result["limits"]
    given = f"Limits: memory {measured['best_mem_gbps'] or 0:.1f} GB/s"
    if cores := measured["arithmetic"]:
        given += f", int8 {cores['int8_tops']:.2f} Top/s, float32 {cores['f32_tflops']:.2f} Tflop/s ({cores['set']})"
    parts = " ".join(re.findall(r"(\w+) = 1", peer["system"]))
    build = f"llama.cpp {peer['version']} built by clang-16 with -march=native, has {parts}"
    return [
        f"### {result['date']}, {about['cpu']}, {about['cores']} cores, {result['threads']} threads",
        "",
        f"air {result['commit']}; llama-cpp-python {peer['package']} ({build}). Model shape {result['shape']}.",
        f"The processor has {' '.join(about['sets'])}.",
        f"Medians of {result['pairs']} alternating pairs (min–max), tokens per second.",
        f"{given}.",
        *result["verdicts"],
        "",
    ]


def table(result):
    names = "model | measured | air | llama.cpp | air / llama.cpp | limit | air reaches | llama.cpp reaches"
    lines = [*header(result), f"| {names} | llama.cpp's setting |", "|" + "---|" * 9]
    for r in result["rows"]:
        share = lambda values: f"{statistics.median(values) / r['limit']:.0%}" if r["limit"] else "?"
        limit = f"{r['limit']:.1f}" if r["limit"] else "?"
        cells = [r["model"], r["case"], spread(r["air"]), spread(r["llama_cpp"]), spread(r["ratio"], 2), limit]
        cells += [share(r["air"]), share(r["llama_cpp"]), setting_name(r["setting"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


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


def output(args, about):
    slug = re.sub(r"[^a-z0-9]+", "-", about["cpu"].lower()).strip("-")
    name = f"{datetime.date.today()}-{slug}-{about['cores']}c{'-quick' if args.quick else ''}.json"
    return args.out or ROOT / "benches/results" / name


def prepare(args):
    """The program and the peer."""
    if args.air is None:
        subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=ROOT, check=True)
        args.air = ROOT / "target/release/air"
    if not (CACHE / "llama/bin/python").exists():
        if not shutil.which("clang-16"):
            raise SystemExit("clang-16 is missing; llama.cpp is to be built with it (Debian: clang-16 libomp-16-dev)")
        subprocess.run([ROOT / "scripts/fetch_oracles.sh", "--llama"], check=True, stdout=sys.stderr)


def git(*command):
    return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def main():
    args = arguments()
    prepare(args)
    quants = args.formats or (QUICK if args.quick else [MIX, *FORMATS])
    for quant in quants:
        synthetic(args, quant)
    start, about = time.time(), machine()
    if about["load_before"] > 0.3 * about["cores"]:
        log(f"warning: other programs are running (load {about['load_before']:.1f}); they disturb the figures")
    measured, rows, peer = [limits(args, synthetic(args, quants[0])[0])], [], {}
    for quant in quants:
        log(f"{quant}:")
        cases = [BASE] if args.quick or quant not in MORE else [BASE, *OTHERS]
        peer, more = compare(args, quant, cases)
        rows += more
    measured.append(limits(args, synthetic(args, quants[0])[0]))
    measured = best_limits(measured, rows)
    add_limits(rows, measured)
    version = [CACHE / "llama/bin/python", "-c", "import llama_cpp; print(llama_cpp.__version__)"]
    peer["package"] = subprocess.run(version, capture_output=True, text=True, check=True).stdout.strip()
    result = {
        "date": str(datetime.date.today()),
        "machine": about,
        "commit": git("rev-parse", "--short", "HEAD") + (" with changes" if git("diff", "HEAD", "--name-only") else ""),
        "peer": peer,
        "shape": args.shape,
        "threads": args.threads,
        "pairs": args.pairs,
        "limits": measured,
        "verdicts": verdicts(rows, about),
        "seconds": round(time.time() - start),
        "rows": rows,
    }
    path = output(args, about)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(table(result))
    log(f"{result['seconds']} s; raw figures are in {path}")


main()
