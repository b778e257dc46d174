"""Invitations: who may make them, and that each sets one password once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.admin.api.attempts import Attempts
from services.admin.api.calls import OpenRoute
from services.admin.api.routes import OPEN_ROUTES, ROUTES
from shared.keys.passwords import verify_password
from tests.support.admin_api import Admin, Answer, StartAdmin, admins, error_of, issues_of
from tests.support.management import audit_of, detail_of, user_key

PASSWORD = "correct horse battery"


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


@pytest.fixture
async def admin(start: StartAdmin) -> Admin:
    """An admin with two users."""
    admin = await start()
    await two_users(admin)
    return admin


async def two_users(admin: Admin) -> None:
    """Users `u1` and `u2`, without keys."""
    for name in ("u1", "u2"):
        body = {"user_id": name, "user_email": f"{name}@x.org", "auto_create_key": False}
        assert (await admin.call("POST", "/user/new", body))[0] == 200


async def invite(admin: Admin, user_id: str = "u1", **more: Any) -> dict[str, Any]:
    """A new invitation."""
    status, body = await admin.call("POST", "/invitation/new", {"user_id": user_id}, **more)
    assert status == 200, body
    return dict(body)


async def look(admin: Admin, link: str) -> Answer:
    """What an open link says, asked by anybody."""
    return await admin.call("GET", "/onboarding/get_token", key=None, params={"invite_link": link})


async def claim(admin: Admin, link: str, user_id: str = "u1", password: str = PASSWORD) -> Answer:
    """A claim by anybody."""
    body = {"invitation_link": link, "user_id": user_id, "password": password}
    return await admin.call("POST", "/onboarding/claim_token", body, key=None)


async def stored_password(admin: Admin, user_id: str = "u1") -> str | None:
    """What is stored of a user's password."""
    [row] = await admin.sql("select password_hash from app_user where user_id = $1", user_id)
    password: str | None = row["password_hash"]
    return password


async def test_only_these_routes_are_open() -> None:
    """What anybody may call without a key is stated here once more, and nothing of it is gated
    elsewhere."""
    assert {(route.method, route.path) for route in OPEN_ROUTES} == {
        ("GET", "/config/yaml"),
        ("GET", "/onboarding/get_token"),
        ("POST", "/onboarding/claim_token"),
    }
    assert not [route for route in ROUTES if isinstance(route, OpenRoute)]


async def test_the_row(admin: Admin) -> None:
    """An invitation is valid for seven days; its id has 128 random bits and is stored nowhere."""
    made = await invite(admin)
    assert list(made) == [
        "id",
        "user_id",
        "is_accepted",
        "accepted_at",
        "expires_at",
        "created_at",
        "created_by",
        "updated_at",
        "updated_by",
    ]
    assert len(bytes.fromhex(made["id"])) == 16
    assert (made["user_id"], made["is_accepted"], made["accepted_at"]) == ("u1", False, None)
    left = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=6, hours=23) < left <= timedelta(days=7, minutes=1)
    query = {"invitation_id": made["id"]}
    assert await admin.call("GET", "/invitation/info", params=query) == (200, made)
    dump = [str(dict(row)) for row in await admin.sql("select * from invitation")]
    dump += [str(dict(row)) for row in await admin.sql("select * from audit_log")]
    assert not [row for row in dump if made["id"] in row]
    assert (await invite(admin))["id"] != made["id"]


async def test_bad_invitations(admin: Admin) -> None:
    """An unknown user or link is 400 in the contract's shape; what is missing is 422."""
    detail_of(await admin.call("POST", "/invitation/new", {"user_id": "nobody"}), 400)
    detail_of(await admin.call("POST", "/invitation/new", {"user_id": "a\x00"}), 400)
    unknown = {"invitation_id": "f" * 32}
    detail_of(await admin.call("GET", "/invitation/info", params=unknown), 400)
    detail_of(await admin.call("POST", "/invitation/delete", unknown), 400)
    detail_of(await admin.call("POST", "/invitation/update", {**unknown, "is_accepted": True}), 400)
    hashed = hashlib.sha256((await invite(admin))["id"].encode()).hexdigest()
    detail_of(await admin.call("POST", "/invitation/delete", {"invitation_id": hashed}), 400)
    for path, missing in (
        ("/invitation/new", ["user_id"]),
        ("/invitation/delete", ["invitation_id"]),
        ("/invitation/update", ["invitation_id", "is_accepted"]),
    ):
        issues = issues_of(await admin.call("POST", path, {}))
        assert issues == [("missing", ["body", name]) for name in missing]
    answer = await admin.call("GET", "/invitation/info")
    assert issues_of(answer) == [("missing", ["query", "invitation_id"])]
    answer = await admin.call("POST", "/invitation/new", {"user_id": 5})
    assert issues_of(answer) == [("string_type", ["body", "user_id"])]


async def test_update_and_delete(admin: Admin) -> None:
    """A proxy admin marks a link as used or open again, or takes it away; all of it is audited."""
    made = await invite(admin)
    body = {"invitation_id": made["id"], "is_accepted": True}
    status, row = await admin.call("POST", "/invitation/update", body)
    assert (status, row["is_accepted"], row["id"]) == (200, True, made["id"])
    assert row["accepted_at"] is not None
    detail_of(await look(admin, made["id"]), 401)
    _, row = await admin.call("POST", "/invitation/update", {**body, "is_accepted": False})
    assert (row["is_accepted"], row["accepted_at"]) == (False, None)
    assert (await look(admin, made["id"]))[0] == 200
    status, row = await admin.call("POST", "/invitation/delete", {"invitation_id": made["id"]})
    assert (status, row["id"]) == (200, made["id"])
    detail_of(await look(admin, made["id"]), 401)
    entries = await audit_of(admin, "LiteLLM_InvitationLink")
    assert [entry["action"] for entry in entries] == ["created", "updated", "updated", "deleted"]
    hashed = hashlib.sha256(made["id"].encode()).hexdigest()
    assert {entry["object_id"] for entry in entries} == {hashed}


async def test_a_link_tells_whose_it_is(admin: Admin) -> None:
    """Anybody who has the link learns for whom it is; the secret is not shown again."""
    made = await invite(admin)
    status, body = await look(admin, made["id"])
    assert (status, body) == (
        200,
        {"user_id": "u1", "user_email": "u1@x.org", "expires_at": made["expires_at"]},
    )
    answer = await admin.call("GET", "/onboarding/get_token", key=None)
    assert issues_of(answer) == [("missing", ["query", "invite_link"])]


async def test_a_claim_sets_the_password(admin: Admin) -> None:
    """Once: the link is used up then, and the password is stored as a strong hash."""
    made = await invite(admin)
    assert await claim(admin, made["id"]) == (200, {"user_id": "u1", "user_email": "u1@x.org"})
    stored = await stored_password(admin)
    assert stored is not None
    assert stored.startswith("scrypt$16384$8$1$")
    assert verify_password(PASSWORD, stored)
    _, row = await admin.call("GET", "/invitation/info", params={"invitation_id": made["id"]})
    assert (row["is_accepted"], row["updated_by"]) == (True, "u1")
    detail_of(await claim(admin, made["id"], password="another one"), 401)
    detail_of(await look(admin, made["id"]), 401)
    assert await stored_password(admin) == stored


async def test_claims_at_once(admin: Admin) -> None:
    """Of many that claim one link at the same time exactly one sets its password."""
    link = (await invite(admin))["id"]
    passwords = [f"password number {number}" for number in range(6)]
    answers = await asyncio.gather(*(claim(admin, link, password=each) for each in passwords))
    statuses = [status for status, _ in answers]
    assert sorted(statuses) == [200, 401, 401, 401, 401, 401]
    stored = await stored_password(admin)
    assert stored is not None
    assert verify_password(passwords[statuses.index(200)], stored)


async def test_claim_and_deletion_at_once(admin: Admin) -> None:
    """A user who is deleted while the link is claimed: both are answered, and nothing is left."""
    link = (await invite(admin))["id"]
    claimed, deleted = await asyncio.gather(
        claim(admin, link), admin.call("POST", "/user/delete", {"user_ids": ["u1"]})
    )
    assert deleted == (200, 1)
    assert claimed[0] in {200, 401}
    assert await admin.sql("select * from invitation") == []


async def test_other_links_of_the_user_end(admin: Admin) -> None:
    """Whoever has an older link cannot take the account over later; others' links stay."""
    first, second = await invite(admin), await invite(admin)
    other = await invite(admin, "u2")
    assert (await claim(admin, second["id"]))[0] == 200
    detail_of(await claim(admin, first["id"], password="too late now"), 401)
    assert (await claim(admin, other["id"], "u2"))[0] == 200


async def test_links_that_do_not_open(admin: Admin) -> None:
    """Unknown, another's, expired, or the stored form itself: 401, and no password is set."""
    link = (await invite(admin))["id"]
    detail_of(await claim(admin, "0" * 32), 401)
    detail_of(await claim(admin, link, "u2"), 401)
    detail_of(await claim(admin, hashlib.sha256(link.encode()).hexdigest()), 401)
    await admin.sql("update invitation set expires_at = now()")
    detail_of(await look(admin, link), 401)
    detail_of(await claim(admin, link), 401)
    assert (await stored_password(admin), await stored_password(admin, "u2")) == (None, None)


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [
        ("password", "short", 400),
        ("password", "x" * 1025, 400),
        ("password", 12345678, 422),
        ("password", None, 422),
        ("invitation_link", ["a"], 422),
        ("invitation_link", "a" * 600, 400),
        ("invitation_link", "a\x00", 400),
        ("user_id", "a\x00", 400),
        ("user_id", {}, 422),
    ],
)
async def test_bad_claims(admin: Admin, field: str, value: Any, status: int) -> None:
    """A claim that cannot be is refused before anything is looked up; the password is not
    repeated."""
    body = {"invitation_link": "0" * 32, "user_id": "u1", "password": PASSWORD, field: value}
    answer = await admin.call("POST", "/onboarding/claim_token", body, key=None)
    assert answer[0] == status
    assert PASSWORD not in str(answer)
    if field == "password" and isinstance(value, str):
        assert value not in str(answer)


async def test_guesses_are_limited(start: StartAdmin) -> None:
    """Too many wrong links from one address wait with Retry-After; good ones do not count."""
    admin = await start(invitation_attempts=Attempts(5, 60.0))
    await two_users(admin)
    link = (await invite(admin))["id"]
    for _ in range(20):
        assert (await look(admin, link))[0] == 200
    for number in range(5):
        detail_of(await look(admin, f"{number:032}"), 401)
    detail_of(await look(admin, link), 429)
    async with admin.client.post(
        "/onboarding/claim_token",
        json={"invitation_link": link, "user_id": "u1", "password": PASSWORD},
    ) as response:
        assert response.status == 429
        assert 0 < int(response.headers["retry-after"]) <= 60
    assert await stored_password(admin) is None


@pytest.mark.parametrize("role", ["proxy_admin_viewer", "internal_user", "internal_user_viewer"])
async def test_roles(admin: Admin, role: str) -> None:
    """Proxy admins alone, but for admins of all that a user is in; role failures are 400."""
    key = await user_key(admin, role)
    link = (await invite(admin))["id"]
    for user_id in ("u1", role, "nobody"):
        answer = await admin.call("POST", "/invitation/new", {"user_id": user_id}, key=key)
        detail_of(answer, 400)
    for unknown in (link, "0" * 32):
        body = {"invitation_id": unknown}
        detail_of(await admin.call("POST", "/invitation/delete", body, key=key), 400)
    body = {"invitation_id": link, "is_accepted": True}
    viewer = role == "proxy_admin_viewer"
    answer = await admin.call("POST", "/invitation/update", body, key=key)
    error_of(answer, 403 if viewer else 401, "auth_error")
    answer = await admin.call("GET", "/invitation/info", key=key, params={"invitation_id": link})
    assert answer[0] == (200 if viewer else 401)
    [count] = await admin.sql("select count(*) from invitation where not is_accepted")
    assert count["count"] == 1


async def test_team_and_organization_admins(admin: Admin) -> None:
    """They invite users who are only theirs and cannot sign in yet, and take back what they
    made; a link for anybody else would hand an account over."""
    await admin.sql(
        "insert into organization (organization_id, organization_alias) values ('o1', 'a')"
    )
    await admin.sql("insert into team (team_id, organization_id) values ('t1', 'o1'), ('t2', null)")
    boss = await user_key(admin, "internal_user", "boss", team="t1")
    chief = await user_key(admin, "internal_user", "chief", organization="o1")
    await admin.sql("insert into team_member (team_id, user_id) values ('t1', 'u1')")
    made = await invite(admin, key=boss)
    assert made["created_by"] == "boss"
    await invite(admin, key=chief)
    body = {"invitation_id": made["id"]}
    detail_of(await admin.call("POST", "/invitation/delete", body, key=chief), 400)
    status, row = await admin.call("POST", "/invitation/delete", body, key=boss)
    assert (status, row["id"]) == (200, made["id"])

    async def refused(*keys: str) -> None:
        for key in keys:
            answer = await admin.call("POST", "/invitation/new", {"user_id": "u1"}, key=key)
            detail_of(answer, 400)

    await admin.sql("insert into team_member (team_id, user_id) values ('t2', 'u1')")
    await refused(boss, chief)
    await admin.sql("delete from team_member where team_id = 't2'")
    await admin.sql("update app_user set user_role = 'proxy_admin' where user_id = 'u1'")
    await refused(boss, chief)
    await admin.sql("update app_user set user_role = null, sso_user_id = 's' where user_id = 'u1'")
    await refused(boss, chief)
    await admin.sql("update app_user set sso_user_id = null where user_id = 'u1'")
    assert (await claim(admin, (await invite(admin, key=chief))["id"]))[0] == 200
    await refused(boss, chief)
    await invite(admin)
