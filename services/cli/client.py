"""Calls of a proxy's management API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from attrs import frozen
from yarl import URL

from services.cli.connection import Connection
from services.cli.refusals import refusal_text
from services.cli.request import Request
from services.cli.status import Misused, Refused, Unreachable
from shared.config.distribution import version

_PROPAGATION = "x-meridian-propagation"
_LONGEST_PAUSE_S = 30.0


@frozen
class Answer:
    """A proxy's yes. `propagation` is what a write that waited says of the instances."""

    body: Any
    propagation: Any = None


class Client:
    """Asks one proxy. Many tasks may use it at once."""

    def __init__(self, connection: Connection, session: aiohttp.ClientSession) -> None:
        self._connection = connection
        self._session = session

    async def call(self, request: Request) -> Answer:
        """The answer. Raises `Refused` for any other status than 2xx, and `Unreachable`."""
        connection = self._connection
        url = URL(connection.url + request.path, encoded=True)
        try:
            async with self._session.request(
                request.method,
                url.update_query(request.query) if request.query else url,
                json=request.body,
                proxy=connection.forward,
                allow_redirects=False,
            ) as response:
                data = await response.read()
        except TimeoutError:
            text = f"{connection.url} did not answer within {connection.timeout_s:g} s"
            raise Unreachable(text, in_doubt=True) from None
        except (aiohttp.InvalidURL, UnicodeError):
            raise Misused(f"{connection.url} is no address") from None
        except aiohttp.ClientConnectionError as error:
            sent = not isinstance(error, aiohttp.ClientConnectorError)
            raise Unreachable(_unreached(connection, error), in_doubt=sent) from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(_unreached(connection, error), in_doubt=True) from None
        return _read(connection, response, data)


@asynccontextmanager
async def client_of(connection: Connection, connections: int = 4) -> AsyncIterator[Client]:
    """A client, with so many connections at most. Certificates are verified."""
    async with aiohttp.ClientSession(
        headers={
            "authorization": f"Bearer {connection.key.reveal()}",
            "user-agent": f"meridian/{version()}",
        },
        connector=aiohttp.TCPConnector(limit=connections),
        timeout=aiohttp.ClientTimeout(total=connection.timeout_s),
    ) as session:
        yield Client(connection, session)


async def call_again(client: Client, request: Request, tries: int = 4) -> Answer:
    """The answer, after another try or two where the proxy is busy and says so."""
    for left in reversed(range(tries)):
        try:
            return await client.call(request)
        except Refused as error:
            if not left or error.http_status not in (429, 503):
                raise
            pause_s = error.retry_after_s if error.retry_after_s is not None else 2.0 / (left + 1)
        await asyncio.sleep(min(pause_s, _LONGEST_PAUSE_S))
    raise AssertionError("the last try answers or raises")


def _read(connection: Connection, response: aiohttp.ClientResponse, data: bytes) -> Answer:
    status = response.status
    if 300 <= status < 400:
        target = response.headers.get("location", "elsewhere")
        raise Refused(f"{connection.url} leads to {target}: give that address", status)
    if not 200 <= status < 300:
        raise Refused(refusal_text(status, data), status, _seconds(response))
    if not data:
        return Answer(None)
    try:
        body = json.loads(data)
        told = json.loads(response.headers.get(_PROPAGATION, "null"))
    except (ValueError, RecursionError):
        text = f"{connection.url} answers with what is no JSON: is this the proxy's address?"
        raise Refused(text, status) from None
    if isinstance(body, dict) and "propagation" in body:
        told = body["propagation"]
    return Answer(body, told)


def _seconds(response: aiohttp.ClientResponse) -> float | None:
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else None


def _unreached(connection: Connection, error: Exception) -> str:
    why = " ".join(str(error).split()) or type(error).__name__
    return f"{connection.url} cannot be reached: {why}"
