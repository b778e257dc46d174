"""All that the pipeline knows of HTTP: one `Exchange` per request, owned by its front end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec


class RequestHead(msgspec.Struct, frozen=True):
    """The head of a client's request.

    `path` is the request target's path as sent. `headers` are looked up whatever their case; of
    several fields of a name the first one counts.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    peer: str


class Exchange(Protocol):
    """One request and its answer. All methods but `read` are plain calls.

    `body` is whole and within the limit, else `None`: then `read` gets it. `write` answers
    `False` over the high-water mark: pause the source, `on_drain` says when to go on. After
    `end` or `abort` nothing more may be called. `on_gone` is called at most once, when the
    client has closed the connection before `end`.
    """

    head: RequestHead
    body: bytes | None
    on_drain: Callable[[], None] | None
    on_gone: Callable[[], None] | None

    async def read(self, limit: int, idle_s: float) -> bytes:
        """The whole body, decompressed; raises `RequestTooLarge` or `InvalidRequest`, also when
        none of it comes for `idle_s`."""
        ...

    def start(self, status: int, head: str, length: int | None) -> None:
        """The answer's head, as `name: value` lines each ended by CRLF; `length` is the body's
        size in bytes, `None` for a stream."""
        ...

    def write(self, data: bytes) -> bool:
        """Body bytes."""
        ...

    def end(self, data: bytes = b"") -> None:
        """The last bytes; the connection may be used again."""
        ...

    def abort(self) -> None:
        """Cut the connection: never a false end."""
        ...
