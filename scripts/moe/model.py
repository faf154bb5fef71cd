"""A small mixture-of-experts decoder, its training on one core, and what its routers chose.

Shaped like Qwen3-30B-A3B made small: RMSNorm, rotary positions, SwiGLU experts, softmax over all experts, the best few
renormalised, and the same share of experts in use (4 of 64; there 8 of 128). The balancing loss is Switch's (Fedus et
al. 2021) over the whole batch, as Qwen3 has it: balance over a batch leaves each text free to prefer some experts,
balance over every sequence would not.

Training pads each expert's rows to a common capacity, twice the mean, and drops what does not fit; recording drops
nothing.
"""

import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

VOCAB, DIM, LAYERS, HEADS, EXPERT, CONTEXT = 1024, 128, 6, 4, 96, 512
EXPERTS, USED = 64, 4
HEAD = DIM // HEADS
EPS = 1e-5
BALANCE = 0.01  # weight of the balancing loss
CAPACITY = 2  # rows of an expert in training, times the mean


def rotate(x, cos, sin):
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        matrix = lambda *shape: nn.Parameter(torch.randn(*shape) * shape[-2] ** -0.5)
        self.attn_norm, self.ffn_norm = nn.Parameter(torch.ones(DIM)), nn.Parameter(torch.ones(DIM))
        self.qkv, self.o = matrix(DIM, 3 * DIM), nn.Parameter(torch.zeros(DIM, DIM))
        self.router = matrix(DIM, EXPERTS)
        self.gate, self.up = matrix(EXPERTS, DIM, EXPERT), matrix(EXPERTS, DIM, EXPERT)
        self.down = nn.Parameter(torch.randn(EXPERTS, EXPERT, DIM) * 0.02)

    def attend(self, x, cos, sin):
        b, t, _ = x.shape
        q, k, v = (F.rms_norm(x, (DIM,), self.attn_norm, EPS) @ self.qkv).view(b, t, 3, HEADS, HEAD).unbind(2)
        q, k, v = (y.transpose(1, 2) for y in (rotate(q, cos, sin), rotate(k, cos, sin), v))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + a.transpose(1, 2).reshape(b, t, DIM) @ self.o

    def route(self, x):
        """Probabilities [rows, EXPERTS] that this layer's router gives for residual rows."""
        return F.softmax((F.rms_norm(x, (DIM,), self.ffn_norm, EPS) @ self.router).float(), dim=-1)

    def experts(self, x, capacity):
        """Residual rows [rows, DIM] with the experts' part added, the probabilities, the chosen [rows, USED]."""
        rows = len(x)
        probabilities = self.route(x)
        weight, chosen = probabilities.topk(USED, dim=-1)
        weight = weight / weight.sum(-1, keepdim=True)
        # Place every (row, expert) behind the earlier ones of the same expert.
        flat = chosen.flatten()
        order = flat.argsort(stable=True)
        starts = torch.searchsorted(flat[order].contiguous(), torch.arange(EXPERTS))
        place = torch.empty_like(flat)
        place[order] = torch.arange(len(flat)) - starts[flat[order]]
        kept = place < capacity
        slot = (flat * capacity + place)[kept]
        source = torch.arange(rows).repeat_interleave(USED)[kept]
        normed = F.rms_norm(x, (DIM,), self.ffn_norm, EPS)
        packed = normed.new_zeros(EXPERTS * capacity, DIM).index_copy(0, slot, normed[source])
        packed = packed.view(EXPERTS, capacity, DIM)
        y = torch.bmm(F.silu(torch.bmm(packed, self.gate)) * torch.bmm(packed, self.up), self.down).view(-1, DIM)
        scaled = y[slot] * weight.flatten()[kept, None]
        return x.index_add(0, source, scaled.to(x.dtype)), probabilities, chosen


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Parameter(torch.randn(VOCAB, DIM) * 0.02)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.Parameter(torch.ones(DIM))
        inverse = 10000.0 ** (-torch.arange(0, HEAD, 2) / HEAD)
        angle = torch.outer(torch.arange(CONTEXT), inverse)[None, :, None, :]
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids, record=None):
        """Logits [batch, length, VOCAB] and the balancing loss. `record(layer, rows)` sees the rows of each router."""
        batch, length = ids.shape
        x, balance = self.embed[ids] * DIM**0.5, 0.0
        # Without dropping, one expert may get every row.
        capacity = CAPACITY * batch * length * USED // EXPERTS if self.training else batch * length
        for i, layer in enumerate(self.layers):
            x = layer.attend(x, self.cos[:, :length], self.sin[:, :length])
            rows = x.view(-1, DIM)
            if record:
                record(i, rows)
            rows, probabilities, chosen = layer.experts(rows, capacity)
            x = rows.view(batch, length, DIM)
            share = torch.bincount(chosen.flatten(), minlength=EXPERTS) / chosen.numel()
            balance = balance + EXPERTS * (share * probabilities.mean(0)).sum() / LAYERS
        return F.rms_norm(x, (DIM,), self.norm, EPS) @ self.embed.T, balance


def train(ids, minutes, batch, rate, seed):
    """A model trained on a sequence of token ids for so long; the learning rate falls to zero over that time."""
    torch.manual_seed(seed)
    rng, model = np.random.default_rng(seed), Model()
    adam = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    # Processor seconds, so that a pause or a neighbour does not shorten the training.
    began, step, smooth = time.process_time(), 0, None
    while (progress := (time.process_time() - began) / (60 * minutes)) < 1:
        for group in adam.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 50) * (1 - progress)
        starts = rng.integers(0, len(ids) - CONTEXT - 1, batch)
        rows = torch.from_numpy(np.stack([ids[s : s + CONTEXT + 1] for s in starts]))
        with torch.autocast("cpu", torch.bfloat16):
            logits, balance = model(rows[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())
        (loss + BALANCE * balance).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
        smooth = loss.item() if smooth is None else 0.95 * smooth + 0.05 * loss.item()
        step += 1
        if step % 20 == 0:
            print(f"step {step}  {progress:.1%}  loss {smooth:.3f}  balance {balance.item():.3f}", flush=True)
    return model.eval(), step


@torch.no_grad()
def routing(model, sequences):
    """What the routers chose for sequences [n, length] of ids, computed in float32.

    Returns the chosen experts [n, length, LAYERS, USED] (best first), those that each router would have chosen on the
    row of the layer before it, in falling order of probability [n, length, LAYERS - 1, 2 * USED], and nats per token.
    """
    chosen, foreseen, nats = [], [], 0.0
    for ids in torch.from_numpy(sequences):
        now, ahead = [], []

        def record(i, rows):
            now.append(model.layers[i].route(rows).topk(USED, dim=-1).indices)
            if i + 1 < LAYERS:
                ahead.append(model.layers[i + 1].route(rows).topk(2 * USED, dim=-1).indices)

        logits, _ = model(ids[None], record)
        nats += F.cross_entropy(logits[0, :-1].float(), ids[1:]).item() / len(sequences)
        chosen.append(torch.stack(now, 1))
        foreseen.append(torch.stack(ahead, 1))
    return torch.stack(chosen).numpy().astype(np.uint8), torch.stack(foreseen).numpy().astype(np.uint8), nats
