"""`meridian keys …`"""

from __future__ import annotations

from services.cli.command import BulkImport, Command, Option, Pages, Place, View
from services.cli.kinds import DURATION, KEY, TEXT, WORDS
from services.cli.options import (
    LIMITS,
    METADATA,
    MODEL_RATES,
    MODELS,
    SORTED,
    TAGS,
    key_word,
    wanted,
)
from services.cli.shapes import member

_OWNERS = (
    Option("--user-id", "user_id", "user who owns it"),
    Option("--team-id", "team_id", "team that owns it"),
    Option("--organization-id", "organization_id", "organization that owns it"),
    Option("--project-id", "project_id", "project that owns it"),
)
_FIELDS = (
    Option("--key-alias", "key_alias", "a name, unique among keys"),
    MODELS,
    Option("--duration", "duration", "how long it lives, such as 30d; -1 is for ever", DURATION),
    *LIMITS,
    *MODEL_RATES,
    Option("--budget-id", "budget_id", "budget whose values fill those not given"),
    *_OWNERS,
    TAGS,
    METADATA,
    Option("--allowed-routes", "allowed_routes", "routes or groups of routes", WORDS),
    Option("--guardrails", "guardrails", "guardrails of every call", WORDS),
)
_KEY_TYPE = Option(
    "--key-type",
    "key_type",
    "what it may call",
    choices=("default", "llm_api", "management", "read_only"),
)
_LISTED = (
    "alias:key_alias",
    "key:key_name",
    "status",
    "spend",
    "max_budget",
    "user:user_id",
    "team:team_id",
    "models",
    "expires",
    "hash:token",
)
_GENERATE = Command(
    words=("keys", "generate"),
    also=("create",),
    help="make a key, whose value is shown this once",
    method="POST",
    path="/key/generate",
    options=(*_FIELDS, _KEY_TYPE),
    fields=True,
)


def _lookup(field: str, value: str) -> tuple[str, dict[str, str]]:
    return "/key/list", {field: value, "return_full_object": "true", "size": "100"}


KEYS: tuple[Command | BulkImport, ...] = (
    Command(
        words=("keys", "list"),
        help="list keys",
        method="GET",
        path="/key/list",
        options=(
            wanted("--user-id", "user_id", "of a user"),
            wanted("--team-id", "team_id", "of a team"),
            wanted("--organization-id", "organization_id", "of an organization"),
            wanted("--project-id", "project_id", "of a project"),
            wanted("--key-alias", "key_alias", "with this alias"),
            wanted("--key-hash", "key_hash", "this one", KEY),
            wanted("--search", "search", "by a part of the alias or the key's name"),
            wanted(
                "--status",
                "status",
                "in this state",
                TEXT,
                ("active", "expired", "revoked", "deleted"),
            ),
            Option(
                "--include-team-keys",
                "include_team_keys",
                "and those of the caller's teams",
                place=Place.QUERY,
                says="true",
            ),
            *SORTED,
        ),
        fixed={"return_full_object": "true"},
        view=View(_LISTED),
        pages=Pages("keys", size="size"),
    ),
    Command(
        words=("keys", "info"),
        also=("get",),
        help="show a key",
        method="GET",
        path="/key/info",
        options=(key_word(Place.QUERY),),
        view=View(shape=member("info")),
    ),
    _GENERATE,
    Command(
        words=("keys", "update"),
        help="change what is given of a key",
        method="POST",
        path="/key/update",
        options=(key_word(Place.BODY), *_FIELDS),
        fields=True,
    ),
    Command(
        words=("keys", "delete"),
        help="delete keys",
        method="POST",
        path="/key/delete",
        options=(key_word(Place.BODY, "keys", several=True),),
    ),
    Command(
        words=("keys", "block"),
        help="refuse a key's calls",
        method="POST",
        path="/key/block",
        options=(key_word(Place.BODY),),
        view=View(shape=member("info")),
    ),
    Command(
        words=("keys", "unblock"),
        help="let a key's calls through again",
        method="POST",
        path="/key/unblock",
        options=(key_word(Place.BODY),),
    ),
    Command(
        words=("keys", "regenerate"),
        also=("rotate",),
        help="give a key a new value, which is shown this once",
        method="POST",
        path="/key/{key}/regenerate",
        options=(
            key_word(Place.PATH),
            Option("--grace-period", "grace_period", "how long the old value works on, such as 1h"),
            *_FIELDS,
        ),
        fields=True,
    ),
    BulkImport(
        words=("keys", "import"),
        help="make a key of each line of a file",
        create=_GENERATE,
        known_by=("key_alias",),
        lookup=_lookup,
        found="keys",
        told=("key_alias", "token_id", "key"),
    ),
)
