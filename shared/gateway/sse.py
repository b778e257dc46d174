"""Incremental server-sent events, on bytes (WHATWG HTML §9.2).

The relay needs whole events only: where they end, and their `data`. Line ends may be LF, CRLF or
CR, a byte order mark may lead, and bytes may arrive cut anywhere; any chunking gives the same
events.
"""

from __future__ import annotations

from shared.domain.errors import UpstreamProtocolError

DONE = b"[DONE]"
_LINE_FEED = 0x0A
_BOM = b"\xef\xbb\xbf"


class EventSplitter:
    """Cuts a byte stream into events. One per stream.

    `feed` gives the events that became whole, each with its closing blank line and line ends
    normalised to LF. `limit` bounds one event in bytes.
    """

    __slots__ = ("_buffer", "_cr", "_first", "_limit")

    def __init__(self, limit: int) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self._cr = False
        self._first = True

    def feed(self, data: bytes) -> list[bytes]:
        """Events completed by `data`; raises `UpstreamProtocolError` over the limit."""
        if self._cr or b"\r" in data:
            data = self._normalise(data)
        if self._buffer or self._first:
            return self._feed_buffered(data)
        end = data.find(b"\n\n")
        if end == len(data) - 2 and end > 0 and data[0] != _LINE_FEED and end <= self._limit:
            # One event in one read, as paced streams arrive.
            return [data]
        if data.endswith(b"\n\n"):
            return self._whole(data)
        return self._feed_buffered(data)

    def finish(self) -> bytes:
        """What is left without its closing blank line; the upstream ended."""
        rest = bytes(self._buffer.lstrip(b"\n"))
        self._buffer.clear()
        return rest

    def _feed_buffered(self, data: bytes) -> list[bytes]:
        buffer = self._buffer
        seen = max(0, len(buffer) - 1)
        buffer += data
        if self._first:
            if len(buffer) < 3 and _BOM.startswith(buffer):
                return []
            self._first = False
            if buffer.startswith(_BOM):
                del buffer[:3]
                seen = 0
        if buffer.find(b"\n\n", seen) < 0:
            if len(buffer) > self._limit:
                raise self._too_large()
            return []
        end = buffer.rfind(b"\n\n") + 2
        whole = bytes(buffer[:end])
        del buffer[:end]
        if len(buffer) > self._limit:
            raise self._too_large()
        return self._whole(whole)

    def _whole(self, data: bytes) -> list[bytes]:
        parts = data.split(b"\n\n")
        parts.pop()
        if len(data) > self._limit and any(len(part) > self._limit for part in parts):
            raise self._too_large()
        # More than one blank line between events leaves empty parts or leading line ends.
        return [part.lstrip(b"\n") + b"\n\n" for part in parts if part.strip(b"\n")]

    def _normalise(self, data: bytes) -> bytes:
        if self._cr and data[:1] == b"\n":
            data = data[1:]
        self._cr = data[-1:] == b"\r"
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _too_large(self) -> UpstreamProtocolError:
        return UpstreamProtocolError(
            f"The upstream sent an event of more than {self._limit} bytes.", phase="body"
        )


def event_data(event: bytes) -> bytes | None:
    """The joined `data` lines of one event; `None` for comments and events without data."""
    if event.startswith(b"data: ") and event.count(b"\n") == 2:
        return event[6:-2]
    lines = [
        line[5:].removeprefix(b" ")
        for line in event.split(b"\n")
        if line.startswith(b"data:") or line == b"data"
    ]
    return b"\n".join(lines) if lines else None
