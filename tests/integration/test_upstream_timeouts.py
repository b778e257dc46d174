"""Time-outs by phase, back-pressure both ways, and cancelling."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from time import monotonic

import pytest

from shared.domain.deployments import Timeouts
from shared.domain.errors import UpstreamTimeout
from shared.upstream.base import Flight
from shared.upstream.pool import PoolStats
from tests.support.upstream_kit import (
    HEAD,
    Kit,
    Peer,
    RawServer,
    Recorder,
    chunked,
    on_both_loops,
    pooled,
    reply,
)
from tests.support.upstream_server import UpstreamServer

# Time-outs here are short; the margin is for a busy machine.
SHORT_S = 0.15
MARGIN_S = 0.6


def chat(text: str, stream: bool = True) -> bytes:
    """A chat body."""
    message = {"role": "user", "content": text}
    return json.dumps({"model": "m", "messages": [message], "stream": stream}).encode()


async def timed_out(sink: Recorder, phase: str, sent: bool = True) -> None:
    """Assert the time-out of a phase, no earlier than `SHORT_S` and not much later."""
    begun = monotonic()
    failure = await sink.failure()
    took = monotonic() - begun
    assert isinstance(failure, UpstreamTimeout)
    assert (failure.phase, failure.sent, failure.status) == (phase, sent, 504)
    assert SHORT_S - 0.02 <= took <= SHORT_S + MARGIN_S


class FullServer:
    """A listener whose queue is full: the kernel answers no further connection."""

    host = "127.0.0.1"

    def __init__(self, stack: ExitStack) -> None:
        listener = stack.enter_context(socket.create_server((self.host, 0), backlog=0))
        self.port = listener.getsockname()[1]
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((self.host, self.port))


@pytest.fixture
def full_server() -> Iterator[FullServer]:
    """A server that no connection can be made to, though it does not refuse."""
    with ExitStack() as stack:
        yield FullServer(stack)


@on_both_loops
async def test_connect_timeout(full_server: FullServer) -> None:
    """A connection that is not made in time is given up, and the attempt with it."""
    async with pooled() as kit:
        sink, _ = kit.send(full_server, timeouts=Timeouts(connect_s=SHORT_S))
        await timed_out(sink, "connect", sent=False)
        await kit.until(lambda: kit.pool.stats == PoolStats(open=0, idle=0, waiting=0))


@on_both_loops
async def test_cancel_while_connecting(full_server: FullServer) -> None:
    """Cancelled flights take their connection attempts with them, one each."""
    async with pooled() as kit:
        flights = [kit.send(full_server) for _ in range(5)]
        for left in (4, 2, 0):
            while len(flights) > left:
                flights.pop()[1].cancel()
            await kit.until(lambda left=left: kit.pool.stats.open == left)  # type: ignore[misc]
            assert kit.pool.stats.waiting == left


@on_both_loops
async def test_first_byte_timeout() -> None:
    """An upstream that does not answer, and one that dawdles over the head, time out alike."""

    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 2:
            await peer.send(b"HTTP/1.1 200 OK\r\nX: y\r\n")
        await peer.gone()

    async with RawServer(script) as server, pooled() as kit:
        for _ in range(2):
            sink, _ = kit.send(server, timeouts=Timeouts(first_byte_s=SHORT_S))
            await timed_out(sink, "first_byte")
            assert kit.pool.stats.open == 0


@on_both_loops
async def test_idle_timeout() -> None:
    """A stream that stops between two chunks times out; one that goes on does not."""
    timeouts = Timeouts(idle_s=SHORT_S, first_byte_s=5.0)
    async with UpstreamServer() as up, pooled() as kit:
        steady, _ = kit.send(up, chat("[[chunks:10]] [[chunk-delay-ms:60]]"), timeouts)
        sink, _ = kit.send(up, chat("[[stall:3]]"), timeouts)
        while sink.body.count(b"\n\n") < 4:
            await sink.until("data")
            await asyncio.sleep(0)
        await timed_out(sink, "idle")
        await steady.over()
        assert steady.error is None
        assert steady.body.endswith(b"data: [DONE]\n\n")


@on_both_loops
async def test_total_timeout() -> None:
    """The whole call is bounded, also where every single wait is within its own limit."""
    async with UpstreamServer() as up, pooled() as kit:
        body = chat("[[chunks:100]] [[chunk-delay-ms:20]]")
        sink, _ = kit.send(up, body, Timeouts(total_s=SHORT_S))
        await timed_out(sink, "total")
        assert sink.calls[0] == "head"
        await up.until(lambda: len(up.disconnects) == 1)


@on_both_loops
async def test_send_timeout() -> None:
    """A peer that does not read a large request stops the call in phase `send`."""

    async def script(peer: Peer) -> None:
        await asyncio.Event().wait()

    async with RawServer(script) as server, pooled() as kit:
        timeouts = Timeouts(idle_s=SHORT_S, first_byte_s=60.0)
        sink, _ = kit.send(server, b"x" * 20_000_000, timeouts)
        failure = await sink.failure()
        assert isinstance(failure, UpstreamTimeout)
        assert failure.phase == "send"
        assert kit.pool.stats.open == 0


@on_both_loops
async def test_slow_send_is_progress() -> None:
    """A peer that reads slowly but steadily gets the whole request, longer than the limit."""

    size = 16_000_000

    async def script(peer: Peer) -> None:
        left = len(HEAD) + len(b"content-length: %d\r\n\r\n" % size) + size
        while left:
            left -= await peer.read(1 << 20)
            await asyncio.sleep(SHORT_S / 15)
        await peer.send(reply())
        await peer.gone()

    async with RawServer(script) as server, pooled() as kit:
        timeouts = Timeouts(idle_s=SHORT_S, first_byte_s=60.0)
        begun = monotonic()
        sink, _ = kit.send(server, b"x" * size, timeouts)
        await sink.over()
        assert sink.error is None
        assert monotonic() - begun > 2 * SHORT_S
        assert kit.pool.stats.idle == 1


@on_both_loops
async def test_paused_flight_reads_nothing_and_does_not_idle_out() -> None:
    """While paused no data comes, the peer feels it, and idle time stands still; then all comes."""
    size = 16_000_000
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // 16_000):
            await peer.send(b"z" * 16_000)
            sent += 16_000
        await peer.gone()

    async with RawServer(script) as server, pooled() as kit:
        sink = Recorder()
        flights: list[Flight] = []

        def pause(what: str) -> None:
            if what == "head":
                flights[0].pause()

        sink.on_event = pause
        timeouts = Timeouts(idle_s=SHORT_S)
        flights.append(kit.send(server, timeouts=timeouts, sink=sink)[1])
        await sink.until("head")
        await asyncio.sleep(3 * SHORT_S)
        held, got = sent, len(sink.body)
        await asyncio.sleep(SHORT_S)
        assert (sent, len(sink.body)) == (held, got)
        assert sent < size
        assert sink.error is None
        flights[0].resume()
        await sink.over()
        assert sink.error is None
        assert sink.body == b"z" * size


@on_both_loops
async def test_pause_and_resume_around_the_end() -> None:
    """A flight paused before it starts and resumed later ends well; its connection is reused."""
    async with UpstreamServer() as up, pooled() as kit:
        for _ in range(3):
            sink, flight = kit.send(up, chat("hi"))
            flight.pause()
            flight.pause()
            await up.until(lambda: up.in_flight == 0 and bool(up.requests))
            assert sink.calls == []
            flight.resume()
            await sink.over()
            flight.pause()
            flight.resume()
            flight.cancel()
            assert sink.body.endswith(b"[DONE]\n\n")
        assert up.connections_total == 1


@on_both_loops
async def test_reply_that_ends_while_paused() -> None:
    """A reply read whole before the pause took hold ends; the next one is read as ever."""
    async with UpstreamServer() as up, pooled() as kit:
        for _ in range(3):
            sink = Recorder()
            flights: list[Flight] = []
            sink.on_event = lambda what, flights=flights: (  # type: ignore[misc]
                flights[0].pause() if what == "head" else None
            )
            flights.append(kit.send(up, chat("hi", stream=False), sink=sink)[1])
            await sink.over()
            assert sink.calls == ["head", "data", "end"]
        assert up.connections_total == 1


@on_both_loops
async def test_total_timeout_counts_while_paused() -> None:
    """A client that never reads does not hold a call for ever: the total time-out still ends it."""
    async with UpstreamServer() as up, pooled() as kit:
        timeouts = Timeouts(idle_s=0.05, total_s=SHORT_S)
        sink, flight = kit.send(up, chat("[[hang]]"), timeouts)
        flight.pause()
        await timed_out(sink, "total")


async def cancelled(kit: Kit, up: UpstreamServer, sink: Recorder, flight: Flight) -> None:
    """Cancel, and assert that the upstream sees it within 250 ms and the sink nothing."""
    before, calls = len(up.disconnects), list(sink.calls)
    at = monotonic()
    flight.cancel()
    flight.cancel()
    await up.until(lambda: len(up.disconnects) > before)
    assert up.disconnects[-1].at_s - at <= 0.25
    assert sink.calls == calls
    assert kit.pool.stats == PoolStats(open=0, idle=0, waiting=0)


@on_both_loops
async def test_cancel_closes_the_connection() -> None:
    """Before the first byte, inside a stream and while paused: cut within 250 ms, and silent."""
    async with UpstreamServer() as up, pooled() as kit:
        sink, flight = kit.send(up, chat("[[hang]]"))
        await up.until(lambda: up.in_flight == 1)
        await cancelled(kit, up, sink, flight)
        for paused in (False, True):
            sink, flight = kit.send(up, chat("[[chunks:9999]] [[chunk-delay-ms:5]]"))
            await sink.until("data")
            if paused:
                flight.pause()
            await cancelled(kit, up, sink, flight)


@pytest.mark.parametrize("moment", ["head", "data"])
@on_both_loops
async def test_cancel_from_within_the_sink(moment: str) -> None:
    """A sink that cancels in a call hears nothing after it, even of bytes already read."""

    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.send(chunked(b"one", b"two"))

    async with RawServer(script) as server, pooled() as kit:
        sink = Recorder()
        flights: list[Flight] = []
        sink.on_event = lambda what: flights[0].cancel() if what == moment else None
        flights.append(kit.send(server, sink=sink)[1])
        await sink.until(moment)
        await kit.until(lambda: kit.pool.stats.open == 0)
        assert sink.calls[-1] == moment
