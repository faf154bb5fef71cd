#!/usr/bin/env python3
"""Token ids of `air tokenize` against llama.cpp, on random Unicode: one line for each vocabulary.

Run with the Python that has `llama_cpp`: $AIR_ORACLES/llama/bin/python scripts/parity/tokens.py [--air target/release/air]
[--seed N] [--files N] [NAME …]. Each file is a few kilobytes of the strings of `scripts/goldens/tokens.py`, given to both
with and without special tokens. Exits with 1 when an id differs; the file that shows it is kept and named.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "goldens"))
import tokens as golden  # noqa: E402

ll = golden.ll


def ids_of_air(air: str, model: Path, text: Path, special: bool) -> list[int]:
    flags = [] if special else ["--no-special"]
    run = subprocess.run([air, "tokenize", "-m", model, "--ids", "--file", text, *flags], capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    return [int(i) for i in run.stdout.split(",") if i.strip()]


def compare(name: str, air: str, seed: int, files: int) -> bool:
    path = golden.MODELS / f"ggml-vocab-{name}.gguf"
    model, vocab, specials = golden.load(path)
    strings = golden.strings(seed, specials)
    count = chars = 0
    for i in range(files):
        text = "".join(itertools.islice(strings, 40))
        with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False, newline="") as f:
            f.write(text)
        for special in (False, True):
            want = golden.tokenize(vocab, text, True, special)
            if ids_of_air(air, path, Path(f.name), special) != want:
                print(f"{name:12} DIFFERS on {f.name}, special tokens {special}")
                return False
            count += len(want)
        chars += len(text)
        Path(f.name).unlink()
    ll.llama_model_free(model)
    print(f"{name:12} equal: {files} files, {chars} characters, {count} tokens")
    return True


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--air", default="target/release/air")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", type=int, default=10)
    parser.add_argument("names", nargs="*", default=golden.NAMES)
    args = parser.parse_args()
    quiet = ll.llama_log_callback(lambda *_: None)
    ll.llama_log_set(quiet, None)
    sys.exit(not all([compare(name, args.air, args.seed, args.files) for name in args.names]))


main()
