"""GET /v2/model/info: every model that the caller may see, in pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from aiohttp import web
from attrs import frozen

from services.admin.api.calls import AdminCall
from services.admin.api.parameters import (
    flag_parameters,
    order_parameters,
    page_parameters,
    text_parameters,
)
from services.admin.api.query import Query
from services.admin.api.respond import answer
from services.admin.api.wire_rows import wire
from shared.config.gateway_config import ModelEntry
from shared.config.secret import MASK
from shared.db.models import find_models, load_stored, team_models
from shared.db.table import Row
from shared.domain.deployments import Deployment
from shared.gateway.handlers.model_facts import entry_facts
from shared.routing.access import allowed, granted
from shared.routing.groups import ModelGroup
from shared.routing.whole import Whole
from shared.secrets.members import model_params

_LARGEST_PAGE = 1000
_MOST_PAGES = 10_000_000
_SORTS = ("model_name", "created_at", "updated_at", "costs", "status")

LIST_PARAMETERS = (
    *page_parameters(50, _LARGEST_PAGE, size="size"),
    *order_parameters(*_SORTS, by="sortBy", order="sortOrder"),
    *text_parameters("model", "modelId", "access_group", "teamId", "search"),
    *flag_parameters("blocked", "wildcard_only", "user_models_only"),
)


@frozen
class _Item:
    """An entry, or one of its deployments."""

    entry: ModelEntry
    deployment: Deployment | None
    row: Row | None

    @property
    def group(self) -> ModelGroup:
        """What access lists are asked about."""
        deployments = () if self.deployment is None else (self.deployment,)
        return ModelGroup(self.entry.model_name, deployments)

    @property
    def id(self) -> str:
        """The deployment's id."""
        return self.deployment.id if self.deployment is not None else self.entry.info.id or ""


async def list_models(call: AdminCall) -> web.Response:
    """GET /v2/model/info: a page of the models that the caller may see."""
    query = call.query
    page = query.whole("page", default=1, low=1, high=_MOST_PAGES)
    size = query.whole("size", default=50, low=1, high=_LARGEST_PAGE)
    sort_by = query.choice("sortBy", _SORTS)
    descending = query.choice("sortOrder", ("asc", "desc")) == "desc"
    async with call.services.store.connection() as connection:
        stored = await load_stored(connection)
        rows = await find_models(connection, [row.model_id for row in stored.models])
        team_id = query.text("teamId")
        of_team = None if team_id is None else await team_models(connection, team_id)
    whole = call.services.models.make(stored)
    chosen = _chosen(query, call, team_id, of_team)
    items = [item for item in _items(whole, rows) if _visible(item, call) and chosen(item)]
    if sort_by is not None:
        items.sort(key=_KEYS[sort_by], reverse=descending)
    shown = items[(page - 1) * size : page * size]
    return answer(
        {
            "data": [_body(item, whole, call) for item in shown],
            "total_count": len(items),
            "current_page": page,
            "total_pages": -(-len(items) // size),
            "size": size,
        }
    )


def _items(whole: Whole, rows: Mapping[str, Row]) -> Iterator[_Item]:
    """Each entry with its deployments, or alone where this instance serves it not."""
    for entry in whole.entries:
        row = rows.get(entry.info.id or "") if entry.stored else None
        resolved = whole.catalog.known(entry)
        for deployment in (resolved.deployments if resolved is not None else ()) or (None,):
            yield _Item(entry, deployment, row)


def _visible(item: _Item, call: AdminCall) -> bool:
    caller = call.caller
    if caller.sees_all:
        return True
    if item.entry.team_id is not None:
        return item.entry.team_id in caller.teams
    return not item.entry.info.blocked and allowed(
        caller.principal, item.entry.model_name, item.group
    )


def _chosen(
    query: Query, call: AdminCall, team_id: str | None, of_team: list[str] | None
) -> Callable[[_Item], bool]:
    """The query's filters as one."""
    model, search = query.text("model"), (query.text("search") or "").lower()
    model_id, access_group = query.text("modelId"), query.text("access_group")
    blocked = query.flag("blocked") if query.text("blocked") is not None else None
    wildcards, own = query.flag("wildcard_only"), query.flag("user_models_only")

    def chosen(item: _Item) -> bool:
        entry = item.entry
        return (
            (model is None or entry.model_name == model)
            and (search in entry.model_name.lower() or search in item.id.lower())
            and (model_id is None or item.id == model_id)
            and (access_group is None or access_group in entry.info.access_groups)
            and (blocked is None or entry.info.blocked == blocked)
            and (not wildcards or "*" in entry.model_name)
            and (not own or (item.row is not None and _made_by(item.row, call)))
            and (team_id is None or _of_team(item, team_id, of_team))
        )

    return chosen


def _made_by(row: Row, call: AdminCall) -> bool:
    return row["created_by"] is not None and row["created_by"] == call.caller.user_id


def _of_team(item: _Item, team_id: str, models: list[str] | None) -> bool:
    if item.entry.team_id is not None:
        return item.entry.team_id == team_id
    return models is not None and granted(tuple(models), item.entry.model_name, item.group)


def _body(item: _Item, whole: Whole, call: AdminCall) -> dict[str, Any]:
    body = entry_facts(item.entry, item.deployment)
    info = body["model_info"]
    info["blocked"] = item.entry.info.blocked
    if item.row is None:
        return body
    row = item.row
    info |= {name: wire(row[name]) for name in _SIGNED}
    left_out = whole.unserved.get(row["model_id"])
    if left_out is not None and call.caller.sees_all:
        info["not_served_because"] = left_out.reason
    if call.caller.sees_all:
        # As it is stored, without what is secret.
        params = model_params(row["model_id"]).masked(row["litellm_params"])
        body["litellm_params"] = {n: v for n, v in params.items() if not _hides(v)}
    return body


def _hides(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_hides(inner) for inner in value.values())
    return bool(value == MASK) or (isinstance(value, list) and any(_hides(each) for each in value))


def _when(column: str) -> Callable[[_Item], tuple[bool, str]]:
    def key(item: _Item) -> tuple[bool, str]:
        moment = None if item.row is None else item.row[column]
        return moment is not None, moment.isoformat() if isinstance(moment, datetime) else ""

    return key


def _costs(item: _Item) -> tuple[bool, float]:
    rates = None if item.deployment is None else item.deployment.rates
    return rates is not None, 0.0 if rates is None else float(rates.input + rates.output)


_SIGNED = ("created_at", "created_by", "updated_at", "updated_by")
_KEYS: Mapping[str, Callable[[_Item], Any]] = MappingProxyType(
    {
        "model_name": lambda item: item.entry.model_name.lower(),
        "created_at": _when("created_at"),
        "updated_at": _when("updated_at"),
        "costs": _costs,
        # Those in the file come before those in the database.
        "status": lambda item: item.entry.stored,
    }
)
