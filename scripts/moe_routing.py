#!/usr/bin/env python3
"""Which experts a trained mixture of experts uses, and which cache of experts would have had them.

    python scripts/moe_routing.py --text shakespeare.txt          # trains for 15 minutes of one core, then all tables
    python scripts/moe_routing.py                                 # the tables again, from the recorded routing

Random routers say nothing about a cache: real ones prefer some experts for a while. So this trains a small mixture
(scripts/moe/model.py: 6 layers of 64 experts, 4 in use, Qwen3-30B-A3B's share) on the corpus and tokenizer of
train_demo.py, records what its routers choose on held-out text, and plays that to caches of experts of different sizes
and policies (scripts/moe/caches.py), for one sequence and for 8 that are decoded together.

Written are tests/data/moe_routing.bin, for the tests of air's own cache, and a table of hit rates in
benches/results/moe-routing.json; nothing else is kept of the model. Markdown goes to stdout.

moe_routing.bin: the bytes "MOER", then little-endian u16: layers, experts, experts in use, sequences, positions of a
sequence; then for each sequence, position and layer the numbers of the experts in rising order, one byte each, written
as 6 bits: 4 experts are 3 bytes, the first expert in the lowest bits.

Needs Python 3.11 and numpy; training needs torch and tokenizers too (scripts/fetch_oracles.sh --peers).
"""

import argparse
import json
import os
import pathlib
import struct
import sys

import numpy as np

from moe import caches

ROOT = pathlib.Path(__file__).resolve().parents[1]
DATA = ROOT / "tests/data/moe_routing.bin"
TABLE = ROOT / "benches/results/moe-routing.json"
SEQUENCES, POSITIONS = 16, 512
TOGETHER = 8  # sequences of a batch
MAGIC = b"MOER"


def pack(chosen, experts):
    """The file's bytes for chosen experts [sequences, positions, layers, used]."""
    sequences, positions, layers, used = chosen.shape
    assert experts == 64 and used == 4
    sets = np.sort(chosen, -1).astype(np.uint32).reshape(-1, used)
    words = (sets << np.arange(0, 6 * used, 6, dtype=np.uint32)).sum(-1, dtype=np.uint32)
    body = words.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3]
    return MAGIC + struct.pack("<5H", layers, experts, used, sequences, positions) + body.tobytes()


def unpack(data):
    """(chosen experts [sequences, positions, layers, used], experts) from the file's bytes."""
    if data[:4] != MAGIC:
        raise SystemExit(f"{DATA} does not begin with {MAGIC.decode()}")
    layers, experts, used, sequences, positions = struct.unpack("<5H", data[4:14])
    body = np.frombuffer(data[14:], np.uint8).reshape(-1, 3).astype(np.uint32)
    words = body[:, 0] | body[:, 1] << 8 | body[:, 2] << 16
    sets = words[:, None] >> np.arange(0, 6 * used, 6, dtype=np.uint32) & 63
    return sets.astype(np.uint8).reshape(sequences, positions, layers, used), experts


def record(args):
    """Trains, and returns what is kept of it beside the routing."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    import train_demo
    from moe import model

    torch.set_num_threads(1)
    train_bytes, held_bytes = train_demo.split(pathlib.Path(args.text).read_bytes())
    tokenizer = train_demo.train_tokenizer(train_bytes.decode())
    ids = lambda text: np.array(tokenizer.encode(text.decode()).ids, np.int64)
    trained, held = ids(train_bytes), ids(held_bytes)
    net, steps = model.train(trained, args.minutes, args.batch, args.rate, args.seed)
    length = SEQUENCES * POSITIONS
    spread = np.linspace(0, len(trained) - POSITIONS, SEQUENCES).astype(int)
    profile, _, _ = model.routing(net, np.stack([trained[s : s + POSITIONS] for s in spread]))
    chosen, foreseen, nats = model.routing(net, held[:length].reshape(SEQUENCES, POSITIONS))
    DATA.write_bytes(pack(chosen, model.EXPERTS))
    counts = np.stack([np.bincount(profile[:, :, i].ravel(), minlength=model.EXPERTS) for i in range(model.LAYERS)])
    return {
        "training": {"steps": steps, "tokens": steps * args.batch * model.CONTEXT, "seed": args.seed},
        "held_out_nats_per_token": round(nats, 3),
        "profile": counts.tolist(),
        "lookahead": lookahead(chosen, foreseen),
    }


def lookahead(chosen, foreseen):
    """The share of a layer's experts among the n that its router prefers on the row of the layer before."""
    used, out = chosen.shape[-1], {}
    for n in (used, used + used // 2, 2 * used):
        hit = (chosen[:, :, 1:, :, None] == foreseen[:, :, :, None, :n]).any(-1)
        out[str(n)] = [round(x, 4) for x in hit.mean((0, 1, 3)).tolist()]
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", help="train on this corpus first, UTF-8")
    parser.add_argument("--minutes", type=float, default=15, help="processor time of the training [default: 15]")
    parser.add_argument("--batch", type=int, default=4, help="sequences of a step [default: 4]")
    parser.add_argument("--rate", type=float, default=3e-3, help="learning rate [default: 0.003]")
    parser.add_argument("--seed", type=int, default=1616)
    args = parser.parse_args()
    kept = record(args) if args.text else json.loads(TABLE.read_text())
    chosen, experts = unpack(DATA.read_bytes())
    kept["hit_rates"] = caches.table(chosen, experts, np.array(kept["profile"]), TOGETHER)
    TABLE.write_text(json.dumps(kept, indent=1) + "\n")
    print(caches.markdown(kept))


main()
