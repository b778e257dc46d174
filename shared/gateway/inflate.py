"""Undoing the content coding of a request's body, a bounded piece at a time.

The server's own way of doing it would go on decompressing what is left of a refused body.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from shared.domain.errors import InvalidRequest

PIECE_BYTES = 1024 * 1024

_GZIP, _ZLIB, _RAW = 31, 15, -15


class Inflater:
    """One body in `gzip` (of any number of members) or `deflate` (with or without its wrapper)."""

    __slots__ = ("_coding", "_inflate")

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._inflate: zlib._Decompress | None = None

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Plain bytes, `PIECE_BYTES` at most in each; raises `InvalidRequest`."""
        while data:
            inflate = self._inflate
            if inflate is None or inflate.eof:
                inflate = self._inflate = zlib.decompressobj(self._format(data))
            try:
                plain = inflate.decompress(data, PIECE_BYTES)
            except zlib.error:
                raise self._bad() from None
            if plain:
                yield plain
            data = inflate.unused_data or inflate.unconsumed_tail

    def finish(self) -> None:
        """The body has ended; raises `InvalidRequest` if its coding has not."""
        if self._inflate is not None and not self._inflate.eof:
            raise self._bad()

    def _format(self, data: bytes) -> int:
        if self._coding == "gzip":
            return _GZIP
        # The wrapper begins with the method, 8, in its low bits (RFC 1950 §2.2).
        return _ZLIB if data[0] & 15 == 8 else _RAW

    def _bad(self) -> InvalidRequest:
        return InvalidRequest(f"The body is not complete, valid {self._coding}.")
