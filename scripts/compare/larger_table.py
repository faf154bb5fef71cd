"""What was measured of models larger than memory, as Markdown, beside what the law allows."""

import statistics

from .streamed import setting_name
from .table import rows, spread

median = statistics.median


def limits(result):
    """Bytes of memory, and operations by kind of number, a second."""
    cores, memory = result["limits"]["arithmetic"], result["limits"]["mem_gbps"]
    rate = max(memory.values()) * 1e9 if memory else None
    return rate, {"int8": cores["int8_tops"] * 1e12, "f32": cores["f32_tflops"] * 1e12} if cores else {}


def planned(row):
    """Bytes that air's plan streams in a pass."""
    return row["report"]["memory"]["streamed_bytes"]


def touched(row):
    # What the report calls a token's is a pass's over its rows.
    return row["report"]["bytes_per_token"]["mem"] * row["report"]["batch"]


def law(row, result):
    """Tokens per second that drive, memory and cores allow air's plan in this run."""
    memory, peaks = limits(result)
    report, count = row["report"], row["pass"]
    seconds = [planned(row) / median(row["fio"])]
    if memory:
        seconds.append(touched(row) / memory)
    kind = "prefill" if row["what"].startswith("prefill") else "decode"
    if peak := max(peaks.get(report["numbers"], 0), peaks.get("f32", 0)):
        seconds.append(report[f"{kind}_ops_per_token"] * count / peak)
    return count / max(seconds)


def complete(result):
    """The rows that nothing is missing of; the peak is measured last."""
    return [r for r in result["rows"].values() if "peak" in r]


def percent(part, whole, digits=0):
    return f"{part / whole:.{digits}%}" if whole and part is not None else "?"


def gigabytes(value):
    return f"{value / 1e9:.2f}"


def speeds(result):
    names = "model | budget | measured | air | llama.cpp | air / llama.cpp | the law | air reaches | air said | pairs"
    lines = []
    for r in complete(result):
        air, peer = [x["tps"] for x in r["air"]], [x["tps"] for x in r["llama_cpp"]]
        allowed, said = law(r, result), r["report"]["roofline"].get("predicted_tps")
        ratio = [a / b for a, b in zip(air, peer)]
        cells = [r["model"], r["budget"], r["what"], spread(air, 2), spread(peer, 2), spread(ratio, 2)]
        cells += [f"{allowed:.2f}", percent(median(air), allowed), f"{said:.2f}" if said else "?"]
        lines.append([*cells, str(len(air)), setting(r)])
    return rows([*names.split(" | "), "llama.cpp's setting"], lines)


def setting(row):
    failed = "; ".join(setting_name(s) for s in row["failed"])
    return row["setting"] + (f" (failed: {failed})" if failed else "")


def traffic(result):
    names = "model | budget | measured | planned | read | read / planned | least | llama.cpp read | fio GB/s"
    lines = []
    for r in complete(result):
        read, theirs = median(x["read"] for x in r["air"]), median(x["read"] for x in r["llama_cpp"])
        plan, fio = planned(r), median(r["fio"])
        # A pass reads while it lasts, so its rate is the drive's share.
        passes = median(x["tps"] for x in r["air"]) / r["pass"]
        cells = [r["model"], r["budget"], r["what"], gigabytes(plan), gigabytes(read), percent(read, plan, 1)]
        cells += [gigabytes(max(0, touched(r) - r["limit"])), gigabytes(theirs), spread([x / 1e9 for x in r["fio"]], 2)]
        cells += [percent(read * passes, fio), percent(r["peak"], r["limit"], 1)]
        lines.append(cells)
    return rows([*names.split(" | "), "drive share", "peak / budget"], lines)


def header(result):
    about, peer = result["machine"], result["peer"]
    memory, _ = limits(result)
    shapes = {(r["drive"]["block"], r["drive"]["depth"], r["drive"]["huge_pages"]) for r in complete(result)}
    pages = lambda huge: "" if huge else " (into small pages: it may be faster)"
    fio = ", ".join(f"{block >> 10} KiB at depth {depth}{pages(huge)}" for block, depth, huge in sorted(shapes))
    return [
        f"### {result['date']}, {about['cpu']}, {about['cores']} cores, {result['threads']} threads, limited memory",
        "",
        f"air {result['commit']}; llama.cpp {peer['version']} (llama-cpp-python {peer['package']}), built by clang-16.",
        "Both under a cgroup's limit that is the budget; caches dropped before every run; tokens per second, medians",
        f"of alternating pairs (min–max). fio reads {fio}. Memory: {(memory or 0) / 1e9:.1f} GB/s.",
        "",
    ]


def markdown(result):
    about = "Bytes of a pass, in GB, and what the cgroup was charged at most where its limit was four times the budget:"
    return "\n".join([*header(result), *speeds(result), "", about, "", *traffic(result)])
