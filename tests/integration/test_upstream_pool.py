"""The pool's connections: reuse, limits, waiting, staleness, TLS, and a clean end."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path

import pytest

from shared.domain.deployments import Timeouts
from shared.domain.errors import UpstreamTimeout, UpstreamUnavailable
from shared.domain.requests import Origin, UpstreamRequest
from shared.upstream.dialing import by_turns
from shared.upstream.lanes import PoolLimits
from shared.upstream.pool import PoolStats
from tests.support.upstream_kit import (
    HEAD,
    Peer,
    RawServer,
    Recorder,
    answering,
    on_both_loops,
    pooled,
    reply,
)
from tests.support.upstream_server import UpstreamServer

CERTIFICATE = Path(__file__).parent.parent / "support" / "localhost_cert.pem"
KEY = CERTIFICATE.with_name("localhost_key.pem")


class Nowhere:
    """A port on which nobody listens."""

    host = "127.0.0.1"
    port = 1


def chat(text: str = "hi", **fields: object) -> bytes:
    """A chat body."""
    message = {"role": "user", "content": text}
    return json.dumps({"model": "m", "messages": [message], **fields}).encode()


@on_both_loops
async def test_request_arrives_as_given() -> None:
    """The head goes out as it is, with the content-length added, and the body after it."""
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        while request := await peer.request():
            seen.append(request)
            await peer.send(reply())

    async with RawServer(script) as server, pooled() as kit:
        for body in (b"", b"x", b"y" * 300_000):
            await kit.send(server, body)[0].over()
            assert seen.pop() == HEAD + b"content-length: %d\r\n\r\n" % len(body) + body
        assert server.connections == 1


@on_both_loops
async def test_nothing_happens_inside_start() -> None:
    """The sink is called after `start` returned, even where failure is known at once."""
    async with RawServer(answering(reply())) as server, pooled(PoolLimits(max_waiting=0)) as kit:
        for _ in range(2):
            sink, _ = kit.send(server)
            assert sink.calls == []
            await sink.over()
        await kit.pool.close()
        sink, _ = kit.send(server)
        assert sink.calls == []
        failure = await sink.failure()
        assert isinstance(failure, UpstreamUnavailable)
        assert not failure.sent


@on_both_loops
async def test_last_used_connection_is_used_first() -> None:
    """Idle connections are taken last in, first out, so that the surplus ages and goes."""
    async with UpstreamServer() as up, pooled() as kit:
        sinks = [kit.send(up, chat(f"[[delay-ms:{20 * n}]]"))[0] for n in range(1, 4)]
        for sink in sinks:
            await sink.over()
        assert kit.pool.stats == PoolStats(open=3, idle=3, waiting=0)
        for _ in range(5):
            await kit.send(up, chat())[0].over()
        assert up.connections_total == 3
        assert kit.pool.stats == PoolStats(open=3, idle=3, waiting=0)


@pytest.mark.parametrize("left", [0, 1])
@on_both_loops
async def test_idle_connections_expire(left: int) -> None:
    """Idle connections close as each one's lifetime ends; then the wheel has nothing to do."""
    async with UpstreamServer() as up, pooled(PoolLimits(idle_s=0.15)) as kit:
        sinks = [kit.send(up, chat(f"[[delay-ms:{delay}]]"))[0] for delay in (0, 0, 120)]
        for sink in sinks:
            await sink.over()
        assert kit.pool.stats.idle == 3
        await up.until(lambda: up.connections <= left)
        if left:
            return
        assert kit.pool.stats == PoolStats(open=0, idle=0, waiting=0)
        await kit.until(lambda: not kit.timers.armed)


@on_both_loops
async def test_idle_limit() -> None:
    """No more than `max_idle` connections rest; the others are closed when they are done."""
    async with UpstreamServer() as up, pooled(PoolLimits(max_idle=2)) as kit:
        sinks = [kit.send(up, chat("[[delay-ms:20]]"))[0] for _ in range(5)]
        for sink in sinks:
            await sink.over()
        assert kit.pool.stats == PoolStats(open=2, idle=2, waiting=0)
        await up.until(lambda: up.connections == 2)


@on_both_loops
async def test_connection_limit_and_queue() -> None:
    """At the limit flights wait in order; beyond the queue they fail at once, unsent."""
    limits = PoolLimits(max_connections=2, max_waiting=3)
    order: list[int] = []
    async with UpstreamServer() as up, pooled(limits) as kit:
        flights = [kit.send(up, chat("[[delay-ms:30]]")) for _ in range(8)]
        for number, (sink, _) in enumerate(flights):
            sink.on_event = lambda what, number=number: (  # type: ignore[misc]
                order.append(number) if what == "end" else None
            )
        assert kit.pool.stats == PoolStats(open=2, idle=0, waiting=5)
        for sink, _ in flights:
            await sink.over()
        refused = [sink.error for sink, _ in flights if sink.error is not None]
        assert len(refused) == 3
        for error in refused:
            assert isinstance(error, UpstreamUnavailable)
            assert (error.phase, error.sent, error.status) == ("queue", False, 503)
        assert sorted(order[:2]) == [0, 1]
        assert sorted(order) == [0, 1, 2, 3, 4]
        assert up.max_in_flight == 2
        assert up.connections_total == 2


@on_both_loops
async def test_waiting_flight_times_out_or_leaves() -> None:
    """A flight that no connection becomes free for times out; a cancelled one leaves no trace."""
    limits = PoolLimits(max_connections=1)
    async with UpstreamServer() as up, pooled(limits) as kit:
        first, _ = kit.send(up, chat("[[delay-ms:150]]"))
        late, _ = kit.send(up, chat(), Timeouts(connect_s=0.05))
        gone, flight = kit.send(up, chat())
        flight.cancel()
        last, _ = kit.send(up, chat())
        failure = await late.failure()
        assert isinstance(failure, UpstreamTimeout)
        assert (failure.phase, failure.sent) == ("connect", False)
        assert first.calls == []
        await first.over()
        await last.over()
        assert last.status == 200
        assert gone.calls == []
        assert len(up.requests) == 2


@on_both_loops
async def test_nobody_listens() -> None:
    """A refused connection and an unknown name are reported as not sent, with the reason."""
    async with pooled() as kit:
        failure = await kit.send(Nowhere())[0].failure()
        assert isinstance(failure, UpstreamUnavailable)
        assert (failure.phase, failure.sent, failure.status) == ("connect", False, 502)
        assert "127.0.0.1:1" in failure.message
        for host in ("name.invalid", "x" * 80, "a..b"):
            sink = Recorder()
            kit.pool.start(UpstreamRequest(Origin("http", host, 80), HEAD, b""), sink)
            failure = await sink.failure()
            assert isinstance(failure, UpstreamUnavailable)
            assert (failure.phase, failure.sent) == ("connect", False)


@on_both_loops
async def test_name_with_a_dead_address() -> None:
    """A name with several addresses is tried on all of them: here ::1 refuses, 127.0.0.1 takes."""
    async with UpstreamServer() as up, pooled() as kit:
        up.host = "localhost"
        sink, _ = kit.send(up, chat())
        await sink.over()
        assert sink.status == 200


def test_addresses_by_turns() -> None:
    """Families alternate, starting with the resolver's first, each in its order, none twice."""
    v6 = [("2001:db8::1", 443, 0, 0), ("2001:db8::2", 443, 0, 0), ("2001:db8::1", 443, 0, 0)]
    v4 = [("192.0.2.1", 443), ("192.0.2.1", 443)]
    assert [host for host, _ in by_turns(v6 + v4)] == ["2001:db8::1", "192.0.2.1", "2001:db8::2"]
    assert by_turns(v4) == [("192.0.2.1", 443)]
    assert by_turns([]) == []


@on_both_loops
async def test_stale_connection_is_passed_over() -> None:
    """A connection closed by the peer while idle is gone before the next call needs one."""
    limit = 3

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply(b"%d" % peer.number))

    async with RawServer(script) as server, pooled() as kit:
        for number in range(1, limit + 1):
            sink, _ = kit.send(server)
            await sink.over()
            assert sink.body == b"%d" % number
            await kit.until(lambda: kit.pool.stats.open == 0)


@on_both_loops
async def test_written_request_is_never_repeated() -> None:
    """A reused connection that dies after the write fails the call, which the peer saw once."""
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        while request := await peer.request():
            seen.append(request)
            if len(seen) == 2:
                peer.reset()
                return
            await peer.send(reply())

    async with RawServer(script) as server, pooled() as kit:
        await kit.send(server)[0].over()
        failure = await kit.send(server, b"once")[0].failure()
        assert isinstance(failure, UpstreamUnavailable)
        assert (failure.phase, failure.sent) == ("first_byte", True)
        assert [request.count(b"once") for request in seen] == [0, 1]
        assert server.connections == 1
        sink, _ = kit.send(server)
        await sink.over()
        assert sink.status == 200


@on_both_loops
async def test_peer_that_closes_at_once() -> None:
    """A peer that accepts and closes fails the calls; none waits, none loops."""

    async def script(peer: Peer) -> None:
        peer.reset()

    async with RawServer(script) as server, pooled() as kit:
        flights = [kit.send(server) for _ in range(5)]
        for sink, _ in flights:
            assert isinstance(await sink.failure(), UpstreamUnavailable)
        assert server.connections <= 10


@on_both_loops
async def test_answer_before_the_request_is_out() -> None:
    """An early answer to a large request is delivered, and its connection not used again."""

    async def script(peer: Peer) -> None:
        await peer.read(1000)
        await peer.send(reply(b"too large", status=b"413 No"))
        await asyncio.Event().wait()

    async with RawServer(script) as server, pooled() as kit:
        # The peer never reads on: the body cannot all be in the kernel's buffers.
        sink, _ = kit.send(server, b"x" * 20_000_000)
        await sink.over()
        assert (sink.status, sink.body) == (413, b"too large")
        assert kit.pool.stats == PoolStats(open=0, idle=0, waiting=0)


@on_both_loops
async def test_two_hundred_flights_at_once() -> None:
    """200 concurrent calls, streamed and whole, each get their own answer over 50 connections."""
    limits = PoolLimits(max_connections=50)
    async with UpstreamServer() as up, pooled(limits) as kit:
        flights = []
        for number in range(200):
            text = f"[[usage:{number},1]] [[delay-ms:{number % 5}]]"
            options = {"stream": True, "stream_options": {"include_usage": True}}
            flights.append(kit.send(up, chat(text, **options if number % 2 else {}))[0])
        for number, sink in enumerate(flights):
            await sink.over()
            assert sink.error is None
            assert b'"prompt_tokens"' in sink.body
            tokens = sink.body.replace(b" ", b"").split(b'"prompt_tokens":')[1].split(b",")[0]
            assert int(tokens) == number
            assert sink.body.endswith(b"data: [DONE]\n\n") == bool(number % 2)
        assert up.connections_total == 50
        assert up.max_in_flight <= 50
        assert kit.pool.stats == PoolStats(open=50, idle=50, waiting=0)


@on_both_loops
async def test_new_call_from_the_end_of_another() -> None:
    """A sink may start the next call from `on_end`: it goes out on the same connection."""
    async with UpstreamServer() as up, pooled() as kit:
        second = Recorder()

        def again(what: str) -> None:
            if what == "end":
                kit.send(up, chat(), sink=second)

        first = Recorder()
        first.on_event = again
        kit.send(up, chat(), sink=first)
        await first.over()
        await second.over()
        assert up.connections_total == 1


@on_both_loops
async def test_close_cancels_what_flies() -> None:
    """`close` ends idle, flying, waiting and connecting alike; no sink hears of it."""
    limits = PoolLimits(max_connections=2)
    async with UpstreamServer() as up, pooled(limits) as kit:
        await kit.send(up, chat())[0].over()
        flights = [kit.send(up, chat("[[hang]]")) for _ in range(4)]
        await up.until(lambda: len(up.requests) == 3)
        await kit.pool.close()
        await up.until(lambda: up.connections == 0)
        assert [sink.calls for sink, _ in flights] == [[]] * 4
        assert len(up.disconnects) == 2


@on_both_loops
async def test_broken_sink_costs_only_its_own_call() -> None:
    """A sink that raises loses its connection and is reported; other calls go on."""
    async with UpstreamServer() as up, pooled() as kit:
        for moment in ("head", "data", "end"):
            broken = Recorder()

            def fail(what: str, moment: str = moment) -> None:
                if what == moment:
                    raise ValueError(moment)

            broken.on_event = fail
            other, _ = kit.send(up, chat("[[delay-ms:20]]"))
            kit.send(up, chat("[[delay-ms:10]]"), sink=broken)
            await other.over()
            assert other.status == 200
            assert broken.calls[-1] == moment
            assert [str(context["exception"]) for context in kit.reported] == [moment]
            kit.reported.clear()
            await kit.until(lambda: kit.pool.stats.open == kit.pool.stats.idle)
        broken = Recorder()
        broken.on_event = lambda _: 1 // 0
        kit.send(Nowhere(), sink=broken)
        await broken.over()
        assert len(kit.reported) == 1
        kit.reported.clear()


def server_context() -> ssl.SSLContext:
    """The scripted server's TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, KEY)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@on_both_loops
async def test_tls_with_own_authority() -> None:
    """With its authority given, a TLS upstream is verified, reused, and speaks HTTP/1.1."""
    async with UpstreamServer(ssl=server_context()) as up, pooled(ca_file=str(CERTIFICATE)) as kit:
        up.scheme = "https"  # type: ignore[attr-defined]
        for host in ("127.0.0.1", "localhost"):
            up.host = host
            for _ in range(3):
                sink, _ = kit.send(up, chat("x" * 200_000, stream=True))
                await sink.over()
                assert sink.error is None
                assert sink.body.endswith(b"data: [DONE]\n\n")
        assert up.connections_total == 2
        sink, flight = kit.send(up, chat("[[hang]]"))
        await up.until(lambda: up.in_flight == 1)
        flight.cancel()
        await up.until(lambda: len(up.disconnects) == 1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@on_both_loops
async def test_tls_that_nobody_vouches_for(host: str) -> None:
    """An upstream whose certificate no known authority signed gets no request."""
    async with UpstreamServer(ssl=server_context()) as up, pooled() as kit:
        up.scheme, up.host = "https", host  # type: ignore[attr-defined]
        failure = await kit.send(up, chat())[0].failure()
        assert isinstance(failure, UpstreamUnavailable)
        assert (failure.phase, failure.sent) == ("connect", False)
        assert "certificate" in failure.message.lower()
        await asyncio.sleep(0)
        assert up.requests == []
