"""The programs that the report runs: air, its tests, llama.cpp, and what stands in for them in a rehearsal."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
ORACLES = pathlib.Path(os.environ.get("AIR_ORACLES", CACHE / "air-oracles"))
STEP_SECONDS = 530


class Missing(Exception):
    """Why something cannot be measured."""


class Programs:
    """Where they are, and how long a step may still take."""

    def __init__(self, work, rehearse):
        self.work, self.rehearse = work, rehearse
        self.env = dict(os.environ)
        self.deadline = time.monotonic() + STEP_SECONDS
        self.built = None
        work.mkdir(parents=True, exist_ok=True)
        if rehearse:
            # The libraries beside the driver would look for a real one.
            self.env |= {"LD_LIBRARY_PATH": str(driver(work)), "FAKE_FREE": "256000000", "AIR_CUDA": str(work)}

    def begin(self):
        self.deadline = time.monotonic() + STEP_SECONDS

    def run(self, *command, env=None, ok=(0,)):
        """Standard output; `Missing` with the last that it said where it fails or takes too long."""
        command, left = [str(c) for c in command], self.deadline - time.monotonic()
        what = pathlib.Path(command[0]).name
        if left < 1:
            raise Missing(f"{what}: the step's time is over")
        options = {"capture_output": True, "text": True, "timeout": left, "env": self.env | (env or {}), "cwd": ROOT}
        try:
            done = subprocess.run(command, **options)
        except subprocess.TimeoutExpired:
            raise Missing(f"{what} took longer than the step may") from None
        except OSError as e:
            raise Missing(f"{what}: {e.strerror}") from None
        if done.returncode not in ok:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or [""]
            raise Missing(f"{what} ended with {done.returncode}: {said[0]}")
        return done.stdout

    def build(self):
        """The folder with `air` and `cuda_tests`."""
        packed = os.environ.get("AIR_BUILT")
        if not self.built and packed:
            self.built = pathlib.Path(packed).resolve()
            self.at_home(self.built)
        if not self.built:
            pack(self.work / "built", [] if self.rehearse else ["--release"])
            self.built = self.work / "built"
        return self.built

    def at_home(self, packed):
        """The tests look for their data where they were built: a link leads there from here."""
        home = pathlib.Path((packed / "home").read_text().strip())
        if not home.exists():
            home.parent.mkdir(parents=True, exist_ok=True)
            home.symlink_to(ROOT)

    def air(self, *args):
        return self.run(self.build() / "air", *args)

    def bench(self, model, *args):
        """`air bench --json` on the GPU."""
        report = json.loads(self.air("bench", "-m", model, "--device", "cuda", "--json", *args))
        return report | {"model": pathlib.Path(report["model"]).name}

    def peer(self, model, *args):
        """`llama-bench`: a list of its results, as it writes them."""
        program = self.work / "peer/bin/llama-bench"
        if not program.exists():
            raise Missing("llama.cpp is not built: scripts/gpu_report.sh peer")
        return json.loads(self.run(program, "-m", model, "-o", "json", *args))


def pack(into, profile):
    """Builds air and the tests of the CUDA backend into a folder."""
    if not shutil.which("cargo"):
        raise Missing("no cargo here: fill a folder with --pack elsewhere, and name it in AIR_BUILT")
    command = ["cargo", "build", *profile, "--features", "cuda", "--bin", "air", "--test", "cuda"]
    out = subprocess.run([*command, "--message-format=json"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    made = [json.loads(line) for line in out.stdout.splitlines() if line.startswith("{")]
    into.mkdir(parents=True, exist_ok=True)
    for name, kind in (("air", "bin"), ("cuda", "test")):
        of = [m["executable"] for m in made if m.get("executable") and m["target"]["name"] == name]
        target = into / ("air" if kind == "bin" else "cuda_tests")
        shutil.copy2(of[-1], target)
        if profile and shutil.which("strip"):
            subprocess.run(["strip", target], check=True)
    (into / "home").write_text(f"{ROOT}\n")


def driver(work):
    """A folder with the tests' driver, for rehearsals."""
    into = work / "driver"
    into.mkdir(parents=True, exist_ok=True)
    source = ROOT / "tests/driver/fake.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", source, "-o", into / "libcuda.so"], check=True)
    return into


STAND_IN = """#!/usr/bin/env python3
import json, sys
arg = lambda name: int(sys.argv[sys.argv.index(name) + 1].split(",")[0]) if name in sys.argv else 0
print(json.dumps([{"n_prompt": arg("-p"), "n_gen": arg("-n"), "n_depth": arg("-d"), "avg_ts": 1.0}]))
"""


def build_peer(programs):
    """llama.cpp's bench for this card; a build that ran out of time goes on in the next call."""
    into = programs.work / "peer"
    if programs.rehearse:
        (into / "bin").mkdir(parents=True, exist_ok=True)
        (into / "bin/llama-bench").write_text(STAND_IN)
        (into / "bin/llama-bench").chmod(0o755)
        return {"built": "a stand-in"}
    sources = pathlib.Path(os.environ.get("LLAMA_SRC", ORACLES / "llama-src/vendor/llama.cpp"))
    if not (sources / "CMakeLists.txt").exists():
        raise Missing(f"no sources of llama.cpp in {sources}")
    capability = programs.run("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader").splitlines()[0]
    flags = {
        "CMAKE_BUILD_TYPE": "Release", "GGML_CUDA": "ON",
        "CMAKE_CUDA_ARCHITECTURES": capability.replace(".", "") + "-real",
        "BUILD_SHARED_LIBS": "OFF", "LLAMA_BUILD_TESTS": "OFF", "LLAMA_BUILD_EXAMPLES": "OFF",
        "LLAMA_BUILD_SERVER": "OFF", "LLAMA_BUILD_APP": "OFF", "LLAMA_OPENSSL": "OFF",
    }
    programs.run("cmake", "-S", sources, "-B", into, *(f"-D{k}={v}" for k, v in flags.items()))
    programs.run("cmake", "--build", into, "--target", "llama-bench", "-j", os.cpu_count())
    version = (sources / "ggml/CMakeLists.txt").read_text()
    numbers = re.findall(r"set\(GGML_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", version)
    return {"built": f"llama.cpp, ggml {'.'.join(numbers)}, for {capability}"}
