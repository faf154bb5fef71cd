"""The machine, its measured limits, and what they allow each figure."""

import json
import os
import pathlib
import re
import subprocess


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
