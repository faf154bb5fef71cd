"""How far the logits of both programs lie from those of air's interpreter (`--exact`), on one model file.

The error is the normalised mean square: the squared differences' sum over that of the interpreter's logits, over all
positions of a few arbitrary tokens that are read in one pass.
"""

import json
import pathlib
import subprocess
import tempfile

from .engines import PYTHON, ROOT

ALLOWED = 1.05  # times the peer's error


def positions(args):
    """How many tokens: the interpreter takes a second for each. By chance the ratio of both errors, where both compute
    alike, is off by 3% with 8 of them and by 1% with 16."""
    return 8 if args.quick else 16


def errors(args, model, peer, setting):
    """{"air": error, "llama_cpp": error} under the peer's setting."""
    ids = [1 + i * 7919 % 1000 for i in range(positions(args))]
    with tempfile.TemporaryDirectory() as folder:
        files = {name: pathlib.Path(folder) / f"{name}.npy" for name in ("exact", "air", "llama_cpp")}
        command = [args.air, "debug", "logits", "-m", model, "-c", "256", "--threads", args.threads]
        command += ["--tokens", ",".join(map(str, ids))]
        for name, more in (("exact", ["--exact"]), ("air", [])):
            whole = [*command, *more, "-o", files[name]]
            subprocess.run([str(c) for c in whole], check=True, stderr=subprocess.DEVNULL)
        peer.logits(setting, ids, files["llama_cpp"])
        nmse = [PYTHON, ROOT / "scripts/parity/nmse.py", *files.values()]
        out = subprocess.run(nmse, check=True, capture_output=True, text=True).stdout
    return dict(zip(("air", "llama_cpp"), json.loads(out)))
