"""What /key/list and /key/aliases ask for, and what of it a caller may see."""

from __future__ import annotations

from datetime import datetime

from attrs import evolve, frozen

from services.admin.api.auth import Caller
from services.admin.api.parameters import (
    choice_parameter,
    flag_parameters,
    order_parameters,
    page_parameters,
    text_parameters,
)
from services.admin.api.query import Query
from shared.db.key_list import SORTABLE, KeyFilter, KeyScope
from shared.db.key_owners import teams_of, teams_that_permit
from shared.db.rows import Connection
from shared.domain.errors import PermissionDenied
from shared.keys.generate import stored_form

_LARGEST_PAGE = 100
_LIST = "/key/list"
_MOST_PAGES = 10_000_000
_STATUSES = ("active", "expired", "revoked", "deleted")

LIST_PARAMETERS = (
    *page_parameters(10, _LARGEST_PAGE, size="size"),
    *order_parameters(*SORTABLE),
    choice_parameter("status", *_STATUSES),
    choice_parameter("expires", "expired", "active"),
    choice_parameter("expand", "user"),
    *text_parameters("user_id", "team_id", "organization_id", "project_id", "agent_id"),
    *text_parameters("access_group_id", "key_hash", "key_alias", "search"),
    *flag_parameters("return_full_object", "substring_matching"),
    *flag_parameters("include_created_by_keys", "include_team_keys"),
)
ALIAS_PARAMETERS = (
    *page_parameters(50, _LARGEST_PAGE, size="size"),
    *text_parameters("team_id", "search"),
)


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


def read_key_list(query: Query, now: datetime) -> KeyList:
    """The list that the query asks for."""
    whole = query.flag("return_full_object")
    return KeyList(
        chosen=_chosen(query, now),
        page=query.whole("page", default=1, low=1, high=_MOST_PAGES),
        size=query.whole("size", default=10, low=1, high=_LARGEST_PAGE),
        sort_by=query.choice("sort_by", tuple(SORTABLE)) or "created_at",
        descending=query.choice("sort_order", ("asc", "desc")) != "asc",
        whole_rows=whole or query.choice("expand", ("user",)) is not None,
    )


def read_alias_list(query: Query, now: datetime) -> KeyList:
    """The aliases that the query asks for; `search` is a part of them."""
    return KeyList(
        chosen=KeyFilter(
            now=now,
            team_id=query.text("team_id"),
            key_alias=query.text("search"),
            substring=True,
            with_team_keys=True,
        ),
        page=query.whole("page", default=1, low=1, high=_MOST_PAGES),
        size=query.whole("size", default=50, low=1, high=_LARGEST_PAGE),
        sort_by="key_alias",
        descending=False,
        whole_rows=False,
    )


async def narrowed(connection: Connection, chosen: KeyFilter, caller: Caller) -> KeyFilter:
    """A filter within what the caller may see; `PermissionDenied` if it asks for others' keys.

    That is the caller's own keys, and where they are asked for those of the teams and
    organizations that it administers, or whose members may list keys.
    """
    if caller.sees_all:
        return chosen
    organizations = tuple(sorted(caller.admin_organizations))
    teams = caller.admin_teams | {
        *await teams_of(connection, organizations),
        *await teams_that_permit(connection, caller.teams, _LIST),
    }
    wide = _check_asked(chosen, caller, teams)
    created_by = caller.user_id if chosen.with_created else None
    scope = KeyScope(user_id=caller.user_id, token=caller.token, created_by=created_by)
    if wide or chosen.with_team_keys or chosen.token is not None:
        scope = evolve(scope, team_ids=tuple(sorted(teams)), organization_ids=organizations)
    return evolve(chosen, scope=scope, with_team_keys=False, with_created=False)


def _check_asked(chosen: KeyFilter, caller: Caller, teams: frozenset[str]) -> bool:
    """Whether the filter asks for keys of a team or an organization that the caller may list."""
    key = caller.principal.key
    of_team = chosen.team_id in teams
    of_organization = chosen.organization_id in caller.admin_organizations
    for asked, allowed, within in (
        (chosen.team_id, of_team, {*caller.teams, key.team_id}),
        (chosen.organization_id, of_organization, {*caller.organizations, key.organization_id}),
        (chosen.user_id, of_team or of_organization, {caller.user_id}),
    ):
        if asked is not None and not allowed and asked not in within:
            raise PermissionDenied("These keys are not the caller's to list")
    return of_team or of_organization


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
