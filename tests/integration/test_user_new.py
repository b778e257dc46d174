"""POST /user/new: users made through the management API, and the keys that come with them."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from services.admin.api.user_rules import UserRules, read_user_rules
from shared.domain.keys import hash_key
from tests.support.admin_api import Admin, Answer, StartAdmin, admins, error_of, issues_of
from tests.support.management import audit_of, fed


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


@pytest.fixture
async def admin(start: StartAdmin) -> Admin:
    """An admin with default rules."""
    return await start()


async def new(admin: Admin, **fields: Any) -> dict[str, Any]:
    """A new user."""
    status, body = await admin.call("POST", "/user/new", fields)
    assert status == 200, body
    return dict(body)


async def teams(admin: Admin, *team_ids: str) -> None:
    """Adds teams."""
    for team_id in team_ids:
        await admin.sql("insert into team (team_id, team_alias) values ($1, $1)", team_id)


async def test_a_user_with_a_key(admin: Admin) -> None:
    """The answer of the contract's example: the shape of a key and the user's own fields."""
    sent = {
        "user_id": "u1",
        "user_email": "a@b.c",
        "user_role": "internal_user",
        "max_budget": 5,
        "budget_duration": "30d",
        "key_alias": "ci-bot",
        "metadata": {"a": 1},
    }
    body = await new(admin, **sent)
    assert {name: body[name] for name in sent} == sent
    assert re.fullmatch(r"sk-[A-Za-z0-9_-]{43}", body["key"])
    assert body["token"] == body["token_id"] == hash_key(body["key"])
    expected = {
        "user_alias": None,
        "teams": [],
        "models": [],
        "expires": None,
        "spend": 0.0,
        "sso_user_id": None,
        "organization_memberships": [],
        "tpm_limit": None,
        "budget_limits": None,
        "object_permission": None,
    }
    assert {name: body[name] for name in expected} == expected
    assert body["budget_reset_at"].endswith("-01T00:00:00Z")
    assert not [name for name in body if "password" in name]
    info = await admin.info(body["key"])
    assert (info["user_id"], info["max_budget"], info["budget_duration"]) == ("u1", None, None)
    assert (info["key_alias"], info["metadata"]) == ("ci-bot", {"a": 1})


async def test_nothing_is_needed(admin: Admin) -> None:
    """An empty object makes an internal user with a random id and a key."""
    body = await new(admin)
    assert uuid.UUID(body["user_id"])
    assert (body["user_role"], body["user_email"]) == ("internal_user", None)
    assert (await admin.info(body["key"]))["user_id"] == body["user_id"]


async def test_without_a_key(admin: Admin) -> None:
    """`auto_create_key: false` makes the user alone."""
    body = await new(admin, user_id="u1", auto_create_key=False)
    assert (body["key"], body["token"], body["user_id"]) == (None, None, "u1")
    assert await admin.sql("select token from virtual_key") == []


async def test_every_field_is_stored_and_shown(admin: Admin) -> None:
    """Limits are the user's; what keys have too goes to the key as well."""
    sent: dict[str, Any] = {
        "user_alias": "Ann",
        "sso_user_id": "okta|1",
        "models": ["gpt-4o"],
        "aliases": {"fast": "gpt-4o"},
        "permissions": {"pii": True},
        "max_budget": 2.5,
        "soft_budget": 1.5,
        "budget_duration": "1d",
        "budget_limits": [{"budget_duration": "1h", "max_budget": 1.0}],
        "model_max_budget": {"gpt-4o": {"budget_limit": 1.0, "time_period": "1d"}},
        "rpm_limit": 1,
        "tpm_limit": 2,
        "tpd_limit": 3,
        "max_parallel_requests": 4,
        "allowed_cache_controls": ["no-cache"],
        "object_permission": {"vector_stores": ["v"]},
        "spend": 0.25,
    }
    more = {"guardrails": ["g"], "model_rpm_limit": {"gpt-4o": 5}, "duration": "7d"}
    body = await new(admin, user_id="u1", **sent, **more)
    for name in sent.keys() - {"object_permission"}:
        assert body[name] == sent[name], name
    assert body["metadata"] == {"guardrails": ["g"], "model_rpm_limit": {"gpt-4o": 5}}
    assert body["object_permission"]["vector_stores"] == ["v"]
    assert body["expires"] is not None
    key = await admin.info(body["key"])
    own = ("models", "aliases", "permissions", "allowed_cache_controls")
    assert {name: key[name] for name in own} == {name: sent[name] for name in own}
    unset = ("max_budget", "soft_budget", "budget_limits", "rpm_limit", "tpm_limit", "tpd_limit")
    assert {key[name] for name in unset} == {None}
    assert (key["spend"], key["model_max_budget"]) == (0.0, {})
    assert key["object_permission"]["vector_stores"] == ["v"]
    assert key["object_permission_id"] != body["object_permission_id"]


async def test_teams_and_organizations(admin: Admin) -> None:
    """Teams come as ids or objects; a budget in a team is the membership's own or the team's."""
    await teams(admin, "t1", "t2", "t3")
    await admin.sql("insert into budget (budget_id, max_budget) values ('b', 7)")
    await admin.sql(
        "update team set metadata = '{\"team_member_budget_id\": \"b\"}' where team_id = 't3'"
    )
    await admin.sql(
        "insert into organization (organization_id, organization_alias) values ('o1', 'O')"
    )
    joins = ["t1", {"team_id": "t2", "max_budget_in_team": 1.5, "user_role": "admin"}, "t3", "t1"]
    body = await new(admin, user_id="u1", user_email="a@b.c", teams=joins, organizations=["o1"])
    assert sorted(body["teams"]) == ["t1", "t2", "t3"]
    [membership] = body["organization_memberships"]
    assert (membership["organization_id"], membership["user_role"]) == ("o1", "internal_user")
    rows = await admin.sql(
        "select m.team_id, m.role, m.user_email, b.max_budget from team_member m "
        "left join budget b using (budget_id) where user_id = 'u1' order by 1"
    )
    assert [tuple(row) for row in rows] == [
        ("t1", "user", "a@b.c", None),
        ("t2", "admin", "a@b.c", Decimal("1.5")),
        ("t3", "user", "a@b.c", Decimal(7)),
    ]
    assert (await admin.info(body["key"]))["team_id"] is None
    body = await new(admin, user_id="u2", team_id="t1", organization_id="o1")
    assert body["teams"] == ["t1"]
    key = await admin.info(body["key"])
    assert (key["team_id"], key["organization_id"]) == ("t1", "o1")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"teams": ["t1", "none"]}, "teams"),
        ({"teams": [{"team_id": "none"}]}, "teams"),
        ({"organizations": ["none"]}, "organizations"),
    ],
)
async def test_unknown_owners(admin: Admin, fields: dict[str, Any], param: str) -> None:
    """A team or an organization that is not there is 404, and nothing stays behind."""
    await teams(admin, "t1")
    answer = await admin.call("POST", "/user/new", {"user_id": "u1", **fields})
    error_of(answer, 404, "invalid_request_error", param)
    for table in ("app_user", "virtual_key", "team_member", "audit_log"):
        assert await admin.sql(f"select * from {table}") == []


@pytest.mark.parametrize(
    "again",
    [
        {"user_id": "u1"},
        {"user_email": "a@b.c"},
        {"user_email": "A@B.C"},
        {"sso_user_id": "s1"},
    ],
)
async def test_duplicates(admin: Admin, again: dict[str, Any]) -> None:
    """An id, an address in any case or an SSO id that somebody has is 409; no key is made."""
    await new(admin, user_id="u1", user_email="a@b.c", sso_user_id="s1")
    error_of(await admin.call("POST", "/user/new", again), 409, "invalid_request_error")
    [count] = await admin.sql("select count(*) from virtual_key")
    assert count["count"] == 1


async def test_a_race_for_an_address(admin: Admin) -> None:
    """Of many users that want one address at once exactly one is made, key and all."""
    answers = await asyncio.gather(
        *(admin.call("POST", "/user/new", {"user_email": "a@b.c"}) for _ in range(10))
    )
    assert sorted(status for status, _ in answers) == [200] + [409] * 9
    [count] = await admin.sql("select count(*) from virtual_key")
    assert count["count"] == 1


async def test_a_taken_key_alias(admin: Admin) -> None:
    """A key that cannot be made leaves no user behind."""
    await admin.generate(key_alias="taken")
    answer = await admin.call("POST", "/user/new", {"user_id": "u1", "key_alias": "taken"})
    error_of(answer, 400, "bad_request_error", "key_alias")
    assert await admin.sql("select * from app_user") == []


async def test_a_password_is_refused(admin: Admin) -> None:
    """Passwords are set through invitations only."""
    answer = await admin.call("POST", "/user/new", {"user_id": "u1", "password": "secret-123"})
    assert issues_of(answer) == [("value_error", ["body", "password"])]
    assert await admin.sql("select * from app_user") == []


async def test_an_invite_mail_is_not_sent(admin: Admin) -> None:
    """The answer says that no mail went out, and how to invite instead."""
    body = await new(admin, send_invite_email=True)
    assert "/invitation/new" in body["note"]
    assert "note" not in await new(admin)


@pytest.mark.parametrize(
    ("fields", "issue"),
    [
        ({"user_id": 7}, ("string_type", ["body", "user_id"])),
        ({"user_email": ["a"]}, ("string_type", ["body", "user_email"])),
        ({"user_role": "king"}, ("literal_error", ["body", "user_role"])),
        ({"user_role": "org_admin"}, ("literal_error", ["body", "user_role"])),
        ({"teams": "t1"}, ("list_type", ["body", "teams"])),
        ({"teams": [7]}, ("dict_type", ["body", "teams", 0])),
        ({"teams": [{}]}, ("missing", ["body", "teams", 0, "team_id"])),
        (
            {"teams": [{"team_id": "t", "user_role": "boss"}]},
            ("literal_error", ["body", "teams", 0, "user_role"]),
        ),
        ({"organizations": [None]}, ("string_type", ["body", "organizations", 0])),
        ({"models": "gpt"}, ("list_type", ["body", "models"])),
        ({"metadata": []}, ("dict_type", ["body", "metadata"])),
        ({"auto_create_key": "maybe"}, ("bool_type", ["body", "auto_create_key"])),
        ({"rpm_limit": "x"}, ("int_type", ["body", "rpm_limit"])),
    ],
)
async def test_wrong_types(admin: Admin, fields: dict[str, Any], issue: Any) -> None:
    """A field of the wrong type is a 422 that leads to it."""
    assert issue in issues_of(await admin.call("POST", "/user/new", fields))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"user_id": "a\x00b"}, "user_id"),
        ({"user_id": "a\x1fb"}, "user_id"),
        ({"user_email": "a\n@b"}, "user_email"),
        ({"user_id": "u" * 513}, "user_id"),
        ({"max_budget": -1}, "max_budget"),
        ({"max_budget": "NaN"}, "max_budget"),
        ({"max_budget": 1e300}, "max_budget"),
        ({"rpm_limit": 10**400}, "rpm_limit"),
        ({"budget_duration": "soon"}, "budget_duration"),
        ({"metadata": {"a": "\x00"}}, "metadata.a"),
        ({"duration": "soon"}, "duration"),
    ],
)
async def test_out_of_range(admin: Admin, fields: dict[str, Any], param: str) -> None:
    """What cannot be is a 400 that names the field."""
    answer = await admin.call("POST", "/user/new", fields)
    error_of(answer, 400, "invalid_request_error", param)


async def test_unicode_comes_back(admin: Admin) -> None:
    """Any text survives in ids, addresses, names and metadata."""
    words = "Ключ-鍵-🔑-é-ß-\u202e"
    body = await new(admin, user_id=words, user_email=words, user_alias=words, metadata={words: 1})
    _, info = await admin.call("GET", "/user/info", params={"user_id": words})
    assert info["user_info"] == {name: body[name] for name in info["user_info"]}
    assert (info["user_id"], info["keys"][0]["user_id"]) == (words, words)


async def test_defaults(start: StartAdmin) -> None:
    """`default_internal_user_params` fills what is open, but not for proxy admins; internal users
    have a budget of their own."""
    rules = read_user_rules(
        {
            "models": ["m1"],
            "tpm_limit": 9,
            "teams": [{"team_id": "t1", "max_budget_in_team": 1}],
            "available_teams": ["t9"],
        },
        12.5,
        "7d",
    )
    admin = await start(user_rules=rules)
    await teams(admin, "t1")
    body = await new(admin, tpm_limit=3)
    assert (body["models"], body["tpm_limit"], body["teams"]) == (["m1"], 3, ["t1"])
    assert (body["max_budget"], body["budget_duration"]) == (12.5, "7d")
    assert (await admin.info(body["key"]))["models"] == ["m1"]
    viewer = await new(admin, user_role="internal_user_viewer")
    assert (viewer["models"], viewer["max_budget"]) == (["m1"], None)
    boss = await new(admin, user_role="proxy_admin")
    assert (boss["models"], boss["teams"], boss["max_budget"]) == ([], [], None)
    assert (await new(admin, max_budget=0))["max_budget"] == 0.0


async def test_a_default_role(start: StartAdmin) -> None:
    """The operator says what a user is of whom nothing is said."""
    admin = await start(user_rules=UserRules(defaults={"user_role": "internal_user_viewer"}))
    assert (await new(admin))["user_role"] == "internal_user_viewer"
    assert (await new(admin, user_role="internal_user"))["user_role"] == "internal_user"


async def test_audit_and_feed(admin: Admin) -> None:
    """The user and the key have an entry each without secrets; every instance hears of both."""
    body = await new(admin, user_id="u1", metadata={"api_key": "sk-very-secret-0001"})
    [entry] = await audit_of(admin, "LiteLLM_UserTable")
    assert (entry["action"], entry["object_id"]) == ("created", "u1")
    assert entry["updated_values"]["user_role"] == "internal_user"
    [key] = await audit_of(admin, "LiteLLM_VerificationToken")
    assert (key["action"], key["object_id"]) == ("created", body["token"])
    assert "very-secret" not in str((entry, key))
    assert body["key"] not in str((entry, key))
    assert await fed(admin, "user") == [["u1"]]
    assert await fed(admin, "key") == [[body["token"]]]


async def test_wait_for_propagation(admin: Admin) -> None:
    """`?wait=applied` says how many instances have it; here there is none."""
    status, body = await admin.call("POST", "/user/new", {}, params={"wait": "applied"})
    assert status == 200
    assert (body["propagation"]["applied"], body["propagation"]["unreachable"]) == (0, 0)


async def test_two_hundred_at_once(admin: Admin) -> None:
    """Many users made at once are all made."""

    async def make(first: int) -> list[Answer]:
        return [
            await admin.call("POST", "/user/new", {"user_id": f"u{number}"})
            for number in range(first, 200, 8)
        ]

    answers = await asyncio.gather(*(make(first) for first in range(8)))
    assert {status for part in answers for status, _ in part} == {200}
    [count] = await admin.sql("select count(*) from app_user")
    assert count["count"] == 200
