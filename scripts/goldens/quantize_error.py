#!/usr/bin/env python3
"""Writes tests/goldens/quant/rmse.tsv: the error of llama.cpp's quantisers on generated tensors.

For each class of tensor and each format that air encodes: the root-mean-square error of ggml's own quantiser
(`ggml_quantize_chunk`, no importance matrix), decoded by the `gguf` package. The tensors come from a counter-based
integer generator (splitmix64) and exact float operations, so that the Rust test builds the same bits.

Also writes tests/goldens/quant/narrow.bin: n float32, their n float16 and their n bfloat16 as numpy and the `gguf`
package round them.

    $AIR_ORACLES/llama/bin/python scripts/goldens/quantize_error.py
"""

import ctypes
from pathlib import Path

import llama_cpp
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize, quantize

OUT = Path(__file__).resolve().parents[2] / "tests" / "goldens" / "quant"
ROWS, COLS = 32, 1024
FORMATS = ["F16", "BF16", "Q8_0", "Q4_0", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]

ggml = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [
    ctypes.c_void_p
]


def splitmix(seed, n):
    """The n first outputs of splitmix64 from a seed."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def normal(seed, n):
    """Nearly normal, variance 1: twelve 16-bit uniforms (three outputs each) added, minus their mean."""
    z = splitmix(seed, 3 * n).reshape(n, 3)
    total = sum(((z >> np.uint64(s)) & np.uint64(0xFFFF)).sum(axis=1) for s in (0, 16, 32, 48))
    return (total.astype(np.int64) - 6 * 65535).astype(np.float64) / 65536.0


def uniform(seed, n):
    """Uniform on [-1, 1)."""
    return (splitmix(seed, n) >> np.uint64(40)).astype(np.float64) / 8388608.0 - 1.0


def classes():
    n = ROWS * COLS
    col = np.tile(np.arange(COLS), ROWS)
    row = np.repeat(np.arange(ROWS), COLS)
    yield "normal", normal(1, n) * 0.02
    yield "heavy", normal(2, n) * normal(3, n) * 0.02
    yield "uniform", uniform(4, n) * 0.05
    yield "rows", normal(5, n) * (1.5 + uniform(6, ROWS))[row] * np.exp2((row % 9 - 6).astype(np.float64))
    yield "outliers", normal(7, n) * np.where(col % 61 == 7, 0.5, 0.02)
    yield "shifted", normal(8, n) * 0.1 + 0.35
    yield "sparse", normal(9, n) * np.where(uniform(10, n) < 0.5, 0.0, 0.03)
    yield "tiny", normal(11, n) * 2.0**-19


def error(name, x):
    if name in ("F16", "BF16"):
        back = dequantize(quantize(x.reshape(ROWS, COLS), T[name]), T[name])
    else:
        block_len, block_bytes = GGML_QUANT_SIZES[T[name]]
        out = np.zeros(x.size // block_len * block_bytes, dtype=np.uint8)
        ggml.ggml_quantize_chunk(int(T[name]), x.ctypes.data, out.ctypes.data, 0, ROWS, COLS, None)
        back = dequantize(out.reshape(ROWS, -1), T[name])
    return np.sqrt(np.mean((back.reshape(-1).astype(np.float64) - x.astype(np.float64)) ** 2))


def narrow():
    bits = splitmix(12, 700).astype(np.uint32)
    bits[:200] = bits[:200] & np.uint32(0x0FFFFFFF) | np.uint32(0x30000000)  # near float16's range
    bits[200:300] = bits[200:300] & np.uint32(0x8FFFE000) | np.uint32(0x30001000)  # ties of float16
    bits[300:400] = bits[300:400] & np.uint32(0xFFFF0000) | np.uint32(0x00008000)  # ties of bfloat16
    special = [0, 0x80000000, 1, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFF800001, 0x7F8FFFFF]
    bits[400 : 400 + len(special)] = special
    x = bits.view(np.float32)
    with np.errstate(all="ignore"):
        half = x.astype("<f2")
        brain = quantize(x.reshape(1, -1), T.BF16)
    return bits.astype("<u4").tobytes() + half.tobytes() + brain.tobytes()


def main():
    lines = ["class\tformat\trmse"]
    for name, x in classes():
        x = x.astype(np.float32)
        lines += [f"{name}\t{f}\t{error(f, x):.9e}" for f in FORMATS]
    (OUT / "rmse.tsv").write_text("\n".join(lines) + "\n")
    (OUT / "narrow.bin").write_bytes(narrow())


if __name__ == "__main__":
    main()
