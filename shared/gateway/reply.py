"""What comes back from one attempt, up to the point where the client must be answered.

A whole reply is collected; of a stream, the first event is awaited, so that a failure before it
can still be answered by another attempt. A first event that is an error is such a failure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

import msgspec

from shared.domain.errors import (
    CredentialRefused,
    GatewayError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRejected,
)
from shared.domain.requests import Headers
from shared.gateway.sse import DONE, EventSplitter, event_data
from shared.providers.usage_extract import (
    ChunkEnvelope,
    ReplyEnvelope,
    decode_chunk,
    decode_reply,
)

if TYPE_CHECKING:
    from shared.gateway.drive import Drive
    from shared.upstream.base import Flight

_EVENT_STREAM = "text/event-stream"
_JSON = re.compile(r"application/([\w.+-]+\+)?json\b", re.IGNORECASE)
_PLAIN_JSON = frozenset({"", "application/json", "application/json; charset=utf-8"})
_RETRYABLE = frozenset({408, 409, 429})


class Pipe(Protocol):
    """Takes a stream's events once the reply is being relayed."""

    def events(self, events: list[bytes]) -> None: ...

    def ended(self, rest: bytes, error: UpstreamError | None) -> None: ...


class ErrorDetail(msgspec.Struct, gc=False):
    """OpenAI's error object, of whatever types an upstream puts there."""

    message: str | None = None
    type: str | int | None = None
    param: str | int | None = None
    code: str | int | None = None


class ErrorBody(msgspec.Struct, gc=False):
    """`{"error": {…}}`, or the plain string that some upstreams send."""

    error: ErrorDetail | str


_ERROR_BODY = msgspec.json.Decoder(ErrorBody)


class Reply:
    """One attempt's outcome: `error`, or a whole `body` and what it says (`envelope`), or a stream
    whose first events are in."""

    __slots__ = ("body", "envelope", "error", "final", "headers", "inbound", "status")

    def __init__(
        self,
        status: int,
        headers: Headers,
        *,
        body: bytes = b"",
        envelope: ReplyEnvelope | None = None,
        error: UpstreamError | None = None,
        inbound: Inbound | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.envelope = envelope
        self.error = error
        self.inbound = inbound
        self.final = False

    @property
    def settles_the_matter(self) -> bool:
        """Whether this is what the client gets: a success, or a failure not worth a retry."""
        return self.error is None or self.final or not self.error.retryable


class Inbound:
    """The sink of one attempt. Resumes the pipeline once, with a `Reply`."""

    __slots__ = (
        "_body",
        "_drive",
        "_events",
        "_headers",
        "_limit",
        "_pipe",
        "_size",
        "_splitter",
        "_status",
        "_turn",
        "_wants_stream",
        "flight",
    )

    def __init__(
        self, drive: Drive, turn: int, *, wants_stream: bool, max_body: int, max_event: int
    ) -> None:
        self._drive = drive
        self._turn = turn
        self._wants_stream = wants_stream
        self._limit = max_body
        self._status = 0
        self._headers: Headers = ()
        self._splitter: EventSplitter | None = EventSplitter(max_event) if wants_stream else None
        self._body: list[bytes] = []
        self._size = 0
        self._events: list[bytes] = []
        self._pipe: Pipe | None = None
        self.flight: Flight | None = None

    def on_head(self, status: int, headers: Headers) -> None:
        """Decide by status and content type what this reply can be."""
        self._status = status
        self._headers = headers
        if not 200 <= status < 300:
            self._splitter = None
            return
        is_stream = _content_type(headers).startswith(_EVENT_STREAM)
        if is_stream != self._wants_stream:
            got = _content_type(headers) or "no content type"
            wanted = _EVENT_STREAM if self._wants_stream else "application/json"
            self._fail(
                UpstreamProtocolError(
                    f"The upstream answered with {got[:100]} instead of {wanted}.", phase="head"
                )
            )

    def on_data(self, data: bytes) -> None:
        """Collect a whole reply, or hand on events."""
        splitter = self._splitter
        if splitter is None:
            self._size += len(data)
            if self._size > self._limit:
                self._fail(
                    UpstreamProtocolError(
                        f"The upstream's answer is larger than {self._limit} bytes.", phase="body"
                    )
                )
            else:
                self._body.append(data)
            return
        try:
            events = splitter.feed(data)
        except UpstreamProtocolError as error:
            self._fail(error)
            return
        if not events:
            return
        if self._pipe is not None:
            self._pipe.events(events)
        elif self._events:
            self._events += events
        else:
            self._first(events)

    def on_end(self) -> None:
        """The upstream has said all it had to say."""
        if self._pipe is not None:
            assert self._splitter is not None
            self._pipe.ended(self._splitter.finish(), None)
            return
        if self._splitter is not None:
            if not self._events:
                self._fail(
                    UpstreamProtocolError(
                        "The upstream ended its stream before the first event.", phase="body"
                    )
                )
            return
        body = b"".join(self._body)
        if 200 <= self._status < 300:
            self._resume(self._success(body))
        else:
            error = rejected(self._status, self._headers, body)
            self._resume(Reply(self._status, self._headers, error=error))

    def _success(self, body: bytes) -> Reply:
        """What is called a success, if it is one."""
        error: UpstreamError
        envelope = decode_reply(body)
        if not is_json(self._headers):
            error = UpstreamProtocolError("The upstream's answer is not JSON.", phase="body")
        elif envelope is None:
            error = UpstreamProtocolError(
                "The upstream's answer is not a JSON object.", phase="body"
            )
        elif envelope.error:
            error = error_in(body)
        else:
            return Reply(self._status, self._headers, body=body, envelope=envelope)
        return Reply(self._status, self._headers, error=error)

    def on_error(self, error: UpstreamError) -> None:
        """The attempt failed: an answer to the waiting pipeline, or a cut stream."""
        if self._pipe is not None:
            self._pipe.ended(b"", error)
        else:
            self._resume(Reply(self._status, self._headers, error=error))

    def attach(self, pipe: Pipe) -> None:
        """Relay from here on; what has arrived is delivered first."""
        events, self._events = self._events, []
        self._pipe = pipe
        pipe.events(events)

    def _first(self, events: list[bytes]) -> None:
        for event in events:
            data = event_data(event)
            if data is None:
                continue
            try:
                read_chunk(data)
            except UpstreamError as error:
                self._fail(error)
                return
            break
        else:
            # Comments only: no reason yet to commit to an answer.
            return
        self._events = events
        self._resume(Reply(self._status, self._headers, inbound=self))

    def _fail(self, error: UpstreamError) -> None:
        if self.flight is not None:
            self.flight.cancel()
        self.on_error(error)

    def _resume(self, reply: Reply) -> None:
        self._drive.resume(self._turn, reply)


def rejected(status: int, headers: Headers, body: bytes) -> UpstreamRejected:
    """An upstream's error answer as the client gets it (LLM contract §3.0, status mapping)."""
    retry_after = tuple(
        (name, value)
        for name, value in headers
        if name in ("retry-after", "retry-after-ms", "x-should-retry")
    )
    retryable = status in _RETRYABLE or status >= 500
    try:
        detail = _ERROR_BODY.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        detail = None
    shown, kind = _client_status(status, well_formed=detail is not None)
    if status in (401, 403):
        # The operator's credential, not the caller's: the caller's SDK must not see a 401.
        return CredentialRefused(
            f"The upstream refused the gateway's credential ({status}).",
            status=shown,
            type=kind,
            retryable=False,
        )
    if detail is None:
        what = _content_type(headers).split(";")[0].strip()[:100] or "no content type"
        return UpstreamRejected(
            f"The upstream answered {status} ({what}).",
            status=shown,
            type=kind,
            retryable=retryable,
            headers=retry_after,
        )
    if isinstance(detail, str):
        detail = ErrorDetail(message=detail)
    return UpstreamRejected(
        detail.message or f"The upstream answered {status}.",
        status=shown,
        type=detail.type if isinstance(detail.type, str) and shown < 500 else kind,
        param=detail.param if isinstance(detail.param, str) else None,
        code=detail.code if isinstance(detail.code, str) else None,
        retryable=retryable,
        headers=retry_after,
    )


def read_chunk(data: bytes) -> ChunkEnvelope | None:
    """An event's chunk, `None` for `[DONE]`; raises what the event carries or is instead."""
    chunk = decode_chunk(data)
    if chunk is None:
        if data == DONE:
            return None
        raise UpstreamProtocolError(
            "The upstream sent an event that is not a JSON object.", phase="body"
        )
    if chunk.error:
        raise error_in(data)
    return chunk


def error_in(data: bytes) -> UpstreamRejected:
    """The error that an answer of status 200, or an event, carries."""
    try:
        detail = _ERROR_BODY.decode(data).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return rejected(502, (), data)
    if isinstance(detail, str):
        detail = ErrorDetail(message=detail)
    return rejected(_status_in(detail), (), data)


def _status_in(detail: ErrorDetail) -> int:
    """The HTTP status that some upstreams put into an in-band error; else 502."""
    for value in (detail.code, detail.type):
        text = str(value)
        if len(text) == 3 and text.isascii() and text.isdigit() and 400 <= int(text) < 600:
            return int(text)
    return 502


def retry_after_s(error: GatewayError) -> float | None:
    """Whole seconds that the upstream asks to wait, when between 0 and 60 (LLM contract §5)."""
    for name, value in error.headers:
        if name == "retry-after" and value.isascii() and value.isdigit() and 0 < int(value) <= 60:
            return float(value)
    return None


def is_json(headers: Headers) -> bool:
    """Whether the content type is JSON, or absent."""
    content_type = _content_type(headers)
    return content_type in _PLAIN_JSON or _JSON.match(content_type) is not None


def _client_status(status: int, *, well_formed: bool) -> tuple[int, str]:
    if status in (401, 403) or status < 400:
        return 502, "upstream_error"
    if status == 429:
        return 429, "throttling_error"
    if status in (408, 504, 524):
        return 504, "timeout_error"
    if status == 422:
        return 400, "invalid_request_error"
    if status < 500:
        return status, "not_found_error" if status == 404 else "invalid_request_error"
    if well_formed and status in (500, 502, 503):
        return status, "internal_server_error" if status == 500 else "upstream_error"
    return 502, "upstream_error"


def _content_type(headers: Headers) -> str:
    for name, value in headers:
        if name == "content-type":
            return value.strip().lower()
    return ""
