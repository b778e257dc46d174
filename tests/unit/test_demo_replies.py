"""The built-in upstream speaks the OpenAI dialect."""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import pytest

from shared.upstream.demo_samples import sample
from tests.support.demo_kit import chat, running, text_of
from tests.support.upstream_kit import on_both_loops

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 2},
                "unit": {"enum": ["celsius", "kelvin"]},
                "note": {"type": "string"},
            },
            "required": ["city", "days", "unit"],
        },
    },
}


@on_both_loops
async def test_echo_whole() -> None:
    """The echo repeats the last user message, and counts words as tokens."""
    async with running() as demo:
        status, reply = await demo.ask(chat())
        assert status == 200
        assert (reply["object"], reply["model"]) == ("chat.completion", "echo")
        (choice,) = reply["choices"]
        assert 'You said: "Hello there".' in choice["message"]["content"]
        assert (choice["message"]["role"], choice["finish_reason"]) == ("assistant", "stop")
        words = len(choice["message"]["content"].split())
        assert reply["usage"] == {
            "prompt_tokens": 4,
            "completion_tokens": words,
            "total_tokens": 4 + words,
        }
        parts = [{"type": "text", "text": "one"}, {"type": "image_url", "image_url": {}}]
        body = {"model": "echo", "messages": [{"role": "user", "content": parts}]}
        _, reply = await demo.ask(body)
        assert '"one"' in reply["choices"][0]["message"]["content"]
        _, other = await demo.ask(body)
        assert reply["id"] != other["id"]


@on_both_loops
async def test_echo_streamed() -> None:
    """A stream has role, words, finish, usage if asked for, [DONE]; its text is the whole's."""
    async with running() as demo:
        _, whole = await demo.ask(chat())
        for usage in (False, True):
            options = {"stream_options": {"include_usage": usage}}
            events = await demo.events(chat(**options))
            assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
            assert {event["object"] for event in events} == {"chat.completion.chunk"}
            assert len({event["id"] for event in events}) == 1
            assert text_of(events) == whole["choices"][0]["message"]["content"]
            if usage:
                last = events.pop()
                assert (last["choices"], last["usage"]) == ([], whole["usage"])
            assert not any("usage" in event for event in events)
            assert events[-1]["choices"][0]["delta"] == {}
            finishes = [event["choices"][0]["finish_reason"] for event in events]
            assert finishes == [None] * (len(events) - 1) + ["stop"]


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@on_both_loops
async def test_max_tokens(field: str) -> None:
    """A cap cuts the words, with `length` as the reason; one that is no limit does not."""
    async with running() as demo:
        _, reply = await demo.ask(chat(**{field: 3}))
        assert reply["choices"][0]["message"]["content"] == 'You said: "Hello'
        assert reply["choices"][0]["finish_reason"] == "length"
        assert reply["usage"]["completion_tokens"] == 3
        events = await demo.events(chat(**{field: 3}))
        assert text_of(events) == 'You said: "Hello'
        assert events[-1]["choices"][0]["finish_reason"] == "length"
        _, reply = await demo.ask(chat(**{field: 999}))
        assert reply["choices"][0]["finish_reason"] == "stop"


@on_both_loops
async def test_several_choices() -> None:
    """`n` gives as many choices, whole and streamed, all of them counted."""
    async with running() as demo:
        _, one = await demo.ask(chat())
        _, reply = await demo.ask(chat(n=3))
        assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
        assert reply["usage"]["completion_tokens"] == 3 * one["usage"]["completion_tokens"]
        events = await demo.events(chat(n=2))
        assert text_of(events, 0) == text_of(events, 1)
        assert text_of(events, 0) == one["choices"][0]["message"]["content"]
        finishes = [c["finish_reason"] for event in events for c in event["choices"]]
        assert finishes.count("stop") == 2


@on_both_loops
async def test_knobs() -> None:
    """Knobs in the last user message set the number of chunks and do not show in the answer."""
    async with running() as demo:
        events = await demo.events(chat("a [[chunks:20]] b"))
        words = [event for event in events if event["choices"][0]["delta"].get("content")]
        assert len(words) == 20
        assert 'You said: "a b".' in text_of(events)
        _, reply = await demo.ask(chat("[[chunks:4]]"))
        assert reply["usage"]["completion_tokens"] == 4


@on_both_loops
async def test_tool_call() -> None:
    """The tool model calls the first tool; its arguments fit the schema, whole and streamed."""
    async with running() as demo:
        other = {"type": "function", "function": {"name": "other"}}
        _, reply = await demo.ask(chat(model="tool", tools=[WEATHER, other]))
        (choice,) = reply["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        (call,) = choice["message"]["tool_calls"]
        assert (call["type"], call["function"]["name"]) == ("function", "weather")
        arguments = json.loads(call["function"]["arguments"])
        assert arguments == {"city": "demo", "days": 2, "unit": "celsius"}

        events = await demo.events(chat(model="tool", tools=[WEATHER, other]))
        deltas = [event["choices"][0]["delta"] for event in events]
        assert deltas[0]["role"] == "assistant"
        calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
        assert calls[0]["function"]["name"] == "weather"
        assert calls[0]["id"]
        assert len(calls) > 3
        assert all(set(call) == {"index", "function"} for call in calls[1:])
        pieces = "".join(call["function"]["arguments"] for call in calls)
        assert json.loads(pieces) == arguments
        assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"


@on_both_loops
async def test_tool_choice() -> None:
    """No tool, `none` or a tool's result give text; a named tool is called by any model."""
    async with running() as demo:
        for body in (chat(model="tool"), chat(model="tool", tools=[WEATHER], tool_choice="none")):
            _, reply = await demo.ask(body)
            assert reply["choices"][0]["finish_reason"] == "stop"
        body = chat(model="tool", tools=[WEATHER])
        body["messages"] += [
            {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1"}]},
            {"role": "tool", "content": "12 degrees", "tool_call_id": "call_1"},
        ]
        _, reply = await demo.ask(body)
        assert 'The tool answered: "12 degrees"' in reply["choices"][0]["message"]["content"]
        named = {"type": "function", "function": {"name": "weather"}}
        for choice in ("required", named):
            _, reply = await demo.ask(chat(tools=[WEATHER], tool_choice=choice))
            assert reply["choices"][0]["finish_reason"] == "tool_calls"
        named = {"type": "function", "function": {"name": "none such"}}
        status, reply = await demo.ask(chat(tools=[WEATHER], tool_choice=named))
        assert (status, reply["error"]["param"]) == (400, "tool_choice")


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "object"}, {}),
        ({"properties": {"a": {"type": "boolean"}}}, {"a": True}),
        ({"type": "array", "items": {"type": "number"}, "minItems": 2}, [1, 1]),
        ({"type": "integer", "maximum": -3}, -3),
        ({"type": "integer", "exclusiveMinimum": 4}, 5),
        ({"type": ["null", "string"], "minLength": 6}, "demooo"),
        ({"type": "string", "maxLength": 2}, "de"),
        ({"const": 5}, 5),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, None),
        ({"$defs": {"C": {"enum": ["x"]}}, "properties": {"c": {"$ref": "#/$defs/C"}}}, {"c": "x"}),
        ({"$ref": "#/$defs/none"}, None),
        ({"$ref": "#"}, None),
        ("odd", None),
    ],
)
def test_samples(schema: Any, value: Any) -> None:
    """A made-up value fits the schema; odd and endless schemas end in null."""
    assert sample(schema) == value


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        ({"messages": [{"role": "user"}]}, "model"),
        ({"model": "echo"}, "messages"),
        ({"model": "echo", "messages": []}, "messages"),
        ({"model": "echo", "messages": "hi"}, "messages"),
        ({"model": "echo", "messages": [{"content": "x"}]}, "messages"),
        ({"model": 5, "messages": []}, "model"),
        (chat(n=0), "n"),
        (chat(n=9), "n"),
        (chat(n="2"), "n"),
        (chat(max_tokens=0), "max_tokens"),
        (chat(stream="yes"), "stream"),
        (chat(stream_options={}), "stream_options"),
        (chat(tools=[{"function": {}}]), "tools"),
    ],
)
@on_both_loops
async def test_bad_chat_bodies(body: Any, param: str | None) -> None:
    """A body that cannot be served gets a 400 of the OpenAI shape that names the field."""
    async with running() as demo:
        status, reply = await demo.ask(body)
        assert status == 400
        assert set(reply["error"]) == {"message", "type", "param", "code"}
        assert (reply["error"]["type"], reply["error"]["code"]) == ("invalid_request_error", "400")
        assert reply["error"]["param"] == param


@on_both_loops
async def test_unknown_model_and_path() -> None:
    """A model or path that the demo lacks is a 404; its models can be listed."""
    async with running() as demo:
        for body, path in ((chat(model="gpt"), "chat/completions"), (chat(), "images")):
            status, reply = await demo.ask(body, path)
            assert (status, reply["error"]["code"]) == (404, "404")
        status, reply = await demo.ask(b"", "models")
        assert status == 200
        assert "echo" in {row["id"] for row in reply["data"]}


@on_both_loops
async def test_completions() -> None:
    """Text completions take all forms of prompt, cap at 16 tokens by default, and stream."""
    async with running() as demo:
        _, reply = await demo.ask({"model": "echo", "prompt": "Say this"}, "completions")
        assert reply["object"] == "text_completion"
        assert reply["choices"][0]["text"].startswith("Say this")
        assert (reply["choices"][0]["finish_reason"], reply["usage"]["completion_tokens"]) == (
            "length",
            16,
        )
        for prompt, count in ((["a", "b"], 2), ([1, 2], 1), ([[1], [2, 3]], 2)):
            _, reply = await demo.ask({"model": "echo", "prompt": prompt, "n": 2}, "completions")
            assert [choice["index"] for choice in reply["choices"]] == list(range(2 * count))
        events = await demo.events({"model": "echo", "prompt": "Say this"}, "completions")
        text = "".join(event["choices"][0]["text"] for event in events)
        assert text.startswith("Say this")
        assert {event["object"] for event in events} == {"text_completion"}
        for prompt in ([], [None], [[]], ["a", 1]):
            status, reply = await demo.ask({"model": "echo", "prompt": prompt}, "completions")
            assert (status, reply["error"]["param"]) == (400, "prompt")


@on_both_loops
async def test_embeddings() -> None:
    """Vectors have length one, depend on the text alone, and are the same in base64."""
    async with running() as demo:
        body = {"model": "embed", "input": ["one text", "another"]}
        _, reply = await demo.ask(body, "embeddings")
        assert reply["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
        first, second = (row["embedding"] for row in reply["data"])
        assert [row["index"] for row in reply["data"]] == [0, 1]
        assert math.isclose(math.hypot(*first), 1.0, abs_tol=1e-6)
        assert first != second
        _, reply = await demo.ask({"model": "embed", "input": "another"}, "embeddings")
        assert reply["data"][0]["embedding"] == second
        _, reply = await demo.ask({**body, "encoding_format": "base64"}, "embeddings")
        raw = base64.b64decode(reply["data"][0]["embedding"])
        assert list(struct.unpack(f"<{len(raw) // 4}f", raw)) == first
        _, reply = await demo.ask({**body, "dimensions": 5}, "embeddings")
        assert [len(row["embedding"]) for row in reply["data"]] == [5, 5]
        for field, value in (("input", []), ("dimensions", 0), ("encoding_format", "hex")):
            status, reply = await demo.ask({**body, field: value}, "embeddings")
            assert (status, reply["error"]["param"]) == (400, field)
