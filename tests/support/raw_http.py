"""A client on a bare socket: sends bytes as they are, reads answers strictly, hangs up on demand.

Nothing here repairs what is sent, so that requests may be as wrong as they like. Every wait is
bounded: a server that hangs fails the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from attrs import frozen

WAIT_S = 10.0

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Hangup(Exception):
    """The server closed the connection where an answer, or more of it, was due."""


@frozen
class RawAnswer:
    """One answer; header names in lower case, of repeated ones the last."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error of an OpenAI-shaped body, checked to be one."""
        body = self.json
        assert self.headers["content-type"].startswith("application/json"), self
        assert list(body) == ["error"], self
        error = body["error"]
        assert {"message", "type", "param", "code"} <= error.keys(), self
        assert isinstance(error["message"], str), self
        assert error["message"], self
        return dict(error)


class RawClient:
    """One connection. `receive_buffer` in bytes makes a slow reader's kernel buffer small."""

    def __init__(self, port: int, host: str = "127.0.0.1", *, receive_buffer: int = 0) -> None:
        self._address = (host, port)
        self._receive_buffer = receive_buffer
        self._data = bytearray()
        self._eof = False

    async def __aenter__(self) -> Self:
        self._socket = sock = socket.socket()
        sock.setblocking(False)
        if self._receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.get_running_loop().sock_connect(sock, self._address)
        except OSError:
            sock.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up as a program does that ends: what is unread makes it a reset."""
        self._socket.close()

    def reset(self) -> None:
        """Hang up with a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._socket.close()

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self._socket.shutdown(socket.SHUT_WR)

    async def send(self, data: bytes, timeout_s: float = WAIT_S) -> None:
        """Send all of it."""
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def send_anyway(self, data: bytes, timeout_s: float = WAIT_S) -> None:
        """Send as much as the server takes before it answers and closes."""
        with contextlib.suppress(ConnectionError):
            await self.send(data, timeout_s)

    async def answer(self, timeout_s: float = WAIT_S, *, head_only: bool = False) -> RawAnswer:
        """The next answer, informational ones passed over; raises `Hangup`."""
        async with asyncio.timeout(timeout_s):
            status, headers = await self._head()
            while status < 200:
                status, headers = await self._head()
            return RawAnswer(status, headers, b"" if head_only else await self._body(headers))

    async def head(self, timeout_s: float = WAIT_S) -> tuple[int, dict[str, str]]:
        """The next answer's head alone, an informational one too."""
        async with asyncio.timeout(timeout_s):
            return await self._head()

    async def body(self, headers: Mapping[str, str], timeout_s: float = WAIT_S) -> bytes:
        """The body that belongs to a head."""
        async with asyncio.timeout(timeout_s):
            return await self._body(headers)

    async def until(self, mark: bytes, timeout_s: float = WAIT_S) -> bytes:
        """Everything up to a mark, and the mark; raises `Hangup`."""
        async with asyncio.timeout(timeout_s):
            return await self._take_until(mark)

    async def some(self, size: int, timeout_s: float = WAIT_S) -> bytes:
        """Exactly that many bytes; raises `Hangup`."""
        async with asyncio.timeout(timeout_s):
            return await self._take(size)

    async def rest(self, timeout_s: float = WAIT_S) -> bytes:
        """Everything until the server closes; a reset counts as that."""
        async with asyncio.timeout(timeout_s):
            while await self._more():
                pass
        data = bytes(self._data)
        self._data.clear()
        return data

    async def _head(self) -> tuple[int, dict[str, str]]:
        lines = (await self._take_until(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
        version, status, *_ = lines[0].split(" ", 2)
        assert version in ("HTTP/1.1", "HTTP/1.0", "HTTP/0.9"), lines[0]
        headers = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            assert colon, f"no header field: {line!r}"
            assert name.strip() == name, f"odd header field: {line!r}"
            headers[name.lower()] = value.strip()
        return int(status), headers

    async def _body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            assert "content-length" not in headers
            return await self._chunks()
        if "content-length" in headers:
            return await self._take(int(headers["content-length"]))
        while await self._more():
            pass
        return await self._take(len(self._data))

    async def _chunks(self) -> bytes:
        parts = []
        while True:
            size = int((await self._take_until(b"\r\n"))[:-2], 16)
            part = await self._take(size)
            assert await self._take(2) == b"\r\n", "a chunk is longer than it says"
            if not size:
                return b"".join(parts)
            parts.append(part)

    async def _take_until(self, mark: bytes) -> bytes:
        while mark not in self._data:
            if not await self._more():
                raise Hangup(f"closed after {bytes(self._data[-200:])!r}")
        return await self._take(self._data.index(mark) + len(mark))

    async def _take(self, size: int) -> bytes:
        while len(self._data) < size:
            if not await self._more():
                raise Hangup(f"closed after {bytes(self._data[-200:])!r}")
        taken = bytes(self._data[:size])
        del self._data[:size]
        return taken

    async def _more(self) -> bool:
        if self._eof:
            return False
        try:
            data = await asyncio.get_running_loop().sock_recv(self._socket, 262144)
        except ConnectionError:
            data = b""
        self._eof = not data
        self._data += data
        return bool(data)


def request(
    method: str,
    path: str,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body: bytes | None = None,
) -> bytes:
    """A request's bytes, with the length of its body if it has one."""
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    pairs.insert(0, ("Host", "gateway"))
    if body is not None:
        pairs.append(("Content-Length", str(len(body))))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in pairs)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def chunked(*parts: bytes, end: bool = True) -> bytes:
    """Parts as HTTP chunks."""
    data = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return data + b"0\r\n\r\n" if end else data


def events(body: bytes) -> list[Any]:
    """The decoded data of a stream's events; `[DONE]` stays as it is. Refuses what is none."""
    found: list[Any] = []
    assert body.endswith(b"\n\n"), body[-200:]
    for event in body.split(b"\n\n")[:-1]:
        lines = [line for line in event.split(b"\n") if not line.startswith(b":")]
        assert all(line.startswith(b"data: ") for line in lines), event[:200]
        if lines:
            data = b"\n".join(line[6:] for line in lines)
            found.append("[DONE]" if data == b"[DONE]" else json.loads(data))
    return found
