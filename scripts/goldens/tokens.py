#!/usr/bin/env python3
"""Goldens of tokenizers: seeded random Unicode through llama.cpp, vocabulary by vocabulary.

Run with the Python that has `llama_cpp` ($AIR_ORACLES/llama/bin/python). Reads the vocabulary files of llama.cpp's
sources and writes $AIR_ORACLES/tokens/<name>.json, which `tests/tokens.rs` compares with when it is there:
{file, add_bos, eog, pieces, cases: [[text, add_special, parse_special, [id, …]], …]}. `pieces` is the FNV-1a hash
of what each token stands for, with its length before it.
"""

import ctypes
import json
import os
import random
import sys
import unicodedata
from pathlib import Path

import llama_cpp as ll

ORACLES = Path(os.environ.get("AIR_ORACLES", Path.home() / ".cache/air-oracles"))
MODELS = ORACLES / "llama-src/vendor/llama.cpp/models"
NAMES = "llama-bpe llama-spm qwen2 gpt-2 phi-3 falcon starcoder refact command-r mpt baichuan aquila gpt-neox".split()
CASES = 2500

EMOJI = ["👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "😶‍🌫️", "1️⃣", "🦙", "❤️"]
WORDS = ["hello", "World", "the", " of", "I'm", "we'RE", "you'Ve", "it's", "don't", "they'll", "HE'D", "x'y", "été", "naïve",
         "ROMEO:", "http://a.b/c?d=e&f#g", "foo_bar(baz)", "<div>", "3.14", "1,000,000", "2024-01-01", "你好", "世界", "こんにちは",
         "한국어", "Привет", "שלום", "مرحبا", "नमस्ते", "ภาษาไทย", "ﬁ", "ſ", "K", "İ", "ß", "\u2581", "<0x0A>", "[UNK]"]
SPACES = [" ", "  ", "    ", "\t", "\n", "\n\n", "\r\n", " \n", "\n ", "\u00a0", "\u3000", "\u2009", "\u200b", "\u0085", "\v", "\f", "\u2028"]


def by_category() -> dict[str, list[int]]:
    out: dict[str, list[int]] = {}
    for code in range(0x110000):
        if 0xD800 <= code < 0xE000:
            continue
        out.setdefault(unicodedata.category(chr(code)), []).append(code)
    return out


def strings(seed: int, specials: list[str]):
    """Texts of one to thirty parts: words, spaces, numbers of many scripts, any code point, special tokens."""
    rng = random.Random(seed)
    categories = by_category()
    names = sorted(categories)
    while True:
        parts = []
        for _ in range(rng.randint(1, 30)):
            kind = rng.random()
            if kind < 0.30:
                parts.append(rng.choice(WORDS))
            elif kind < 0.50:
                parts.append(rng.choice(SPACES))
            elif kind < 0.58:
                parts.append("".join(chr(rng.choice(categories[rng.choice(["Nd", "Nl", "No"])])) for _ in range(rng.randint(1, 6))))
            elif kind < 0.62:
                parts.append("".join(rng.choice("0123456789") for _ in range(rng.randint(1, 9))))
            elif kind < 0.67:
                parts.append(rng.choice(EMOJI))
            elif kind < 0.72:
                parts.append(rng.choice("aeiouAOU") + "".join(chr(rng.choice(categories["Mn"])) for _ in range(rng.randint(1, 3))))
            elif kind < 0.80:
                parts.append("".join(chr(rng.randint(0x20, 0x7E)) for _ in range(rng.randint(1, 12))))
            elif kind < 0.83 and specials:
                parts.append(rng.choice(specials))
            elif kind < 0.87:
                parts.append(rng.choice("ab \n1!é中") * rng.randint(2, 80))
            else:
                parts.extend(chr(rng.choice(categories[rng.choice(names)])) for _ in range(rng.randint(1, 4)))
        yield "".join(parts)


def byte_of() -> dict[str, int]:
    """GPT-2's spelling of bytes."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(0x100 + i): b for i, b in enumerate(rest)}


def piece(vocab, token: int) -> bytes:
    """What a token stands for. Where it holds characters that spell no byte, llama.cpp writes a note about them in
    their place; here, as in the tokenizers package, they stand for themselves."""
    buffer = ctypes.create_string_buffer(1024)
    n = ll.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, True)
    assert n >= 0, token
    if b"[UNK_BYTE_0x" not in buffer.raw[:n]:
        return buffer.raw[:n]
    text = ll.llama_vocab_get_text(vocab, token).decode()
    return b"".join(bytes([byte_of()[c]]) if c in byte_of() else c.encode() for c in text)


def tokenize(vocab, text: str, add_special: bool, parse_special: bool) -> list[int]:
    raw = text.encode()
    room = len(raw) + 16
    ids = (ll.llama_token * room)()
    n = ll.llama_tokenize(vocab, raw, len(raw), ids, room, add_special, parse_special)
    assert 0 <= n, text
    return list(ids[:n])


def fnv(pieces) -> str:
    h = 0xCBF29CE484222325
    for p in pieces:
        for b in len(p).to_bytes(4, "little") + p:
            h = (h ^ b) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


def load(path: Path):
    """A vocabulary without weights: the model, its vocabulary, and the texts of its first special tokens."""
    params = ll.llama_model_default_params()
    params.vocab_only = True
    model = ll.llama_model_load_from_file(str(path).encode(), params)
    assert model, path
    vocab = ll.llama_model_get_vocab(model)
    unknown, control, user_defined = 1, 8, 16  # enum llama_token_attr
    ids = range(ll.llama_vocab_n_tokens(vocab))
    specials = [i for i in ids if ll.llama_vocab_get_attr(vocab, i) & (unknown | control | user_defined)]
    return model, vocab, [ll.llama_vocab_get_text(vocab, i).decode() for i in specials[:40]]


def golden(name: str) -> dict:
    path = MODELS / f"ggml-vocab-{name}.gguf"
    model, vocab, texts = load(path)
    n = ll.llama_vocab_n_tokens(vocab)
    cases = []
    for i, text in zip(range(CASES), strings(0x5EED ^ n, texts)):
        add_special, parse_special = i % 3 == 0, i % 2 == 0
        cases.append([text, add_special, parse_special, tokenize(vocab, text, add_special, parse_special)])
    for text in texts:
        cases += [[text, False, parse, tokenize(vocab, text, False, parse)] for parse in (False, True)]
    result = {
        "file": path.name,
        "add_bos": ll.llama_vocab_get_add_bos(vocab),
        "eog": [i for i in range(n) if ll.llama_vocab_is_eog(vocab, i)],
        "pieces": fnv(piece(vocab, i) for i in range(n)),
        "cases": cases,
    }
    ll.llama_model_free(model)
    return result


def main() -> None:
    quiet = ll.llama_log_callback(lambda *_: None)
    ll.llama_log_set(quiet, None)
    out = ORACLES / "tokens"
    out.mkdir(exist_ok=True)
    for name in sys.argv[1:] or NAMES:
        data = golden(name)
        (out / f"{name}.json").write_text(json.dumps(data))
        print(f"{name}: {len(data['cases'])} texts, {sum(len(c[3]) for c in data['cases'])} tokens")


if __name__ == "__main__":
    main()
