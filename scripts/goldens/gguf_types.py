#!/usr/bin/env python3
"""Writes tests/goldens/gguf/every_type.gguf with the gguf package's writer: every metadata type and three tensors.

The test reads it, compares each value with the ones below, and writes it again: the bytes must be the same. Run
with the interpreter of a venv that has `gguf` and `numpy`:

    $AIR_ORACLES/llama/bin/python scripts/goldens/gguf_types.py
"""

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType as T, GGUFWriter

OUT = Path(__file__).resolve().parents[2] / "tests" / "goldens" / "gguf" / "every_type.gguf"


def main():
    OUT.parent.mkdir(parents=True, exist_ok=True)
    w = GGUFWriter(OUT, "golden")
    scalars = [
        ("u8", 200, T.UINT8), ("i8", -100, T.INT8), ("u16", 60_000, T.UINT16), ("i16", -30_000, T.INT16),
        ("u32", 4_000_000_000, T.UINT32), ("i32", -2_000_000_000, T.INT32), ("f32", 1.5, T.FLOAT32),
        ("bool", True, T.BOOL), ("string", "grüß Gott", T.STRING), ("u64", 2**63 + 1, T.UINT64),
        ("i64", -(2**62), T.INT64), ("f64", 0.1, T.FLOAT64),
    ]
    for name, value, kind in scalars:
        w.add_key_value(name, value, kind)
    arrays = [
        ("u8s", [1, 255], T.UINT8), ("i8s", [-1, 127], T.INT8), ("u16s", [1, 65_535], T.UINT16),
        ("i16s", [-1, 32_767], T.INT16), ("u32s", [1, 2**32 - 1], T.UINT32), ("i32s", [-1, 2**31 - 1], T.INT32),
        ("f32s", [0.5, -2.0], T.FLOAT32), ("bools", [True, False], T.BOOL), ("strings", ["a", "", "ß"], T.STRING),
        ("u64s", [1, 2**64 - 1], T.UINT64), ("i64s", [-1, 2**63 - 1], T.INT64), ("f64s", [0.1], T.FLOAT64),
        ("nested", [[1, 2], [3]], T.INT32),
    ]
    for name, value, kind in arrays:
        w.add_key_value(name, value, T.ARRAY, sub_type=T.ARRAY if name == "nested" else kind)
    w.add_tensor("matrix", np.arange(6, dtype=np.float32).reshape(2, 3))
    w.add_tensor("half", np.arange(5, dtype=np.float16))
    blocks = np.arange(2 * 34, dtype=np.uint8).reshape(2, 34)
    w.add_tensor("blocks", blocks, raw_dtype=GGMLQuantizationType.Q8_0)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    print(OUT.name, OUT.stat().st_size)


main()
