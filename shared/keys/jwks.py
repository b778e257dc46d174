"""The public keys of token issuers: fetched when they are needed, kept, and fetched anew.

A key that is at hand costs a look-up. Keys older than `ttl_s` are still used while they are fetched
anew beside the request; when the issuer cannot be reached they stay good for an hour more. A key
id that nobody knows makes one fetch for all who ask, and no more than one in five seconds, so that
made-up ids neither wait long nor burden the issuer.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

import aiohttp
import msgspec
import structlog
from attrs import define, frozen

from shared.domain.clock import Clock
from shared.domain.errors import GatewayError

_FETCH_TIMEOUT = aiohttp.ClientTimeout(total=5.0, connect=3.0)
_LARGEST_SET = 256 * 1024
_MOST_KEYS = 100
_PAUSE_S = 5.0
_GRACE_S = 3600.0

_log = structlog.get_logger(__name__)


class IssuerUnavailable(GatewayError):
    """The keys of an issuer cannot be fetched, so that nobody can say whether a token is good."""

    status = 503
    type = "auth_provider_unavailable"

    def __init__(self) -> None:
        super().__init__(
            "The sign-in provider's keys cannot be fetched now; try again",
            headers=(("retry-after", "5"),),
        )


@frozen(eq=False)
class SigningKey:
    """A public key, and the algorithms whose signatures it may verify."""

    key_id: str | None
    algorithms: frozenset[str]
    key: Any


Read: TypeAlias = Callable[[Mapping[str, Any]], SigningKey | None]
Fetch: TypeAlias = Callable[[str], Awaitable[bytes]]


class Unreadable(ValueError):
    """What came from an issuer is no set of keys."""


@define(eq=False)
class _Issuer:
    """One address. Times are monotonic seconds; `failed` is about the last attempt."""

    url: str
    keys: tuple[SigningKey, ...] = ()
    fetched_s: float = float("-inf")
    tried_s: float = float("-inf")
    failed: bool = False
    fetching: asyncio.Task[None] | None = None


class KeySets:
    """The keys of all issuers, for one event loop. `read` turns a JWK into a key, or passes it
    over."""

    def __init__(
        self, urls: Sequence[str], read: Read, clock: Clock, *, ttl_s: float, fetch: Fetch
    ) -> None:
        self._issuers = tuple(_Issuer(url) for url in urls)
        self._read = read
        self._clock = clock
        self._ttl_s = ttl_s
        self._fetch = fetch

    async def find(self, key_id: str | None) -> tuple[SigningKey, ...]:
        """The keys of an id, all where a token names none; empty if there is no such key. Raises
        `IssuerUnavailable` when an issuer that may have it cannot be asked."""
        found = self._known(key_id)
        if found:
            for issuer in self._issuers:
                if self._clock.mono() - issuer.fetched_s > self._ttl_s:
                    self._refresh(issuer)
            return found
        waits = [task for issuer in self._issuers if (task := self._refresh(issuer)) is not None]
        if waits:
            await asyncio.wait(waits)
        found = self._known(key_id)
        if not found and any(issuer.failed for issuer in self._issuers):
            raise IssuerUnavailable
        return found

    async def close(self) -> None:
        """Ends fetches that are under way."""
        tasks = [issuer.fetching for issuer in self._issuers if issuer.fetching is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _known(self, key_id: str | None) -> tuple[SigningKey, ...]:
        oldest_s = self._clock.mono() - self._ttl_s - _GRACE_S
        return tuple(
            key
            for issuer in self._issuers
            if issuer.fetched_s >= oldest_s
            for key in issuer.keys
            if key_id is None or key.key_id == key_id
        )

    def _refresh(self, issuer: _Issuer) -> asyncio.Task[None] | None:
        """The fetch that is under way or may begin now."""
        if issuer.fetching is not None and not issuer.fetching.done():
            return issuer.fetching
        if self._clock.mono() - issuer.tried_s < _PAUSE_S:
            return None
        issuer.tried_s = self._clock.mono()
        issuer.fetching = asyncio.get_running_loop().create_task(self._update(issuer))
        return issuer.fetching

    async def _update(self, issuer: _Issuer) -> None:
        try:
            members = _object(await self._fetch(issuer.url))
            if "keys" not in members and isinstance(members.get("jwks_uri"), str):
                # The provider's OpenID configuration, which says where the keys are.
                members = _object(await self._fetch(members["jwks_uri"]))
            keys = self._read_all(members)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            issuer.failed = True
            _log.warning("signing_keys_not_fetched", url=issuer.url, error=type(error).__name__)
            return
        issuer.keys, issuer.fetched_s, issuer.failed = keys, self._clock.mono(), False

    def _read_all(self, members: Mapping[str, Any]) -> tuple[SigningKey, ...]:
        listed = members.get("keys")
        if not isinstance(listed, list):
            raise Unreadable("no list of keys")
        keys = [self._read(each) for each in listed[:_MOST_KEYS] if isinstance(each, dict)]
        return tuple(key for key in keys if key is not None)


def fetcher(ca_file: str | None = None) -> Fetch:
    """Fetches over HTTP: no redirects, no proxies, bounded time and size. `ca_file` holds the
    authorities to trust, else those of the machine."""

    async def fetch(url: str) -> bytes:
        tls = ssl.create_default_context(cafile=ca_file)
        connector = aiohttp.TCPConnector(ssl=tls)
        async with (
            aiohttp.ClientSession(timeout=_FETCH_TIMEOUT, connector=connector) as session,
            session.get(url, allow_redirects=False, headers={"accept": "application/json"}) as got,
        ):
            if got.status != 200:
                raise Unreadable(f"status {got.status}")
            body = bytearray()
            async for chunk in got.content.iter_chunked(65_536):
                body += chunk
                if len(body) > _LARGEST_SET:
                    raise Unreadable("too long")
            return bytes(body)

    return fetch


def _object(body: bytes) -> dict[str, Any]:
    try:
        members = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        raise Unreadable("no JSON") from None
    if not isinstance(members, dict):
        raise Unreadable("no object")
    return members
