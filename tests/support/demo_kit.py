"""For tests of the built-in upstream: requests, decoded replies, and a clean end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from shared.domain.deployments import Timeouts
from shared.domain.requests import Origin, UpstreamRequest
from shared.upstream.base import Flight
from shared.upstream.demo import DemoUpstream
from shared.upstream.timers import TimerWheel
from tests.support.upstream_kit import Recorder


class Demo:
    """A demo under test."""

    def __init__(self, upstream: DemoUpstream) -> None:
        self.upstream = upstream

    def start(
        self,
        body: Any,
        path: str = "chat/completions",
        timeouts: Timeouts | None = None,
        sink: Recorder | None = None,
    ) -> tuple[Recorder, Flight]:
        """Start a request; a body that is no bytes is sent as JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"POST /v1/{path} HTTP/1.1\r\nhost: demo\r\n".encode()
        request = UpstreamRequest(Origin("demo", "demo", 0), head, raw, timeouts or Timeouts())
        sink = sink or Recorder()
        flight = self.upstream.start(request, sink)
        assert sink.calls == []
        return sink, flight

    async def ask(self, body: Any, path: str = "chat/completions") -> tuple[int, Any]:
        """Status and decoded body of a whole reply."""
        sink = await self.start(body, path)[0].over()
        assert sink.error is None
        assert sink.header("content-length") == str(len(sink.body))
        assert sink.header("content-type") == "application/json"
        return sink.status, json.loads(sink.body)

    async def events(self, body: Any, path: str = "chat/completions") -> list[Any]:
        """The decoded events of a stream that ended as it should."""
        sink = await self.start({"stream": True, **body}, path)[0].over()
        assert sink.error is None
        assert sink.status == 200
        assert str(sink.header("content-type")).startswith("text/event-stream")
        return decoded(sink.body)


def decoded(raw: bytes) -> list[Any]:
    """Events, without the `[DONE]` that must end them."""
    events = raw.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


@asynccontextmanager
async def running() -> AsyncIterator[Demo]:
    """A demo; nothing of it flies, waits or complains afterwards."""
    loop = asyncio.get_running_loop()
    reported: list[Any] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    timers = TimerWheel(loop, tick_s=0.01)
    demo = Demo(DemoUpstream(loop, timers))
    yield demo
    assert demo.upstream.flying == 0
    assert timers.pending == 0
    assert reported == []
    timers.close()


def chat(text: str = "Hello there", model: str = "echo", **fields: Any) -> dict[str, Any]:
    """A chat body."""
    system = {"role": "system", "content": "Be brief."}
    return {"model": model, "messages": [system, {"role": "user", "content": text}], **fields}


def text_of(events: list[Any], index: int = 0) -> str:
    """The text of one choice of a stream."""
    choices = [choice for event in events for choice in event["choices"]]
    return "".join(c["delta"].get("content") or "" for c in choices if c["index"] == index)
