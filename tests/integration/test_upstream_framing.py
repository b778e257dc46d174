"""What the pool makes of response bytes: good ones at any split, bad ones refused."""

from __future__ import annotations

import gzip
import zlib

import pytest

from shared.domain.errors import UpstreamError, UpstreamProtocolError, UpstreamUnavailable
from shared.upstream.framing import ResponseReader
from shared.upstream.lanes import PoolLimits
from tests.support.upstream_kit import (
    Peer,
    RawServer,
    answering,
    chunked,
    on_both_loops,
    pooled,
    reply,
)

H = b"HTTP/1.1 200 OK\r\n"
TEXT = b"the quick brown fox " * 40

# name: (bytes, then, status, body, connection reused)
GOOD: dict[str, tuple[bytes, str, int, bytes, bool]] = {
    "sized": (reply(b"hello", b"X-Empty:"), "keep", 200, b"hello", True),
    "empty": (reply(b""), "keep", 200, b"", True),
    "chunked": (chunked(b"he", b"l", b"lo"), "keep", 200, b"hello", True),
    "extension and trailer": (
        H + b"transfer-encoding: Chunked\r\n\r\n2;a=b\r\nhi\r\n0\r\nX-T: v\r\n\r\n",
        "keep",
        200,
        b"hi",
        True,
    ),
    "informational first": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + reply(b"a"),
        "keep",
        200,
        b"a",
        True,
    ),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", "keep", 204, b"", True),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\n\r\n", "keep", 304, b"", True),
    "asked to close": (reply(b"a", b"Connection: close"), "keep", 200, b"a", False),
    "until the end": (H + b"X: 1\r\n\r\nall of it", "close", 200, b"all of it", False),
    "old": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", "keep", 200, b"hi", False),
    "old but alive": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
        "keep",
        200,
        b"hi",
        False,
    ),
    "gzip": (
        reply(gzip.compress(TEXT, mtime=0), b"Content-Encoding: gzip"),
        "keep",
        200,
        TEXT,
        True,
    ),
    "deflate": (
        reply(zlib.compress(TEXT), b"Content-Encoding: deflate"),
        "keep",
        200,
        TEXT,
        True,
    ),
    "identity": (reply(b"a", b"Content-Encoding: identity"), "keep", 200, b"a", True),
    "error": (reply(b"no", status=b"503 Down"), "keep", 503, b"no", True),
}

BAD_HEADS = {
    "both framings": H + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both, turned": H + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "two lengths": H + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "list of lengths": H + b"Content-Length: 3, 3\r\n\r\nabc",
    "signed length": H + b"Content-Length: +3\r\n\r\nabc",
    "hex length": H + b"Content-Length: 0x3\r\n\r\nabc",
    "empty length": H + b"Content-Length:\r\n\r\nabc",
    "huge length": H + b"Content-Length: %b\r\n\r\n" % (b"9" * 30),
    "blank before colon": H + b"Content-Length : 3\r\n\r\nabc",
    "folded": H + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "nul in a value": H + b"X: a\x00b\r\n\r\n",
    "transfer coding gzip": H + b"Transfer-Encoding: gzip\r\n\r\nabc",
    "two transfer codings": H + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": H
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "old and chunked": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "unoffered coding": reply(b"a", b"Content-Encoding: br"),
    "version 2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "other protocol": b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "upgrade": b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nabc",
    "status 000": b"HTTP/1.1 000 X\r\n\r\n",
    "status 99": b"HTTP/1.1 99 X\r\n\r\n",
    "not HTTP": b"\x16\x03\x01 hello\r\n\r\n",
}

BAD_BODIES = {
    "bad chunk size": H + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nzz\r\n",
    "chunk size overflow": H + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n%b\r\n" % (b"f" * 20),
    "blank in chunk size": H + b"Transfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n",
    "chunk too long": H + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab0\r\n\r\n",
    "not gzip": reply(b"plain text", b"Content-Encoding: gzip"),
    "short gzip": reply(gzip.compress(TEXT)[:-9], b"Content-Encoding: gzip"),
    "more than gzip": reply(gzip.compress(TEXT) + b"more", b"Content-Encoding: gzip"),
}

# What a peer sent before it went: bytes, how it went, error, phase
CUT: dict[str, tuple[bytes, str, type[UpstreamError], str]] = {
    "HTML only": (b"<html><body>Bad gateway</body></html>", "close", UpstreamProtocolError, "head"),
    "short body": (H + b"Content-Length: 9\r\n\r\nabc", "close", UpstreamProtocolError, "body"),
    "short body, reset": (
        H + b"Content-Length: 9\r\n\r\nabc",
        "reset",
        UpstreamProtocolError,
        "body",
    ),
    "missing last chunk": (
        H + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
        "close",
        UpstreamProtocolError,
        "body",
    ),
    "unending body, reset": (H + b"X: 1\r\n\r\nabc", "reset", UpstreamProtocolError, "body"),
    "half a head": (H + b"Content-Le", "close", UpstreamProtocolError, "head"),
    "informational only": (
        b"HTTP/1.1 100 Continue\r\n\r\n",
        "close",
        UpstreamProtocolError,
        "head",
    ),
    "nothing": (b"", "close", UpstreamUnavailable, "first_byte"),
    "nothing, reset": (b"", "reset", UpstreamUnavailable, "first_byte"),
}

BAD: dict[str, tuple[bytes, str, type[UpstreamError], str]] = {
    **{name: (raw, "keep", UpstreamProtocolError, "head") for name, raw in BAD_HEADS.items()},
    **{name: (raw, "keep", UpstreamProtocolError, "body") for name, raw in BAD_BODIES.items()},
    **CUT,
}


@pytest.mark.parametrize("name", GOOD)
@on_both_loops
async def test_good_responses_split_anywhere(name: str) -> None:
    """A response arrives whole and cut in two at every byte, with one and the same result."""
    raw, then, status, body, reused = GOOD[name]
    cuts = range(len(raw)) if len(raw) < 200 else range(0, len(raw), 7)

    async def script(peer: Peer) -> None:
        while request := await peer.request():
            cut = int(request.rpartition(b"\r\n")[2])
            for piece in (raw[:cut], raw[cut:]):
                if piece:
                    await peer.send(piece)
            if then == "close":
                return

    async with RawServer(script) as server, pooled() as kit:
        for cut in cuts:
            sink, _ = kit.send(server, b"%d" % cut)
            await sink.over()
            assert sink.error is None
            assert (sink.status, sink.body) == (status, body)
            assert kit.pool.stats.idle == int(reused)
        assert server.connections == (1 if reused else len(cuts))


@pytest.mark.parametrize("name", BAD)
@on_both_loops
async def test_bad_responses(name: str) -> None:
    """A framing fault ends the call with its error and phase, and the connection with it."""
    raw, then, error, phase = BAD[name]
    pieces = (raw,) if raw else ()
    async with RawServer(answering(*pieces, then=then)) as server, pooled() as kit:
        sink, _ = kit.send(server)
        failure = await sink.failure()
        assert type(failure) is error
        assert (failure.phase, failure.sent) == (phase, True)
        assert kit.pool.stats.open == 0


@pytest.mark.parametrize("name", [*GOOD, *BAD])
def test_reader_byte_by_byte(name: str) -> None:
    """Fed one byte at a time, the reader gives the head and body it gives for the whole."""
    raw = GOOD[name][0] if name in GOOD else BAD[name][0]
    whole, whole_fault = _read([raw] if raw else [])
    split, split_fault = _read([raw[at : at + 1] for at in range(len(raw))])
    assert (whole_fault is None) == (split_fault is None)
    if whole_fault is None:
        assert whole == split
    elif split_fault is not None and "gzip" not in name:
        assert (whole, whole_fault.phase) == (split, split_fault.phase)


def _read(pieces: list[bytes]) -> tuple[tuple[object, ...], UpstreamProtocolError | None]:
    reader = ResponseReader(65536, 1 << 20)
    body = b""
    fault = None
    for piece in pieces:
        fault = reader.feed(piece)
        body += reader.body() if reader.parts else b""
        if fault is not None or reader.complete:
            break
    state = (reader.status, reader.headers if reader.head_done else (), body, reader.complete)
    return state, fault


@pytest.mark.parametrize(
    "surplus", [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", b"H", b"\0"]
)
@pytest.mark.parametrize("together", [True, False])
@on_both_loops
async def test_bytes_after_the_end(surplus: bytes, together: bool) -> None:
    """Surplus bytes never reach a later call: the reply is good, the connection is closed."""

    async def script(peer: Peer) -> None:
        await peer.request()
        if together:
            await peer.send(reply(b"good") + surplus)
        else:
            await peer.send(reply(b"good"))
            await peer.send(surplus)
        await peer.gone()

    async with RawServer(script) as server, pooled() as kit:
        for number in (1, 2):
            sink, _ = kit.send(server)
            await sink.over()
            assert sink.error is None
            assert sink.body == b"good"
            await kit.until(lambda: kit.pool.stats.open == 0)
            assert server.connections == number


@on_both_loops
async def test_unasked_bytes_before_any_request() -> None:
    """A peer that speaks first is no HTTP server: its connection is not used for the call."""

    async def script(peer: Peer) -> None:
        if peer.number == 1:
            await peer.request()
            await peer.send(reply())
            await peer.send(b"HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n")
            await peer.gone()
        else:
            await answering(reply(b"second"))(peer)

    async with RawServer(script) as server, pooled() as kit:
        await kit.send(server)[0].over()
        await kit.until(lambda: kit.pool.stats.open == 0)
        sink, _ = kit.send(server)
        await sink.over()
        assert sink.body == b"second"


@pytest.mark.parametrize("split", [1000, 10**6])
@on_both_loops
async def test_head_over_64_kib(split: int) -> None:
    """A head over the limit is refused, in one read or in many; one just below passes."""

    def head(size: int) -> bytes:
        return b"HTTP/1.1 200 OK\r\nX: %b\r\nContent-Length: 0\r\n\r\n" % (b"x" * size)

    async def script(peer: Peer) -> None:
        while request := await peer.request():
            raw = head(int(request.rpartition(b"\r\n")[2]))
            for at in range(0, len(raw), split):
                await peer.send(raw[at : at + split])

    async with RawServer(script) as server, pooled() as kit:
        sink, _ = kit.send(server, b"65000")
        await sink.over()
        assert sink.error is None
        sink, _ = kit.send(server, b"66000")
        failure = await sink.failure()
        assert isinstance(failure, UpstreamProtocolError)
        assert failure.phase == "head"


@on_both_loops
async def test_endless_trailers_and_informational_answers() -> None:
    """Trailers and 1xx answers without end are cut off, not collected."""

    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 1:
            await peer.send(H + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX: ")
        try:
            while True:
                await peer.send(
                    b"x" * 4096 if peer.number == 1 else b"HTTP/1.1 100 C\r\n\r\n" * 200
                )
        except ConnectionError:
            return

    async with RawServer(script) as server, pooled() as kit:
        for phase in ("trailers", "head"):
            sink, _ = kit.send(server)
            failure = await sink.failure()
            assert isinstance(failure, UpstreamProtocolError)
            assert failure.phase == phase


@on_both_loops
async def test_decoding_is_bounded() -> None:
    """A compressed answer that grows over the limit is refused, and its framing headers go."""
    bomb = gzip.compress(b"\0" * 2_000_000)
    limits = PoolLimits(max_decoded_bytes=1_000_000)
    small = reply(gzip.compress(b"ok"), b"Content-Encoding: GZIP", b"X-Kept: 1")
    async with RawServer(answering(small)) as server, pooled(limits) as kit:
        sink, _ = kit.send(server)
        await sink.over()
        assert sink.body == b"ok"
        assert sink.headers == (("x-kept", "1"),)
    raw = reply(bomb, b"Content-Encoding: gzip")
    async with RawServer(answering(raw)) as server, pooled(limits) as kit:
        failure = await kit.send(server)[0].failure()
        assert isinstance(failure, UpstreamProtocolError)
        assert "too large" in failure.message
