"""The built-in upstream fails on request, takes its time, and obeys its flights."""

from __future__ import annotations

import asyncio
import json

from shared.domain.deployments import Timeouts
from shared.domain.errors import UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from shared.upstream.base import Flight
from tests.support.demo_kit import chat, decoded, running, text_of
from tests.support.upstream_kit import Recorder, on_both_loops


@on_both_loops
async def test_failures() -> None:
    """The failing models and the status knob answer with OpenAI errors and their retry-after."""
    async with running() as demo:
        for body, status, kind, wait in (
            (chat(model="fail"), 500, "server_error", None),
            (chat(model="fail-429"), 429, "rate_limit_error", "1"),
            (chat("[[status:503]] [[retry-after:7]]"), 503, "server_error", "7"),
            (chat("[[status:422]]", stream=True), 422, "invalid_request_error", None),
        ):
            sink = await demo.start(body)[0].over()
            error = json.loads(sink.body)["error"]
            assert (sink.status, error["code"], error["type"]) == (status, str(status), kind)
            assert sink.header("retry-after") == wait
        status, _ = await demo.ask({"model": "fail", "input": "x"}, "embeddings")
        assert status == 500


@on_both_loops
async def test_cut_answers() -> None:
    """A cut stream ends in an error after that many chunks, a cut reply inside its body."""
    async with running() as demo:
        for body, words in (
            (chat(model="fail-midstream", stream=True), 3),
            (chat("[[cut:5]]", stream=True), 5),
            (chat("[[cut:0]]", stream=True), 0),
        ):
            sink = await demo.start(body)[0].over()
            assert isinstance(sink.error, UpstreamProtocolError)
            assert sink.error.phase == "body"
            assert sink.body.count(b"\n\n") == words + 1
        sink = await demo.start(chat("[[cut:1]]"))[0].over()
        assert isinstance(sink.error, UpstreamProtocolError)
        assert 0 < len(sink.body) < int(sink.header("content-length") or 0)


@on_both_loops
async def test_delays() -> None:
    """Delay knobs hold back the first byte and every further chunk; `slow` does so by itself."""
    async with running() as demo:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        sink, _ = demo.start(
            chat("[[delay-ms:60]] [[chunk-delay-ms:20]] [[chunks:3]]", stream=True)
        )
        await sink.until("head")
        assert loop.time() - begun >= 0.059
        await sink.over()
        assert loop.time() - begun >= 0.06 + 4 * 0.02 - 0.001
        sink, flight = demo.start(chat(model="slow", stream=True))
        await asyncio.sleep(0.05)
        assert sink.calls == []
        flight.cancel()


@on_both_loops
async def test_timeouts() -> None:
    """First-byte, idle and total time-outs end a reply that takes longer."""
    async with running() as demo:
        for text, timeouts, phase in (
            ("[[delay-ms:5000]]", Timeouts(first_byte_s=0.05), "first_byte"),
            ("[[chunk-delay-ms:5000]]", Timeouts(idle_s=0.05), "idle"),
            ("[[chunk-delay-ms:20]] [[chunks:999]]", Timeouts(total_s=0.1), "total"),
        ):
            sink = await demo.start(chat(text, stream=True), timeouts=timeouts)[0].over()
            assert isinstance(sink.error, UpstreamTimeout)
            assert sink.error.phase == phase


@on_both_loops
async def test_pause_and_resume() -> None:
    """A paused flight gives nothing; resumed, it gives all, in order."""
    async with running() as demo:
        sink = Recorder()
        flights: list[Flight] = []
        paused = asyncio.Event()

        def pause(_: str) -> None:
            if len(sink.chunks) == 3:
                flights[0].pause()
                paused.set()

        sink.on_event = pause
        flights.append(demo.start(chat("[[chunks:50]]", stream=True), sink=sink)[1])
        await paused.wait()
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(sink.chunks) == 3
        sink.on_event = lambda _: None
        flights[0].resume()
        await sink.over()
        assert len(text_of(decoded(sink.body)).split()) == 50


@on_both_loops
async def test_cancel_and_close() -> None:
    """Cancelled and closed flights say no more, whatever they were waiting for."""
    async with running() as demo:
        flights = [
            demo.start(chat()),
            demo.start(chat("[[delay-ms:50]]")),
            demo.start(chat("[[chunk-delay-ms:50]]", stream=True)),
        ]
        await flights[2][0].until("head")
        calls = [list(sink.calls) for sink, _ in flights]
        for _, flight in flights[:2]:
            flight.cancel()
            flight.cancel()
        await demo.upstream.close()
        await asyncio.sleep(0.1)
        assert [sink.calls for sink, _ in flights] == calls
        sink = await demo.start(chat())[0].over()
        assert isinstance(sink.error, UpstreamUnavailable)


@on_both_loops
async def test_broken_sink() -> None:
    """A sink that raises is reported and left alone; the demo goes on."""
    loop = asyncio.get_running_loop()
    async with running() as demo:
        reported = asyncio.Event()
        loop.set_exception_handler(lambda *_: reported.set())
        for moment in ("head", "data", "end"):
            sink = Recorder()
            sink.on_event = lambda what, moment=moment: (  # type: ignore[misc]
                1 // 0 if what == moment else None
            )
            demo.start(chat(), sink=sink)
            await reported.wait()
            assert sink.calls[-1] == moment
            reported.clear()
        status, _ = await demo.ask(chat())
        assert status == 200
