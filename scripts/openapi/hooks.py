"""What schemathesis is told about the server, and one check of its own.

Most bodies that fit the schema are given what a schema cannot say (`tame`): a model that is there, tokens of the
vocabulary, fields that go together. The others stay as they were drawn. A body that fits and is refused all the same
must be refused for one of these reasons (`BESIDES`), so that a schema which allows more than the server takes is a
failure. What was sent and what came back is counted, and written to $AIR_OPENAPI_COUNTS at the end.
"""

import atexit
import collections
import json
import os
import re
import zlib

import schemathesis
from schemathesis.generation.modes import GenerationMode

MODEL = "air demo (Shakespeare)"
# Tokens of the embedded model's vocabulary.
VOCABULARY = 512
# Why a body that fits may be refused: other fields, the model, the server's bounds, or a text's length in bytes.
BESIDES = re.compile(
    r"needs (logprobs|stream) to be true|max_completion_tokens differ|is not here; there is"
    r"|the vocabulary has|must hold ids from 0 to|or messages must be given, and not both|with \d+ prompts"
    r"|choices are asked for at once|has \d+ bytes; it must have 1 to 4096|the context holds|positions, the sequence"
    r"|may be \d+ in this answer|no chat template|the body is not JSON: number out of range|Host is not this machine"
)
counts = collections.Counter()


def fits(case):
    return case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE


@schemathesis.hook
def map_case(context, case):
    body = case.body
    if fits(case) and isinstance(body, dict) and zlib.crc32(repr(body).encode()) % 8:
        tame(body)
        if case.path == "/tokenize" and all(body.get(name) is None for name in ("prompt", "content", "messages")):
            body["prompt"] = "O Romeo"
    elif fits(case) and (case.path_parameters or {}).get("id"):
        if zlib.crc32(case.path_parameters["id"].encode()) % 2:
            case.path_parameters["id"] = MODEL
    return case


def tame(body):
    """What the schema cannot say, and short answers."""
    if isinstance(body.get("model"), str):
        body["model"] = MODEL
    for name in ("max_tokens", "max_completion_tokens"):
        if body.get(name) is not None:
            body[name] = int(body[name]) % 16
    if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
        body["max_tokens"] = body["max_completion_tokens"]
    if body.get("stream_options") is not None:
        body["stream"] = True
    if body.get("top_logprobs") is not None:
        body["logprobs"] = True
    if body.get("n") is not None:
        body["n"] = int(body["n"]) % 4 or 1
    if body.get("logit_bias"):
        body["logit_bias"] = {str(int(name) % VOCABULARY): bias for name, bias in body["logit_bias"].items()}
    for name in ("prompt", "tokens"):
        if isinstance(body.get(name), list):
            body[name] = [known(item) for item in body[name]]
    if any(body.get(name) is not None for name in ("content", "messages")) and body.get("prompt") is not None:
        del body["prompt"]
    if body.get("content") is not None and body.get("messages") is not None:
        del body["content"]


def known(item):
    """A token of the vocabulary, or a list of them."""
    if isinstance(item, list):
        return [known(one) for one in item]
    return int(item) % VOCABULARY if isinstance(item, (int, float)) else item


@schemathesis.hook
def after_call(context, case, response):
    kind = "fits" if fits(case) else "does not"
    counts[f"{case.method} {case.path}|{kind}|{response.status_code}"] += 1


@schemathesis.hook
def filter_failure(context, failure, case, response):
    # A body may give its answer too little time: by its status that is the server's failure, and the one that may come.
    if response.status_code == 503 and type(failure).__name__ == "ServerError":
        timed = isinstance(case.body, dict) and case.body.get("timeout") is not None
        return not (timed and json.loads(response.content)["error"]["code"] == "timeout")
    # A body that does not fit may also be too large; schemathesis does not count that as refused.
    return not (response.status_code == 413 and not fits(case))


@schemathesis.check
def refused_for_a_reason(ctx, response, case):
    if fits(case) and response.status_code in (400, 404):
        message = json.loads(response.content)["error"]["message"]
        assert BESIDES.search(message), f"a request that fits the schema is refused: {message}"


@atexit.register
def write():
    with open(os.environ["AIR_OPENAPI_COUNTS"], "w", encoding="utf-8") as file:
        json.dump(counts, file)
