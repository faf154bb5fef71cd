#!/usr/bin/env python3
"""Compares files that `air quantize` wrote with what llama.cpp's quantiser makes of the same model.

    $AIR_ORACLES/llama/bin/python scripts/check_quantize.py MODEL.gguf TYPE=FILE.gguf ...

For each type: the same format for every tensor, a root-mean-square error of each at most 2% above llama.cpp's, and
logits that llama.cpp computes from the file (so it loads), about as near to the original's as those of its own file.
Prints a line a type; exits with 1 at the first that does not hold. Types whose name is pure in air (Q4_K, Q5_K) are
compared with llama.cpp's `--pure`.
"""

import sys
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

FILE_TYPES = dict(F32=0, F16=1, Q4_0=2, Q8_0=7, Q4_K_S=14, Q4_K_M=15, Q5_K_S=16, Q5_K_M=17, Q6_K=18, BF16=32)
PURE = dict(Q4_K=14, Q5_K=16)


def decode(path):
    """Format and float32 values of each tensor."""
    tensors = gguf.GGUFReader(path).tensors
    return {t.name: (t.tensor_type.name, gguf.dequantize(t.data, t.tensor_type).astype(np.float64)) for t in tensors}


def logits(path):
    llm = llama_cpp.Llama(str(path), n_ctx=64, logits_all=True, n_threads=2, verbose=False)
    llm.eval([(7 * i + 3) % llm.n_vocab() for i in range(48)])
    return np.array(llm.scores[:48], dtype=np.float64)


def check(kind, source, x, ours, theirs):
    """`source` and `x`: tensors and logits of the original."""
    a, b = decode(ours), decode(theirs)
    assert source.keys() == a.keys() == b.keys(), f"{kind}: other tensors"
    worst = 0.0
    for name, (_, value) in source.items():
        assert a[name][0] == b[name][0], f"{kind} {name}: {a[name][0]}, but llama.cpp chooses {b[name][0]}"
        mine, other = (np.sqrt(np.mean((t[name][1] - value) ** 2)) for t in (a, b))
        assert mine <= 1.02 * other, f"{kind} {name}: error {mine}, llama.cpp's {other}"
        worst = max(worst, mine / other if other else 0.0)
    keys = gguf.GGUFReader(ours).fields, gguf.GGUFReader(theirs).fields
    for key in ("general.file_type", "general.quantization_version"):
        mine, other = (k[key].contents() for k in keys)
        assert mine == other, f"{kind} {key}: {mine}, llama.cpp writes {other}"
    a, b = logits(ours), logits(theirs)
    assert np.isfinite(a).all(), f"{kind}: logits that are not finite"
    mine, other = (np.sum((y - x) ** 2) / np.sum(x**2) for y in (a, b))
    assert mine <= 1.5 * other + 1e-9, f"{kind}: logits are {mine} off, llama.cpp's {other}"
    print(f"{kind}: error of a tensor at most {worst:.3f} of llama.cpp's; NMSE of logits {mine:.2e}, its {other:.2e}")


def main():
    original, pairs = sys.argv[1], [pair.split("=", 1) for pair in sys.argv[2:]]
    source, x = decode(original), logits(original)
    with tempfile.TemporaryDirectory() as folder:
        theirs = Path(folder) / "theirs.gguf"
        for kind, ours in pairs:
            params = llama_cpp.llama_model_quantize_default_params()
            params.ftype, params.pure, params.nthread = (FILE_TYPES | PURE)[kind], kind in PURE, 2
            assert llama_cpp.llama_model_quantize(original.encode(), str(theirs).encode(), params) == 0, kind
            check(kind, source, x, ours, theirs)


if __name__ == "__main__":
    try:
        main()
    except AssertionError as e:
        sys.exit(str(e))
