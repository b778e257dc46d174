"""`meridian users …`"""

from __future__ import annotations

from services.cli.command import BulkImport, Command, Option, Pages, Place, View
from services.cli.kinds import WORDS
from services.cli.options import LIMITS, METADATA, MODELS, SORTED, wanted, word, words
from services.cli.shapes import member

ROLES = ("proxy_admin", "proxy_admin_viewer", "internal_user", "internal_user_viewer")

_FIELDS = (
    Option("--user-email", "user_email", "address"),
    Option("--user-alias", "user_alias", "name"),
    Option("--user-role", "user_role", "role", choices=ROLES),
    MODELS,
    *LIMITS,
    METADATA,
)
_CREATE = Command(
    words=("users", "create"),
    also=("new", "add"),
    help="make a user, without a key",
    method="POST",
    path="/user/new",
    options=(
        Option("--user-id", "user_id", "id; made up if not given"),
        *_FIELDS,
        Option("--teams", "teams", "teams to join", WORDS),
        Option("--organizations", "organizations", "organizations to join", WORDS),
        Option(
            "--auto-create-key",
            "auto_create_key",
            "make a key too, whose value is shown this once",
            says=True,
        ),
    ),
    fixed={"auto_create_key": False},
    fields=True,
)


def _lookup(field: str, value: str) -> tuple[str, dict[str, str]]:
    name = "user_ids" if field == "user_id" else field
    return "/user/list", {name: value, "page_size": "100"}


USERS: tuple[Command | BulkImport, ...] = (
    Command(
        words=("users", "list"),
        help="list users",
        method="GET",
        path="/user/list",
        options=(
            wanted("--role", "role", "with this role", choices=ROLES),
            wanted("--user-ids", "user_ids", "these ones", WORDS),
            wanted("--user-email", "user_email", "by a part of the address"),
            wanted("--search", "search", "by a part of id, address or name"),
            wanted("--team-id", "team", "of a team"),
            wanted("--organization-ids", "organization_ids", "of these organizations", WORDS),
            *SORTED,
        ),
        view=View(
            (
                "user_id",
                "email:user_email",
                "role:user_role",
                "spend",
                "max_budget",
                "keys:key_count",
                "teams",
                "created_at",
            )
        ),
        pages=Pages("users"),
    ),
    Command(
        words=("users", "info"),
        also=("get",),
        help="show a user",
        method="GET",
        path="/user/info",
        options=(word("USER_ID", "user_id", "the user", Place.QUERY),),
        view=View(shape=member("user_info")),
    ),
    _CREATE,
    Command(
        words=("users", "update"),
        help="change what is given of a user",
        method="POST",
        path="/user/update",
        options=(word("USER_ID", "user_id", "the user"), *_FIELDS),
        view=View(shape=member("data")),
        fields=True,
    ),
    Command(
        words=("users", "delete"),
        help="delete users with their keys",
        method="POST",
        path="/user/delete",
        options=(words("USER_ID", "user_ids", "the users"),),
        view=View(label="deleted"),
    ),
    Command(
        words=("users", "invite"),
        help="make an invitation, with which a user sets a password",
        method="POST",
        path="/invitation/new",
        options=(word("USER_ID", "user_id", "the user"),),
    ),
    BulkImport(
        words=("users", "import"),
        help="make a user of each line of a file",
        create=_CREATE,
        known_by=("user_id", "user_email"),
        lookup=_lookup,
        found="users",
        told=("user_id", "user_email", "key"),
    ),
)
