"""Reference distributions of the sampler chain: tests/goldens/sampler/chain.json.

Each case is computed twice: by definition in float64 numpy, and by llama.cpp's own samplers (float32) through
llama_cpp; the script fails where the two disagree, so a golden is what both say. Run with the python of
$AIR_ORACLES/llama (default ~/.cache/air-oracles/llama), from the root of the repository.
"""

import ctypes
import json
import pathlib

import llama_cpp as ll
import numpy as np

OUT = pathlib.Path("tests/goldens/sampler/chain.json")
DEFAULTS = dict(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0, repetition_penalty=1.0,
                presence_penalty=0.0, frequency_penalty=0.0, repeat_last_n=64, logit_bias=[])


def reference(logits, history, p):
    """The chain by definition: ids (most probable first) and probabilities."""
    logits = logits.astype(np.float64).copy()
    for token, bias in p["logit_bias"]:
        logits[token] += bias
    last_n = p["repeat_last_n"]
    recent = history if last_n < 0 else history[len(history) - min(last_n, len(history)):]
    for token in set(recent):
        x = logits[token]
        x = x / p["repetition_penalty"] if x > 0 else x * p["repetition_penalty"]
        logits[token] = x - recent.count(token) * p["frequency_penalty"] - p["presence_penalty"]
    ids = np.lexsort((np.arange(len(logits)), -logits))
    ids = ids[np.isfinite(logits[ids])]

    def probabilities():
        e = np.exp(logits[ids] - logits[ids].max())
        return e / e.sum()

    if p["top_k"] > 0:
        ids = ids[: p["top_k"]]
    if p["typical_p"] < 1:
        q = probabilities()
        surprise = -np.log(q)
        order = np.argsort(np.abs(surprise - (q * surprise).sum()), kind="stable")
        n = int(np.searchsorted(np.cumsum(q[order]), p["typical_p"], side="right")) + 1
        ids = np.array(sorted(ids[order[:n]], key=lambda i: (-logits[i], i)))
    if p["top_p"] < 1:
        ids = ids[: int(np.searchsorted(np.cumsum(probabilities()), p["top_p"], side="left")) + 1]
    if p["min_p"] > 0:
        q = probabilities()
        ids = ids[q >= p["min_p"] * q.max()]
    if p["temperature"] == 0:
        return ids[:1], np.ones(1)
    logits = logits / p["temperature"]
    return ids, probabilities()


def llama(logits, history, p):
    """The same through llama.cpp's samplers."""
    n = len(logits)
    bias = (ll.llama_logit_bias * max(1, len(p["logit_bias"])))()
    for slot, (token, value) in zip(bias, p["logit_bias"]):
        slot.token, slot.bias = token, value
    last_n = len(history) if p["repeat_last_n"] < 0 else p["repeat_last_n"]
    chain = [
        ll.llama_sampler_init_logit_bias(n, len(p["logit_bias"]), bias),
        ll.llama_sampler_init_penalties(n, last_n, p["repetition_penalty"], p["frequency_penalty"],
                                        p["presence_penalty"]),
        ll.llama_sampler_init_top_k(p["top_k"]),
        ll.llama_sampler_init_typical(p["typical_p"], 0),
        ll.llama_sampler_init_top_p(p["top_p"], 0),
        ll.llama_sampler_init_min_p(p["min_p"], 0),
        ll.llama_sampler_init_temp(p["temperature"]),
    ]
    data = (ll.llama_token_data * n)()
    for i in range(n):
        data[i].id, data[i].logit, data[i].p = i, logits[i], 0.0
    array = ll.llama_token_data_array(ctypes.cast(data, ctypes.POINTER(ll.llama_token_data)), n, -1, False)
    for sampler in chain:
        for token in history:
            ll.llama_sampler_accept(sampler, token)
        ll.llama_sampler_apply(sampler, ctypes.byref(array))
        ll.llama_sampler_free(sampler)
    ids = np.array([array.data[i].id for i in range(array.size)])
    kept = np.array([array.data[i].logit for i in range(array.size)], np.float64)
    ids, kept = ids[np.isfinite(kept)], kept[np.isfinite(kept)]
    e = np.exp(kept - kept.max())
    return ids, e / e.sum()


def pcg(n):
    """Logits of a large vocabulary that the test makes again: an integer generator, no float library."""
    state, out = 1, np.empty(n, np.float32)
    for i in range(n):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        u = state >> 40
        out[i] = np.float32(u % 4096) / 256 if u % 97 else np.float32(16 + u % 1021 / 64)
    return out


def main():
    rng = np.random.default_rng(20261120)
    small = [np.round(rng.normal(0, s, n) * 64) / 64 for s, n in [(2, 24), (1, 31), (4, 17)]]
    small.append(np.array([1.0, 3.0, 3.0, 0.0, 3.0, -1.0, 2.0, 2.0]))  # ties
    small.append(np.array([0.5, -np.inf, 2.0, -np.inf, 1.0, 0.0]))  # tokens the model forbids
    history = [3, 1, 4, 1, 5, 1, 2, 3, 5, 5, 0, 1]
    variants = [
        dict(),
        dict(top_k=1), dict(top_k=5), dict(top_k=1000),
        dict(top_p=0.0), dict(top_p=0.5), dict(top_p=0.95),
        dict(min_p=0.1), dict(min_p=1.0), dict(min_p=0.5),
        dict(typical_p=0.2), dict(typical_p=0.6), dict(typical_p=0.95),
        dict(temperature=0.0), dict(temperature=0.25), dict(temperature=3.0), dict(temperature=1e-3),
        dict(repetition_penalty=1.3), dict(repetition_penalty=0.8), dict(presence_penalty=1.5),
        dict(presence_penalty=-1.0), dict(frequency_penalty=0.75), dict(frequency_penalty=-0.5),
        dict(repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.3, repeat_last_n=5),
        dict(frequency_penalty=0.75, repeat_last_n=0), dict(frequency_penalty=0.75, repeat_last_n=-1),
        dict(logit_bias=[[0, 2.0], [2, -3.5]]), dict(logit_bias=[[1, 4.0]], top_k=2),
        dict(temperature=0.7, top_k=40, top_p=0.9),
        dict(temperature=0.8, top_k=12, typical_p=0.9, top_p=0.95, min_p=0.05),
        dict(temperature=0.0, repetition_penalty=1.5), dict(temperature=0.0, typical_p=0.3),
        dict(temperature=1.5, top_k=10, typical_p=0.97, top_p=0.93, min_p=0.02, repetition_penalty=1.1,
             presence_penalty=0.4, frequency_penalty=0.2, repeat_last_n=6, logit_bias=[[3, 1.0], [5, -2.0]]),
    ]
    sets = [(i, x.astype(np.float32)) for i, x in enumerate(small)]
    cases, skipped = [], 0
    for index, logits in sets:
        for v in variants:
            p = DEFAULTS | v
            ids, q = reference(logits, history, p)
            other, r = llama(logits, history, p)
            if set(ids) != set(other):
                # float32 puts a token on the other side of a limit, or equal scores are ordered otherwise.
                skipped += 1
                assert "typical_p" in v or index == 3, (index, v, ids, other)
                continue
            where = {t: i for i, t in enumerate(other)}
            r = r[[where[t] for t in ids]]
            assert np.abs(q - r).max() < 2e-4 / min(1.0, max(p["temperature"], 1e-2)), (index, v, q, r)
            cases.append(dict(logits=index, **v, ids=[int(i) for i in ids], p=[float(f"{x:.9g}") for x in q]))
    large = pcg(150_000)
    for v in [dict(top_k=40), dict(top_k=300, top_p=0.8), dict(top_p=0.02), dict(min_p=0.5, temperature=0.5),
              dict(temperature=0.7, top_k=40, top_p=0.9)]:
        p = DEFAULTS | v
        ids, q = reference(large, history, p)
        other, _ = llama(large, history, p)
        assert len(ids) == len(other), (v, len(ids), len(other))
        cases.append(dict(logits=-1, **v, count=len(ids), ids=[int(i) for i in ids[:40]],
                          p=[float(f"{x:.9g}") for x in q[:40]]))
    print(f"{len(cases)} cases, {skipped} left out where float32 decides a tie otherwise")
    finite = [[None if np.isinf(x) else float(x) for x in logits] for _, logits in sets]
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
    OUT.write_text(f'{{"logits":{json.dumps(finite, separators=(",", ":"))},"history":{history},"cases":[\n{lines}\n]}}\n')
    print(OUT, OUT.stat().st_size, "bytes")


main()
