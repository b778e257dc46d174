"""What the pages of the spend log ask for."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

from attrs import frozen

from services.admin.api.parameters import (
    choice_parameter,
    flag_parameters,
    order_parameters,
    page_parameters,
    parameter,
    read_parameters,
    text_parameters,
    whole_parameter,
)
from services.admin.api.query import Query
from services.admin.api.refusals import Unprocessable
from services.admin.api.spend_dates import asked_instant
from services.admin.api.values import Wrong, instant, money
from shared.db.spend_log import BY_TIME, SORTABLE, CallFilter
from shared.db.spend_pages import Slice
from shared.keys.generate import stored_form

_DEFAULT_SIZE, _LARGEST_PAGE = 50, 1000
_MOST_PAGES = 10_000_000
_FAILED: Mapping[str, bool] = {"success": False, "failure": True}
# No reply comes from a cache, so asking for hits is asking for nothing.
_HITS, _MISSES = ("hit", "true", "True"), ("miss", "false", "False")

SLICE_PARAMETERS = (
    *page_parameters(_DEFAULT_SIZE, _LARGEST_PAGE),
    *order_parameters(*SORTABLE),
    *flag_parameters("group_by_session"),
)
LOG_PARAMETERS = (
    *SLICE_PARAMETERS,
    parameter("start_date", required=True, **instant.schema),
    parameter("end_date", required=True, **instant.schema),
    choice_parameter("status_filter", *_FAILED),
    choice_parameter("cache_hit_filter", *_HITS, *_MISSES),
    whole_parameter("error_code", default=None, low=0, high=999),
    *text_parameters("api_key", "request_id", "key_alias", "user_id", "team_id", "model"),
    *text_parameters("model_group", "model_id", "end_user", "session_id"),
    *text_parameters("error_message", "search"),
    *read_parameters(money, "min_spend", "max_spend"),
)


@frozen
class LogQuery:
    """A request for a page of calls; with `nothing` no call can be what was asked for."""

    chosen: CallFilter
    part: Slice
    page: int
    nothing: bool = False


def read_log_query(query: Query) -> LogQuery:
    """The page that the query asks for, of anybody's calls."""
    token, status = query.text("api_key"), query.choice("status_filter", tuple(_FAILED))
    request_id = query.text("request_id")
    chosen = CallFilter(
        start=asked_instant(query, "start_date"),
        end=asked_instant(query, "end_date"),
        token=None if token is None else stored_form(token) or token,
        key_alias=query.text("key_alias"),
        user_id=query.text("user_id"),
        team_id=query.text("team_id"),
        model=query.text("model"),
        model_group=query.text("model_group"),
        deployment_id=query.text("model_id"),
        end_user=query.text("end_user"),
        session_id=query.text("session_id"),
        call_id=call_id_of(request_id),
        failed=None if status is None else _FAILED[status],
        http_status=_status(query),
        least_cost=_amount(query, "min_spend"),
        most_cost=_amount(query, "max_spend"),
        error=query.text("error_message"),
        search=query.text("search"),
    )
    hits = query.choice("cache_hit_filter", (*_HITS, *_MISSES)) in _HITS
    nothing = hits or (request_id is not None and chosen.call_id is None)
    return read_slice(query, chosen, descending=True, nothing=nothing)


def read_slice(
    query: Query, chosen: CallFilter, *, descending: bool, nothing: bool = False
) -> LogQuery:
    """The part of the calls that the query's page is; `descending` where it names no order."""
    page = query.whole("page", default=1, low=1, high=_MOST_PAGES)
    size = query.whole("page_size", default=_DEFAULT_SIZE, low=1, high=_LARGEST_PAGE)
    order = query.choice("sort_order", ("asc", "desc"))
    part = Slice(
        limit=size,
        offset=(page - 1) * size,
        sort_by=query.choice("sort_by", tuple(SORTABLE)) or BY_TIME,
        descending=descending if order is None else order == "desc",
        by_session=query.flag("group_by_session"),
    )
    return LogQuery(chosen, part, page, nothing)


def call_id_of(text: str | None) -> UUID | None:
    """The id of a call as `x-litellm-call-id` spells it; `None` for what is none."""
    try:
        return None if text is None else UUID(text)
    except ValueError:
        return None


def _status(query: Query) -> int | None:
    if query.text("error_code") is None:
        return None
    return query.whole("error_code", default=0, low=0, high=999)


def _amount(query: Query, name: str) -> Decimal | None:
    value: Any = query.text(name)
    try:
        return None if value is None else money(value, ("query", name))
    except Wrong as wrong:
        raise Unprocessable([wrong.issue]) from None
