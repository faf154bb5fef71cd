"""Both programs under a memory limit: what is compared, and one cold run of each."""

import dataclasses
import json
import os
import subprocess
import tempfile

from .engines import PYTHON, ROOT, Child, Lost
from .limit import Limit, drop_caches, join, read_bytes

PATIENCE = 300  # seconds for an answer; what takes longer has hung
ABOVE = 4  # times the budget: the limit of the run that measures what is charged
PROMPT = 4  # tokens before an answer that is timed: one pass, after which nothing is cold


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: a figure of a model under a budget of bytes."""

    shape: str
    quant: str
    budget: object  # a share of the file, or bytes
    figure: str  # decode or prefill
    prompt: int = PROMPT
    answer: int = 0
    batch: int = 1
    context: int = 512
    pairs: int = 5
    layers: object = None  # only so many, where not all

    def model(self):
        return f"{self.shape}{f', {self.layers} layers,' if self.layers else ''} {self.quant}"

    def limit(self, path):
        return int(self.budget if self.budget > 1 else self.budget * os.path.getsize(path))

    def at(self):
        return f"{self.budget / 1e9:g} GB" if self.budget > 1 else f"{self.budget:.0%}"

    def what(self):
        if self.figure == "prefill":
            return f"prefill {self.prompt}"
        return f"decode {self.answer}" + (f", {self.batch} together" if self.batch > 1 else "")

    def name(self):
        return f"{self.model()} at {self.at()}, {self.what()}"

    def rows_of_pass(self):
        return self.prompt if self.figure == "prefill" else self.batch

    def short(self):
        """The same, short, to try a setting."""
        return dataclasses.replace(self, answer=min(self.answer, 3))


def run_air(args, row, path, limit):
    """Tokens per second, bytes read a pass, the peak charged, and air's own report."""
    with Limit(limit) as group:
        drop_caches(path)
        # At least one token after the first, which a row of prefill has no use for.
        more = max(1, row.answer)
        command = [args.air, "bench", "--wait", "-m", path, "-p", row.prompt, "-n", more + 1, "-r", 1]
        command += ["-b", row.batch, "-c", row.context, "--threads", args.threads]
        command += ["--ram-budget", row.limit(path)]
        with tempfile.TemporaryFile("w+") as said:
            try:
                child = Child(command, PATIENCE, preexec_fn=join(group.procs()), stderr=said)
                before = read_bytes(child.process.pid)
                answer = child.ask()
                after = read_bytes(child.process.pid)
                # Before the end, where it measures the memory with what it takes for that.
                peak = group.peak()
                report = json.loads(child.close())
            except Lost as lost:
                said.seek(0)
                raise Lost(lost.command, f"{lost.why}: {said.read()[-300:].strip()}") from None
        report["model"] = path.name  # where it lay is nobody's business
        if row.answer:
            read = (after - before) / (1 + row.answer)  # the prompt is a pass too
        else:
            # Of all passes over the prompt, less that of the one token after.
            read = after - before - report["memory"]["streamed_bytes"]
        return {"tps": answer[f"{row.figure}_tps"], "read": read, "peak": peak, "report": report}


def run_peer(args, row, path, setting, patience=PATIENCE):
    """Tokens per second and bytes read a pass."""
    load, repack, ubatch = setting
    with Limit(row.limit(path)) as group:
        drop_caches(path)
        script = ROOT / "scripts/parity/llama_bench.py"
        command = [PYTHON, script, path, args.threads, repack, load, group.procs()]
        child = Child(command, patience, stderr=subprocess.DEVNULL)
        question = {"flash": 1, "context": row.context, "batch": row.batch, "ubatch": ubatch, "depth": 0}
        question |= {"prompt": row.prompt, "answer": row.answer}
        before = read_bytes(child.process.pid)
        seconds = child.ask(json.dumps(question))[row.figure]
        after = read_bytes(child.process.pid)
        child.close()
        tokens = (row.prompt if row.figure == "prefill" else row.answer) * row.batch
        return {"tps": tokens / seconds, "read": (after - before) / (1 + row.answer), "about": child.about}


def settings(row):
    """(load, repack, ubatch) that llama.cpp is tried with, the one that always runs first."""
    if row.figure == "prefill":
        return [("mmap", 0, 512), ("mmap", 0, 2048), ("mmap", 0, row.prompt), ("direct", 0, 512)]
    return [("mmap", 0, 512), ("mmap", 1, 512), ("direct", 0, 512)]


def try_setting(args, row, path, setting, best):
    """Tokens per second of a short run; None where it is killed or hangs. `best` is the best so far, or None."""
    short = row.short()
    tokens = short.prompt if short.figure == "prefill" else (short.answer + 1) * short.batch
    # Three times as long as the best, and a little: more is no candidate.
    patience = min(PATIENCE, 20 + 3 * tokens / best) if best else PATIENCE
    try:
        return run_peer(args, short, path, setting, patience)["tps"]
    except Lost:
        return None


def setting_name(setting):
    load, repack, ubatch = setting
    return f"{load}, {'repacked' if repack else 'not repacked'}, ubatch {ubatch}"
