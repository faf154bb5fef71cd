"""The two servers, and the one client that measures both by its own clock."""

import concurrent.futures
import http.client
import json
import pathlib
import random
import socket
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request

from .engines import CACHE

LLAMA_SERVER = CACHE / "llama-server/build/bin/llama-server"
PATIENCE = 300  # seconds until a server is ready
FIRST, LAST = 2000, 120_000  # token ids of prompts: ordinary ones
EOS = 1023  # of the synthetic models: never chosen, so that both give as many tokens
BYTES = range(94, 256)  # tokens of a part of a character among them, which llama.cpp keeps back until it is whole
NEVER = dict.fromkeys(map(str, [EOS, *BYTES]), -100)


class Server:
    """A process that answers at an address: a program with the flags that are told, and others that are not."""

    def __init__(self, program, flags, *more):
        self.flags = " ".join(map(str, flags))
        self.said = tempfile.NamedTemporaryFile("w", prefix="server-")
        command = [str(c) for c in [*program, *flags, *more]]
        self.process = subprocess.Popen(command, stdout=self.said, stderr=subprocess.STDOUT)

    def wait_for(self, ready):
        """What `ready` answers as soon as it is anything."""
        until = time.monotonic() + PATIENCE
        while not (found := ready()):
            if self.process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{self.process.args[0]} is not ready: {self.text()[-600:].strip()}")
            time.sleep(0.1)
        return found

    def text(self):
        return pathlib.Path(self.said.name).read_text()

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.said.close()


def air(program, model, threads, slots, context):
    flags = ["-c", context, "--max-num-seqs", slots, "--threads", threads]
    server = Server([program, "serve"], flags, "-m", model, "-P", 0)
    lines = lambda: [x for x in server.text().splitlines() if x.startswith("ready: ")]
    server.address = urllib.parse.urlsplit(server.wait_for(lines)[0].split()[1]).netloc
    return server


def llama(model, threads, slots, context, more):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["-c", slots * context, "-np", slots, "-t", threads, "-tb", threads, *more]
    server = Server([LLAMA_SERVER], flags, "-m", model, "--port", port)
    server.address = f"127.0.0.1:{port}"
    server.wait_for(lambda: healthy(server.address))
    return server


def llama_version():
    said = subprocess.run([LLAMA_SERVER, "--version"], capture_output=True, text=True, check=True)
    return ", ".join((said.stdout + said.stderr).split("\n")).removeprefix("version: ").rstrip(", ")


def healthy(address):
    try:
        return urllib.request.urlopen(f"http://{address}/health", timeout=5).status == 200
    except OSError:
        return False


def prompt(seed, tokens):
    """Arbitrary token ids."""
    chance = random.Random(seed)
    return [chance.randint(FIRST, LAST) for _ in range(tokens)]


def ask(address, ids, tokens):
    """One answer in a stream: when it was asked for, when each token came, and what the server says it took."""
    body = {"prompt": ids, "max_tokens": tokens, "temperature": 0, "top_k": 1, "logit_bias": NEVER}
    # With their ids air tells tokens that have no text each in an event of its own, as llama.cpp does.
    body |= {"stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True}
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    begun, lines = time.monotonic(), []
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"{address} answered {response.status}: {response.read().decode()}")
    while line := response.readline():
        if line.startswith(b"data: "):
            lines.append((time.monotonic(), line[6:].strip()))
    connection.close()
    return checked(begun, lines, len(ids), tokens)


def checked(begun, lines, asked, tokens):
    """The times of an answer's tokens; ends the script unless it is whole and as long as it was to be."""
    if not lines or lines[-1][1] != b"[DONE]":
        raise SystemExit("a stream ended without [DONE]")
    events = [(at, json.loads(line)) for at, line in lines[:-1]]
    usage = next(e["usage"] for _, e in reversed(events) if e.get("usage"))
    choices = [(at, e["choices"][0]) for at, e in events if e["choices"]]
    times = [at for at, choice in choices if not choice["finish_reason"]]
    ended = choices[-1][1]["finish_reason"]
    want = (tokens, tokens, asked, "length")
    if (len(times), usage["completion_tokens"], usage["prompt_tokens"], ended) != want:
        raise SystemExit(f"{len(times)} events, {usage} and `{ended}`; {tokens} tokens after {asked} were to come")
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return {"begun": begun, "times": times, "ended": lines[-1][0], "cached": cached}


def together(address, prompts, tokens):
    """Many streams at once: tokens a second of all, prompts included, and seconds between a stream's tokens."""
    with concurrent.futures.ThreadPoolExecutor(len(prompts)) as threads:
        answers = list(threads.map(lambda ids: ask(address, ids, tokens), prompts))
    seconds = max(a["ended"] for a in answers) - min(a["begun"] for a in answers)
    between = sorted(b - a for answer in answers for a, b in zip(answer["times"], answer["times"][1:]))
    return {
        "tps": len(prompts) * tokens / seconds,
        "p50": between[len(between) // 2],
        "p99": between[min(len(between) - 1, len(between) * 99 // 100)],
    }


def shared(address, seed, prefix, rest):
    """Seconds to the only token of a prompt, and of another one that begins alike; how much of each was known."""
    begin = prompt(f"{seed}, beginning", prefix)
    out = {}
    for which in ("first", "second"):
        answer = ask(address, begin + prompt(f"{seed}, {which}", rest), 1)
        out[which], out[f"{which}_cached"] = answer["times"][0] - answer["begun"], answer["cached"]
    if out["first_cached"] or out["second_cached"] < 0.9 * prefix:
        raise SystemExit(f"the prefix was not shared: {out}")
    return out
