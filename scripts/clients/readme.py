"""The examples of openai-python's README, its helpers and its examples folder, on `air serve`, each checked.

Those of endpoints that air has: chat completions, completions and models. Where an example asks the Responses API or
lists fine-tuning jobs, the same is done with chat completions and models. Left out are what needs another endpoint or
service (images, files, realtime, webhooks, Azure, Bedrock, workload identities, mutual TLS) and structured outputs and
tools, whose fields air refuses: those refusals are checked.

OPENAI_BASE_URL is the server's address; AIR_SMALL that of another one, which has one sequence at a time, takes few
answers at once and asks for the key in AIR_SMALL_KEY. OPENAI_API_KEY can be anything.
"""

import asyncio
import inspect
import json
import os
import subprocess
import sys
import traceback

import httpx2
import openai
import refused
from openai import AsyncOpenAI, DefaultAioHttpClient, DefaultHttpx2Client, OpenAI

CHAT, TEXT = "gpt-6-astra", "gpt-3.5-turbo-instruct"  # names that the server has been given
HELLO = [{"role": "developer", "content": "Talk like a pirate."}, {"role": "user", "content": "Say this is a test"}]
ASK = {"model": CHAT, "messages": HELLO, "max_tokens": 16}
SMALL, KEY = os.environ["AIR_SMALL"], os.environ["AIR_SMALL_KEY"]


def error(kind, call):
    """The error of a kind that a call must end with."""
    try:
        call()
    except kind as e:
        return e
    raise AssertionError(f"no {kind.__name__}")


def content(chunks):
    """The text of a stream's events, which must end as they should."""
    *rest, last = [c for c in chunks if c.choices]
    assert last.choices[0].finish_reason in ("stop", "length") and rest[0].choices[0].delta.role == "assistant"
    assert len({c.id for c in chunks}) == 1
    return "".join(c.choices[0].delta.content or "" for c in [*rest, last])


def usage():
    completion = OpenAI().chat.completions.create(**ASK)
    assert completion.choices[0].message.content and completion.choices[0].message.role == "assistant"
    assert completion.model == CHAT and completion.usage.completion_tokens <= 16
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


async def async_usage():
    async with AsyncOpenAI() as client:
        completion = await client.chat.completions.create(**ASK, seed=1)
    async with AsyncOpenAI(http_client=DefaultAioHttpClient()) as client:
        again = await client.chat.completions.create(**ASK, seed=1)
    assert completion.choices[0].message.content == again.choices[0].message.content


def streaming():
    client = OpenAI()
    whole = client.chat.completions.create(**ASK, seed=2)
    stream = client.chat.completions.create(**ASK, seed=2, stream=True)
    first = next(stream)
    assert json.loads(first.to_json())["object"] == "chat.completion.chunk"
    assert content([first, *stream]) == whole.choices[0].message.content


async def async_streaming():
    client = AsyncOpenAI()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    stream = await client.chat.completions.create(**ASK, **options)
    chunks = [await anext(stream)] + [chunk async for chunk in stream]
    assert content(chunks) and not chunks[-1].choices and chunks[-1].usage.completion_tokens <= 16
    await client.close()


def streaming_helper():
    kinds = []
    # The helper takes no answer that its length ended.
    with OpenAI().chat.completions.stream(**ASK | {"max_tokens": 400}, stop="e", seed=3) as stream:
        for event in stream:
            kinds.append(event.type)
    final = stream.get_final_completion()
    assert "chunk" in kinds and "content.delta" in kinds and kinds[-1] == "content.done"
    assert final.choices[0].message.content and final.choices[0].finish_reason == "stop"


def stream_left_early():
    client = OpenAI()
    with client.chat.completions.create(**ASK | {"max_tokens": 400}, stream=True) as stream:
        next(stream)
    assert client.models.list().data


def completions():
    client = OpenAI()
    asked = {"model": TEXT, "prompt": "ROMEO:", "max_tokens": 8, "temperature": 0}
    whole = client.completions.create(**asked, echo=True, n=2, user="user-1234")
    assert [c.index for c in whole.choices] == [0, 1] and whole.usage.completion_tokens == 16
    streamed = "".join(chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True))
    assert {c.text for c in whole.choices} == {"ROMEO:" + streamed} and streamed


def types():
    completion = OpenAI().chat.completions.create(**ASK, logprobs=True, top_logprobs=2)
    assert json.loads(completion.to_json())["id"] == completion.to_dict()["id"] == completion.id
    told = completion.choices[0].logprobs.content
    # Tokens of what ended the answer are among them.
    assert "".join(t.token for t in told).startswith(completion.choices[0].message.content)
    assert all(len(t.top_logprobs) == 2 and t.logprob <= 0 for t in told)


def null_or_missing():
    message = OpenAI().chat.completions.create(**ASK).choices[0].message
    assert message.refusal is None and message.tool_calls is None
    assert "refusal" in message.model_fields_set and "tool_calls" not in message.model_fields_set


def pagination():
    client = OpenAI()
    page = client.models.list()
    assert [m.id for m in page] == [m.id for m in page.data] and {CHAT, TEXT} <= {m.id for m in page.data}
    assert not page.has_next_page() and page.next_page_info() is None
    assert client.models.retrieve(CHAT).object == "model"


async def async_pagination():
    async with AsyncOpenAI() as client:
        names = [model.id async for model in client.models.list()]
        page = await client.models.list()
    assert names == [m.id for m in page.data] and not page.has_next_page()


def handling_errors():
    client = OpenAI(max_retries=0)
    e = error(openai.NotFoundError, lambda: client.chat.completions.create(**ASK | {"model": "gpt-5.5"}))
    assert e.status_code == 404 and e.code == "model_not_found" and e.response.headers["x-request-id"]
    e = error(openai.BadRequestError, lambda: client.chat.completions.create(**ASK, temperature=-1))
    assert e.status_code == 400 and e.type == "invalid_request_error" and e.request_id
    e = error(openai.APIStatusError, lambda: client.embeddings.create(model=CHAT, input="text"))
    assert e.status_code == 404 and isinstance(e, openai.APIError)
    nobody = client.with_options(base_url="http://127.0.0.1:9/v1")
    assert error(openai.APIConnectionError, nobody.models.list).__cause__


def keys():
    e = error(openai.AuthenticationError, OpenAI(base_url=SMALL, max_retries=0).models.list)
    assert e.status_code == 401 and e.code == "invalid_api_key"
    assert OpenAI(base_url=SMALL, api_key=KEY).models.list().data


def retries():
    client = OpenAI(base_url=SMALL, api_key=KEY)
    # As many answers as one key can have, one after another: long enough for a request meanwhile.
    taken = {"model": TEXT, "prompt": "ROMEO:", "max_tokens": 400, "n": 4, "stream": True}
    with client.completions.create(**taken) as stream:
        next(stream)
        ask = lambda left: client.with_options(max_retries=left).chat.completions.create(**ASK)
        e = error(openai.RateLimitError, lambda: ask(0))
        assert e.status_code == 429 and int(e.response.headers["retry-after"]) >= 1
        response = client.with_options(max_retries=60).chat.completions.with_raw_response.create(**ASK)
        assert response.retries_taken > 0 and response.parse().choices


def timeouts():
    client = OpenAI(timeout=httpx2.Timeout(60.0, read=20.0, write=10.0, connect=2.0), max_retries=0)
    assert client.with_options(timeout=20.0).chat.completions.create(**ASK).choices
    short = client.with_options(timeout=0.001)
    assert error(openai.APITimeoutError, lambda: short.chat.completions.create(**ASK | {"max_tokens": 400}))


def request_ids():
    client = OpenAI(max_retries=0)
    one, other = client.chat.completions.create(**ASK), client.models.list()
    assert one._request_id and other._request_id and one._request_id != other._request_id
    e = error(openai.BadRequestError, lambda: client.chat.completions.create(model=CHAT, messages=[]))
    assert e.request_id


def logs():
    command = [sys.executable, "-c", "import openai; openai.OpenAI().models.list()"]
    run = subprocess.run(command, env=os.environ | {"OPENAI_LOG": "debug"}, capture_output=True, text=True, check=True)
    assert "HTTP Response: GET" in run.stderr and "200" in run.stderr


def raw_response():
    response = OpenAI().chat.completions.with_raw_response.create(**ASK)
    assert response.headers.get("content-type") == "application/json" and response.request_id
    assert response.parse().choices[0].message.content


def streaming_response():
    with OpenAI().chat.completions.with_streaming_response.create(**ASK, stream=True) as response:
        assert response.headers.get("content-type").startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"


def undocumented():
    client = OpenAI()
    root = str(client.base_url).removesuffix("v1/")
    response = client.post(f"{root}tokenize", cast_to=httpx2.Response, body={"prompt": "ROMEO:"})
    tokens = response.json()["tokens"]
    more = {"extra_body": {"top_k": 1, "return_token_ids": True}, "extra_headers": {"x-foo": "true"}}
    completion = client.completions.create(model=TEXT, prompt=tokens, max_tokens=4, **more)
    assert len(completion.choices[0].token_ids) == 4 and "token_ids" in completion.choices[0].model_extra


def http_client():
    seen = []
    hooks = {"response": [lambda response: seen.append(response.status_code)]}
    mine = DefaultHttpx2Client(transport=httpx2.HTTPTransport(local_address="0.0.0.0"), event_hooks=hooks)
    with OpenAI(http_client=mine) as client:
        assert client.with_options(default_headers={"x-foo": "true"}).models.list().data
    assert seen == [200] and mine.is_closed


def module_client():
    openai.api_key, openai.default_headers = "anything", {"x-foo": "true"}
    openai.base_url = os.environ["OPENAI_BASE_URL"] + "/"
    assert content(list(openai.chat.completions.create(**ASK, stream=True)))


def all_fields():
    """What the client's tests send in one request, without what air refuses."""
    shared = {"frequency_penalty": -2, "presence_penalty": -2, "n": 1, "stop": "\n", "temperature": 1, "top_p": 1}
    shared |= {"user": "user-1234", "stream_options": {"include_obfuscation": True, "include_usage": True}}
    chat = {"function_call": "none", "logprobs": True, "max_completion_tokens": 8, "max_tokens": 8, "top_logprobs": 0}
    chat |= {"metadata": {"foo": "string"}, "modalities": ["text"], "parallel_tool_calls": True, "tool_choice": "none"}
    chat |= {"prompt_cache_key": "prompt-cache-key-1234", "safety_identifier": "safety-identifier-1234"}
    chat |= {"response_format": {"type": "text"}, "seed": -9007199254740991, "service_tier": "auto"}
    client = OpenAI()
    content([*client.chat.completions.create(model=CHAT, messages=HELLO, stream=True, **chat, **shared)])
    text = {"model": TEXT, "prompt": "This is a test.", "echo": True, "max_tokens": 16, "seed": 0}
    assert [*client.completions.create(**text, stream=True, **shared)][0].choices[0].text.startswith("This is a test.")


def refused_fields():
    client = OpenAI(max_retries=0)
    asks = [(refused.CHAT, client.chat.completions.create, ASK)]
    asks += [(refused.COMPLETIONS, client.completions.create, {"model": TEXT, "prompt": "text"})]
    for fields, create, ask in asks:
        for field, value in fields.items():
            e = error(openai.BadRequestError, lambda: create(**ask, **{field: value}))
            assert e.param == field and field in e.message, f"{field}: {e}"


EXAMPLES = [
    usage, async_usage, streaming, async_streaming, streaming_helper, stream_left_early, completions, types,
    null_or_missing, pagination, async_pagination, handling_errors, keys, retries, timeouts, request_ids, logs,
    raw_response, streaming_response, undocumented, http_client, module_client, all_fields, refused_fields,
]  # fmt: skip


def main():
    failed = []
    for example in EXAMPLES:
        try:
            asyncio.run(example()) if inspect.iscoroutinefunction(example) else example()
        except Exception as e:
            failed.append(example.__name__)
            line = [frame.lineno for frame in traceback.extract_tb(e.__traceback__) if frame.filename == __file__][-1]
            print(f"{example.__name__}, line {line}: {type(e).__name__}: {e}", file=sys.stderr)
    print(f"openai-python {openai.__version__}, examples: {len(EXAMPLES) - len(failed)} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


main()
