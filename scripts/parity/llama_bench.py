#!/usr/bin/env python3
"""Times llama.cpp's passes, one command a line on standard input, one line of JSON for each on standard output.

    llama_bench.py MODEL THREADS REPACK [LOAD [PROCS]]

REPACK: 1 lets it repack weights for its matrix kernels, 0 does not. LOAD: `auto`, `mmap` or `direct`, how it reads the
file. PROCS: a cgroup's file of processes; this one joins it before it opens the model, so that what Python itself
needs is not counted against the peer.

The model stays loaded. The comparing scripts start this with the interpreter of a venv that has `llama_cpp`. A
command is an object:

    {"flash": 0 or 1, "context": N, "batch": N, "depth": D, "prompt": P, "answer": N}

Optional is "ubatch", the most rows that it computes at a time [512]. It reads P random tokens into each of `batch`
sequences behind D that are read once and kept, then decodes N passes of one random token of each: what llama-bench
times, without sampling. The answer has the seconds of the two parts.

    {"flash": 0 or 1, "tokens": [IDS], "logits": "OUT.npy"}

This writes the logits at every position of the tokens, read in one pass: float32 [n_tokens, n_vocab].
"""

import json
import os
import pathlib
import random
import sys
import time

import numpy as np
from llama_cpp import llama_cpp as api

STEP = 2048  # tokens of a call, llama-bench's default
UBATCH = 512  # rows that are computed at a time, its default too
LOADS = {"auto": api.LLAMA_LOAD_MODE_AUTO, "mmap": api.LLAMA_LOAD_MODE_MMAP, "direct": api.LLAMA_LOAD_MODE_DIRECT_IO}


class Context:
    """A context and what its sequences hold."""

    def __init__(self, model, flash, context, batch, ubatch, threads):
        params = api.llama_context_default_params()
        params.n_ctx = context * batch
        self.step = max(STEP, ubatch)
        params.n_batch, params.n_ubatch = self.step, ubatch
        params.n_seq_max = batch
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.handle = api.llama_init_from_model(model, params)
        if not self.handle:
            raise RuntimeError("llama.cpp cannot make a context")
        self.memory = api.llama_get_memory(self.handle)
        self.vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
        self.tokens = api.llama_batch_init(self.step, 0, 1)
        self.sequences = batch
        self.depth = 0

    def decode(self, rows, ids=None):
        """One call; rows are (sequence, position, whether logits are wanted), the tokens random unless given."""
        t = self.tokens
        t.n_tokens = len(rows)
        for i, (seq, pos, wanted) in enumerate(rows):
            t.token[i] = ids[i] if ids else random.randrange(self.vocab)
            t.pos[i], t.logits[i] = pos, wanted
            t.n_seq_id[i], t.seq_id[i][0] = 1, seq
        code = api.llama_decode(self.handle, t)
        if code != 0:
            raise RuntimeError(f"llama_decode returned {code}")

    def read(self, start, n):
        """Reads n tokens into each sequence from a position on."""
        rows = [(s, start + i, i == n - 1) for s in range(self.sequences) for i in range(n)]
        for i in range(0, len(rows), self.step):
            self.decode(rows[i : i + self.step])
        api.llama_synchronize(self.handle)

    def forget(self, keep):
        for s in range(self.sequences):
            if not api.llama_memory_seq_rm(self.memory, s, keep, -1):
                raise RuntimeError("llama.cpp cannot take tokens back")

    def run(self, depth, prompt, answer):
        if self.depth != depth:
            self.forget(0)
            if depth:
                self.read(0, depth)
            self.depth = depth
        start = time.perf_counter()
        if prompt:
            self.read(depth, prompt)
        read = time.perf_counter()
        for i in range(answer):
            self.decode([(s, depth + prompt + i, 1) for s in range(self.sequences)])
            api.llama_synchronize(self.handle)
        end = time.perf_counter()
        self.forget(depth)
        return {"prefill": read - start, "decode": end - read}

    def logits(self, ids, path):
        self.decode([(0, i, 1) for i in range(len(ids))], ids)
        rows = api.llama_get_logits(self.handle)
        np.save(path, np.ctypeslib.as_array(rows, shape=(len(ids), self.vocab)))
        return {}


def main():
    path, threads, repack = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1"
    quiet = api.llama_log_callback(lambda level, text, data: None)
    api.llama_log_set(quiet, None)
    api.llama_backend_init()
    params = api.llama_model_default_params()
    params.n_gpu_layers = 0
    params.use_extra_bufts = repack
    params.load_mode = LOADS[sys.argv[4] if len(sys.argv) > 4 else "auto"]
    if len(sys.argv) > 5:
        pathlib.Path(sys.argv[5]).write_text(str(os.getpid()))
    start = time.perf_counter()
    model = api.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise SystemExit(f"llama.cpp cannot load {path}")
    about = {
        "version": api.llama_version().decode(),
        "system": api.llama_print_system_info().decode().strip(" |"),
        "load_s": time.perf_counter() - start,
    }
    print(json.dumps(about), flush=True)
    contexts = {}
    for line in sys.stdin:
        c = json.loads(line)
        if "logits" in c:
            context = Context(model, c["flash"], 256, 1, UBATCH, threads)
            print(json.dumps(context.logits(c["tokens"], c["logits"])), flush=True)
            api.llama_free(context.handle)
            continue
        key = c["flash"], c["context"], c["batch"], c.get("ubatch", UBATCH)
        if key not in contexts:
            for old in [k for k in contexts if k[1:] != key[1:]]:
                api.llama_free(contexts.pop(old).handle)
            contexts[key] = Context(model, *key, threads)
        print(json.dumps(contexts[key].run(c["depth"], c["prompt"], c["answer"])), flush=True)


main()
