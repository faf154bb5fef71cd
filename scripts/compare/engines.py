"""The two programs, each a process that answers a line with a line of JSON, and the cases to compare."""

import json
import os
import pathlib
import select
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("AIR_ORACLES", pathlib.Path.home() / ".cache/air-oracles"))
PYTHON = CACHE / "llama/bin/python"


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


class Lost(SystemExit):
    """A process that ended or hangs, and how; ends the script unless it is caught."""

    def __init__(self, command, why):
        super().__init__(f"{' '.join(command)} {why}")
        self.command, self.why = command, why


class Child:
    """A process that answers each line with a line of JSON; its first line says what it is.

    One that does not answer within `patience` seconds (None: for ever) is killed.
    """

    def __init__(self, command, patience=None, **options):
        self.command, self.patience = [str(c) for c in command], patience
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, text=True, **options)
        self.about = self.hear()

    def hear(self):
        if self.patience is not None and not select.select([self.process.stdout], [], [], self.patience)[0]:
            self.process.kill()
            self.process.wait()
            raise Lost(self.command, f"did not answer within {self.patience:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise Lost(self.command, f"ended with code {self.process.wait()}")
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


class Air:
    """`air bench`, waiting between its runs."""

    def __init__(self, program, model, case, threads, runs):
        # The first token of an answer comes from the prompt's pass. One run more than there will be: after its last run
        # air probes the memory, which must wait until the peer's last run is over and `close` ends the input.
        command = [program, "bench", "--wait", "-m", model, "-p", case.prompt, "-n", case.answer + 1, "-r", runs + 1]
        command += ["-d", case.depth, "-b", case.batch, "-c", case.context, "--threads", threads]
        self.child = Child(command, stderr=subprocess.DEVNULL)

    def run(self):
        answer = self.child.ask()
        return {"prefill": answer["prefill_tps"], "decode": answer["decode_tps"]}

    def close(self):
        summary = json.loads(self.child.close())
        # Raw figures are published; where the file lay is nobody's business.
        summary["model"] = pathlib.Path(summary["model"]).name
        return summary


class Peer:
    """llama.cpp with a model loaded in both ways (repacked weights or not), and the settings that are best for it.

    A setting is (repack, flash attention), each 1 or 0.
    """

    def __init__(self, model, threads):
        script = ROOT / "scripts/parity/llama_bench.py"
        self.ways = {way: Child([PYTHON, script, model, threads, way]) for way in (1, 0)}
        self.about = self.ways[1].about
        self.known = {}  # the best setting of each figure so far

    def time(self, setting, case, depth, prompt, answer):
        """Seconds of both parts under a setting."""
        repack, flash = setting
        question = {"flash": flash, "context": case.context, "batch": case.batch}
        question |= {"depth": depth, "prompt": prompt, "answer": answer}
        return self.ways[repack].ask(json.dumps(question))

    def best(self, case, sample):
        """The fastest setting for each figure, in short trials, of all that earlier trials leave."""
        chosen = {}
        for figure in case.figures:
            settings = [(repack, flash) for repack in (1, 0) for flash in (1, 0)]
            if case.depth > 4096 and "deep" in self.known:
                settings = [self.known["deep"]]
            elif figure in self.known and case.batch == 1:
                settings = [s for s in settings if s[0] == self.known[figure][0]]
            chosen[figure] = self.fastest(settings, case, figure, sample) if len(settings) > 1 else settings[0]
        if case.depth:
            self.known["deep"] = chosen["decode"]
        for figure in case.figures:
            self.known.setdefault(figure, chosen[figure])
        return chosen

    def fastest(self, settings, case, figure, sample):
        """Of two rounds, so that one disturbance does not decide."""
        seconds = {s: [] for s in settings}
        for _ in range(2):
            for s in settings:
                seconds[s].append(self.trial(s, case, figure, sample))
        return min(settings, key=lambda s: min(seconds[s]))

    def trial(self, setting, case, figure, sample):
        """Seconds of a short run, after a shorter one."""
        if figure == "prefill":
            self.time(setting, case, 0, 32, 0)
            return self.time(setting, case, 0, min(case.prompt, sample * 16), 0)["prefill"]
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

    def logits(self, setting, tokens, path):
        """Writes the logits at every position of the tokens, read in one pass."""
        repack, flash = setting
        self.ways[repack].ask(json.dumps({"flash": flash, "tokens": tokens, "logits": str(path)}))

    def close(self):
        for child in self.ways.values():
            child.close()
