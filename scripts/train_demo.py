#!/usr/bin/env python3
"""Train the demo model that is embedded in the binary, and write it as GGUF.

What it is.  A llama-shaped decoder of about five million parameters (RMSNorm,
rotary positions, grouped-query attention, SwiGLU, tied embeddings), trained on
the public-domain "tiny Shakespeare" text (1.1 MB) with a byte-level BPE
vocabulary of 1024 entries.  It exists so that every command of the program
works with no download: it is small enough to embed, real enough that its text
reads like the corpus and that a wrong kernel shows in its perplexity.

How to run.

    python scripts/train_demo.py --text shakespeare.txt --out src/engine/demo.gguf
    python scripts/train_demo.py --text shakespeare.txt --print-heldout > heldout.txt

`tests/data/heldout.txt` is the first 6049 bytes of the latter (2558 tokens), in
the middle of a play whose beginning is in the training part: 1.7075 bits per
byte by the same protocol, easier than the whole, half of which is another play.

Under an hour on two CPU cores with AVX-512 BF16.  `--steps` fixes the length of
the run and `--minutes` bounds its wall time: the learning rate follows
whichever of the two is further along, so a slow machine still ends on a
finished schedule.  The run is seeded; the same versions, thread count and
`--steps` (not ended by the clock) repeat it up to the order of float sums.

What it needs.  Python 3.11+, torch, numpy, tokenizers, gguf (all from PyPI).

How it is measured.  The last five percent of the text, cut at the start of a
speech, is held out: neither the tokenizer nor the model sees it.  The figure is
bits per *byte*, so that it does not depend on the vocabulary: the held-out text
is encoded once, cut into consecutive windows of 512 tokens that do not overlap,
each window is predicted from nothing but itself (its first target has one
token of context), and the summed bits of all targets are divided by the bytes
these targets spell.  The figure in the file is that of the *quantised* weights.
The baseline is the entropy of a unigram model over bytes: byte frequencies of
the training part (add-one smoothed), coding the same held-out bytes.

Methods.  Muon (Jordan et al. 2024) for the matrices inside the layers: momentum
whose update is replaced by the nearest orthogonal matrix through five
Newton-Schulz steps.  AdamW (Loshchilov and Hutter 2019) for embedding and
norms.  BPE-dropout (Provilkov et al. 2020): the training text is re-encoded in
each epoch with random merges left out, which makes many epochs over a small
text less harmful.  Linear decay to zero, dropout on the residual branches.

Layout of the file.  Matrices Q8_0, norms F32, architecture `llama`.  Rotary
pairs are (i, i + head_dim/2) here and (2i, 2i + 1) in a llama GGUF, so the rows
of Q and K are permuted on export.  Extra keys: `air.chat.stop` (string array:
what ends an answer in chat; in this corpus a blank line ends a speech),
`air.demo.heldout_bits_per_byte`, `air.demo.unigram_bits_per_byte` (float32),
`air.demo.command` (the command line of the training run), `air.demo.steps`
(optimiser steps taken, fewer than asked for where the clock ended the run).

The committed model took 835 steps of 4096 tokens in 43 minutes on two cores that
were busy with other work: 2.12 bits per byte held
out, against 4.85 of the baseline.
"""

import argparse
import math
import os
import sys
import time

import numpy as np

# The shape. Every row length is a multiple of 256, so that any block format fits.
VOCAB, DIM, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN, CONTEXT = 1024, 256, 6, 4, 2, 64, 768, 512
ROPE_BASE, NORM_EPS = 10000.0, 1e-5
HELD_OUT = 0.05
END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = VOCAB - 1
STOP = ["\n\n"]

# A dialogue in the corpus' own form. A system message comes first, as plain text.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ message['content'] | trim + '\\n\\n' }}"
    "{%- elif message['role'] == 'assistant' -%}{{ 'JULIET:\\n' + message['content'] | trim + '\\n\\n' }}"
    "{%- else -%}{{ 'ROMEO:\\n' + message['content'] | trim + '\\n\\n' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'JULIET:\\n' }}{%- endif -%}"
)


# ---------------------------------------------------------------- text

def split(data: bytes) -> tuple[bytes, bytes]:
    """Training and held-out bytes: the last five percent, from the start of a speech."""
    cut = data.index(b"\n\n", int(len(data) * (1 - HELD_OUT))) + 2
    return data[:cut], data[cut:]


def unigram_bits_per_byte(train: bytes, held: bytes) -> float:
    counts = np.bincount(np.frombuffer(train, np.uint8), minlength=256) + 1.0
    bits = -np.log2(counts / counts.sum())
    return float(bits[np.frombuffer(held, np.uint8)].mean())


def train_tokenizer(text: str):
    """Byte-level BPE with the GPT-2 byte alphabet and pre-tokenizer pattern."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - 1,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator([text], trainer)
    assert tokenizer.get_vocab_size() == VOCAB - 1
    tokenizer.add_special_tokens([END_OF_TEXT])
    assert tokenizer.token_to_id(END_OF_TEXT) == END_OF_TEXT_ID
    return tokenizer


# ---------------------------------------------------------------- model

def build_model(torch, dropout: float):
    nn, F = torch.nn, torch.nn.functional

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn_norm = nn.Parameter(torch.ones(DIM))
            self.ffn_norm = nn.Parameter(torch.ones(DIM))
            self.q = nn.Linear(DIM, HEADS * HEAD_DIM, bias=False)
            self.k = nn.Linear(DIM, KV_HEADS * HEAD_DIM, bias=False)
            self.v = nn.Linear(DIM, KV_HEADS * HEAD_DIM, bias=False)
            self.o = nn.Linear(HEADS * HEAD_DIM, DIM, bias=False)
            self.gate = nn.Linear(DIM, FFN, bias=False)
            self.up = nn.Linear(DIM, FFN, bias=False)
            self.down = nn.Linear(FFN, DIM, bias=False)

        def forward(self, x, cos, sin):
            b, t, _ = x.shape
            h = F.rms_norm(x, (DIM,), self.attn_norm, NORM_EPS)
            q = rotate(self.q(h).view(b, t, HEADS, HEAD_DIM), cos, sin).transpose(1, 2)
            k = rotate(self.k(h).view(b, t, KV_HEADS, HEAD_DIM), cos, sin).transpose(1, 2)
            v = self.v(h).view(b, t, KV_HEADS, HEAD_DIM).transpose(1, 2)
            k = k.repeat_interleave(HEADS // KV_HEADS, dim=1)
            v = v.repeat_interleave(HEADS // KV_HEADS, dim=1)
            a = F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), is_causal=True)
            a = self.o(a.transpose(1, 2).reshape(b, t, HEADS * HEAD_DIM))
            x = x + F.dropout(a, dropout, self.training)
            h = F.rms_norm(x, (DIM,), self.ffn_norm, NORM_EPS)
            f = self.down(F.silu(self.gate(h)) * self.up(h))
            return x + F.dropout(f, dropout, self.training)

    def rotate(x, cos, sin):
        lo, hi = x.chunk(2, dim=-1)
        return torch.cat((lo * cos - hi * sin, hi * cos + lo * sin), dim=-1).to(x.dtype)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Parameter(torch.randn(VOCAB, DIM) * 0.02)
            self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
            self.norm = nn.Parameter(torch.ones(DIM))
            inverse = ROPE_BASE ** (-torch.arange(0, HEAD_DIM, 2, dtype=torch.float64) / HEAD_DIM)
            angle = torch.outer(torch.arange(CONTEXT, dtype=torch.float64), inverse).float()
            self.register_buffer("cos", angle.cos()[None, :, None, :], persistent=False)
            self.register_buffer("sin", angle.sin()[None, :, None, :], persistent=False)
            for layer in self.layers:
                for name in ("q", "k", "v", "gate", "up"):
                    nn.init.normal_(getattr(layer, name).weight, std=DIM ** -0.5)
                nn.init.zeros_(layer.o.weight)
                nn.init.zeros_(layer.down.weight)

        def forward(self, ids, targets=None):
            x = F.dropout(self.embed[ids], dropout, self.training)
            cos, sin = self.cos[:, : ids.shape[1]], self.sin[:, : ids.shape[1]]
            for layer in self.layers:
                x = layer(x, cos, sin)
            logits = F.linear(F.rms_norm(x, (DIM,), self.norm, NORM_EPS), self.embed).float()
            if targets is None:
                return logits
            reduction = "mean" if self.training else "sum"
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)

    return Model()


def make_muon(torch, parameters, decay: float, momentum=0.95):
    """Muon: momentum, then orthogonalise the update. Matrices of one shape go as one batch."""
    groups: dict[tuple, list] = {}
    for p in parameters:
        groups.setdefault(tuple(p.shape), []).append(p)
    state = {shape: torch.zeros(len(ps), *shape) for shape, ps in groups.items()}

    def orthogonal(g):
        g = g.bfloat16()
        flip = g.shape[1] > g.shape[2]
        g = g.mT if flip else g
        g = g / (g.norm(dim=(1, 2), keepdim=True) + 1e-7)
        for a, b, c in [(3.4445, -4.7750, 2.0315)] * 5:
            s = g.mT @ g
            g = a * g + g @ (b * s + c * (s @ s))
        return (g.mT if flip else g).float()

    @torch.no_grad()
    def step(lr: float):
        for shape, ps in groups.items():
            grad = torch.stack([p.grad for p in ps])
            buffer = state[shape].lerp_(grad, 1 - momentum)
            update = orthogonal(grad.lerp(buffer, momentum)) * max(1.0, shape[0] / shape[1]) ** 0.5
            for p, u in zip(ps, update):
                p.mul_(1 - lr * decay).sub_(u, alpha=lr)

    return step


def bits_per_byte(torch, model, ids: np.ndarray, lengths: np.ndarray) -> float:
    """Over consecutive windows of CONTEXT targets; `lengths` is bytes per token id."""
    model.eval()
    nats, spelled = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, CONTEXT):
            window = torch.from_numpy(ids[start : start + CONTEXT + 1])
            nats += model(window[None, :-1], window[None, 1:]).item()
            spelled += int(lengths[window[1:].numpy()].sum())
    model.train()
    return nats / math.log(2) / spelled


def train(torch, model, tokenizer, train_text: str, held_ids, lengths, args):
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    matrices = [p for layer in model.layers for p in layer.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    muon = make_muon(torch, matrices, args.weight_decay)
    adam = torch.optim.AdamW(others, lr=args.adam_lr, betas=(0.9, 0.98), weight_decay=0.0)

    def batches():
        """Epoch after epoch: encode with BPE-dropout, cut at a random offset, shuffle."""
        # The encoding is split at blank lines: the pre-tokenizer cuts there anyway,
        # and short inputs let the encoder use all cores.
        speeches = [s + "\n\n" for s in train_text.split("\n\n")]
        while True:
            tokenizer.model.dropout = args.bpe_dropout or None
            encoded = tokenizer.encode_batch(speeches)
            tokenizer.model.dropout = None
            ids = np.concatenate([np.array(e.ids, np.int64) for e in encoded])
            offset = int(rng.integers(0, args.context))
            count = (len(ids) - offset - 1) // args.context
            order = rng.permutation(count)
            for i in range(0, count - args.batch + 1, args.batch):
                starts = offset + order[i : i + args.batch] * args.context
                rows = np.stack([ids[s : s + args.context + 1] for s in starts])
                yield torch.from_numpy(rows)

    began, source, smooth = time.time(), batches(), None
    step = 0
    while (progress := max(step / args.steps, (time.time() - began) / (60 * args.minutes))) < 1.0:
        scale = min(1.0, (step + 1) / 40) * min(1.0, (1 - progress) / args.decay_part)
        rows = next(source)
        with torch.autocast("cpu", torch.bfloat16, enabled=not args.float32):
            loss = model(rows[:, :-1], rows[:, 1:])
        loss.backward()
        for group in adam.param_groups:
            group["lr"] = args.adam_lr * scale
        muon(args.muon_lr * scale)
        adam.step()
        model.zero_grad(set_to_none=True)
        smooth = loss.item() if smooth is None else 0.95 * smooth + 0.05 * loss.item()
        step += 1
        if step % 10 == 0:
            rate = step * rows[:, 1:].numel() / (time.time() - began)
            print(f"step {step:5d}  {100 * progress:5.1f}%  loss {smooth:.4f}  {rate:6.0f} tokens/s", flush=True)
        if step % args.eval_every == 0:
            bits = bits_per_byte(torch, model, held_ids, lengths)
            print(f"step {step:5d}  held-out {bits:.4f} bits per byte", flush=True)
    print(f"{step} steps, {(time.time() - began) / 60:.1f} minutes")
    return step


# ---------------------------------------------------------------- export

def permute_rows(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from half-split rotary pairs to interleaved ones."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def quantise_in_place(torch, model):
    """Replace every matrix by what its Q8_0 blocks decode to: the file's own values."""
    from gguf import GGMLQuantizationType as Type, quants

    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                blocks = quants.quantize(p.numpy(), Type.Q8_0)
                p.copy_(torch.from_numpy(quants.dequantize(blocks, Type.Q8_0)))


def export(model, tokenizer, path: str, held_bits: float, unigram_bits: float, command: str,
           steps: int):
    import json

    import gguf
    from gguf import GGMLQuantizationType as Type, quants

    w = gguf.GGUFWriter(path, "llama")
    w.add_type("model")
    w.add_name("air demo (Shakespeare)")
    w.add_description(
        "A small llama-shaped model trained on the tiny Shakespeare text (public domain); "
        "made by scripts/train_demo.py"
    )
    w.add_license("mit")
    w.add_languages(["en"])
    w.add_context_length(CONTEXT)
    w.add_embedding_length(DIM)
    w.add_block_count(LAYERS)
    w.add_feed_forward_length(FFN)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV_HEADS)
    w.add_key_length(HEAD_DIM)
    w.add_value_length(HEAD_DIM)
    w.add_rope_dimension_count(HEAD_DIM)
    w.add_rope_freq_base(ROPE_BASE)
    w.add_layer_norm_rms_eps(NORM_EPS)
    w.add_vocab_size(VOCAB)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)

    merges = [" ".join(m) if isinstance(m, list) else m for m in json.loads(tokenizer.to_str())["model"]["merges"]]
    tokens = [tokenizer.id_to_token(i) for i in range(VOCAB)]
    kinds = [gguf.TokenType.NORMAL] * (VOCAB - 1) + [gguf.TokenType.CONTROL]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types(kinds)
    w.add_token_merges(merges)
    w.add_bos_token_id(END_OF_TEXT_ID)
    w.add_eos_token_id(END_OF_TEXT_ID)
    w.add_eot_token_id(END_OF_TEXT_ID)
    w.add_add_bos_token(False)
    w.add_add_eos_token(False)
    w.add_add_space_prefix(False)
    w.add_chat_template(CHAT_TEMPLATE)
    w.add_array("air.chat.stop", STOP)
    w.add_float32("air.demo.heldout_bits_per_byte", held_bits)
    w.add_float32("air.demo.unigram_bits_per_byte", unigram_bits)
    w.add_string("air.demo.command", command)
    w.add_uint32("air.demo.steps", steps)

    def matrix(name, weight):
        w.add_tensor(name, quants.quantize(weight, Type.Q8_0), raw_dtype=Type.Q8_0)

    matrix("token_embd.weight", model.embed.detach().numpy())
    for i, layer in enumerate(model.layers):
        get = lambda name: getattr(layer, name).weight.detach().numpy()
        w.add_tensor(f"blk.{i}.attn_norm.weight", layer.attn_norm.detach().numpy())
        matrix(f"blk.{i}.attn_q.weight", permute_rows(get("q"), HEADS))
        matrix(f"blk.{i}.attn_k.weight", permute_rows(get("k"), KV_HEADS))
        matrix(f"blk.{i}.attn_v.weight", get("v"))
        matrix(f"blk.{i}.attn_output.weight", get("o"))
        w.add_tensor(f"blk.{i}.ffn_norm.weight", layer.ffn_norm.detach().numpy())
        matrix(f"blk.{i}.ffn_gate.weight", get("gate"))
        matrix(f"blk.{i}.ffn_up.weight", get("up"))
        matrix(f"blk.{i}.ffn_down.weight", get("down"))
    w.add_tensor("output_norm.weight", model.norm.detach().numpy())
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    print(f"{path}: {os.path.getsize(path)} bytes")


def sample(torch, model, tokenizer, prompt: str, count: int, temperature=0.8, seed=1) -> str:
    generator = torch.Generator().manual_seed(seed)
    ids = tokenizer.encode(prompt).ids
    model.eval()
    with torch.no_grad():
        for _ in range(count):
            logits = model(torch.tensor([ids[-CONTEXT:]]))[0, -1] / temperature
            ids.append(int(torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)))
    return tokenizer.decode(ids)


def main():
    p = argparse.ArgumentParser(description="Train the demo model and write it as GGUF.")
    p.add_argument("--text", required=True, help="the corpus, UTF-8")
    p.add_argument("--out", help="the GGUF to write")
    p.add_argument("--print-heldout", action="store_true", help="write the held-out bytes to standard output and end")
    p.add_argument("--minutes", type=float, default=55.0, help="upper bound of the training's wall time")
    p.add_argument("--steps", type=int, default=1500)
    p.add_argument("--batch", type=int, default=8, help="sequences per step")
    p.add_argument("--context", type=int, default=CONTEXT, help="tokens per training sequence")
    p.add_argument("--seed", type=int, default=1616)
    p.add_argument("--dropout", type=float, default=0.15)
    p.add_argument("--bpe-dropout", type=float, default=0.05)
    p.add_argument("--muon-lr", type=float, default=0.02)
    p.add_argument("--adam-lr", type=float, default=0.004)
    p.add_argument("--weight-decay", type=float, default=0.1, help="of the matrices, times their rate")
    p.add_argument("--decay-part", type=float, default=0.7, help="share of the run over which the rate falls to zero")
    p.add_argument("--eval-every", type=int, default=100)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--float32", action="store_true", help="no bfloat16 (machines without AVX-512 BF16 or AMX)")
    p.add_argument("--state", help="keep the trained float weights in this file")
    p.add_argument("--from-state", help="do not train: export the weights kept by --state")
    args = p.parse_args()

    with open(args.text, "rb") as f:
        train_bytes, held_bytes = split(f.read())
    if args.print_heldout:
        sys.stdout.buffer.write(held_bytes)
        return
    if not args.out:
        p.error("--out is needed")

    # Sleep, do not spin, at the barriers between threads: on shared cores spinning halves the speed.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = train_tokenizer(train_bytes.decode())
    held_ids = np.array(tokenizer.encode(held_bytes.decode()).ids, np.int64)
    # In the byte alphabet one character of a token is one byte of text.
    lengths = np.array([len(tokenizer.id_to_token(i)) for i in range(VOCAB)])
    assert lengths[held_ids].sum() == len(held_bytes)
    unigram = unigram_bits_per_byte(train_bytes, held_bytes)
    print(f"{len(train_bytes)} bytes to train on, {len(held_bytes)} held out ({len(held_ids)} tokens)")
    print(f"unigram baseline {unigram:.4f} bits per byte")

    model = build_model(torch, args.dropout)
    print(f"{sum(x.numel() for x in model.parameters())} parameters", flush=True)
    command = "python scripts/train_demo.py --text shakespeare.txt --out demo.gguf"
    if args.from_state:
        kept = torch.load(args.from_state)
        model.load_state_dict(kept["weights"])
        command, steps = kept["command"], kept["steps"]
    else:
        defaults = {a.dest: a.default for a in p._actions}
        for key in ("steps", "minutes", "batch", "context", "seed", "dropout", "bpe_dropout", "muon_lr", "adam_lr",
                    "weight_decay", "decay_part", "threads", "float32"):
            value = getattr(args, key)
            if value != defaults[key]:
                command += " --" + key.replace("_", "-") + ("" if value is True else f" {value}")
        steps = train(torch, model, tokenizer, train_bytes.decode(), held_ids, lengths, args)
        if args.state:
            torch.save({"weights": model.state_dict(), "command": command, "steps": steps}, args.state)

    full = bits_per_byte(torch, model, held_ids, lengths)
    quantise_in_place(torch, model)
    held = bits_per_byte(torch, model, held_ids, lengths)
    print(f"held-out: {full:.4f} bits per byte in float32, {held:.4f} as Q8_0; unigram baseline {unigram:.4f}")
    export(model, tokenizer, args.out, held, unigram, command, steps)
    print(sample(torch, model, tokenizer, "ROMEO:\n", 200))


if __name__ == "__main__":
    main()
