"""Upstreams that break every promise, behind a real worker.

Whatever comes, the client gets a clean error or a stream that ends with one, the ledger one row,
and the key, limited to one call at a time, its slot back.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.support.one_worker import Scripted, Subject, chat, one_worker
from tests.support.postgres import Postgres, free_port
from tests.support.raw_http import RawAnswer, events
from tests.support.upstream_kit import Peer, answering, reply
from tests.support.upstream_server import UpstreamServer

pytestmark = pytest.mark.xdist_group("bad_input")

JSON = b"Content-Type: application/json"
SSE = b"Content-Type: text/event-stream"
OK_BODY = json.dumps(
    {
        "id": "c",
        "object": "chat.completion",
        "model": "m",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    }
).encode()
# Long enough for a loaded machine to answer, short enough to wait for.
SOON_S = 0.4


class Garbage:
    """The worker, the port that its upstream has, and a key that allows one call at a time."""

    def __init__(self, worker: Subject, port: int, key: str) -> None:
        self.worker = worker
        self.port = port
        self.key = key
        self.calls = 0

    async def ask(self, text: str = "hi", model: str = "", **fields: Any) -> RawAnswer:
        """A chat as the limited key; each call has a model of its own, unless one is given."""
        self.calls += 1
        body = chat(model or f"up/{self.calls}", text, **fields)
        return await self.worker.ask(body, self.key)

    async def row(self, model: str = "") -> Any:
        """The one ledger row of the last call, and a proof that the slot is free again: at once,
        for it is given back before the last bytes go out."""
        (row,) = await self.worker.rows(1, model=model or str(self.calls), key=self.key)
        again = await self.worker.ask(chat("echo"), self.key)
        assert again.status == 200, again
        return row

    async def fails(self, answer: RawAnswer, status: int, kind: str) -> dict[str, Any]:
        """The call failed before its answer began: a clean error and a row that says so."""
        assert answer.status == status, answer
        error = answer.error
        assert error["type"] == kind, error
        row = await self.row()
        assert (row["status"], row["http_status"]) == ("failure", status)
        assert (row["prompt_tokens"], row["completion_tokens"], row["cost"]) == (0, 0, 0)
        return error

    async def breaks(self, answer: RawAnswer, kind: str = "upstream_error") -> list[Any]:
        """The stream broke after it had begun: whole events, one error, `[DONE]`; a row with the
        delivered text. The events before the error."""
        assert answer.status == 200, answer
        *chunks, error, done = events(answer.body)
        assert done == "[DONE]"
        assert list(error) == ["error"], error
        assert error["error"]["type"] == kind, error
        assert all("choices" in chunk for chunk in chunks), chunks
        row = await self.row()
        assert (row["status"], row["http_status"], row["estimated"]) == ("failure", 200, True)
        assert row["prompt_tokens"] > 0
        return chunks


@pytest.fixture(scope="module")
def port() -> int:
    """Where the upstream will be."""
    return free_port()


@pytest.fixture(scope="module")
def worker(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory, port: int
) -> Iterator[Subject]:
    """A worker that must be as good as before, whatever its upstream does."""
    database = postgres.create()
    with one_worker(tmp_path_factory.mktemp("garbage"), database, port) as started:
        yield started
        asyncio.run(started.check_unharmed())
    postgres.drop(database)


@pytest.fixture
async def bad(worker: Subject, port: int) -> Garbage:
    """Calls as a key of the test's own."""
    return Garbage(worker, port, await worker.new_key(max_parallel_requests=1))


@pytest.fixture
async def up(port: int) -> AsyncIterator[UpstreamServer]:
    """The scriptable upstream; nothing may be left open on it."""
    async with UpstreamServer(port=port) as server:
        yield server
        await server.until(lambda: server.in_flight == 0)


def raw(bad: Garbage, *pieces: bytes, then: str = "keep") -> Scripted:
    """An upstream that answers every request with these bytes."""
    return Scripted(answering(*pieces, then=then), bad.port)


def sse(*payloads: Any) -> bytes:
    """Events, JSON but for what is bytes already."""
    return b"".join(
        b"data: " + (each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n\n"
        for each in payloads
    )


def chunk(text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """One chunk of a stream."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more}


def stream(*payloads: Any) -> bytes:
    """A whole response that streams these events."""
    return reply(sse(*payloads), SSE)


# -- whole replies


FAILURES = [
    ("[[status:400]]", 400, "invalid_request_error"),
    ("[[status:401]]", 502, "upstream_error"),
    ("[[status:403]]", 502, "upstream_error"),
    ("[[status:404]]", 404, "invalid_request_error"),
    ("[[status:408]]", 504, "timeout_error"),
    ("[[status:422]]", 400, "invalid_request_error"),
    ("[[status:429]]", 429, "rate_limit_error"),
    ("[[status:500]]", 500, "internal_server_error"),
    ("[[status:503]]", 503, "upstream_error"),
    ("[[status:504]]", 504, "timeout_error"),
    ("[[status:529]]", 502, "upstream_error"),
    ("[[html:200]]", 502, "upstream_error"),
    ("[[html:502]]", 502, "upstream_error"),
    ("[[html:503]]", 502, "upstream_error"),
    ("[[garbage]]", 502, "upstream_error"),
    ("[[badjson]]", 502, "upstream_error"),
    ("[[cut:0]]", 502, "upstream_error"),
    ("[[reset:0]]", 502, "upstream_error"),
    ("[[hang]]", 504, "timeout_error"),
]


@pytest.mark.parametrize(
    ("knobs", "status", "kind", "streamed"),
    [
        *((*failure, streamed) for failure in FAILURES for streamed in (False, True)),
        ("[[truncated]]", 502, "upstream_error", False),
    ],
)
async def test_failures_before_the_answer(
    bad: Garbage, up: UpstreamServer, knobs: str, status: int, kind: str, streamed: bool
) -> None:
    """Errors, pages, noise, cuts and silence before the first byte are a clean error, the same for
    a stream, and nothing of a page or of the upstream's own headers comes through."""
    answer = await bad.ask(knobs, stream=streamed, timeout=SOON_S)
    error = await bad.fails(answer, status, kind)
    assert "<html" not in error["message"]
    assert len(up.requests) == 1


@pytest.mark.parametrize(
    ("header", "streamed"),
    [("x-litellm-timeout", False), ("x-litellm-timeout", True), ("x-litellm-stream-timeout", True)],
)
async def test_time_outs_in_headers(
    bad: Garbage, up: UpstreamServer, header: str, streamed: bool
) -> None:
    """An upstream that is silent is given up after the seconds that a header asks for."""
    bad.calls += 1
    body = chat(f"up/{bad.calls}", "[[hang]]", stream=streamed)
    headers = {"Authorization": f"Bearer {bad.key}", header: str(SOON_S)}
    answer = await bad.worker.ask_with(headers, json.dumps(body).encode())
    await bad.fails(answer, 504, "timeout_error")
    assert len(up.requests) == 1


ODD_REPLIES: dict[str, bytes] = {
    "empty": reply(b"", JSON),
    "no-content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "moved": reply(b"", b"Location: http://127.0.0.1:1/", status=b"301 Moved"),
    "not-modified": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "array": reply(b"[1]", JSON),
    "text": reply(b'"fine"', JSON),
    "null": reply(b"null", JSON),
    "half-of-it": reply(OK_BODY[:40], JSON),
    "not-utf-8": reply(OK_BODY.replace(b"hi", b"\xff\xfe"), JSON),
    "deep": reply(b"[" * 100_000, JSON),
    "a-stream": stream(chunk("hi", "stop"), b"[DONE]"),
    "plain-text": reply(OK_BODY, b"Content-Type: text/plain"),
    "error-inside": reply(b'{"error": {"message": "no", "code": 502}}', JSON),
    "status-999": reply(b"{}", JSON, status=b"999 What"),
    "status-0": reply(b"{}", JSON, status=b"000 What"),
    "switching": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
    "http-2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "long-head": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 300_000 + b"\r\n\r\n",
    "endless-1xx": b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000,
    "both-framings": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n{}",
    "two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "bad-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "bad-gzip": reply(OK_BODY, JSON, b"Content-Encoding: gzip"),
    "cut-gzip": reply(gzip.compress(OK_BODY)[:-20], JSON, b"Content-Encoding: gzip"),
    "unknown-coding": reply(OK_BODY, JSON, b"Content-Encoding: br"),
}


@pytest.mark.parametrize("data", ODD_REPLIES.values(), ids=ODD_REPLIES)
async def test_odd_replies(bad: Garbage, data: bytes) -> None:
    """What is called a success but is none, and what is no HTTP, is a 502."""
    async with raw(bad, data, then="close"):
        await bad.fails(await bad.ask(), 502, "upstream_error")


async def test_unasked_compression_is_undone(bad: Garbage) -> None:
    """A reply in gzip, though identity was asked for, reaches the client plain."""
    data = reply(gzip.compress(OK_BODY), JSON, b"Content-Encoding: gzip")
    async with raw(bad, data):
        answer = await bad.ask()
        assert answer.status == 200
        assert "content-encoding" not in answer.headers
        assert answer.json["usage"]["total_tokens"] == 7
        assert (await bad.row())["completion_tokens"] == 4


async def test_reply_in_single_bytes(bad: Garbage) -> None:
    """A reply that arrives byte by byte is a reply."""
    data = reply(OK_BODY, JSON)
    async with raw(bad, *(data[n : n + 1] for n in range(len(data)))):
        assert (await bad.ask()).status == 200
        assert (await bad.row())["status"] == "success"


@pytest.mark.parametrize(
    ("usage", "tokens", "estimated"),
    [
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, 0, False),
        ({"prompt_tokens": -5, "completion_tokens": 10**30}, 100_000_000, False),
        ({"prompt_tokens": "many", "completion_tokens": [1]}, 1, True),
        ("lots", 1, True),
        (None, 1, True),
    ],
)
async def test_odd_usage(bad: Garbage, usage: Any, tokens: int, estimated: bool) -> None:
    """Usage that makes no sense, or none, costs the client nothing of its answer; explicit zeros
    stay zeros, and otherwise the delivered text counts."""
    body = json.loads(OK_BODY) | {"usage": usage}
    async with raw(bad, reply(json.dumps(body).encode(), JSON)):
        answer = await bad.ask()
        assert answer.status == 200
        assert answer.json["usage"] == usage
        row = await bad.row()
        assert (row["completion_tokens"], row["estimated"]) == (tokens, estimated)


async def test_reply_too_large(bad: Garbage) -> None:
    """A reply beyond the bound is refused when it has grown over it, not kept."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        try:
            for _ in range(200):
                await peer.send(b" " * 1_000_000)
        except ConnectionError:
            return

    before = bad.worker.rss_kib()
    async with Scripted(script, bad.port):
        await bad.fails(await bad.ask(), 502, "upstream_error")
    assert bad.worker.rss_kib() - before < 160 * 1024


# -- streams


@pytest.mark.parametrize("how", ["cut", "reset"])
@pytest.mark.parametrize("after", [1, 2, 4, 5])
async def test_cut_streams(bad: Garbage, up: UpstreamServer, how: str, after: int) -> None:
    """A stream cut at any stage ends with an error, never with a false end."""
    chunks = await bad.breaks(await bad.ask(f"[[{how}:{after}]]", stream=True))
    # The role, and what has arrived of the text: a reset may overtake what was sent before it.
    assert len(chunks) == after + 1 or (how == "reset" and len(chunks) <= after + 1)
    assert len(up.requests) == 1


async def test_stream_that_goes_silent(bad: Garbage, up: UpstreamServer) -> None:
    """A stream that stalls is given up after the idle time-out."""
    answer = await bad.ask("[[stall:2]]", stream=True, stream_timeout=SOON_S)
    assert len(await bad.breaks(answer, "timeout_error")) == 3
    await up.until(lambda: up.connections == 0)


async def test_stream_that_never_says_anything(bad: Garbage) -> None:
    """A head and comments are no answer: without a first event the client gets a clean 504."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: hello\n\n"

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(head)
        await peer.gone()

    async with Scripted(script, bad.port):
        answer = await bad.ask(stream=True, stream_timeout=SOON_S)
        await bad.fails(answer, 504, "timeout_error")


BROKEN_STREAMS: dict[str, tuple[bytes, str]] = {
    "ends-early": (stream(chunk("a"), chunk("b")), "upstream_error"),
    "ends-in-json": (reply(sse(chunk("a")) + b'data: {"choices": [{"ind', SSE), "upstream_error"),
    "not-json": (stream(chunk("a"), b"{not json}", chunk("b")), "upstream_error"),
    "not-utf-8": (stream(chunk("a"), b'{"choices": "\xff\xfe"}'), "upstream_error"),
    "not-an-object": (stream(chunk("a"), [1, 2]), "upstream_error"),
    "a-number": (stream(chunk("a"), 5), "upstream_error"),
    "deep": (stream(chunk("a"), b"[" * 100_000), "upstream_error"),
    "error": (
        stream(chunk("a"), {"error": {"message": "overloaded", "type": "server_error"}}),
        "upstream_error",
    ),
    "error-beside-choices": (
        stream(chunk("a"), chunk("", "error", error={"message": "gone", "code": 502})),
        "upstream_error",
    ),
    "error-as-text": (stream(chunk("a"), {"error": "overloaded"}), "upstream_error"),
    "error-of-another-shape": (stream(chunk("a"), {"error": ["overloaded"]}), "upstream_error"),
    "rate-limit": (
        stream(chunk("a"), {"error": {"message": "slow down", "code": 429}}),
        "throttling_error",
    ),
    "bad-chunk": (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"%x\r\n%b\r\nzz\r\n" % (len(sse(chunk("a"))), sse(chunk("a"))),
        "upstream_error",
    ),
}


@pytest.mark.parametrize(("data", "kind"), BROKEN_STREAMS.values(), ids=BROKEN_STREAMS)
async def test_broken_streams(bad: Garbage, data: bytes, kind: str) -> None:
    """Events that are none, errors in-band, and ends before the answer's: what came before is
    delivered whole, then an error."""
    async with raw(bad, data, then="close"):
        chunks = await bad.breaks(await bad.ask(stream=True), kind)
        texts = [each["choices"][0]["delta"]["content"] for each in chunks]
        assert texts[0] == "a"
        assert texts in (["a"], ["a", "b"])


@pytest.mark.parametrize(
    ("first", "status", "kind"),
    [
        (b"{not json}", 502, "upstream_error"),
        (b"[1]", 502, "upstream_error"),
        (b'{"error": {"message": "too long", "code": 400}}', 400, "invalid_request_error"),
        (b'{"error": {"message": "slow down", "code": "429"}}', 429, "throttling_error"),
        (b'{"error": "overloaded"}', 502, "upstream_error"),
        (
            b'{"id": "%b", "object": "chat.completion.chunk", "choices": [], "error": {"code": 503,'
            b' "message": "m"}}' % (b"c" * 200),
            503,
            "upstream_error",
        ),
    ],
)
async def test_first_event_is_a_failure(bad: Garbage, first: bytes, status: int, kind: str) -> None:
    """A stream whose first event is an error, or none, has not begun: a plain error answer."""
    async with raw(bad, stream(first)):
        await bad.fails(await bad.ask(stream=True), status, kind)


@pytest.mark.parametrize(
    "data",
    [
        reply(OK_BODY, JSON),
        reply(b"<html></html>", b"Content-Type: text/html"),
        reply(b"", SSE),
        reply(b": only a comment\n\n", SSE),
        reply(b"\n\n\n", SSE),
        b"HTTP/1.1 204 No Content\r\nContent-Type: text/event-stream\r\n\r\n",
    ],
    ids=["json", "html", "empty", "comment", "blank", "no-content"],
)
async def test_no_stream_where_one_was_asked_for(bad: Garbage, data: bytes) -> None:
    """An answer that is no stream, or one without an event, is a 502."""
    async with raw(bad, data):
        await bad.fails(await bad.ask(stream=True), 502, "upstream_error")


ODD_STREAMS: dict[str, bytes] = {
    "crlf": sse(chunk("a"), chunk("b", "stop"), b"[DONE]").replace(b"\n", b"\r\n"),
    "cr": sse(chunk("a"), chunk("b", "stop"), b"[DONE]").replace(b"\n", b"\r"),
    "no-blank": sse(chunk("a"), chunk("b", "stop"), b"[DONE]").replace(b"data: ", b"data:"),
    "byte-order-mark": b"\xef\xbb\xbf" + sse(chunk("a"), chunk("b", "stop"), b"[DONE]"),
    "no-done": sse(chunk("a"), chunk("b", "stop")),
    "no-last-blank-line": sse(chunk("a"), chunk("b", "stop"), b"[DONE]")[:-2],
    "comments": b": hi\n\n" + sse(chunk("a")) + b": hi\n\n" + sse(chunk("b", "stop"), b"[DONE]"),
    "names-and-ids": b"id: 1\nevent: x\n" + sse(chunk("a")) + sse(chunk("b", "stop"), b"[DONE]"),
    "more-after-done": sse(chunk("a"), chunk("b", "stop"), b"[DONE]", chunk("never")),
    "choices-of-another-type": sse({"choices": 5}, chunk("a"), chunk("b", "stop"), b"[DONE]"),
    "null-error": sse(chunk("a", error=None), chunk("b", "stop"), b"[DONE]"),
}


@pytest.mark.parametrize("body", ODD_STREAMS.values(), ids=ODD_STREAMS)
async def test_odd_streams_that_are_understood(bad: Garbage, body: bytes) -> None:
    """Every way to write an event stream is read, and the client gets a proper one, ended by
    `[DONE]` whether the upstream said it or not."""
    async with raw(bad, reply(body, SSE)):
        answer = await bad.ask(stream=True)
        assert answer.status == 200, answer
        assert answer.body.endswith(b"data: [DONE]\n\n")
        assert answer.body.count(b"[DONE]") == 1
        assert b'"content": "a"' in answer.body
        assert b'"content": "b"' in answer.body
        assert b"never" not in answer.body
        row = await bad.row()
        assert (row["status"], row["estimated"], row["completion_tokens"]) == ("success", True, 1)


async def test_upstream_does_not_end_after_done(bad: Garbage) -> None:
    """An upstream that says `[DONE]` and keeps its reply open is not waited for."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(head + sse(chunk("a", "stop"), b"[DONE]"))
        await peer.gone()

    async with Scripted(script, bad.port):
        async with asyncio.timeout(5):
            answer = await bad.ask(stream=True)
        assert events(answer.body)[-1] == "[DONE]"
        assert (await bad.row())["status"] == "success"


async def test_large_events(bad: Garbage, up: UpstreamServer) -> None:
    """An event of 10 MB is relayed; one of 20 MB is refused before it begins, at the bound."""
    answer = await bad.ask("[[bigevent:10000000]]", stream=True)
    content = events(answer.body)[1]["choices"][0]["delta"]["content"]
    assert content == "x" * 10_000_000
    assert (await bad.row())["completion_tokens"] == 5
    await bad.breaks(await bad.ask("[[bigevent:20000000]]", stream=True))


# -- connections


async def test_upstream_that_closes_after_each_reply(bad: Garbage) -> None:
    """Connections closed as soon as they are idle cost no call: of the few that are written to in
    the moment of their end, all are repeated."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply(OK_BODY, JSON))

    async with Scripted(script, bad.port) as server:
        for _ in range(20):
            assert (await bad.ask(num_retries=2)).status == 200
        assert 20 <= server.connections <= 25
    await bad.row()


async def test_kept_connection_that_dies_under_a_request(bad: Garbage) -> None:
    """A kept connection that is closed when the next request has been written is a 502 to a
    client that allows no retry, and a retry to one that does."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply(OK_BODY, JSON))
        await peer.request()

    async with Scripted(script, bad.port) as server:
        assert (await bad.ask()).status == 200
        await bad.fails(await bad.ask(), 502, "upstream_error")
        assert (await bad.ask()).status == 200
        answer = await bad.ask(num_retries=1)
        assert answer.status == 200
        assert answer.headers["x-litellm-attempted-retries"] == "1"
        assert (await bad.row())["attempts"] == 2
        assert server.connections == 3


async def test_nobody_listens(bad: Garbage) -> None:
    """An upstream that is not there is a 502 at once, to a stream as well."""
    await bad.fails(await bad.ask(), 502, "upstream_error")
    await bad.fails(await bad.ask(stream=True), 502, "upstream_error")


async def test_bytes_after_the_reply(bad: Garbage) -> None:
    """What follows a reply on its connection is never taken for the next call's."""
    poisoned = reply(OK_BODY, JSON) + reply(b'{"choices": [], "id": "poison"}', JSON)
    async with raw(bad, poisoned):
        for _ in range(5):
            answer = await bad.ask(num_retries=2)
            assert answer.status == 200
            assert b"poison" not in answer.body


# -- retries


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "faults",
    [
        ["status:503", "cut:0"],
        ["garbage", "html:200"],
        ["status:429", "badjson"],
        ["reset:0", "html:502"],
        ["status:401", "status:500"],
        ["status:403", "status:401"],
    ],
    ids=" then ".join,
)
async def test_retries_before_the_first_byte(
    bad: Garbage, up: UpstreamServer, faults: list[str], streamed: bool
) -> None:
    """What fails before the client has seen anything is tried elsewhere, counted in the header
    and in the one row."""
    up.script.extend([*faults, ""])
    answer = await bad.ask(model="thrice", stream=streamed)
    assert answer.status == 200, answer
    assert answer.headers["x-litellm-attempted-retries"] == "2"
    assert len(up.requests) == 3
    assert len(up.by_model) == 3, "a deployment that failed was tried again before the others"
    row = await bad.row("thrice-%")
    assert (row["status"], row["attempts"]) == ("success", 3)


async def test_no_retry_after_the_first_byte(bad: Garbage, up: UpstreamServer) -> None:
    """A stream that breaks after it began is not begun anew, though there are retries left."""
    up.script.append("cut:2")
    answer = await bad.ask(model="thrice", stream=True)
    assert events(answer.body)[-2]["error"]
    assert len(up.requests) == 1
    row = await bad.row("thrice-%")
    assert (row["status"], row["attempts"]) == ("failure", 1)


async def test_last_failure_is_told(bad: Garbage, up: UpstreamServer) -> None:
    """When all attempts fail, the client gets the last one's error; what cannot be helped by a
    retry is not tried again."""
    up.script.extend(["status:503", "status:500", "status:429"])
    assert (await bad.ask(model="thrice")).status == 429
    assert len(up.requests) == 3
    assert (await bad.row("thrice-%"))["attempts"] == 3
    for status in (400, 404):
        up.script.append(f"status:{status}")
        assert (await bad.ask(model="thrice")).status == status
    assert len(up.requests) == 5


async def test_many_failures_at_once(bad: Garbage, up: UpstreamServer, worker: Subject) -> None:
    """Two hundred calls over every kind of fault leave one row each and nothing open."""
    kinds = ["[[cut:0]]", "[[reset:1]]", "[[garbage]]", "[[html]]", "[[badsse]]", "[[midjson]]", ""]
    key = await worker.new_key()
    answers = await asyncio.gather(
        *(
            worker.ask(chat("up/many", kinds[n % len(kinds)], stream=n % 2 == 0), key)
            for n in range(200)
        )
    )
    assert {answer.status for answer in answers} == {200, 502}
    await worker.rows(200, model="many", key=key)
    await worker.until_idle()
    assert len(up.requests) == 200
