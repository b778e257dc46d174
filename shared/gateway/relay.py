"""Step 7: the reply goes to the client as it arrives, metered; its last bytes are kept back.

Client and upstream speak the same dialect. What changes on the way: `model` is the name that the
client asked for, and usage that only the gateway asked for is hidden (LLM contract §1.0, §3.0).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from shared.domain.errors import UpstreamError, UpstreamProtocolError
from shared.domain.usage import Usage
from shared.gateway.call import Call
from shared.gateway.drive import Drive, suspend
from shared.gateway.envelope import RawBody
from shared.gateway.headers import reply_head
from shared.gateway.reply import Inbound, Reply, read_chunk
from shared.gateway.sse import DONE, event_data
from shared.providers.prices.cost import cost
from shared.providers.usage_extract import (
    estimate_tokens,
    extract_usage,
)

if TYPE_CHECKING:
    from shared.gateway.runtime import Runtime

_EVENT_STREAM = (
    "content-type: text/event-stream; charset=utf-8\r\n"
    "cache-control: no-cache\r\n"
    "x-accel-buffering: no\r\n"
)
_JSON = "content-type: application/json\r\n"
_DONE_EVENT = b"data: [DONE]\n\n"
# An upstream that has said [DONE] is given this long to end its reply properly.
_AFTER_DONE_S = 0.25


async def relay(call: Call, reply: Reply, rt: Runtime) -> None:
    """Answer the client with the reply; raises what the last attempt failed with."""
    if reply.error is not None:
        raise reply.error
    if reply.inbound is None:
        _relay_whole(call, reply, rt)
        return
    call.x.start(200, _EVENT_STREAM + reply_head(call, reply, rt), None)
    call.started_reply = True
    call.http_status = 200
    await suspend(partial(_stream, call, reply.inbound, rt))


def _relay_whole(call: Call, reply: Reply, rt: Runtime) -> None:
    body, envelope = reply.body, reply.envelope
    assert envelope is not None
    call.upstream_end_s = call.first_byte_s
    call.upstream_id = _text(envelope.id)
    call.usage = usage = extract_usage(envelope.usage)
    if usage is None:
        call.delivered_bytes = envelope.text_bytes()
    else:
        price = rt.deployments.price(call.deployment) if call.deployment is not None else None
        call.cost = None if price is None else cost(price, usage)
    model = envelope.model
    if isinstance(model, str) and model != call.model_name:
        body = _renamed(body, model, call.model_name)
    for guard in rt.guards:
        guard.after_reply(call, body)
    call.http_status = 200
    call.x.start(200, _JSON + reply_head(call, reply, rt), len(body))
    call.tail = body


def _renamed(body: bytes, model: str, asked: str) -> bytes:
    """The body with another `model`, in place if only one member can be meant."""
    old = b'"model":' + msgspec.json.encode(model)
    if body.count(b'"model"') == 1 and old in body:
        return body.replace(old, b'"model":' + msgspec.json.encode(asked), 1)
    members = msgspec.json.decode(body, type=RawBody)
    members["model"] = msgspec.Raw(msgspec.json.encode(asked))
    return msgspec.json.encode(members)


def _stream(call: Call, inbound: Inbound, rt: Runtime, drive: Drive, turn: int) -> None:
    inbound.attach(StreamPipe(call, rt, drive, turn))


class StreamPipe:
    """Relays one stream's events and ends the wait of `relay`. Never writes the closing `[DONE]`:
    that is the tail, which goes out after the ledger has the call."""

    __slots__ = (
        "_call",
        "_done",
        "_drive",
        "_finished",
        "_over",
        "_restamp",
        "_rt",
        "_shows_usage",
        "_turn",
    )

    def __init__(self, call: Call, rt: Runtime, drive: Drive, turn: int) -> None:
        self._call = call
        self._rt = rt
        self._drive = drive
        self._turn = turn
        self._restamp: tuple[bytes, bytes] | None = None
        self._shows_usage = rt.always_usage or call.envelope.wants_usage
        self._finished = False
        self._done = False
        self._over = False
        call.x.on_drain = self._resume_upstream

    def events(self, events: list[bytes]) -> None:
        """Relay events; an unreadable one or an in-band error ends the stream with an error."""
        if self._over or self._done:
            return
        out: list[bytes] = []
        failure: UpstreamError | None = None
        for event in events:
            data = event_data(event)
            if data is None:
                out.append(event)
                continue
            if data == DONE:
                self._done = True
                break
            try:
                relayed = self._chunk(event, data)
            except UpstreamError as error:
                failure = error
                break
            if relayed:
                out.append(relayed)
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            if not self._call.x.write(data) and self._call.flight is not None:
                self._call.flight.pause()
        if failure is not None:
            self._end(failure)
        elif self._done:
            self._rt.timers.start(_AFTER_DONE_S, self._late_end)

    def ended(self, rest: bytes, error: UpstreamError | None) -> None:
        """The upstream's reply is over, properly or not."""
        if self._over:
            return
        if rest and error is None and not self._done:
            self.events([rest + b"\n\n"])
        self._conclude(error)

    def _conclude(self, error: UpstreamError | None) -> None:
        """What it was, unless the last event has ended it already."""
        if self._over:
            return
        if self._done or (error is None and self._finished):
            self._end(None)
        else:
            self._end(
                error
                or UpstreamProtocolError(
                    "The upstream ended its stream before the answer was complete.", phase="body"
                )
            )

    def _chunk(self, event: bytes, data: bytes) -> bytes | None:
        """The event as the client gets it; `None` when it is not for the client."""
        call = self._call
        chunk = read_chunk(data)
        assert chunk is not None
        if call.upstream_id is None:
            call.upstream_id = _text(chunk.id)
        if chunk.usage is not None:
            call.usage = extract_usage(chunk.usage) or call.usage
        call.delivered_bytes += chunk.text_bytes()
        if not self._finished:
            self._finished = chunk.finish_reason() is not None
        model = chunk.model
        if model != call.model_name and isinstance(model, str):
            event = self._restamped(event, model)
        if chunk.usage is not None and not self._shows_usage:
            if not chunk.choices:
                return None
            event = _without_usage(event)
        for guard in self._rt.guards:
            guard.after_reply(call, event)
        return event

    def _restamped(self, event: bytes, model: str) -> bytes:
        """The event with the name that the client asked for.

        Quotes inside JSON strings are escaped, so the pattern matches no text of a message.
        """
        if self._restamp is None:
            name = msgspec.json.encode(model)
            spaced = b'"model": ' + name in event
            prefix = b'"model": ' if spaced else b'"model":'
            asked = msgspec.json.encode(self._call.model_name)
            self._restamp = (prefix + name, prefix + asked)
        old, new = self._restamp
        if old in event:
            return event.replace(old, new, 1)
        return _with_member(event, "model", self._call.model_name)

    def _late_end(self) -> None:
        if not self._over:
            flight = self._call.flight
            self._end(None)
            if flight is not None:
                flight.cancel()

    def _end(self, error: UpstreamError | None) -> None:
        self._over = True
        call = self._call
        call.x.on_drain = None
        call.upstream_end_s = self._rt.clock.mono()
        if error is not None:
            self._drive.throw(self._turn, error)
            return
        call.tail = _DONE_EVENT
        self._drive.resume(self._turn, None)

    def _resume_upstream(self) -> None:
        if self._call.flight is not None:
            self._call.flight.resume()


def _without_usage(event: bytes) -> bytes:
    members = msgspec.json.decode(event_data(event) or b"{}", type=RawBody)
    del members["usage"]
    return b"data: " + msgspec.json.encode(members) + b"\n\n"


def _with_member(event: bytes, name: str, value: str) -> bytes:
    members = msgspec.json.decode(event_data(event) or b"{}", type=RawBody)
    members[name] = msgspec.Raw(msgspec.json.encode(value))
    return b"data: " + msgspec.json.encode(members) + b"\n\n"


def delivered_usage(call: Call) -> Usage:
    """What to account for when the upstream gave no usage: the request and the delivered text, by
    the stated rule of bytes a token (LLM contract §7.1)."""
    return Usage(
        prompt_tokens=estimate_tokens(len(call.body)),
        completion_tokens=estimate_tokens(call.delivered_bytes),
        estimated=True,
    )


def _text(value: object) -> str | None:
    return value[:256] if isinstance(value, str) else None
