"""Opens a connection to an origin, trying its addresses side by side (RFC 8305).

The event loops differ here: uvloop has no `happy_eyeballs_delay`. Racing whole attempts works on
both, and covers the TLS handshake too.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from itertools import chain, zip_longest

from shared.domain.requests import Origin
from shared.upstream.connection import HttpConnection

_NEXT_ADDRESS_AFTER_S = 0.25

Address = tuple[str, int]


class Dialer:
    """Connects to one origin. `dial` raises `OSError` (which TLS errors are)."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        origin: Origin,
        context: ssl.SSLContext | None,
        make: Callable[[], HttpConnection],
    ) -> None:
        self._loop = loop
        self._origin = origin
        self._context = context
        self._make = make

    async def dial(self) -> HttpConnection:
        """A connected connection. Cancelling leaves nothing open."""
        origin = self._origin
        if _is_ip(origin.host):
            return await self._attempt((origin.host, origin.port))
        found = await self._loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        return await self._race(by_turns(info[4] for info in found))

    async def _race(self, addresses: list[Address]) -> HttpConnection:
        running: set[asyncio.Task[HttpConnection]] = set()
        left = iter(addresses)
        last: BaseException = OSError("the name has no address")
        try:
            while True:
                address = next(left, None)
                if address is not None:
                    running.add(self._loop.create_task(self._attempt(address)))
                elif not running:
                    raise last
                delay_s = None if address is None else _NEXT_ADDRESS_AFTER_S
                done, _ = await asyncio.wait(
                    running, timeout=delay_s, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    running.discard(task)
                    error = task.exception()
                    if error is None:
                        return task.result()
                    last = error
        finally:
            await _drop(running)

    async def _attempt(self, address: Address) -> HttpConnection:
        host, port = address
        name = self._origin.host if self._context is not None else None
        _, connection = await self._loop.create_connection(
            self._make, host, port, ssl=self._context, server_hostname=name
        )
        return connection


def by_turns(addresses: Iterable[tuple[object, ...]]) -> list[Address]:
    """IPv6 and IPv4 addresses in turns, each family in the resolver's order, the first first."""
    families: dict[bool, list[Address]] = {}
    for address in addresses:
        host, port = str(address[0]), int(str(address[1]))
        if (host, port) not in families.setdefault(":" in host, []):
            families[":" in host].append((host, port))
    pairs = chain.from_iterable(zip_longest(*families.values()))
    return [address for address in pairs if address is not None]


async def _drop(tasks: set[asyncio.Task[HttpConnection]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled() and task.exception() is None:
            task.result().discard()


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
