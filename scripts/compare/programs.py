"""What must be there before anything is compared: both programs, and the synthetic models."""

import json
import os
import shutil
import subprocess
import sys

from .engines import CACHE, PYTHON, ROOT


def prepare(args):
    """The program, built from this tree unless given, and the peer."""
    if args.air is None:
        subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=ROOT, check=True)
        args.air = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release/air"
    if not PYTHON.exists():
        if not shutil.which("clang-16"):
            raise SystemExit("clang-16 is missing; llama.cpp is to be built with it (Debian: clang-16 libomp-16-dev)")
        subprocess.run([ROOT / "scripts/fetch_oracles.sh", "--llama"], check=True, stdout=sys.stderr)


def synthetic(args, shape, quant, longest=0, layers=None):
    """The file of a model of random weights, made unless it is there, whole and of such a context; its context.

    With `layers`, only so many of them.
    """
    folder = CACHE / "synthetic"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{shape}{f'-{layers}-layers' if layers else ''}-{quant}.gguf"
    # Opening checks that every tensor lies within the file.
    if not (context := length(args, path)) or context < longest:
        command = [args.air, "synth", shape, "--quant", quant, "--force", "-o", path]
        command += ["--layers", str(layers)] if layers else []
        subprocess.run(command, check=True, stdout=sys.stderr)
        os.sync()
        context = length(args, path)
    return path, context


def length(args, path):
    """The context of a model file; none if it cannot be opened."""
    info = subprocess.run([args.air, "info", "--json", "-m", path], capture_output=True, text=True)
    return json.loads(info.stdout)["context"] if info.returncode == 0 else None


def peer_package():
    """The version of llama-cpp-python."""
    version = [PYTHON, "-c", "import llama_cpp; print(llama_cpp.__version__)"]
    return subprocess.run(version, capture_output=True, text=True, check=True).stdout.strip()


def git(*command):
    return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def commit():
    return git("rev-parse", "--short", "HEAD") + (" with changes" if git("diff", "HEAD", "--name-only") else "")
