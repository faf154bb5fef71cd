#!/usr/bin/env python3
"""Writes tests/goldens/quant/mixes.tsv: which format llama.cpp's quantiser gives each tensor of synthetic models.

A line `model` gives the facts; the lines after it give mix, tensor name with `*` for the layer, shape (fastest
dimension first), and one letter a layer (X+ where all layers have X): f F32, h F16, b BF16, 8 Q8_0, 6 Q6_K, 5 Q5_K,
4 Q4_K, 0 Q4_0, s Q5_0, t Q5_1.
The models' own tensors are F32.

    $AIR_ORACLES/llama/bin/python scripts/goldens/mixes.py
"""

import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

OUT = Path(__file__).resolve().parents[2] / "tests" / "goldens" / "quant" / "mixes.tsv"
LETTER = dict(F32="f", F16="h", BF16="b", Q8_0="8", Q6_K="6", Q5_K="5", Q4_K="4", Q4_0="0", Q5_0="s", Q5_1="t")
# name: (llama.cpp's file type, pure)
MIXES = {
    "F32": (0, False), "F16": (1, False), "BF16": (32, False), "Q8_0": (7, False), "Q6_K": (18, False),
    "Q5_K_M": (17, False), "Q5_K_S": (16, False), "Q5_K": (16, True), "Q4_K_M": (15, False),
    "Q4_K_S": (14, False), "Q4_K": (14, True), "Q4_0": (2, False),
}
# architecture, layers, experts, heads, kv heads, tied, dim, ffn
MODELS = [
    ("llama", 22, 0, 4, 2, False, 256, 512),
    ("llama", 16, 0, 4, 4, True, 256, 256),
    ("llama", 80, 0, 8, 1, False, 256, 256),
    ("llama", 80, 0, 4, 4, False, 256, 256),
    ("qwen2", 80, 0, 4, 4, False, 256, 256),
    ("qwen2", 5, 0, 7, 1, True, 224, 256),
    ("qwen3", 36, 0, 4, 2, True, 256, 336),
    ("llama", 9, 8, 4, 2, False, 256, 256),
    ("qwen3moe", 12, 16, 4, 2, False, 256, 96),
    ("llama", 3, 0, 2, 1, False, 80, 172),
]


def tensors(arch, layers, experts, heads, kv, tied, dim, ffn):
    vocab, head = 256, dim // heads
    yield "token_embd.weight", (dim, vocab)
    if not tied:
        yield "output.weight", (dim, vocab)
    yield "output_norm.weight", (dim,)
    for i in range(layers):
        b = f"blk.{i}."
        yield b + "attn_norm.weight", (dim,)
        yield b + "attn_q.weight", (dim, heads * head)
        yield b + "attn_k.weight", (dim, kv * head)
        yield b + "attn_v.weight", (dim, kv * head)
        yield b + "attn_output.weight", (heads * head, dim)
        yield b + "ffn_norm.weight", (dim,)
        if arch == "qwen2":
            yield b + "attn_v.bias", (kv * head,)
        if experts:
            yield b + "ffn_gate_inp.weight", (dim, experts)
        stack = (experts,) if experts else ()
        suffix = "_exps" if experts else ""
        yield b + f"ffn_gate{suffix}.weight", (dim, ffn, *stack)
        yield b + f"ffn_up{suffix}.weight", (dim, ffn, *stack)
        yield b + f"ffn_down{suffix}.weight", (ffn, dim, *stack)


def write(path, model):
    arch, layers, experts, heads, kv, _, dim, ffn = model
    w = gguf.GGUFWriter(path, arch)
    w.add_block_count(layers)
    w.add_context_length(128)
    w.add_embedding_length(dim)
    w.add_feed_forward_length(ffn)
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_dimension_count(dim // heads)
    w.add_vocab_size(256)
    if experts:
        w.add_expert_count(experts)
        w.add_expert_used_count(2)
        w.add_expert_feed_forward_length(ffn)
    rng = np.random.default_rng(1)
    for name, shape in tensors(*model):
        w.add_tensor(name, rng.standard_normal(shape[::-1], dtype=np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def quantise(source, target, file_type, pure):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.pure, params.nthread = file_type, pure, 2
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), params)
    assert code == 0, (source, file_type)


def short(types):
    """One letter a layer; one letter and a plus where all layers have the same."""
    return types[0] + "+" if len(set(types)) == 1 else "".join(types)


def main():
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "a.gguf", Path(folder) / "b.gguf"
        for model in MODELS:
            write(source, model)
            arch, layers, experts, heads, kv, tied, _, _ = model
            lines.append(f"model\t{arch}\t{layers}\t{experts}\t{heads}\t{kv}\t{'tied' if tied else 'untied'}")
            for mix, (file_type, pure) in MIXES.items():
                quantise(source, target, file_type, pure)
                found = {t.name: t.tensor_type.name for t in gguf.GGUFReader(target).tensors}
                rows = {}
                for name, shape in tensors(*model):
                    pattern = ".".join("*" if p.isdigit() else p for p in name.split("."))
                    rows.setdefault((pattern, "x".join(map(str, shape))), []).append(LETTER[found[name]])
                lines += [f"{mix}\t{name}\t{shape}\t{short(types)}" for (name, shape), types in rows.items()]
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
