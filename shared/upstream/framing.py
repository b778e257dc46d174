"""Reads HTTP/1.1 responses from bytes, more strictly than the parser below it.

llhttp already refuses both framings at once, odd or doubled content-lengths, bad chunk sizes, bare
line feeds and folded headers. This module adds: other protocols and versions, transfer codings
other than `chunked`, an unasked 101, heads and trailers without end, and what is left over after
a response. Content codings that nobody asked for are undone within a bound, or refused.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from shared.domain.errors import UpstreamProtocolError
from shared.domain.requests import Headers

_FRAMING = frozenset((b"content-length", b"transfer-encoding", b"content-encoding"))
_STRIPPED_WHEN_DECODED = frozenset(("content-length", "content-encoding"))
_VERSIONS = frozenset(("1.0", "1.1"))
_ZLIB_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_FIRST_BYTE = ord("H")


class Decoder:
    """Undoes gzip or deflate, up to `limit` decoded bytes."""

    __slots__ = ("_begun", "_inflate", "_left", "name")

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self._begun = False
        self._inflate = zlib.decompressobj(_ZLIB_WINDOW[name])
        self._left = limit

    def feed(self, data: bytes) -> bytes:
        """The plain bytes; raises `UpstreamProtocolError` for bad or too much data."""
        self._begun = True
        try:
            plain = self._inflate.decompress(data, self._left + 1)
        except zlib.error:
            raise _fault(f"the body is not valid {self.name}", "body") from None
        self._left -= len(plain)
        if self._left < 0:
            raise _fault(f"the {self.name} body is too large when decoded", "body")
        if self._inflate.unused_data:
            raise _fault(f"bytes follow the end of the {self.name} body", "body")
        return plain

    @property
    def ended(self) -> bool:
        """Whether the coded data is complete. No data at all is, for an empty body."""
        return self._inflate.eof or not self._begun


class ResponseReader:
    """One connection's responses, one after the other.

    After `feed`, `status` and `headers` hold once `head_done`; `parts` are the body bytes of this
    feed, to be taken by `body`; `complete` says that the response has ended, `reusable`
    whether the connection may carry another request.
    """

    __slots__ = (
        "_chunked",
        "_coding",
        "_fault",
        "_headers",
        "_max_decoded",
        "_max_head",
        "_parser",
        "_quiet",
        "_sized",
        "complete",
        "decoder",
        "head_done",
        "on_body",
        "parts",
        "reusable",
        "started",
        "status",
    )

    def __init__(self, max_head: int, max_decoded: int) -> None:
        self._max_head = max_head
        self._max_decoded = max_decoded
        self.parts: list[bytes] = []
        self.on_body: Callable[[bytes], None] = self.parts.append
        self._parser = HttpResponseParser(self)
        self.begin()

    def begin(self) -> None:
        """Expect a new response."""
        self.status = 0
        self.complete = self.head_done = self.reusable = self.started = False
        self.decoder: Decoder | None = None
        self._fault: UpstreamProtocolError | None = None
        self._quiet = 0
        self.parts.clear()
        self._next_head()

    def _next_head(self) -> None:
        self._headers: list[tuple[str, str]] = []
        self._sized = False
        self._chunked = 0
        self._coding = ""

    @property
    def headers(self) -> Headers:
        """The header fields; framing of a decoded body is left out, since it no longer holds."""
        if self.decoder is not None:
            kept = (pair for pair in self._headers if pair[0] not in _STRIPPED_WHEN_DECODED)
            return tuple(kept)
        return tuple(self._headers)

    @property
    def until_eof(self) -> bool:
        """Whether only the end of the connection ends the body."""
        return self.head_done and not (self._sized or self._chunked or self.complete)

    def feed(self, data: bytes) -> UpstreamProtocolError | None:
        """Read `data`; the answer is what was wrong with it, if anything.

        What came before the fault counts: the head and `parts` may be new even then.
        """
        fault = self._read(data)
        decoder = self.decoder
        if decoder is not None and self.parts:
            try:
                plain = decoder.feed(b"".join(self.parts))
            except UpstreamProtocolError as error:
                fault, plain = error, b""
            self.parts[:] = (plain,)
        return fault

    def _read(self, data: bytes) -> UpstreamProtocolError | None:
        if not self.started:
            self.started = True
            if data[0] != _FIRST_BYTE:
                return _fault("the upstream's answer is not HTTP", "head")
        self._quiet += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if self.complete:
                self.reusable = False
                return None
            if self._fault is not None:
                return self._fault
            what = "body" if self.head_done else "head"
            return _fault(f"the upstream's answer is not valid HTTP: {error}", what)
        if self.parts:
            self._quiet = 0
        elif self._quiet > self._max_head and not self.complete:
            return self._too_long()
        return None

    def body(self) -> bytes:
        """Take the body bytes of the last feed, transfer and content coding removed."""
        parts = self.parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return data

    def truncated(self) -> bool:
        """Whether a body that HTTP calls complete lacks the end of its content coding."""
        return self.decoder is not None and not self.decoder.ended

    def on_message_begin(self) -> None:
        """A further response where none was asked for: stop reading."""
        if self.complete:
            raise _fault("bytes follow the end of the response", "body")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field; trailers are dropped."""
        if self.head_done:
            return
        name = name.lower()
        if name in _FRAMING:
            self._framing(name, value)
        self._headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def _framing(self, name: bytes, value: bytes) -> None:
        if name == b"content-length":
            self._sized = True
        elif name == b"content-encoding":
            self._coding = f"{self._coding},{value.decode('latin-1').strip().lower()}"
        else:
            self._chunked += 1
            if self._chunked > 1 or value.strip().lower() != b"chunked":
                self._refuse("the upstream used a transfer coding other than chunked")

    def on_headers_complete(self) -> None:
        """The head is whole: is it one we can trust?"""
        parser = self._parser
        status = parser.get_status_code()
        version = parser.get_http_version()
        if version not in _VERSIONS:
            self._refuse(f"the upstream speaks HTTP/{version}, not HTTP/1.1")
        if self._quiet > self._max_head and self._head_size() > self._max_head:
            self._fault = self._too_long()
            raise self._fault
        if status < 200:
            if status < 100 or status == 101:
                self._refuse(f"the upstream answered with an unexpected status {status}")
            return
        if version == "1.0" and self._chunked:
            self._refuse("the upstream sent a chunked HTTP/1.0 response")
        if self._coding:
            self._choose_decoder(self._coding[1:], status)
        self.status = status
        self.head_done = True
        self.reusable = version == "1.1" and parser.should_keep_alive()

    def on_message_complete(self) -> None:
        """The response has ended; an informational one (1xx) is forgotten."""
        if self.head_done:
            self.complete = True
        else:
            self._next_head()

    def _choose_decoder(self, coding: str, status: int) -> None:
        if coding in _ZLIB_WINDOW:
            if status not in {204, 304}:
                self.decoder = Decoder(coding, self._max_decoded)
        elif coding != "identity":
            self._refuse(f"the upstream used the content coding {coding!r}, which was not offered")

    def _head_size(self) -> int:
        return sum(len(name) + len(value) + 4 for name, value in self._headers)

    def _too_long(self) -> UpstreamProtocolError:
        what = "trailers" if self.head_done else "head"
        return _fault(f"the upstream's {what} are over {self._max_head} bytes", what)

    def _refuse(self, message: str) -> None:
        self._fault = _fault(message, "head")
        raise self._fault


def _fault(message: str, phase: str) -> UpstreamProtocolError:
    return UpstreamProtocolError(message, phase=phase)
