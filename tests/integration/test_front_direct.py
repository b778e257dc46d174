"""The two front ends give the same answers, and the direct one keeps its connections in order."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from shared.domain.errors import RequestTooLarge
from tests.support.one_worker import CHAT, Subject, chat_bytes, headers_of, one_worker
from tests.support.postgres import Postgres
from tests.support.raw_http import Hangup, RawAnswer, chunked, events, request

pytestmark = pytest.mark.xdist_group("bad_input")

KIB = 1024
MIB = 1024 * KIB
LIMIT = 4 * MIB
# A field that means nothing to the gateway, twice: enough for the direct front end to step aside.
TWICE = (("X-Nothing", "a"), ("X-Nothing", "b"))


@pytest.fixture(scope="module")
def worker(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """A worker with a body limit of 4 MiB that waits a second for more of a body."""
    database = postgres.create()
    limits = {"MERIDIAN_MAX_REQUEST_SIZE_MB": "4", "MERIDIAN_CLIENT_TIMEOUT_S": "1"}
    with one_worker(tmp_path_factory.mktemp("front"), database, **limits) as started:
        yield started
        asyncio.run(started.check_unharmed())
    postgres.drop(database)


def comparable(answer: RawAnswer) -> tuple[int, list[str], Any]:
    """An answer without what differs from call to call."""
    text = re.sub(rb'"(id|created)": ?("[^"]*"|\d+)', b'"\\1":0', answer.body)
    return answer.status, sorted(answer.headers), text


async def served(worker: Subject, headers: dict[str, str], body: bytes) -> RawAnswer:
    """The direct front end's answer, found to be the same as aiohttp's."""
    answers = []
    for more in ((), TWICE):
        async with worker.client() as client:
            await client.send(request("POST", CHAT, [*headers.items(), *more], body))
            answers.append(await client.answer())
    assert comparable(answers[0]) == comparable(answers[1])
    return answers[0]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (chat_bytes(), 200),
        (chat_bytes(stream=True), 200),
        (chat_bytes(stream=True, stream_options={"include_usage": True}), 200),
        (chat_bytes("no-such-model"), 400),
        (b"", 400),
        (b"{", 400),
        (b'{"model": 1, "messages": []}', 400),
        ("é".encode("latin-1"), 400),
        (chat_bytes(text="x" * LIMIT), RequestTooLarge.status),
    ],
    ids=["whole", "stream", "usage", "unknown", "empty", "cut", "types", "bytes", "large"],
)
async def test_answers_are_alike(worker: Subject, body: bytes, status: int) -> None:
    """Successes, streams and errors come in the same form from either front end."""
    assert (await served(worker, worker.master, body)).status == status


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer"}, {"Authorization": "Bearer sk-nobody"}, {"X-Api-Key": "no"}],
    ids=["none", "empty", "unknown", "odd"],
)
async def test_refusals_are_alike(worker: Subject, headers: dict[str, str]) -> None:
    """A caller without a good key is told the same by either front end."""
    assert (await served(worker, headers, chat_bytes())).status == 401


async def test_pipelined(worker: Subject) -> None:
    """Requests sent at once are answered one after the other, in order."""
    models = ["echo", "no-such-model", "echo", "another", "echo"]
    ask = [request("POST", CHAT, worker.master, chat_bytes(model)) for model in models]
    async with worker.client() as client:
        await client.send(b"".join(ask))
        statuses = [(await client.answer()).status for _ in models]
    assert statuses == [200, 400, 200, 400, 200]


async def test_sent_during_a_stream(worker: Subject) -> None:
    """A request that comes while another's stream runs waits for its turn."""
    stream = request("POST", CHAT, worker.master, chat_bytes(stream=True))
    whole = request("POST", CHAT, worker.master, chat_bytes())
    async with worker.client() as client:
        await client.send(stream)
        await client.send(whole[:100])
        await client.send(whole[100:] + stream)
        assert events((await client.answer()).body)[-1] == "[DONE]"
        assert (await client.answer()).json["object"] == "chat.completion"
        assert events((await client.answer()).body)[-1] == "[DONE]"


@pytest.mark.parametrize("size", [1, 7, 1000, 100 * KIB])
async def test_body_in_pieces(worker: Subject, size: int) -> None:
    """A body that arrives in pieces is whole, and the connection is good for another request."""
    body = chat_bytes(text="x" * (300 * size if size < KIB else 3 * MIB))
    data = request("POST", CHAT, worker.master, body)
    head = data.index(b"\r\n\r\n") + 4
    async with worker.client() as client:
        await client.send(data[:head])
        for start in range(head, len(data), size):
            await client.send(data[start : start + size])
        assert (await client.answer()).status == 200
        await client.send(request("POST", CHAT, worker.master, chat_bytes()))
        assert (await client.answer()).status == 200


async def test_refused_before_its_body(worker: Subject) -> None:
    """A refused request's body is passed over; what follows it is the next request."""
    nobody = headers_of("sk-nobody-at-all-0123456789")
    body = chat_bytes(text="x" * (512 * KIB))
    data = request("POST", CHAT, nobody, body)
    async with worker.client() as client:
        await client.send(data[:1000])
        assert (await client.answer()).status == 401
        await client.send(data[1000:] + request("POST", CHAT, worker.master, chat_bytes()))
        assert (await client.answer()).status == 200


async def test_refused_before_a_huge_body(worker: Subject) -> None:
    """Of a body beyond what is passed over the answer still arrives, and the connection ends."""
    length = {"Content-Length": str(3 * MIB)}
    nobody = headers_of("sk-nobody-at-all-0123456789")
    async with worker.client() as client:
        await client.send(request("POST", CHAT, {**nobody, **length}) + b"x" * 1000)
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (401, "close")
        await client.send_anyway(b"x" * MIB)
        assert await client.rest() == b""


async def test_handed_over(worker: Subject) -> None:
    """What the direct front end does not take, the other one does, on the same connection."""
    async with worker.client() as client:
        await client.send(request("POST", CHAT, worker.master, chat_bytes()))
        assert (await client.answer()).status == 200
        pieces = {**worker.master, "Transfer-Encoding": "chunked"}
        await client.send(request("POST", CHAT, pieces) + chunked(chat_bytes()))
        assert (await client.answer()).status == 200
        await client.send(request("GET", "/v1/models", worker.master))
        assert json.loads((await client.answer()).body)["object"] == "list"
        await client.send(request("POST", CHAT, worker.master, chat_bytes()))
        assert (await client.answer()).status == 200


@pytest.mark.parametrize("sent", [1, 20, 60, 200, -1])
async def test_head_in_pieces(worker: Subject, sent: int) -> None:
    """A head that arrives in two pieces is one head."""
    data = request("POST", CHAT, worker.master, chat_bytes())
    async with worker.client() as client:
        await client.send(data[:sent])
        await asyncio.sleep(0.02)
        await client.send(data[sent:])
        assert (await client.answer()).status == 200


async def test_closed_as_asked(worker: Subject) -> None:
    """`Connection: close` is obeyed and told."""
    headers = {**worker.master, "Connection": "close"}
    async with worker.client() as client:
        await client.send(request("POST", CHAT, headers, chat_bytes()))
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        with pytest.raises(Hangup):
            await client.answer()


async def test_gone_inside_its_body(worker: Subject) -> None:
    """Clients that leave with a body half sent leave nothing behind."""
    data = request("POST", CHAT, worker.master, chat_bytes(text="x" * (200 * KIB)))
    for size in (300, 100 * KIB):
        for leave in ("close", "reset", "half_close"):
            async with worker.client() as client:
                await client.send(data[:size])
                getattr(client, leave)()
    await worker.until_idle()
