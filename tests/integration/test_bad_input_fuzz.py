"""Random mutations of a good chat body, many at a time, against a real worker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.one_worker import CANARY, CHAT, Subject, one_worker
from tests.support.postgres import Postgres
from tests.support.raw_http import RawAnswer, events, request

pytestmark = pytest.mark.xdist_group("bad_input")

GOOD: dict[str, Any] = {
    "model": "echo",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": CANARY}]},
        {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "{}"},
    ],
    "stream": False,
    "stream_options": {"include_usage": True},
    "max_tokens": 20,
    "n": 1,
    "temperature": 0.5,
    "user": "someone",
    "tags": ["a"],
    "metadata": {"tags": ["b"], "user_id": "u", "session_id": "s"},
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "timeout": 30,
    "num_retries": 0,
}
NAMES = (*GOOD, "litellm_metadata", "max_completion_tokens", "stream_timeout", "safety_identifier")
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.sampled_from(["echo", "", "nope", "\0", "\ufeff"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """The good body with members replaced, removed, added and nested, and then perhaps with
    bytes cut out, put in or turned."""
    body = deepcopy(GOOD)
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=3)):
        if draw(st.booleans()):
            body[name] = draw(VALUES)
        else:
            body.pop(name, None)
    if draw(st.booleans()):
        messages = body.get("messages")
        if isinstance(messages, list) and messages:
            messages[draw(st.integers(0, len(messages) - 1))] = draw(VALUES)
    if draw(st.booleans()):
        body[draw(st.text(max_size=10))] = draw(VALUES)
    data = bytearray(json.dumps(body, ensure_ascii=draw(st.booleans())).encode("utf-8", "replace"))
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["cut", "insert", "turn", "none", "none"])):
            case "cut":
                del data[place : place + draw(st.integers(1, 20))]
            case "insert":
                data[place:place] = draw(st.binary(min_size=1, max_size=8))
            case "turn" if place < len(data):
                data[place] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)


@pytest.fixture(scope="module")
def worker(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """A worker that must be as good as before, whatever the tests send."""
    database = postgres.create()
    with one_worker(tmp_path_factory.mktemp("fuzz"), database) as started:
        yield started
        asyncio.run(started.check_unharmed())
    postgres.drop(database)


def check(body: bytes, answer: RawAnswer) -> None:
    """An answer of the product's own: a good one, or a 4xx in OpenAI's shape."""
    if answer.status != 200:
        assert 400 <= answer.status < 500, (body, answer)
        assert answer.error["type"] == "invalid_request_error", (body, answer)
    elif answer.headers["content-type"].startswith("text/event-stream"):
        assert events(answer.body)[-1] == "[DONE]", (body, answer)
    else:
        assert answer.json["object"] == "chat.completion", (body, answer)


async def send_all(worker: Subject, examples: list[bytes]) -> None:
    """All of them on one connection, which must survive each."""
    async with worker.client() as client:
        for body in examples:
            await client.send(request("POST", CHAT, worker.master, body))
            check(body, await client.answer())


@settings(
    max_examples=50,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(examples=st.lists(bodies(), min_size=1, max_size=6))
def test_mutated_bodies(worker: Subject, examples: list[bytes]) -> None:
    """No mutation of a good body gets a 5xx, a hang, a broken stream or the connection cut."""
    asyncio.run(send_all(worker, examples))
