"""What /key/list asks for, and what of it a caller may see."""

from __future__ import annotations

from datetime import datetime

from attrs import evolve, frozen

from services.admin.api.auth import Caller
from services.admin.api.query import Query
from shared.db.key_list import SORTABLE, KeyFilter
from shared.domain.errors import PermissionDenied
from shared.keys.generate import stored_form

_LARGEST_PAGE = 100
_MOST_PAGES = 10_000_000
_STATUSES = ("active", "expired", "revoked", "deleted")


@frozen(kw_only=True)
class KeyList:
    """A request for a page of keys."""

    chosen: KeyFilter
    page: int
    size: int
    sort_by: str
    descending: bool
    whole_rows: bool

    @property
    def offset(self) -> int:
        """How many keys the pages before hold."""
        return (self.page - 1) * self.size


def read_key_list(query: Query, caller: Caller, now: datetime) -> KeyList:
    """The list that the query asks for, narrowed to what the caller may see.

    Without a role a key sees the keys of its user, or only itself; asking for others is 403.
    """
    whole = query.flag("return_full_object")
    chosen = _chosen(query, now)
    return KeyList(
        chosen=chosen if caller.sees_all else _scoped(chosen, caller),
        page=query.whole("page", default=1, low=1, high=_MOST_PAGES),
        size=query.whole("size", default=10, low=1, high=_LARGEST_PAGE),
        sort_by=query.choice("sort_by", tuple(SORTABLE)) or "created_at",
        descending=query.choice("sort_order", ("asc", "desc")) != "asc",
        whole_rows=whole or query.choice("expand", ("user",)) is not None,
    )


def _chosen(query: Query, now: datetime) -> KeyFilter:
    status = query.choice("status", _STATUSES)
    expires = query.choice("expires", ("expired", "active"))
    expired = None if expires is None else expires == "expired"
    blocked = None
    if status == "revoked":
        blocked = True
    elif status in {"active", "expired"}:
        blocked, expired = False, status == "expired"
    given = query.text("key_hash")
    return KeyFilter(
        now=now,
        deleted=status == "deleted",
        blocked=blocked,
        expired=expired,
        user_id=query.text("user_id"),
        team_id=query.text("team_id"),
        organization_id=query.text("organization_id"),
        project_id=query.text("project_id"),
        agent_id=query.text("agent_id"),
        access_group_id=query.text("access_group_id"),
        token=None if given is None else stored_form(given) or given,
        key_alias=query.text("key_alias"),
        search=query.text("search"),
        substring=query.flag("substring_matching"),
        with_created=query.flag("include_created_by_keys"),
        with_team_keys=query.flag("include_team_keys"),
    )


def _scoped(chosen: KeyFilter, caller: Caller) -> KeyFilter:
    key = caller.principal.key
    for asked, own in (
        (chosen.user_id, caller.user_id),
        (chosen.team_id, key.team_id),
        (chosen.organization_id, key.organization_id),
    ):
        if asked is not None and asked != own:
            raise PermissionDenied("This key may list only its own keys")
    narrowed = evolve(chosen, substring=False, with_created=False, with_team_keys=False)
    if caller.user_id is not None:
        return evolve(narrowed, user_id=caller.user_id)
    if chosen.token not in {None, caller.token}:
        raise PermissionDenied("This key may list only itself")
    return evolve(narrowed, token=caller.token)
