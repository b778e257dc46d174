"""`meridian teams …` and `meridian teams members …`"""

from __future__ import annotations

from typing import Any

from services.cli.command import Command, Given, Option, Pages, Place, View
from services.cli.kinds import AMOUNT, DURATION, WORDS
from services.cli.options import (
    LIMITS,
    METADATA,
    MODEL_RATES,
    MODELS,
    RATES,
    SORTED,
    TAGS,
    wanted,
    word,
    words,
)
from services.cli.shapes import at, member

_ROLES = ("user", "admin")
_FIELDS = (
    Option("--team-alias", "team_alias", "name"),
    Option("--organization-id", "organization_id", "organization that it belongs to"),
    MODELS,
    *LIMITS,
    *MODEL_RATES,
    TAGS,
    METADATA,
    Option(
        "--team-member-permissions",
        "team_member_permissions",
        "routes on the team's keys that members may call",
        WORDS,
    ),
)
_TEAM_ID = word("TEAM_ID", "team_id", "the team")
_WHO = (
    Option("--user-id", "user_id", "who it is"),
    Option("--user-email", "user_email", "or by address"),
)
_MEMBER_LIMITS = (
    Option("--max-budget-in-team", "max_budget_in_team", "budget in the team, in USD", AMOUNT),
    Option("--budget-duration", "budget_duration", "its period, such as 30d", DURATION),
    Option("--allowed-models", "allowed_models", "of the team's models these only", WORDS),
)


def _members(body: Any, _given: Given) -> list[dict[str, Any]]:
    """The members of a team, with what each has spent in it where the answer says so."""
    team = at(body, "team_info") or body
    memberships = at(body, "team_memberships") or at(body, "updated_team_memberships") or ()
    spent = {at(row, "user_id"): row for row in memberships}
    return [
        {**spent.get(at(row, "user_id"), {}), **row} for row in at(team, "members_with_roles") or ()
    ]


_MEMBERS = View(
    (
        "user_id",
        "email:user_email",
        "role",
        "spend",
        "max_budget:litellm_budget_table.max_budget",
        "budget:budget_source",
    ),
    _members,
)


TEAMS: tuple[Command, ...] = (
    Command(
        words=("teams", "list"),
        help="list teams",
        method="GET",
        path="/v2/team/list",
        options=(
            wanted("--team-alias", "team_alias", "by a part of the name"),
            wanted("--user-id", "user_id", "of a member"),
            wanted("--organization-id", "organization_id", "of an organization"),
            wanted("--search", "search", "by a part of id or name"),
            wanted("--status", "status", "those that are gone", choices=("deleted",)),
            *SORTED,
        ),
        view=View(
            (
                "team_id",
                "alias:team_alias",
                "spend",
                "max_budget",
                "members:members_count",
                "keys:keys_count",
                "blocked",
                "models",
                "organization:organization_id",
            )
        ),
        pages=Pages("teams"),
    ),
    Command(
        words=("teams", "info"),
        also=("get",),
        help="show a team",
        method="GET",
        path="/team/info",
        options=(word("TEAM_ID", "team_id", "the team", Place.QUERY),),
        view=View(shape=member("team_info")),
    ),
    Command(
        words=("teams", "create"),
        also=("new", "add"),
        help="make a team",
        method="POST",
        path="/team/new",
        options=(Option("--team-id", "team_id", "id; made up if not given"), *_FIELDS),
        fields=True,
    ),
    Command(
        words=("teams", "update"),
        help="change what is given of a team",
        method="POST",
        path="/team/update",
        options=(_TEAM_ID, *_FIELDS),
        view=View(shape=member("data")),
        fields=True,
    ),
    Command(
        words=("teams", "delete"),
        help="delete teams with their keys",
        method="POST",
        path="/team/delete",
        options=(words("TEAM_ID", "team_ids", "the teams"),),
    ),
    Command(
        words=("teams", "block"),
        help="refuse the calls of a team's keys",
        method="POST",
        path="/team/block",
        options=(_TEAM_ID,),
    ),
    Command(
        words=("teams", "unblock"),
        help="let a team's calls through again",
        method="POST",
        path="/team/unblock",
        options=(_TEAM_ID,),
    ),
    Command(
        words=("teams", "members", "list"),
        help="list a team's members",
        method="GET",
        path="/team/info",
        options=(word("TEAM_ID", "team_id", "the team", Place.QUERY),),
        view=_MEMBERS,
    ),
    Command(
        words=("teams", "members", "add"),
        help="take somebody into a team",
        method="POST",
        path="/team/member_add",
        options=(
            _TEAM_ID,
            Option("--user-id", "member.user_id", "who it is"),
            Option("--user-email", "member.user_email", "or by address"),
            Option("--role", "member.role", "role in the team", choices=_ROLES, default="user"),
            *_MEMBER_LIMITS,
        ),
        view=_MEMBERS,
        fields=True,
    ),
    Command(
        words=("teams", "members", "update"),
        help="change somebody's role or limits in a team",
        method="POST",
        path="/team/member_update",
        options=(
            _TEAM_ID,
            *_WHO,
            Option("--role", "role", "role in the team", choices=_ROLES),
            *_MEMBER_LIMITS,
            *RATES,
        ),
        fields=True,
    ),
    Command(
        words=("teams", "members", "remove"),
        also=("delete",),
        help="take somebody out of a team, with the keys of it",
        method="POST",
        path="/team/member_delete",
        options=(_TEAM_ID, *_WHO),
        view=_MEMBERS,
    ),
)
