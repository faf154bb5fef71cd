"""The machine, its measured limits, and what they allow each figure."""

import json
import os
import pathlib
import re
import statistics
import subprocess

# What a processor multiplies, and where its peak stands among the limits that air measures.
PEAKS = {"int8": "int8_tops", "bf16": "bf16_tflops", "f32": "f32_tflops"}


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
    probes = [*measured, *(r["report"]["limits"] for r in rows)]
    memory = [max(m["mem_gbps"].values()) for m in probes if m["mem_gbps"]]
    cores = [m["arithmetic"] for m in measured if m["arithmetic"]]
    best = {name: max(m[name] or 0 for m in cores) for name in PEAKS.values()} if cores else {}
    return {
        "best_mem_gbps": max(memory, default=None),
        "median_mem_gbps": statistics.median(memory) if memory else None,
        "arithmetic": best | {"set": cores[0]["set"]} if cores else None,
        "measured": measured,
    }


def limit(row, best):
    """Tokens per second that memory and cores allow a row's figure; none where neither is known."""
    report, figure, found = row["report"], row["figure"], []
    if best["arithmetic"]:
        # A machine without instructions for bfloat16 computes in float32.
        peak = max(best["arithmetic"][PEAKS[report["numbers"]]], best["arithmetic"]["f32_tflops"])
        found.append(peak * 1e12 / report[f"{figure}_ops_per_token"])
    # What stays in the cache is not read from memory.
    touched = report["bytes_per_token"]["mem"] if report["roofline"]["bound"] != "cache" else None
    if figure == "decode" and best["best_mem_gbps"] and touched:
        found.append(best["best_mem_gbps"] * 1e9 / touched)
    return min(found, default=None)


def add_limits(rows, best):
    """Each row's limit, and whether a figure is above it."""
    for r in rows:
        r["limit"] = limit(r, best)
        r["above_limit"] = bool(r["limit"]) and max(r["air"] + r["llama_cpp"]) > r["limit"]
