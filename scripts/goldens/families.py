#!/usr/bin/env python3
"""Golden logits of model families: tiny random checkpoints and what they compute.

What it is.  For each row of CASES this script builds a Hugging Face transformers
model of a few ten thousand parameters with seeded random weights, runs one
prompt through it in float32 with eager attention, and writes

    tests/goldens/families/<name>.gguf          the model
    tests/goldens/families/<name>.logits.npy    float32 [n_tokens, n_vocab], C order, npy 1.0
    tests/goldens/families/index.json           for all: name, family, what it covers, tokens

transformers is the specification: a loader of the GGUF that computes the same
function reproduces the logits up to float rounding.

How to run.

    python scripts/goldens/families.py             write the goldens
    python scripts/goldens/families.py --check     compare llama.cpp with the written files
    python scripts/goldens/families.py --seeds     search seeds for the mixtures of experts

What it needs.  Python 3.11+, numpy and gguf; torch and transformers 5 to write;
llama-cpp-python to check.  The GGUF files come out the same, byte for byte, on
every run (weights are drawn by numpy); logits may differ in the last bits
between versions of torch.

Weights.  Everything is random, so that nothing can be left out unnoticed: norm
weights in 1 +- 0.2, biases in +- 0.2, matrices scaled so that attention is
peaked (queries and keys that differ in position give different logits) and
logits spread over about +-5.  All values are rounded to float16, so that a file
with F16 matrices and one with F32 matrices both hold exactly what transformers
computed with.  Norms, biases and routers are F32 in all files.

Conventions of the files, as llama.cpp's converter writes them.

- llama, mistral and mixtral are one architecture, `llama`: Q and K rows (and
  their biases) are permuted from half-split rotary pairs (i, i + d/2) to
  interleaved ones (2i, 2i + 1).  The qwen architectures keep half-split pairs.
- llama3 rope scaling is a tensor `rope_freqs.weight` of d/2 divisors of the
  frequencies, with no `rope.scaling` keys.  `linear` and `yarn` are keys.
- YaRN: cos and sin are multiplied by 0.1 ln(factor) + 1 when nothing else is
  said; transformers and llama.cpp agree.  An explicit `attention_factor` of
  transformers is written as `rope.scaling.attn_factor`, the *ratio* to that
  default: llama.cpp multiplies by this key, whereas it overwrites what it reads
  from `rope.scaling.yarn_attn_factor`.  The betas are `rope.scaling.yarn_beta_fast`
  and `yarn_beta_slow`; for these architectures llama.cpp takes other betas than 32
  and 1 as run-time parameters only, so `--check` passes them.
- Sliding window w: a query sees w keys, itself included.  The key is
  `<arch>.attention.sliding_window`; where only some layers slide, a bool array
  `<arch>.attention.sliding_window_pattern` says which.  llama.cpp ignores both
  for these architectures, so `--check` compares the first w positions only.
- Experts of one layer are one tensor `ffn_{gate,up,down}_exps` [experts, rows,
  columns]; the router is `ffn_gate_inp`, softmax over all, top k renormalised.

The tokenizer in each file is a minimal SPM one ("<unk>", "<s>", "</s>", then one
token per character), for loaders which insist on one; the prompts are ids.

Two random experts can nearly tie, and then any rounding decides the logits.
The seeds of mixtures are therefore chosen so that in every layer and at every
position the last chosen router logit beats the first rejected one by MARGIN.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np

OUT = Path(__file__).resolve().parents[2] / "tests" / "goldens" / "families"
MARGIN = 0.1
CONTEXT = 256

YARN = dict(rope_type="yarn", rope_theta=50.0, factor=4.0, original_max_position_embeddings=16)


def case(name, family, covers, seed, tokens, store="F16", **config):
    return dict(name=name, family=family, covers=covers, seed=seed, tokens=tokens, store=store, config=config)


def shape(dim, layers, heads, kv, ffn, vocab, **more):
    return dict(hidden_size=dim, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv,
                intermediate_size=ffn, vocab_size=vocab, **more)


def rope(theta, **more):
    return dict(rope_parameters=dict(dict(rope_type="default", rope_theta=theta), **more))


CASES = [
    case("llama-gqa", "llama", "grouped heads, untied, odd ffn and vocab", 101, 28, "F32",
         **shape(32, 2, 4, 2, 43, 61), **rope(10000.0)),
    case("llama-tied", "llama", "tied embeddings, one KV head, three layers, dim not a multiple of 8", 102, 24,
         **shape(36, 3, 6, 1, 53, 47, tie_word_embeddings=True), **rope(500000.0)),
    case("llama-head-dim", "llama", "head_dim is not dim/heads, no grouping", 103, 24,
         **shape(24, 2, 3, 3, 37, 59, head_dim=20), **rope(10000.0)),
    case("llama-llama3-rope", "llama", "llama3 rope scaling (rope_freqs.weight), tied", 104, 40,
         **shape(32, 2, 2, 1, 43, 61, tie_word_embeddings=True),
         **rope(10000.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                original_max_position_embeddings=64)),
    case("llama-linear-rope", "llama", "linear rope scaling", 105, 32,
         **shape(32, 2, 4, 2, 41, 53), **rope(10000.0, rope_type="linear", factor=4.0)),
    case("llama-yarn", "llama", "YaRN, default betas, positions past the original context", 106, 36, "F32",
         **shape(24, 2, 2, 1, 31, 43, head_dim=16), rope_parameters=dict(YARN)),
    case("llama-yarn-betas", "llama", "YaRN, explicit betas and attention_factor, positions past the original context",
         107, 36, **shape(32, 2, 2, 2, 43, 61),
         rope_parameters=dict(YARN, factor=8.0, beta_fast=2.0, beta_slow=0.25, attention_factor=1.5)),
    case("llama-attn-bias", "llama", "biases on q, k, v and output, none in the FFN", 108, 24,
         **shape(32, 2, 4, 2, 43, 61, attention_bias=True), **rope(10000.0)),

    case("mistral-window", "mistral", "sliding window 8 on all layers", 201, 32, "F32",
         **shape(24, 2, 4, 2, 31, 47, sliding_window=8, head_dim=6), **rope(10000.0)),
    case("mistral-window-deep", "mistral", "sliding window 5, three layers, head_dim is not dim/heads", 202, 40,
         **shape(28, 3, 2, 1, 39, 53, sliding_window=5, head_dim=18), **rope(1000000.0)),
    case("mistral-full", "mistral", "no sliding window, head_dim is not dim/heads", 203, 24,
         **shape(32, 2, 4, 2, 43, 61, sliding_window=None, head_dim=12), **rope(1000000.0)),

    case("qwen2-untied", "qwen2", "q, k, v biases, untied", 301, 28, "F32",
         **shape(32, 2, 4, 2, 43, 61), **rope(1000000.0)),
    case("qwen2-tied", "qwen2", "q, k, v biases, tied, one KV head", 302, 24,
         **shape(36, 3, 3, 1, 47, 59, tie_word_embeddings=True), **rope(1000000.0)),
    case("qwen2-yarn", "qwen2", "YaRN with half-split pairs, positions past the original context", 303, 36,
         **shape(32, 2, 2, 2, 43, 47), rope_parameters=dict(YARN)),
    case("qwen2-window", "qwen2", "sliding window 7 on the last two of three layers", 304, 32,
         **shape(24, 3, 2, 1, 37, 53, use_sliding_window=True, sliding_window=7, max_window_layers=1),
         **rope(10000.0)),

    case("qwen3-untied", "qwen3", "QK norm, head_dim is not dim/heads, untied", 401, 28, "F32",
         **shape(24, 2, 4, 2, 31, 47, head_dim=16), **rope(1000000.0)),
    case("qwen3-tied", "qwen3", "QK norm, tied, one KV head, three layers", 402, 24,
         **shape(40, 3, 4, 1, 43, 61, head_dim=10, tie_word_embeddings=True), **rope(1000000.0)),
    case("qwen3-mha", "qwen3", "QK norm, no grouping, wide heads", 403, 24,
         **shape(28, 2, 2, 2, 45, 59, head_dim=32), **rope(10000.0)),

    case("qwen3moe-2of6", "qwen3moe", "2 of 6 experts, odd expert width", 5157, 24, "F32",
         **shape(24, 2, 2, 1, 48, 43, head_dim=16, moe_intermediate_size=13, num_experts=6, num_experts_per_tok=2,
                 norm_topk_prob=True), **rope(1000000.0)),
    case("qwen3moe-3of8", "qwen3moe", "3 of 8 experts, grouped heads, odd expert width", 5818, 24,
         **shape(32, 2, 4, 2, 64, 61, head_dim=12, moe_intermediate_size=19, num_experts=8, num_experts_per_tok=3,
                 norm_topk_prob=True), **rope(1000000.0)),
    case("qwen3moe-tied", "qwen3moe", "1 of 4 experts, tied, three layers", 5315, 20,
         **shape(32, 3, 4, 4, 64, 53, head_dim=8, moe_intermediate_size=21, num_experts=4, num_experts_per_tok=1,
                 norm_topk_prob=True, tie_word_embeddings=True), **rope(10000.0)),

    case("mixtral-2of4", "mixtral", "2 of 4 experts, odd width", 6106, 24, "F32",
         **shape(24, 2, 4, 2, 19, 43, num_local_experts=4, num_experts_per_tok=2), **rope(1000000.0)),
    case("mixtral-2of8", "mixtral", "2 of 8 experts, odd width", 6391, 24,
         **shape(32, 2, 4, 2, 23, 61, num_local_experts=8, num_experts_per_tok=2), **rope(1000000.0)),
    case("mixtral-3of5", "mixtral", "3 of 5 experts, head_dim is not dim/heads, one KV head", 6310, 24,
         **shape(32, 2, 2, 1, 27, 53, num_local_experts=5, num_experts_per_tok=3, head_dim=12), **rope(10000.0)),
]

ARCH = {"llama": "llama", "mistral": "llama", "mixtral": "llama", "qwen2": "qwen2", "qwen3": "qwen3",
        "qwen3moe": "qwen3moe"}


# ---------------------------------------------------------------- transformers

def build(c, seed):
    """The transformers model of a case with all parameters drawn by numpy, and its prompt."""
    import torch
    import transformers as t

    t.logging.set_verbosity_error()
    kinds = {"llama": (t.LlamaConfig, t.LlamaForCausalLM), "mistral": (t.MistralConfig, t.MistralForCausalLM),
             "qwen2": (t.Qwen2Config, t.Qwen2ForCausalLM), "qwen3": (t.Qwen3Config, t.Qwen3ForCausalLM),
             "qwen3moe": (t.Qwen3MoeConfig, t.Qwen3MoeForCausalLM),
             "mixtral": (t.MixtralConfig, t.MixtralForCausalLM)}
    make_config, make_model = kinds[c["family"]]
    keys = dict(c["config"], rope_parameters=dict(c["config"]["rope_parameters"]))
    config = make_config(max_position_embeddings=CONTEXT, rms_norm_eps=1e-5, attn_implementation="eager", **keys)
    config._experts_implementation = "eager"
    model = make_model(config).float().eval()

    rng = np.random.default_rng(seed)
    gain = {"q_proj": 1.6, "k_proj": 1.6, "v_proj": 1.3, "o_proj": 1.0, "gate_proj": 1.3, "up_proj": 1.2,
            "down_proj": 1.2, "gate_up_proj": 1.3, "gate": 2.5, "lm_head": 2.0,
            "embed_tokens": 2.0 if config.tie_word_embeddings else math.sqrt(config.hidden_size)}
    with torch.no_grad():
        for name, p in model.named_parameters():
            part = name.split(".")[-1] if name.endswith("_proj") else name.split(".")[-2]
            if name.endswith("bias"):
                w = rng.uniform(-0.2, 0.2, p.shape)
            elif p.ndim == 1:
                assert "norm" in name, name
                w = rng.uniform(0.8, 1.2, p.shape)
            else:
                w = rng.standard_normal(p.shape) * gain[part] / math.sqrt(p.shape[-1])
            p.copy_(torch.from_numpy(w.astype(np.float16).astype(np.float32)))
    tokens = [1] + [int(i) for i in rng.integers(3, config.vocab_size, c["tokens"] - 1)]
    return model, tokens


def forward(model, tokens):
    """Logits [n_tokens, n_vocab] and the smallest margin of a router's choice (inf without one)."""
    import torch

    margins = [math.inf]

    def look(module, _, output):
        top = torch.sort(output[0].float(), dim=-1, descending=True).values
        k = module.top_k
        margins.append((top[:, k - 1] - top[:, k]).min().item())

    hooks = [m.register_forward_hook(look) for m in model.modules() if type(m).__name__.endswith("TopKRouter")]
    with torch.no_grad():
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0].float().numpy()
    for h in hooks:
        h.remove()
    assert len(hooks) == len(margins) - 1
    return logits, min(margins)


def check_sensitive(c, model, tokens, logits):
    """A sliding window must matter in these logits, or the golden does not test it."""
    if not model.config.__dict__.get("sliding_window"):
        return
    wide = dict(c, config=dict(c["config"], sliding_window=CONTEXT))
    other, same = build(wide, c["seed"])
    assert same == tokens
    assert np.abs(forward(other, tokens)[0] - logits).max() > 0.5, c["name"]


# ---------------------------------------------------------------- GGUF

def vocabulary(size):
    characters = "\u2581abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,"
    tokens = ["<unk>", "<s>", "</s>"] + list(characters)
    assert size <= len(tokens)
    return tokens[:size]


def permute_rows(w, heads):
    """Rows of each head from half-split rotary pairs to interleaved ones; also for biases."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def rope_keys(w, arch, model):
    """Scaling keys, and for llama3 the tensor of divisors."""
    p = model.config.rope_parameters
    w.add_rope_freq_base(p["rope_theta"])
    kind = p["rope_type"]
    if kind == "linear":
        w.add_string(f"{arch}.rope.scaling.type", "linear")
        w.add_rope_scaling_factor(p["factor"])
    elif kind == "yarn":
        w.add_string(f"{arch}.rope.scaling.type", "yarn")
        w.add_rope_scaling_factor(p["factor"])
        w.add_rope_scaling_orig_ctx_len(p["original_max_position_embeddings"])
        if p.get("beta_fast") is not None:
            w.add_rope_scaling_yarn_beta_fast(p["beta_fast"])
            w.add_rope_scaling_yarn_beta_slow(p["beta_slow"])
        if p.get("attention_factor") is not None:
            w.add_rope_scaling_attn_factors(p["attention_factor"] / (0.1 * math.log(p["factor"]) + 1.0))
    elif kind == "llama3":
        scaled = model.model.rotary_emb.inv_freq.double().numpy()
        d = 2 * len(scaled)
        plain = p["rope_theta"] ** (-np.arange(0, d, 2) / d)
        w.add_tensor("rope_freqs.weight", (plain / scaled).astype(np.float32))
    else:
        assert kind == "default", kind


def write_gguf(path, c, model):
    import gguf

    config, arch = model.config, ARCH[c["family"]]
    heads, kv = config.num_attention_heads, config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    w = gguf.GGUFWriter(str(path), arch)
    w.add_type("model")
    w.add_name(c["name"])
    w.add_block_count(config.num_hidden_layers)
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_vocab_size(config.vocab_size)
    w.add_rope_dimension_count(head_dim)
    w.add_file_type(gguf.LlamaFileType.ALL_F32 if c["store"] == "F32" else gguf.LlamaFileType.MOSTLY_F16)
    if c["family"] in ("qwen3moe", "mixtral"):
        w.add_expert_count(config.num_local_experts)
        w.add_expert_used_count(config.num_experts_per_tok)
    if c["family"] == "qwen3moe":
        w.add_expert_feed_forward_length(config.moe_intermediate_size)
    if window := config.__dict__.get("sliding_window"):
        w.add_sliding_window(window)
        slides = [kind == "sliding_attention" for kind in config.__dict__.get("layer_types") or []]
        if slides and not all(slides):
            w.add_array(f"{arch}.attention.sliding_window_pattern", slides)
    rope_keys(w, arch, model)

    tokens = vocabulary(config.vocab_size)
    w.add_tokenizer_model("llama")
    w.add_token_list(tokens)
    w.add_token_scores([0.0] * 3 + [-float(i) for i in range(len(tokens) - 3)])
    w.add_token_types([2, 3, 3] + [1] * (len(tokens) - 3))
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.add_add_bos_token(True)
    w.add_add_eos_token(False)

    def put(name, value):
        value = np.ascontiguousarray(value)
        keep = value.ndim == 1 or name.endswith("ffn_gate_inp.weight") or c["store"] == "F32"
        w.add_tensor(name, value.astype(np.float32 if keep else np.float16))

    names = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
             "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
             "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
             "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp"}
    for name, p in model.named_parameters():
        value = p.detach().numpy()
        if name == "model.embed_tokens.weight":
            put("token_embd.weight", value)
        elif name == "model.norm.weight":
            put("output_norm.weight", value)
        elif name == "lm_head.weight":
            put("output.weight", value)
        else:
            _, _, layer, rest = name.split(".", 3)
            if rest == "mlp.experts.gate_up_proj":
                half = value.shape[1] // 2
                put(f"blk.{layer}.ffn_gate_exps.weight", value[:, :half])
                put(f"blk.{layer}.ffn_up_exps.weight", value[:, half:])
            elif rest == "mlp.experts.down_proj":
                put(f"blk.{layer}.ffn_down_exps.weight", value)
            else:
                stem, kind = rest.rsplit(".", 1)
                if arch == "llama" and stem in ("self_attn.q_proj", "self_attn.k_proj"):
                    value = permute_rows(value, heads if stem.endswith("q_proj") else kv)
                put(f"blk.{layer}.{names[stem]}.{kind}", value)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


# ---------------------------------------------------------------- commands

def write(out):
    out.mkdir(parents=True, exist_ok=True)
    index = []
    for c in CASES:
        model, tokens = build(c, c["seed"])
        logits, margin = forward(model, tokens)
        assert margin >= MARGIN, f"{c['name']}: router margin {margin:.4f}; run --seeds"
        check_sensitive(c, model, tokens, logits)
        write_gguf(out / f"{c['name']}.gguf", c, model)
        with open(out / f"{c['name']}.logits.npy", "wb") as f:
            np.lib.format.write_array(f, np.ascontiguousarray(logits, np.float32), version=(1, 0))
        entry = {"name": c["name"], "family": c["family"], "arch": ARCH[c["family"]], "covers": c["covers"],
                 "weights": c["store"], "tokens": tokens}
        if math.isfinite(margin):
            entry["router_margin"] = round(margin, 4)
        index.append(entry)
        size = sum((out / f"{c['name']}{end}").stat().st_size for end in (".gguf", ".logits.npy"))
        print(f"{c['name']:20s} {size:7d} bytes  logits {logits.min():6.2f} .. {logits.max():5.2f}  "
              f"std {logits.std():.2f}  margin {margin:.3f}")
    rows = ",\n".join("  " + json.dumps(entry) for entry in index)
    (out / "index.json").write_text("[\n" + rows + "\n]\n")
    print(f"total {sum(f.stat().st_size for f in out.iterdir())} bytes")


def seeds():
    for c in CASES:
        if c["family"] not in ("qwen3moe", "mixtral"):
            continue
        for seed in range(c["seed"], 10**9):
            margin = forward(*build(c, seed))[1]
            if margin >= MARGIN:
                print(f"{c['name']}: seed {seed}, margin {margin:.4f}", flush=True)
                break


def check(out):
    """llama.cpp against the goldens: the largest difference over the largest logit."""
    from llama_cpp import Llama

    configs = {c["name"]: c["config"] for c in CASES}
    for entry in json.loads((out / "index.json").read_text()):
        name = entry["name"]
        betas = configs[name]["rope_parameters"]
        window = configs[name].get("sliding_window") or CONTEXT
        golden = np.load(out / f"{name}.logits.npy")[:window]
        llm = Llama(str(out / f"{name}.gguf"), n_ctx=CONTEXT, n_batch=64, logits_all=True, n_threads=1,
                    type_k=0, type_v=0, flash_attn=False, verbose=False,
                    yarn_beta_fast=betas.get("beta_fast", 32.0), yarn_beta_slow=betas.get("beta_slow", 1.0))
        llm.eval(entry["tokens"])
        got = np.array(llm.scores[: len(golden)])
        error = np.abs(got - golden).max() / np.abs(golden).max()
        same = (got.argmax(1) == golden.argmax(1)).mean()
        part = f"  (the first {window} positions: it ignores the window)" if window < CONTEXT else ""
        print(f"{name:20s} {entry['weights']}  max relative difference {error:.2e}  same argmax {same:.3f}{part}")


def main():
    p = argparse.ArgumentParser(description="Golden logits of tiny random checkpoints of model families.")
    p.add_argument("--out", type=Path, default=OUT)
    p.add_argument("--check", action="store_true", help="compare llama.cpp with the written files")
    p.add_argument("--seeds", action="store_true", help="search seeds whose routers do not nearly tie")
    args = p.parse_args()
    if args.check:
        check(args.out)
    elif args.seeds:
        seeds()
    else:
        write(args.out)


if __name__ == "__main__":
    main()
