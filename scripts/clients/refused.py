"""What of openai-python's own tests air refuses, and a pytest plugin that holds it to that.

Each test of the table runs like the others, and must fail with the very words that stand beside it: one that fails
otherwise, or passes, is a failure, and so is a row that no test has. A name holds for the sync and the async test and
all their parameters. Every other test must pass. Tests of endpoints that are not here at all (responses, embeddings,
files …) are not run.
"""

import re

import pytest

# The fields that the client's tests send and air refuses: each alone must be refused by its name (`readme.py` sends
# them).
CHAT = {
    "audio": {"format": "wav", "voice": "alloy"},
    "functions": [{"name": "name", "description": "description", "parameters": {"foo": "bar"}}],
    "logit_bias": {"foo": 0},
    "moderation": {"model": "model"},
    "prediction": {"content": "string", "type": "content"},
    "prompt_cache_options": {"mode": "implicit", "ttl": "30m"},
    "reasoning_effort": "none",
    "store": True,
    "stream_options": {"include_usage": True},  # which is for streams
    "tools": [{"type": "function", "function": {"name": "name"}}],
    "verbosity": "low",
    "web_search_options": {"search_context_size": "low"},
    "response_format": {"type": "json_object"},
}
COMPLETIONS = {
    "best_of": 0,
    "logit_bias": {"foo": 0},
    "stream_options": {"include_usage": True},
    "suffix": "test.",
}

CHATS, STORES = "chat/test_completions.py", "chat/completions/test_messages.py"
TEXTS, MODELS = "test_completions.py", "test_models.py"
# A request with all fields is refused by the first that it meets; the lists above have the others.
BIAS = "logit_bias must give a number for each token id"
STORED = "there is no /v1/chat/completions/completion_id here"  # air stores no answers
MESSAGES = "there is no /v1/chat/completions/completion_id/messages here"
LISTED = "/v1/chat/completions does not take GET"
DELETED = "/v1/models/ft:gpt-4o-mini:acemeco:suffix:abc123 does not take DELETE"

REFUSED = {
    f"{CHATS}::test_method_create_with_all_params_overload_1": BIAS,
    f"{CHATS}::test_method_create_with_all_params_overload_2": BIAS,
    f"{CHATS}::test_method_retrieve": STORED,
    f"{CHATS}::test_raw_response_retrieve": STORED,
    f"{CHATS}::test_streaming_response_retrieve": STORED,
    f"{CHATS}::test_method_update": STORED,
    f"{CHATS}::test_raw_response_update": STORED,
    f"{CHATS}::test_streaming_response_update": STORED,
    f"{CHATS}::test_method_delete": STORED,
    f"{CHATS}::test_raw_response_delete": STORED,
    f"{CHATS}::test_streaming_response_delete": STORED,
    f"{CHATS}::test_method_list": LISTED,
    f"{CHATS}::test_method_list_with_all_params": LISTED,
    f"{CHATS}::test_raw_response_list": LISTED,
    f"{CHATS}::test_streaming_response_list": LISTED,
    f"{STORES}::test_method_list": MESSAGES,
    f"{STORES}::test_method_list_with_all_params": MESSAGES,
    f"{STORES}::test_raw_response_list": MESSAGES,
    f"{STORES}::test_streaming_response_list": MESSAGES,
    f"{TEXTS}::test_method_create_with_all_params_overload_1": BIAS,
    f"{TEXTS}::test_method_create_with_all_params_overload_2": BIAS,
    f"{MODELS}::test_method_delete": DELETED,
    f"{MODELS}::test_raw_response_delete": DELETED,
    f"{MODELS}::test_streaming_response_delete": DELETED,
}


def row(item):
    """A test's name as the table has it."""
    return re.sub(r"^tests/api_resources/|Test\w+::|\[.*\]$", "", item.nodeid)


def pytest_collection_finish(session):
    if lost := set(REFUSED) - set(map(row, session.items)):
        raise pytest.UsageError(f"no test is called {', '.join(sorted(lost))}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    words = REFUSED.get(row(item))
    if call.when == "call" and words:
        told = str(call.excinfo.value) if call.excinfo else "nothing: it passes"
        if words in told:
            report.outcome, report.wasxfail = "skipped", words
        else:
            report.outcome, report.longrepr = "failed", f"{row(item)} is to be refused with `{words}`, and gets {told}"
    return report
