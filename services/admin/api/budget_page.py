"""What GET /management/v1/budgets asks for, and the page that answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web
from attrs import frozen

from services.admin.api.parameters import page_parameters, parameter, text_parameters
from services.admin.api.problems import Problem
from shared.db.budgets import SORTABLE

_ALLOWED = ("page", "page_size", "q", "sort")
_DEFAULT_SIZE, _LARGEST_SIZE = 25, 100
_MOST_PAGES = 10_000_000
_LONGEST = 512

PAGE_PARAMETERS = (
    *page_parameters(_DEFAULT_SIZE, _LARGEST_SIZE),
    *text_parameters("q"),
    parameter("sort", type="string", examples=("-created_at,budget_id",)),
)


@frozen
class BudgetPage:
    """A request for a page. `order` holds columns and whether each descends."""

    page: int
    size: int
    search: str | None
    order: tuple[tuple[str, bool], ...]

    @property
    def offset(self) -> int:
        """How many budgets the pages before hold."""
        return (self.page - 1) * self.size


def read_budget_page(query: Mapping[str, str]) -> BudgetPage:
    """Raises `Problem` for a parameter that is unknown or unusable; a page size that is too large
    counts as the largest."""
    for name in query:
        if name not in _ALLOWED:
            detail = f"There is no parameter {name[:40]!r}"
            raise Problem(400, "unknown-query-parameter", detail, _ALLOWED)
    search = query.get("q") or None
    if search is not None and ("\x00" in search or len(search) > _LONGEST):
        raise _unusable("q", f"must be at most {_LONGEST} characters without U+0000")
    return BudgetPage(
        page=_whole(query, "page", 1, _MOST_PAGES),
        size=min(_whole(query, "page_size", _DEFAULT_SIZE, None), _LARGEST_SIZE),
        search=search and search.encode("utf-8", "replace").decode(),
        order=_order(query.get("sort", "")),
    )


def budget_page_body(
    request: web.Request, asked: BudgetPage, rows: Sequence[Any], total: int
) -> dict[str, Any]:
    """The page object: `data`, `meta`, and `links` that keep the other parameters."""
    pages = -(-total // asked.size)
    last = max(pages, 1)

    def link(page: int) -> str:
        return str(request.rel_url.update_query(page=str(page)))

    return {
        "data": list(rows),
        "meta": {
            "total_count": total,
            "page": asked.page,
            "page_size": asked.size,
            "total_pages": pages,
        },
        "links": {
            "self": link(asked.page),
            "first": link(1),
            "prev": link(min(asked.page - 1, last)) if asked.page > 1 else None,
            "next": link(asked.page + 1) if asked.page < pages else None,
            "last": link(last),
        },
    }


def _whole(query: Mapping[str, str], name: str, default: int, high: int | None) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 18) or int(text) < 1:
        raise _unusable(name, "must be a whole number from 1")
    if high is not None and int(text) > high:
        raise _unusable(name, f"must not be above {high}")
    return int(text)


def _order(text: str) -> tuple[tuple[str, bool], ...]:
    if not text:
        return (("created_at", True),)
    order = []
    for part in text.split(","):
        name = part.strip()
        descends, name = name.startswith("-"), name.removeprefix("-")
        if name not in SORTABLE:
            detail = f"Budgets cannot be sorted by {name[:40]!r}"
            raise Problem(400, "invalid-sort-field", detail, sorted(SORTABLE))
        order.append((name, descends))
    return tuple(dict(order).items())


def _unusable(name: str, what: str) -> Problem:
    return Problem(400, "invalid-query-parameter", f"{name} {what}")
