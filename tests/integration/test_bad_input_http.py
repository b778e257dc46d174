"""Requests that are not the HTTP they should be, sent to a real worker on bare sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.one_worker import CHAT, Subject, chat_bytes, one_worker
from tests.support.postgres import Postgres
from tests.support.raw_http import Hangup, RawAnswer, chunked, request

pytestmark = pytest.mark.xdist_group("bad_input")

OK = chat_bytes()
SIZE = b"%d" % len(OK)
CHUNKED = chunked(OK)


@pytest.fixture(scope="module")
def worker(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """A worker that must be as good as before, whatever the tests send."""
    database = postgres.create()
    with one_worker(tmp_path_factory.mktemp("http"), database) as started:
        yield started
        asyncio.run(started.check_unharmed())
    postgres.drop(database)


def head(worker: Subject, *lines: bytes) -> bytes:
    """A chat request's head that ends in these raw lines."""
    plain = request("POST", CHAT, worker.master)
    return plain[:-2] + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


async def answers(worker: Subject, data: bytes) -> tuple[list[RawAnswer], bool]:
    """Everything that is answered to bytes sent at once, and whether the connection was closed
    rather than ready for another request."""
    found = []
    async with worker.client() as client:
        await client.send_anyway(data)
        found.append(await client.answer())
        if found[0].headers.get("connection") == "close":
            return found, await client.rest(timeout_s=2) == b""
        await client.send_anyway(request("POST", CHAT, worker.master, OK))
        try:
            found.append(await client.answer(timeout_s=2))
        except Hangup:
            return found, True
        return found, False


async def refused(worker: Subject, data: bytes) -> None:
    """The bytes are one refused request, after which the connection is closed: no part of them
    is taken for another."""
    found, closed = await answers(worker, data)
    assert [answer.status for answer in found] == [400], found
    assert closed


BAD_FIELDS: dict[str, tuple[bytes, ...]] = {
    "bare-line-feed": (b"X-A: b\nX-Injected: 1", b"Content-Length: " + SIZE),
    "bare-carriage-return": (b"X-A: b\rX-Injected: 1", b"Content-Length: " + SIZE),
    "nul-in-value": (b"X-A: b\0c", b"Content-Length: " + SIZE),
    "control-in-value": (b"X-A: b\x01c", b"Content-Length: " + SIZE),
    "folded": (b"X-A: b\r\n folded", b"Content-Length: " + SIZE),
    "blank-before-colon": (b"X-A : b", b"Content-Length: " + SIZE),
    "no-colon": (b"X-A", b"Content-Length: " + SIZE),
    "no-name": (b": b", b"Content-Length: " + SIZE),
    "odd-name": (b"X(A): b", b"Content-Length: " + SIZE),
    "eight-bit-name": (b"X-\xe9: b", b"Content-Length: " + SIZE),
    "64-kib-value": (b"X-A: " + b"a" * 65_536, b"Content-Length: " + SIZE),
    "64-kib-name": (b"X" * 65_536 + b": a", b"Content-Length: " + SIZE),
    "5000-fields": (*(b"X-%d: a" % n for n in range(5000)), b"Content-Length: " + SIZE),
    "second-host": (b"Host: other", b"Content-Length: " + SIZE),
    "length-twice": (b"Content-Length: " + SIZE, b"Content-Length: " + SIZE),
    "two-lengths": (b"Content-Length: " + SIZE, b"Content-Length: 5"),
    "length-list": (b"Content-Length: " + SIZE + b", " + SIZE,),
    "length-plus": (b"Content-Length: +" + SIZE,),
    "length-negative": (b"Content-Length: -1",),
    "length-hex": (b"Content-Length: 0x10",),
    "length-endless": (b"Content-Length: " + b"9" * 40,),
    "length-empty": (b"Content-Length:",),
}


@pytest.mark.parametrize("lines", BAD_FIELDS.values(), ids=BAD_FIELDS)
async def test_bad_fields(worker: Subject, lines: tuple[bytes, ...]) -> None:
    """Malformed, oversized and contradictory header fields are a 400 and the end of the
    connection."""
    await refused(worker, head(worker, *lines) + OK)


SMUGGLING: dict[str, tuple[bytes, ...]] = {
    "length-and-chunked": (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "chunked-and-length": (b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    "unknown-coding": (b"Transfer-Encoding: xchunked",),
    "chunked-not-last": (b"Transfer-Encoding: chunked, identity",),
    "chunked-twice": (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "chunked-and-again": (b"Transfer-Encoding: chunked, chunked",),
    "tab": (b"Transfer-Encoding:\tchunked\t, identity",),
}


@pytest.mark.parametrize("lines", SMUGGLING.values(), ids=SMUGGLING)
async def test_smuggling(worker: Subject, lines: tuple[bytes, ...]) -> None:
    """A body whose end two parsers could see in two places is refused, and what follows it is not
    read as a request."""
    hidden = request("POST", "/v1/embeddings", worker.master, b"{}")
    await refused(worker, head(worker, *lines) + CHUNKED + hidden)


BAD_CHUNKS = {
    "no-size": b"zz\r\n" + OK,
    "negative": b"-5\r\n" + OK,
    "blank-size": b"\r\n" + OK,
    "too-long-a-size": b"f" * 18 + b"\r\n",
    "no-end-of-chunk": b"%x\r\n%bXX0\r\n\r\n" % (len(OK), OK),
    "bare-line-feeds": b"%x\n%b\n0\n\n" % (len(OK), OK),
    "size-in-0x": b"0x%x\r\n%b\r\n0\r\n\r\n" % (len(OK), OK),
}


@pytest.mark.parametrize("body", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
async def test_bad_chunks(worker: Subject, body: bytes) -> None:
    """A chunk that is not framed as it must be is a 400 and the end of the connection."""
    await refused(worker, head(worker, b"Transfer-Encoding: chunked") + body)


async def test_good_chunks(worker: Subject) -> None:
    """Chunk extensions and trailers are passed over, and the connection goes on."""
    extended = b"%x;a=b\r\n%b\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(OK), OK)
    found, closed = await answers(worker, head(worker, b"Transfer-Encoding: chunked") + extended)
    assert [answer.status for answer in found] == [200, 200]
    assert not closed


NOT_REQUESTS = {
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "http2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "unknown-method": b"BREW /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n",
    "lower-case-method": b"post /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n",
    "no-version": b"POST /v1/chat/completions\r\n\r\n\r\n",
    "no-host": b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "eight-bit-path": b"POST /v1/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "blank-in-path": b"POST /v1/chat completions HTTP/1.1\r\nHost: x\r\n\r\n",
    "nul-in-path": b"POST /v1/\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "long-path": b"POST /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "noise": bytes(range(256)) * 8 + b"\r\n\r\n",
}


@pytest.mark.parametrize("data", NOT_REQUESTS.values(), ids=NOT_REQUESTS)
async def test_not_a_request(worker: Subject, data: bytes) -> None:
    """Bytes that are no request are a 4xx and the end of the connection."""
    async with worker.client() as client:
        await client.send_anyway(data)
        answer = await client.answer()
        assert 400 <= answer.status < 500, answer
        assert await client.rest(timeout_s=2) == b""


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/engines/m/completions"])
async def test_wrong_method(worker: Subject, method: str, path: str) -> None:
    """A path that takes only POST says so to any other method: 405, `allow`, OpenAI's shape."""
    async with worker.client() as client:
        await client.send(request(method, path, worker.master))
        answer = await client.answer(head_only=method == "HEAD")
        assert (answer.status, answer.headers["allow"]) == (405, "POST"), answer
        if method != "HEAD":
            assert answer.error["type"] == "invalid_request_error"
        await client.send(request("POST", CHAT, worker.master, OK))
        assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    "target", ["gateway:443", "*", "/engines/%FF%00%0d%0a/chat/completions", "/a%0Ab/c"]
)
async def test_odd_targets(worker: Subject, target: str) -> None:
    """Targets that no route has, line feeds in them included, are a 4xx in JSON."""
    method = {"g": "CONNECT", "*": "OPTIONS"}.get(target[0], "POST")
    async with worker.client() as client:
        await client.send(request(method, target, worker.master))
        answer = await client.answer()
        assert 400 <= answer.status < 500, answer
        assert "x-injected" not in answer.headers


async def test_absolute_form(worker: Subject) -> None:
    """A proxy's form of the target is the path in it, whatever host it names."""
    data = request("POST", f"http://evil.example{CHAT}", worker.master, OK)
    found, _ = await answers(worker, data)
    assert [answer.status for answer in found] == [200, 200]


@pytest.mark.parametrize("stream", [False, True])
async def test_http_1_0(worker: Subject, stream: bool) -> None:
    """A client of HTTP/1.0 gets an answer without chunks and the end of the connection."""
    data = request("POST", CHAT, worker.master, chat_bytes(stream=stream))
    async with worker.client() as client:
        await client.send(data.replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = await client.answer()
        assert answer.status == 200
        assert "transfer-encoding" not in answer.headers
        assert answer.headers["connection"] == "close"
        assert not stream or answer.body.endswith(b"data: [DONE]\n\n")
        assert await client.rest(timeout_s=2) == b""


async def test_expect_continue(worker: Subject) -> None:
    """A client that waits to be told to send its body is told; other expectations are refused."""
    async with worker.client() as client:
        await client.send(head(worker, b"Expect: 100-continue", b"Content-Length: " + SIZE))
        status, _ = await client.head(timeout_s=2)
        assert status == 100
        await client.send(OK)
        assert (await client.answer()).status == 200
    found, _ = await answers(worker, head(worker, b"Expect: tea", b"Content-Length: 0"))
    assert found[0].status == 417


@pytest.mark.parametrize("what", ["websocket", "h2c", "TLS/1.3"])
async def test_upgrade_is_ignored(worker: Subject, what: str) -> None:
    """An offer to change the protocol changes nothing."""
    more = {"Connection": "Upgrade", "Upgrade": what}
    found, _ = await answers(worker, request("POST", CHAT, {**worker.master, **more}, OK))
    assert [answer.status for answer in found] == [200, 200]


async def test_pipelined(worker: Subject) -> None:
    """Requests sent without waiting are answered one by one, in order, good and bad ones, and
    those behind a stream after its end."""
    bodies = [OK, b"{", chat_bytes(stream=True), chat_bytes("nope"), OK]
    async with worker.client() as client:
        await client.send(b"".join(request("POST", CHAT, worker.master, body) for body in bodies))
        found = [await client.answer() for _ in bodies]
    assert [answer.status for answer in found] == [200, 400, 200, 400, 200]
    assert found[2].body.endswith(b"data: [DONE]\n\n")


async def test_many_pipelined(worker: Subject) -> None:
    """Five hundred requests at once on one connection are all answered."""
    async with worker.client() as client:
        sending = asyncio.create_task(
            client.send(request("POST", CHAT, worker.master, b"{}") * 500)
        )
        for _ in range(500):
            assert (await client.answer()).status == 400
        await sending


async def test_request_in_single_bytes(worker: Subject) -> None:
    """A head that arrives byte by byte is a head."""
    async with worker.client() as client:
        for byte in request("POST", CHAT, worker.master, OK):
            await client.send(bytes((byte,)))
        assert (await client.answer()).status == 200


async def test_content_type_is_not_believed(worker: Subject) -> None:
    """The body is JSON whatever its type says, as SDKs differ; a broken type breaks nothing."""
    for kind in ("application/x-www-form-urlencoded", "application/json; charset=x", ";;;=\x80"):
        answer = await worker.ask_with({"Content-Type": kind}, OK)
        assert answer.status == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-litellm-customer-id", "\xff\xfe"),
        ("x-litellm-end-user-id", "x" * 5000),
        ("x-litellm-tags", ",,\xff,a,"),
        ("x-litellm-session-id", "\xff" * 300),
        ("x-litellm-num-retries", "x"),
        ("x-litellm-num-retries", "-1"),
        ("x-litellm-num-retries", "9" * 4000),
        ("x-litellm-num-retries", "9" * 5000),
        ("x-litellm-num-retries", "\xb2"),
        ("x-litellm-timeout", "soon"),
        ("x-litellm-timeout", "nan"),
        ("x-litellm-stream-timeout", "-1"),
        ("x-litellm-spend-logs-metadata", "{bad"),
        ("x-litellm-call-id", "\xff\n".strip()),
        ("x-forwarded-for", "1.2.3.4, \xff"),
        ("traceparent", "00-zz"),
    ],
)
async def test_request_options_in_headers(worker: Subject, name: str, value: str) -> None:
    """A header with an option that makes no sense is passed over or refused by name; the call
    has its ledger row when it was made."""
    key = await worker.new_key()
    answer = await worker.ask_with({"Authorization": f"Bearer {key}", name: value}, OK)
    if answer.status == 400:
        assert answer.error["param"] == name
    else:
        assert answer.status == 200, answer
        await worker.rows(1, key=key)
