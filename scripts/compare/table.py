"""What was measured, as Markdown, and what a reader must know before believing it."""

import re
import statistics

from .accuracy import ALLOWED
from .engines import BASE

# llama.cpp on two cores with AMX (clang build, 2026-11-20): tokens per second of prefill 256 and decode 32. A run in
# which it is slower than nine tenths of this, on such a machine, compares with a peer that is not at its best.
REFERENCE = {
    ("Q4_K_M", "prefill"): 239.0,
    ("Q4_K_M", "decode"): 19.8,
    ("Q8_0", "prefill"): 254.0,
    ("Q8_0", "decode"): 19.6,
}


def verdicts(result):
    """(whether the table may be quoted, sentences)."""
    out = []
    for r in (r for r in result["rows"] if r["above_limit"]):
        what, limit = f"{r['model']} {r['case']}", f"{r['limit']:.1f} tok/s"
        out.append(f"**INVALID LIMIT**: {what} ran faster than the limit of {limit} that was measured here.")
    about = result["machine"]
    comparable = "amx_int8" in about["sets"] and about["cores"] == 2 and result["threads"] == 2
    base = [r for r in result["rows"] if r["case"] in (BASE.name("prefill"), BASE.name("decode"))]
    for r in base if comparable else []:
        known = REFERENCE.get((r["model"], r["figure"]))
        have = statistics.median(r["llama_cpp"])
        if known and have < 0.9 * known:
            what = f"{have:.1f} tok/s in {r['model']} {r['case']}"
            out.append(f"**VOID**: llama.cpp reached {what}; it has reached {known} on such a machine.")
    valid = not out
    if not comparable:
        out.append("There are no reference figures of llama.cpp for this kind of machine.")
    cores = result["limits"]["arithmetic"]
    if "amx_int8" in about["sets"] and cores and "AMX" not in cores["set"]:
        out.append(f"The processor has AMX, which air did not use here: limits of prefill are those of {cores['set']}.")
    return valid, out


def spread(values, digits=1):
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def setting_name(setting):
    repack, flash = setting
    return f"{'repacked' if repack else 'not repacked'}, flash attention {'on' if flash else 'off'}"


def header(result):
    about, peer, measured = result["machine"], result["peer"], result["limits"]
    given = f"Limits: memory {measured['best_mem_gbps'] or 0:.1f} GB/s"
    given += f" (the best probe; the median one {measured['median_mem_gbps'] or 0:.1f})"
    if cores := measured["arithmetic"]:
        given += f", int8 {cores['int8_tops']:.2f} Top/s, bfloat16 {cores['bf16_tflops']:.2f} Tflop/s"
        given += f", float32 {cores['f32_tflops']:.2f} Tflop/s ({cores['set']})"
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
        "The share of its own probe is that of the memory's rate as air's own process saw it, after its runs.",
        "",
    ]


def rows(names, lines):
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names), *("| " + " | ".join(x) + " |" for x in lines)]


def own_share(row):
    """air's share of the rate that its own process saw of the memory; nothing where memory does not bind."""
    report = row["report"]
    if row["figure"] != "decode" or report["roofline"]["bound"] != "mem":
        return ""
    rate = max(report["limits"]["mem_gbps"].values()) * 1e9 / report["bytes_per_token"]["mem"]
    cores_bind = row["limit"] and rate > row["limit"]
    return "" if cores_bind else f"{statistics.median(row['air']) / rate:.0%}"


def speeds(result):
    names = "model | measured | air | llama.cpp | air / llama.cpp | limit | air reaches | llama.cpp reaches"
    lines = []
    for r in result["rows"]:
        share = lambda values: f"{statistics.median(values) / r['limit']:.0%}" if r["limit"] else "?"
        limit = f"{r['limit']:.1f}" if r["limit"] else "?"
        cells = [r["model"], r["case"], spread(r["air"]), spread(r["llama_cpp"]), spread(r["ratio"], 2), limit]
        lines.append([*cells, share(r["air"]), share(r["llama_cpp"]), own_share(r), setting_name(r["setting"])])
    return rows([*names.split(" | "), "air, of its own probe", "llama.cpp's setting"], lines)


def accuracy(result):
    lines = []
    for model, e in result["errors"].items():
        ratio = e["air"] / e["llama_cpp"] if e["llama_cpp"] else float("inf")
        said = f"{ratio:.2f}" if ratio <= ALLOWED else f"**{ratio:.2f}**"
        lines.append([model, f"{e['air']:.2e}", f"{e['llama_cpp']:.2e}", said])
    where = f"normalised mean square, {result['positions']} positions"
    about = f"Error of the logits against `--exact` ({where}); at most {ALLOWED} times llama.cpp's is the aim:"
    return [about, "", *rows(["model", "air", "llama.cpp", "air / llama.cpp"], lines)]


def markdown(result):
    return "\n".join([*header(result), *speeds(result), "", *accuracy(result)])
