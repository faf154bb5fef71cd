#!/usr/bin/env python3
"""Writes llama.cpp's logits at every position: IDS MODEL OUT.npy [MODEL OUT.npy …]

IDS are comma separated; the arrays are float32 [n_tokens, n_vocab]. Run with the interpreter of a venv that has
`llama_cpp` and `numpy` ($AIR_ORACLES/llama/bin/python).
"""

import sys

import numpy as np
from llama_cpp import Llama


def main():
    ids = [int(i) for i in sys.argv[1].split(",")]
    for model, out in zip(sys.argv[2::2], sys.argv[3::2]):
        llm = Llama(model, n_ctx=max(64, len(ids)), n_batch=512, n_threads=2, logits_all=True, verbose=False)
        llm.eval(ids)
        np.save(out, np.array(llm.scores[: len(ids)], dtype=np.float32))
        llm.close()


main()
