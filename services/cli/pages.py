"""Lists that come page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from attrs import evolve, frozen

from services.cli.client import Client
from services.cli.command import Pages
from services.cli.request import Request
from services.cli.shapes import at

_MOST_PAGES = 1_000_000
_USUAL = 50


@frozen
class Wanted:
    """Which pages: one, or all from it on."""

    page: int | None = None
    size: int | None = None
    everything: bool = False


async def follow(
    client: Client, request: Request, pages: Pages, wanted: Wanted
) -> AsyncIterator[Any]:
    """The answers, page by page."""
    number = wanted.page or 1
    everything = wanted.everything or pages.always
    size = wanted.size or (pages.largest if everything else _USUAL)
    for page in range(number, number + _MOST_PAGES):
        query = {**request.query, "page": str(page), pages.size: str(size)}
        body = (await client.call(evolve(request, query=query))).body
        yield body
        if not everything or not _has_more(body, pages, page, size):
            return


def rows_of(body: Any, pages: Pages) -> list[Any]:
    """The rows of a page."""
    rows = body if pages.items is None else at(body, pages.items)
    return rows if isinstance(rows, list) else []


def merged(bodies: list[Any], pages: Pages) -> Any:
    """The first answer with the rows of all."""
    rows = [row for body in bodies for row in rows_of(body, pages)]
    if pages.items is None or not isinstance(bodies[0], Mapping):
        return rows
    return {**bodies[0], pages.items: rows}


def total_pages(body: Any) -> int | None:
    """How many pages there are, where the answer says so."""
    for path in ("total_pages", "metadata.total_pages"):
        found = at(body, path)
        if isinstance(found, int):
            return found
    return None


def _has_more(body: Any, pages: Pages, page: int, size: int) -> bool:
    rows = rows_of(body, pages)
    total = total_pages(body)
    if total is not None:
        return page < total
    # A proxy that knows no pages of this list answers all of it at once.
    return pages.items is None and len(rows) >= size
