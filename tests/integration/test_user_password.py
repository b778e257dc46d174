"""Changing one's password, and leaving browser sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.admin.api.attempts import Attempts
from shared.keys.passwords import hash_password, verify_password
from tests.support.admin_api import Admin, Answer, StartAdmin, admins, error_of, issues_of
from tests.support.management import audit_of, user_key

OLD, NEW = "the old password", "the new password"


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


@pytest.fixture
async def admin(start: StartAdmin) -> Admin:
    """An admin with default rules."""
    return await start()


async def user_with_password(admin: Admin, role: str = "internal_user") -> str:
    """The key of a new user `u1` with the old password."""
    key = await user_key(admin, role, "u1")
    await admin.sql("update app_user set password_hash = $1", hash_password(OLD))
    return key


async def change(admin: Admin, key: str, old: str = OLD, new: str = NEW) -> Answer:
    """A change of the password."""
    body = {"current_password": old, "new_password": new}
    return await admin.call("POST", "/user/password/change", body, key=key)


async def is_password(admin: Admin, password: str) -> bool:
    """Whether `u1` has that password."""
    [row] = await admin.sql("select password_hash from app_user where user_id = 'u1'")
    return verify_password(password, row["password_hash"])


async def session(admin: Admin, user_id: str = "u1") -> dict[str, Any]:
    """A browser session's key, and its row."""
    key = await admin.generate(user_id=user_id, team_id="litellm-dashboard")
    await admin.sql(
        "insert into ui_session (session_id, user_id, user_role, login_method, expires_at) "
        "values ($1, $2, 'internal_user', 'password', now() + interval '1 day')",
        key["token"],
        user_id,
    )
    return key


async def live_sessions(admin: Admin) -> set[str]:
    """The ids of sessions that are not revoked, each of which still has its key."""
    rows = await admin.sql(
        "select session_id from ui_session join virtual_key on token = session_id "
        "where revoked_at is null"
    )
    return {row["session_id"] for row in rows}


@pytest.mark.parametrize("role", ["internal_user", "internal_user_viewer", "proxy_admin_viewer"])
async def test_change(admin: Admin, role: str) -> None:
    """Whoever knows the old password sets the new one; it is in no answer and no log."""
    key = await user_with_password(admin, role)
    status, body = await change(admin, key)
    assert (status, sorted(body), body["user_id"]) == (200, ["message", "user_id"], "u1")
    assert await is_password(admin, NEW)
    [entry] = await audit_of(admin, "LiteLLM_UserTable")
    assert (entry["action"], entry["object_id"]) == ("updated", "u1")
    assert entry["updated_values"] == {"password": "[redacted]"}
    rows = await admin.sql("select t::text as row from audit_log t")
    assert not [row for row in rows if OLD in row["row"] or NEW in row["row"]]


async def test_wrong_password(admin: Admin) -> None:
    """A wrong current password is 401 and changes nothing."""
    key = await user_with_password(admin)
    error_of(await change(admin, key, old="not it"), 401, "auth_error", "current_password")
    assert await is_password(admin, OLD)


async def test_who_has_no_password(admin: Admin) -> None:
    """A user without one, a key without a user and the master key are told how to get one."""
    plain = await user_key(admin, "internal_user", "u2")
    nobody = (await admin.generate())["key"]
    for key in (plain, nobody):
        error_of(await change(admin, key), 400, "invalid_request_error")
    body = {"current_password": OLD, "new_password": NEW}
    answer = await admin.call("POST", "/user/password/change", body)
    error_of(answer, 400, "invalid_request_error")


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, ["current_password", "new_password"]),
        ({"current_password": OLD}, ["new_password"]),
        ({"current_password": 1, "new_password": []}, ["current_password", "new_password"]),
    ],
)
async def test_bad_bodies(admin: Admin, body: dict[str, Any], wrong: list[str]) -> None:
    """What is missing or no text is a 422 that names it."""
    key = await user_with_password(admin)
    answer = await admin.call("POST", "/user/password/change", body, key=key)
    assert [where for _, where in issues_of(answer)] == [["body", name] for name in wrong]


async def test_bad_lengths(admin: Admin) -> None:
    """Too short and too long passwords are 400; nothing is hashed for them."""
    key = await user_with_password(admin)
    for new in ("", "short", "x" * 1025):
        error_of(await change(admin, key, new=new), 400, "invalid_request_error", "new_password")
    answer = await change(admin, key, old="x" * 1025)
    error_of(answer, 400, "invalid_request_error", "current_password")
    assert (await change(admin, key, new="пароль-鍵-🔑"))[0] == 200


async def test_guesses_are_limited(start: StartAdmin) -> None:
    """Guesses at one user's password wait after a few, many at once too; others do not."""
    admin = await start(password_attempts=Attempts(4, 60.0))
    key = await user_with_password(admin)
    other = await user_key(admin, "internal_user", "u2")
    answers = await asyncio.gather(*(change(admin, key, old=f"guess {n}") for n in range(10)))
    assert sorted(status for status, _ in answers) == [401] * 4 + [429] * 6
    error_of(await change(admin, key), 429, "throttling_error")
    assert await is_password(admin, OLD)
    await admin.sql(
        "update app_user set password_hash = $1 where user_id = 'u2'", hash_password(OLD)
    )
    assert (await change(admin, other))[0] == 200


async def test_changes_at_once(admin: Admin) -> None:
    """Of several changes from one old password exactly one wins."""
    key = await user_with_password(admin)
    news = [f"new password {number}" for number in range(4)]
    answers = await asyncio.gather(*(change(admin, key, new=each) for each in news))
    statuses = [status for status, _ in answers]
    assert sorted(statuses) == [200, 401, 401, 401]
    assert await is_password(admin, news[statuses.index(200)])


async def test_a_new_password_ends_other_sessions(admin: Admin) -> None:
    """The session that changes it goes on; the user's others end, and nobody else's."""
    await user_with_password(admin)
    await user_key(admin, "internal_user", "u2")
    own, other, foreign = await session(admin), await session(admin), await session(admin, "u2")
    assert (await change(admin, own["key"]))[0] == 200
    assert await live_sessions(admin) == {own["token"], foreign["token"]}
    error_of(
        await admin.call("GET", "/user/info", key=other["key"]),
        401,
        "token_not_found_in_db",
        "key",
    )
    _, made = await admin.call("POST", "/invitation/new", {"user_id": "u1"})
    body = {"invitation_link": made["id"], "user_id": "u1", "password": OLD}
    assert (await admin.call("POST", "/onboarding/claim_token", body, key=None))[0] == 200
    assert await live_sessions(admin) == {foreign["token"]}


async def test_logout(admin: Admin) -> None:
    """A session's key ends its session, once; other keys of the user stay."""
    key = await user_key(admin, "proxy_admin_viewer", "u1")
    one, two = await session(admin), await session(admin)
    status, body = await admin.call("POST", "/session/logout", key=one["key"])
    assert (status, list(body)) == (200, ["message"])
    assert await live_sessions(admin) == {two["token"]}
    again = await admin.call("POST", "/session/logout", key=one["key"])
    error_of(again, 401, "token_not_found_in_db", "key")
    assert (await admin.call("GET", "/user/info", key=key))[0] == 200
    error_of(await admin.call("POST", "/session/logout", key=key), 400, "invalid_request_error")
    error_of(await admin.call("POST", "/session/logout"), 400, "invalid_request_error")
    entry = (await audit_of(admin, "LiteLLM_VerificationToken"))[-1]
    assert (entry["action"], entry["object_id"]) == ("deleted", one["token"])


async def test_open_doors_are_few(admin: Admin) -> None:
    """Without a key these routes are 401."""
    for path in ("/user/password/change", "/session/logout", "/invitation/new"):
        error_of(await admin.call("POST", path, {}, key=None), 401, "auth_error")
