"""Token counts out of whatever upstreams send, and the envelopes of answers and chunks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.usage import Usage
from shared.providers.usage_extract import (
    LARGEST_COUNT,
    decode_chunk,
    decode_reply,
    estimate_tokens,
    extract_usage,
)

OPENAI = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "total_tokens": 150,
    "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 10},
    "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 5},
}


def test_openai_shape() -> None:
    """All classes of OpenAI's usage object are taken, as dict and as JSON alike."""
    expected = Usage(
        prompt_tokens=100,
        completion_tokens=50,
        cached_tokens=60,
        reasoning_tokens=20,
        audio_prompt_tokens=10,
        audio_completion_tokens=5,
    )
    assert extract_usage(OPENAI) == expected
    assert extract_usage(json.dumps(OPENAI).encode()) == expected


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        # cache writes in the details, with their lifetime
        (
            {
                "prompt_tokens": 100,
                "prompt_tokens_details": {
                    "cached_tokens": 10,
                    "cache_creation_tokens": 50,
                    "cache_creation_token_details": {"ephemeral_1h_input_tokens": 20},
                },
            },
            Usage(100, cached_tokens=10, cache_write_tokens=50, cache_write_1h_tokens=20),
        ),
        # cache tokens at the top level
        (
            {
                "prompt_tokens": 100,
                "cache_read_input_tokens": 30,
                "cache_creation_input_tokens": 40,
            },
            Usage(100, cached_tokens=30, cache_write_tokens=40),
        ),
        ({"prompt_tokens": 100, "prompt_cache_hit_tokens": 30}, Usage(100, cached_tokens=30)),
        # reasoning counted beside the completion
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 35,
                "completion_tokens_details": {"reasoning_tokens": 20},
            },
            Usage(10, 25, reasoning_tokens=20),
        ),
        # embeddings
        ({"prompt_tokens": 8, "total_tokens": 8}, Usage(8)),
        # only the total tells of the completion
        ({"prompt_tokens": 8, "total_tokens": 10}, Usage(8, 2)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage()),
        # parts larger than their whole
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 4,
                "prompt_tokens_details": {"cached_tokens": 50, "audio_tokens": 3},
                "completion_tokens_details": {"reasoning_tokens": 9, "audio_tokens": 9},
                "cache_creation_input_tokens": 7,
            },
            Usage(10, 4, cached_tokens=10, reasoning_tokens=4),
        ),
        # garbage beside good counts
        ({"prompt_tokens": "12", "completion_tokens": 3}, Usage(0, 3)),
        ({"prompt_tokens": -5, "completion_tokens": 3.0}, Usage(0, 3)),
        ({"prompt_tokens": True, "completion_tokens": 3}, Usage(0, 3)),
        ({"prompt_tokens": [1], "completion_tokens": 3, "total_tokens": {}}, Usage(0, 3)),
        ({"prompt_tokens": 1e300, "completion_tokens": 3}, Usage(0, 3)),
        ({"prompt_tokens": 10**30}, Usage(LARGEST_COUNT)),
        (OPENAI | {"prompt_tokens_details": None, "completion_tokens_details": 7}, Usage(100, 50)),
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": None}}, Usage(5)),
    ],
)
def test_shapes_and_garbage(raw: dict[str, Any], usage: Usage) -> None:
    """Each known shape gives its counts; what is no count is 0; parts stay within their whole."""
    assert extract_usage(raw) == usage
    assert extract_usage(json.dumps(raw).encode()) == usage


@pytest.mark.parametrize(
    "raw", [None, {}, [], 5, "x", b"", b"null", b"[1]", b"{", b"\xff", {"prompt_tokens": None}]
)
def test_no_usage_is_none(raw: object) -> None:
    """Without an object that holds a count the caller is told to estimate."""
    assert extract_usage(raw) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = [
    *OPENAI,
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "prompt_cache_hit_tokens",
]
DETAILS = st.dictionaries(
    st.sampled_from(["cached_tokens", "audio_tokens", "reasoning_tokens", "cache_creation_tokens"]),
    JSON | st.integers(0, 1000),
)


@given(st.dictionaries(st.sampled_from(NAMES), JSON | st.integers(0, 1000) | DETAILS))
def test_counts_are_always_consistent(raw: dict[str, Any]) -> None:
    """Whatever stands in a usage object, the result is consistent, or there is none."""
    usage = extract_usage(raw)
    if usage is not None:
        parts = usage.cached_tokens + usage.cache_write_tokens + usage.audio_prompt_tokens
        assert 0 <= parts <= usage.prompt_tokens <= LARGEST_COUNT
        said = usage.reasoning_tokens + usage.audio_completion_tokens
        assert 0 <= said <= usage.completion_tokens <= 2 * LARGEST_COUNT
        assert 0 <= usage.cache_write_1h_tokens <= usage.cache_write_tokens
        assert not usage.estimated


def test_chunk() -> None:
    """A chunk gives id, model, the size of its text and the reason once it is there."""
    chunk = decode_chunk(
        b'{"id":"c1","object":"chat.completion.chunk","model":"m","choices":[{"index":0,'
        b'"delta":{"role":"assistant","content":"h\\u00e9 \xe2\x82\xac"},"finish_reason":"stop"}]}'
    )
    assert chunk is not None
    assert (chunk.id, chunk.model, chunk.finish_reason(), chunk.usage) == ("c1", "m", "stop", None)
    assert chunk.text_bytes() == len("hé €".encode())


def test_usage_chunk() -> None:
    """The last chunk has usage and no choices."""
    chunk = decode_chunk(b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}')
    assert chunk is not None
    assert chunk.finish_reason() is None
    assert extract_usage(chunk.usage) == Usage(3, 4)


def test_tool_calls_and_reasoning_count_as_text() -> None:
    """Names and arguments of tool calls, reasoning and refusals are generated text too."""
    delta = {
        "reasoning_content": "12345",
        "refusal": "123",
        "tool_calls": [
            {"index": 0, "function": {"name": "ab", "arguments": '{"x":1}'}},
            {"function": None},
            7,
        ],
    }
    chunk = decode_chunk(json.dumps({"choices": [{"delta": delta}]}).encode())
    assert chunk is not None
    assert chunk.text_bytes() == 5 + 3 + 2 + 7


def test_replies_of_all_endpoints() -> None:
    """Messages of chats, texts of completions and answers without choices are all read."""
    chat = {"choices": [{"message": {"content": "four"}, "finish_reason": "length"}]}
    texts = {"choices": [{"text": "abc"}, {"text": "de"}]}
    sizes = []
    for body in (chat, texts, {"data": [], "usage": {"prompt_tokens": 1}}):
        reply = decode_reply(json.dumps(body).encode())
        assert reply is not None
        sizes.append(reply.text_bytes())
    assert sizes == [4, 5, 0]


@pytest.mark.parametrize(
    "data", [b"[DONE]", b"", b"null", b"[]", b'"x"', b"{", b"<html>", b"\xff\xfe"]
)
def test_no_object_is_none(data: bytes) -> None:
    """What is no JSON object has no envelope."""
    assert decode_chunk(data) is None
    assert decode_reply(data) is None


@pytest.mark.parametrize(
    "choices", [None, 5, {}, [None], [5, {"delta": 7}], [{"delta": {"content": {}}}], "x"]
)
def test_usage_survives_odd_choices(choices: object) -> None:
    """Fields of the wrong type do not take the usage with them."""
    body = {"id": 7, "model": None, "choices": choices, "usage": {"prompt_tokens": 3}}
    for envelope in (
        decode_chunk(json.dumps(body).encode()),
        decode_reply(json.dumps(body).encode()),
    ):
        assert envelope is not None
        assert extract_usage(envelope.usage) == Usage(3)
        assert envelope.text_bytes() == 0
        assert envelope.finish_reason() is None


def test_good_choices_survive_odd_usage() -> None:
    """A usage of the wrong type does not take the text with it."""
    reply = decode_reply(b'{"choices":[{"message":{"content":"abcd"}}],"usage":"none"}')
    assert reply is not None
    assert (reply.usage, reply.text_bytes()) == (None, 4)


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_answered(data: bytes) -> None:
    """Decoding never raises."""
    for envelope in (decode_chunk(data), decode_reply(data)):
        if envelope is not None:
            assert envelope.text_bytes() >= 0
            extract_usage(envelope.usage)


def test_deep_nesting_is_refused() -> None:
    """A body nested beyond reason has no envelope and does not exhaust the stack."""
    data = b'{"usage":' + b'{"prompt_tokens":' * 100_000 + b"1" + b"}" * 100_001
    assert decode_reply(data) is None


@pytest.mark.parametrize(
    ("size", "tokens"), [(0, 0), (-3, 0), (1, 1), (4, 1), (5, 2), (4000, 1000)]
)
def test_estimate(size: int, tokens: int) -> None:
    """Four bytes are a token, rounded up."""
    assert estimate_tokens(size) == tokens
