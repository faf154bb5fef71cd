"""The steps of the report: each runs programs and gives what it found, as JSON."""

import array
import ast
import json
import pathlib
import platform
import re
import statistics
import subprocess

from programs import Missing, build_peer

FORMATS = "Q4_0 Q4_K Q5_K Q6_K Q8_0 IQ4_NL IQ4_XS MXFP4 F16 BF16".split()
MODELS = ["Q8_0", "Q4_K_M"]


class Sizes:
    """What is measured: of the shape that the targets name, or next to nothing for a rehearsal."""

    def __init__(self, rehearse):
        self.shape = "tiny-llama" if rehearse else "llama-3.1-8b"
        self.depth, self.prompt, self.answer = (16, 32, 8) if rehearse else (512, 4096, 128)
        self.deep, self.rounds, self.runs = (64, 1, 1) if rehearse else (32768, 3, 3)
        self.tests = ["watch", "memory_is_given_back"] if rehearse else []
        # A model as small as that of a rehearsal is less than the ring that its weights go through.
        self.kept, self.ram = (0.75, "1MB") if rehearse else (1 / 3, "1GB")


def rates(samples):
    return {"median": statistics.median(samples), "samples": samples}


def machine(programs, sizes):
    found = {"devices": json.loads(programs.air("devices", "--json")), "system": platform.platform()}
    found["air"] = programs.air("--version").strip()
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return found | {"commit": git.stdout.strip() or None}


def tests(programs, sizes):
    """The tests of the CUDA backend, with the GPU in the place of the emulated one."""
    binary = programs.build() / "cuda_tests"
    said = programs.run(binary, *sizes.tests, env={"AIR_CUDA_TESTS_ON_GPU": "1"}, ok=(0, 1))
    count = re.search(r"(\d+) run, (\d+) failed (.*)", said)
    if not count:
        raise Missing("the tests ended before they were done")
    return {"run": int(count[1]), "failed": int(count[2]), "which": count[3], "skipped": said.count("skipped: ")}


def sanitizer(programs, sizes):
    """compute-sanitizer's four tools on a subset of the tests: every kind of kernel, small."""
    binary, found = programs.build() / "cuda_tests", {}
    subset = ["watch", "ops::norms", "ops::rotations", "ops::sums", "ops::products_of_any", "state::experts"]
    for tool in ["memcheck", "racecheck", "synccheck", "initcheck"]:
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", binary, *subset]
        try:
            programs.run(*command, env={"AIR_CUDA_TESTS_ON_GPU": "1"})
            found[tool] = "no error"
        except Missing as why:
            found[tool] = str(why)
    return found


def model(programs, sizes, quant):
    path = programs.work / f"{sizes.shape}-{quant}.gguf"
    if not path.exists():
        programs.air("synth", sizes.shape, "--quant", quant, "-o", path)
    return path


def models(programs, sizes):
    return {quant: model(programs, sizes, quant).stat().st_size for quant in MODELS}


def peer(programs, sizes):
    return build_peer(programs)


def best(results):
    """The faster of the peer's settings."""
    return max(results, key=lambda r: r["avg_ts"])


def beside(programs, sizes, quant, ours, theirs, figure):
    """air and the peer in turn; the peer's part says why where there is none."""
    path, air, other, report, setting = model(programs, sizes, quant), [], [], None, None
    for _ in range(sizes.rounds):
        try:
            result = best(programs.peer(path, *theirs))
            setting = {k: result.get(k) for k in ("flash_attn", "n_ubatch", "n_gpu_layers")}
            other.append(result["avg_ts"])
        except Missing as why:
            setting = str(why)
        report = programs.bench(path, *ours)
        air.append(report[figure])
    found = {"air": rates(air), "report": report, "peer_setting": setting}
    return found | ({"peer": rates(other), "ratio": statistics.median(air) / statistics.median(other)} if other else {})


def each(work):
    """What `work` gives for each model, or why not."""
    found = {}
    for quant in MODELS:
        try:
            found[quant] = work(quant)
        except Missing as why:
            found[quant] = {"missing": str(why)}
    return found


def decode(programs, sizes):
    context = sizes.depth + sizes.answer + 64
    ours = ["-d", sizes.depth, "-p", 1, "-n", sizes.answer, "-r", sizes.runs, "-c", context, "--kernels"]
    theirs = ["-p", 0, "-n", sizes.answer, "-d", sizes.depth, "-r", sizes.runs, "-ngl", 99, "-fa", "0,1"]
    return each(lambda quant: beside(programs, sizes, quant, ours, theirs, "decode_tps"))


def prefill(programs, sizes):
    ours = ["-p", sizes.prompt, "-n", 2, "-r", sizes.runs, "-c", sizes.prompt + 64, "--kernels"]
    theirs = ["-p", sizes.prompt, "-n", 0, "-r", sizes.runs, "-ngl", 99, "-fa", 1, "-b", 4096, "-ub", "512,2048"]
    return each(lambda quant: beside(programs, sizes, quant, ours, theirs, "prefill_tps"))


def deep(programs, sizes):
    """Attention behind many tokens: the time of its kernel, beside the keys and values that it reads."""
    path = model(programs, sizes, "Q8_0")
    ours = ["-d", sizes.deep, "-p", 1, "-n", 16, "-r", 1, "-c", sizes.deep + 64, "--kernels"]
    report = programs.bench(path, *ours)
    attends = [k for k in report["kernels"]["answer"] if k["kernel"].startswith("attend_")]
    seconds = sum(k["us"] for k in attends) / 1e6
    read = report["bytes_per_token"]["state"] * report["kernels"]["steps"]
    return {"report": report, "gbps": read / seconds / 1e9}


def third(programs, sizes, more, resident):
    """A third of the weights in the GPU's memory, beside what the run needs there for other things."""
    path, context = model(programs, sizes, "Q8_0"), sizes.prompt + sizes.answer + sizes.depth + 64
    whole = json.loads(programs.air("plan", "-m", path, "--device", "cuda", "--json", "-c", context))
    memory, weights = whole["memory"], whole["weights_bytes"]
    budget = memory["planned_bytes"] - memory["kept_bytes"] + int(weights * sizes.kept)
    ours = ["-c", context, "--vram-budget", budget, "-r", sizes.runs, *more]
    found = {"vram_budget": budget, "weights": weights}
    decoded = ["-d", sizes.depth, "-p", 1, "-n", 32]
    if resident:
        layers = json.loads(programs.air("info", "-m", path, "--json"))["metadata"]["llama.block_count"] // 3
        theirs = ["-p", 0, "-n", 32, "-d", sizes.depth, "-r", sizes.runs, "-ngl", layers, "-fa", "0,1"]
        found["decode"] = beside(programs, sizes, "Q8_0", [*decoded, *ours], theirs, "decode_tps")
        found["prefill"] = programs.bench(path, "-p", sizes.prompt, "-n", 2, *ours)
    else:
        found["decode"] = programs.bench(path, *decoded, *ours, "--limits")
    return found


def carried(programs, sizes):
    return third(programs, sizes, [], True)


def drive(programs, sizes):
    return third(programs, sizes, ["--ram-budget", sizes.ram], False)


def numbers(path):
    """A file of float32 as `air debug logits` writes it: its rows."""
    data = path.read_bytes()
    length = int.from_bytes(data[8:10], "little")
    _, width = ast.literal_eval(data[10 : 10 + length].decode())["shape"]
    values = array.array("f", data[10 + length :])
    return [values[i : i + width] for i in range(0, len(values), width)]


def logits(programs, sizes):
    """Each format's error against the interpreter, and the demo model's choices against the processor's."""
    tokens = ",".join(str(1 + 7 * i % 200) for i in range(16))

    def of(name, *more):
        path = programs.work / f"{name}.npy"
        programs.air("debug", "logits", "--tokens", tokens, "-o", path, *more)
        return numbers(path)

    found = {"nmse": {}}
    for quant in FORMATS:
        path = programs.work / f"tiny-llama-{quant}.gguf"
        if not path.exists():
            programs.air("synth", "tiny-llama", "--quant", quant, "-o", path)
        gpu, exact = of("gpu", "-m", path, "--device", "cuda"), of("exact", "-m", path, "--device", "cpu", "--exact")
        wrong = sum((a - b) ** 2 for x, y in zip(gpu, exact) for a, b in zip(x, y))
        found["nmse"][quant] = wrong / sum(b * b for y in exact for b in y)
    rows = differ = 0
    for x, y in zip(of("gpu", "--device", "cuda"), of("cpu", "--device", "cpu")):
        top = sorted(y)[-2:]
        if top[1] - top[0] > 0.01 * max(abs(v) for v in y):
            rows, differ = rows + 1, differ + (max(range(len(x)), key=x.__getitem__) != y.index(top[1]))
    return found | {"argmax_rows": rows, "argmax_differ": differ}


ALL = [machine, tests, sanitizer, models, peer, decode, prefill, deep, carried, drive, logits]
