"""What lists of internal users ask for, and what of it a caller may see."""

from __future__ import annotations

from attrs import evolve, frozen

from services.admin.api.access import Role
from services.admin.api.auth import Caller
from services.admin.api.parameters import (
    choice_parameter,
    order_parameters,
    page_parameters,
    text_parameters,
)
from services.admin.api.query import Query
from shared.db.user_list import SORTABLE, UserFilter
from shared.domain.errors import PermissionDenied

_LARGEST_PAGE = 100
_MOST_PAGES = 10_000_000

LIST_PARAMETERS = (
    choice_parameter("role", *Role),
    *text_parameters("user_ids", "sso_user_ids", "user_email", "search", "team"),
    *text_parameters("organization_ids"),
    *page_parameters(25, _LARGEST_PAGE),
    *order_parameters(*SORTABLE),
)
SEARCH_PARAMETERS = (
    *text_parameters("user_email", "user_id"),
    *page_parameters(50, _LARGEST_PAGE),
)


@frozen(kw_only=True)
class UserList:
    """A request for a page of users."""

    chosen: UserFilter
    page: int
    size: int
    sort_by: str
    descending: bool

    @property
    def offset(self) -> int:
        """How many users the pages before hold."""
        return (self.page - 1) * self.size


def read_user_list(query: Query, caller: Caller) -> UserList:
    """The list that the query asks for: of all users for those who see everything, else of the
    organizations that the caller administers; 403 for everybody else."""
    chosen = UserFilter(
        role=query.choice("role", tuple(Role)),
        user_ids=_several(query, "user_ids"),
        sso_user_ids=_several(query, "sso_user_ids"),
        user_email=query.text("user_email"),
        search=query.text("search"),
        team=query.text("team"),
        organization_ids=_several(query, "organization_ids"),
    )
    if not caller.sees_all:
        chosen = _of_organizations(chosen, caller)
    sort_by = query.choice("sort_by", tuple(SORTABLE))
    order = query.choice("sort_order", ("asc", "desc"))
    return _page(
        query,
        chosen,
        default_size=25,
        sort_by=sort_by or "created_at",
        # Without an order the newest come first.
        descending=order == "desc" or (sort_by is None and order is None),
    )


def read_search(query: Query, caller: Caller) -> UserList:
    """A search for users by parts of id and address: of all users for those who see everything,
    else of oneself and of the teams and organizations that the caller administers."""
    chosen = UserFilter(user_email=query.text("user_email"), user_id_part=query.text("user_id"))
    if not caller.sees_all:
        chosen = evolve(
            chosen,
            within_teams=tuple(caller.admin_teams),
            within_organizations=tuple(caller.admin_organizations),
            or_user=caller.user_id,
        )
    return _page(query, chosen, default_size=50, sort_by="created_at", descending=True)


def _of_organizations(chosen: UserFilter, caller: Caller) -> UserFilter:
    own = caller.admin_organizations
    if not own:
        raise PermissionDenied("Only admins may list users")
    asked = chosen.organization_ids
    if asked is None:
        return evolve(chosen, organization_ids=tuple(own))
    if not own.issuperset(asked):
        raise PermissionDenied("Users are listed only of organizations that one administers")
    return chosen


def _page(
    query: Query, chosen: UserFilter, *, default_size: int, sort_by: str, descending: bool
) -> UserList:
    return UserList(
        chosen=chosen,
        page=query.whole("page", default=1, low=1, high=_MOST_PAGES),
        size=query.whole("page_size", default=default_size, low=1, high=_LARGEST_PAGE),
        sort_by=sort_by,
        descending=descending,
    )


def _several(query: Query, name: str) -> tuple[str, ...] | None:
    text = query.text(name)
    if text is None:
        return None
    return tuple(part.strip() for part in text.split(",") if part.strip())
