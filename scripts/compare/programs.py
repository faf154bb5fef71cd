"""What must be there before anything is compared: both programs, and the synthetic models."""

import datetime
import json
import os
import re
import shutil
import subprocess
import sys

from .engines import CACHE, PYTHON, ROOT


def prepare(args, peer=PYTHON, how="--llama"):
    """The program, built from this tree unless given, and the peer, built from its sources."""
    if args.air is None:
        subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=ROOT, check=True)
        args.air = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release/air"
    if not peer.exists():
        if not shutil.which("clang-16"):
            raise SystemExit("clang-16 is missing; llama.cpp is to be built with it (Debian: clang-16 libomp-16-dev)")
        subprocess.run([ROOT / "scripts/fetch_oracles.sh", how], check=True, stdout=sys.stderr)


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


def output(args, about, kind=""):
    """Where raw figures go: `--out`, or a file of benches/results that says when and on what they were taken."""
    slug = re.sub(r"[^a-z0-9]+", "-", about["cpu"].lower()).strip("-")
    name = f"{datetime.date.today()}-{kind}{slug}-{about['cores']}c{'-quick' if args.quick else ''}.json"
    path = args.out or ROOT / "benches/results" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def save(path, result):
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
