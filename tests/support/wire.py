"""A TCP relay in front of a real PostgreSQL server: what networks and poolers do to connections."""

from __future__ import annotations

import asyncio
import struct
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

_REFUSAL = b"SFATAL\0C08P01\0Munsupported startup parameter: statement_timeout\0\0"
_NOTIFICATION = b"A"[0]


class Wire:
    """Relays connections to the server of a DSN, unencrypted.

    `frozen` holds bytes back in both directions without closing anything, as a partition does;
    `swallow_notifications` and `refuse_parameters` are what transaction-mode poolers do.
    """

    def __init__(self, dsn: str) -> None:
        self.swallow_notifications = False
        self.refuse_parameters = False
        self.connections = 0
        self._target = urlsplit(dsn)
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()

    @property
    def dsn(self) -> str:
        """The DSN that leads through here."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        user = self._target.netloc.rpartition("@")[0]
        return urlunsplit(
            ("postgresql", f"{user}@{host}:{port}", self._target.path, "sslmode=disable", "")
        )

    def freeze(self) -> None:
        """From now on nothing gets through."""
        self._open.clear()

    def thaw(self) -> None:
        """Lets through what was held back."""
        self._open.set()

    def cut(self) -> None:
        """Resets all connections."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        self.thaw()
        if self._relays:
            await asyncio.wait(self._relays)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        self._writers.add(writer)
        try:
            await self._relay(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._relays.discard(task)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = await reader.readexactly(4)
        start = await reader.readexactly(struct.unpack("!I", size)[0] - 4)
        if self.refuse_parameters and b"statement_timeout" in start:
            writer.write(b"E" + struct.pack("!I", len(_REFUSAL) + 4) + _REFUSAL)
            await writer.drain()
            return
        host, port = self._target.hostname, self._target.port
        server_reader, server_writer = await asyncio.open_connection(host, port)
        self._writers.add(server_writer)
        try:
            server_writer.write(size + start)
            await asyncio.wait(
                [
                    asyncio.create_task(self._pump(reader, server_writer)),
                    asyncio.create_task(self._pump_messages(server_reader, writer)),
                ]
            )
        finally:
            server_writer.transport.abort()
            self._writers.discard(server_writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()

    async def _pump_messages(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while True:
                head = await reader.readexactly(5)
                body = await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
                await self._open.wait()
                if head[0] == _NOTIFICATION and self.swallow_notifications:
                    continue
                writer.write(head + body)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
