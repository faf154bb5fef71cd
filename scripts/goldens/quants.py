#!/usr/bin/env python3
"""Writes tests/goldens/quant/<FORMAT>.bin: blocks and what the gguf package decodes them to.

A file holds n blocks, then n * block_len float32 (little-endian). The bytes are random; the scales of the first
blocks are the special values that the format permits (zero, subnormal, negative, infinite, NaN), the rest are
finite and of everyday size. Run with the interpreter of a venv that has `gguf` and `numpy`:

    $AIR_ORACLES/llama/bin/python scripts/goldens/quants.py
"""

from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

OUT = Path(__file__).resolve().parents[2] / "tests" / "goldens" / "quant"

# Offsets of the half floats in a block.
HALVES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0],
}
SPECIAL16 = [0x0000, 0x8000, 0x0001, 0x83FF, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E01, 0xFD00]
SPECIAL32 = [0x00000000, 0x80000000, 0x00000001, 0x807FFFFF, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00001]
EXPONENTS = [0, 1, 2, 3, 126, 127, 128, 253, 254, 255]


def scales(rng, n):
    """Everyday scales: magnitudes of real checkpoints, both signs, as the bits of half floats."""
    magnitude = np.exp2(rng.uniform(-14, 1, n)) * rng.choice([-1, 1], n)
    return magnitude.astype(np.float16).view(np.uint16)


def blocks(name, rng):
    block_len, block_bytes = GGML_QUANT_SIZES[T[name]]
    if name == "F32":
        bits = rng.integers(0, 2**32, 128, dtype=np.uint32)
        bits[: len(SPECIAL32)] = SPECIAL32
        return bits.astype("<u4").view(np.uint8).reshape(-1, 4)
    if name in ("F16", "BF16"):
        bits = rng.integers(0, 2**16, 256, dtype=np.uint16)
        bits[: len(SPECIAL16)] = SPECIAL16
        return bits.astype("<u2").view(np.uint8).reshape(-1, 2)
    n = 6 if block_len == 256 else 28
    data = rng.integers(0, 256, (n, block_bytes), dtype=np.uint8)
    if name == "MXFP4":
        data[:, 0] = rng.integers(100, 140, n)
        data[: len(EXPONENTS), 0] = EXPONENTS
        return data
    for k, at in enumerate(HALVES[name]):
        bits = scales(rng, n)
        special = SPECIAL16 if block_len == 32 else [0x83FF, 0xFC00, 0x7E01] if k == 0 else [0x0001, 0x0000, 0x7BFF]
        bits[: len(special)] = np.roll(special, 3 * k) if block_len == 32 else special
        data[:, at : at + 2] = bits.astype("<u2").view(np.uint8).reshape(n, 2)
    return data


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    names = ["F32", "F16", "BF16", *HALVES, "MXFP4"]
    for i, name in enumerate(names):
        data = blocks(name, np.random.default_rng(2718 + i))
        with np.errstate(all="ignore"):
            values = dequantize(data, T[name]).reshape(-1).astype("<f4")
        (OUT / f"{name}.bin").write_bytes(data.tobytes() + values.tobytes())


if __name__ == "__main__":
    main()
