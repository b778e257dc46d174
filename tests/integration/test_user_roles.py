"""Who may do what about users: every role, in its own matters and in others'."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.admin_api import MASTER, Admin, Answer, StartAdmin, admins, error_of
from tests.support.management import detail_of, user_key

ADMINS = ("proxy_admin", "proxy_admin_viewer")
ROLES = (*ADMINS, "internal_user", "internal_user_viewer")


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


@pytest.fixture
async def admin(start: StartAdmin) -> Admin:
    """An admin with teams `t1` (of `o1`) and `t2` (of `o2`), and a user in each, with a key."""
    admin = await start()
    await admin.sql(
        "insert into organization (organization_id, organization_alias) values "
        "('o1', 'a'), ('o2', 'b')"
    )
    await admin.sql("insert into team (team_id, organization_id) values ('t1', 'o1'), ('t2', 'o2')")
    for number in ("1", "2"):
        body = {
            "user_id": f"u{number}",
            "user_email": f"u{number}@x.org",
            "teams": [f"t{number}"],
            "organizations": [f"o{number}"],
        }
        assert (await admin.call("POST", "/user/new", body))[0] == 200
    return admin


async def post(admin: Admin, path: str, body: Any, key: str) -> Answer:
    """A write by a key."""
    return await admin.call("POST", path, body, key=key)


async def get(admin: Admin, path: str, key: str, **query: Any) -> Answer:
    """A read by a key."""
    return await admin.call("GET", path, params=query, key=key)


async def counts(admin: Admin) -> list[int]:
    """How many users, keys and memberships there are."""
    tables = ("app_user", "virtual_key", "team_member", "organization_member", "budget")
    return [len(await admin.sql(f"select from {table}")) for table in tables]


@pytest.mark.parametrize("role", ROLES[1:])
async def test_writes_are_for_admins(admin: Admin, role: str) -> None:
    """Without a say in an organization nobody but a proxy admin makes, changes or deletes users;
    a viewer hears 403, the others 401 from the gate."""
    key = await user_key(admin, role)
    before = await counts(admin)
    for path, body in (
        ("/user/new", {"organizations": ["o1"]}),
        ("/user/bulk_update", {"users": [{"user_id": "u1", "max_budget": 9}]}),
        ("/user/delete", {"user_ids": ["u1"]}),
        ("/user/delete", {"user_ids": [role]}),
    ):
        status = 403 if role == "proxy_admin_viewer" else 401
        error_of(await post(admin, path, body, key), status, "auth_error")
    assert await counts(admin) == before


async def test_proxy_admins_do_everything(admin: Admin) -> None:
    """A user who is a proxy admin may do what the master key may."""
    key = await user_key(admin, "proxy_admin")
    assert (await post(admin, "/user/new", {"user_role": "proxy_admin"}, key))[0] == 200
    assert (await post(admin, "/user/update", {"user_id": "u1", "max_budget": 9}, key))[0] == 200
    body = {"users": [{"user_id": "u1", "rpm_limit": 1}]}
    assert (await post(admin, "/user/bulk_update", body, key))[1]["successful_updates"] == 1
    assert await post(admin, "/user/delete", {"user_ids": ["u1"]}, key) == (200, 1)
    [row] = await admin.sql("select distinct changed_by from audit_log order by 1 desc limit 1")
    assert row["changed_by"] == "proxy_admin"


@pytest.mark.parametrize("role", ROLES[2:])
async def test_own_fields(admin: Admin, role: str) -> None:
    """The gate is for proxy admins; a key that names the route may change its user's own name and
    address, and nothing that would raise what it may."""
    plain = await user_key(admin, role)
    answer = await post(admin, "/user/update", {"user_id": role, "user_alias": "me"}, plain)
    error_of(answer, 401, "auth_error")
    key = (await admin.generate(user_id=role, allowed_routes=["/user/update"]))["key"]
    body = {"user_id": role, "user_alias": "me", "user_email": "me@x.org"}
    status, answered = await post(admin, "/user/update", body, key)
    assert (status, answered["data"]["user_alias"]) == (200, "me")
    body = {"user_email": "ME@x.org", "user_alias": "I"}
    assert (await post(admin, "/user/update", body, key))[0] == 200
    for name, value in (
        ("user_role", "proxy_admin"),
        ("max_budget", 999),
        ("max_budget", None),
        ("spend", 0),
        ("models", ["*"]),
        ("rpm_limit", 10**6),
        ("metadata", {"model_rpm_limit": {"m": 9}}),
        ("model_rpm_limit", {"m": 9}),
        ("permissions", {"get_spend_routes": True}),
        ("object_permission", {"agents": ["a"]}),
        ("sso_user_id", "other"),
        ("budget_limits", None),
    ):
        answer = await post(admin, "/user/update", {"user_id": role, name: value}, key)
        error_of(answer, 403, "auth_error", name)
    for other in ({"user_id": "u1"}, {"user_id": "nobody"}, {"user_email": "u1@x.org"}):
        answer = await post(admin, "/user/update", {**other, "user_alias": "x"}, key)
        error_of(answer, 403, "auth_error")
    error_of(await post(admin, "/user/update", {"user_email": "no@no.no"}, key), 403, "auth_error")


async def test_a_viewer_changes_its_own_address(admin: Admin) -> None:
    """A proxy admin viewer may set its address and nothing else, of nobody else."""
    key = await user_key(admin, "proxy_admin_viewer")
    body = {"user_id": "proxy_admin_viewer", "user_email": "v@x.org"}
    assert (await post(admin, "/user/update", body, key))[1]["data"]["user_email"] == "v@x.org"
    answer = await post(admin, "/user/update", {**body, "user_alias": "x"}, key)
    error_of(answer, 403, "auth_error", "user_alias")
    answer = await post(admin, "/user/update", {**body, "user_role": "proxy_admin"}, key)
    error_of(answer, 403, "auth_error", "user_role")
    answer = await post(admin, "/user/update", {"user_id": "u1", "user_email": "z@x.org"}, key)
    error_of(answer, 403, "auth_error")


@pytest.mark.parametrize("role", ROLES)
async def test_info_of_oneself_and_others(admin: Admin, role: str) -> None:
    """Everybody sees itself; of others only those who see everything."""
    key = await user_key(admin, role)
    status, body = await get(admin, "/user/info", key, user_id=role)
    assert (status, body["user_info"]["user_role"]) == (200, role)
    status, body = await get(admin, "/user/info", key)
    assert (status, body["user_id"]) == (200, role)
    assert len(body["keys"]) == (3 if role == "proxy_admin" else 1)
    assert (await get(admin, "/v2/user/info", key))[1]["user_id"] == role
    other, profile = [
        await get(admin, path, key, user_id="u1") for path in ("/user/info", "/v2/user/info")
    ]
    if role in ADMINS:
        assert (other[0], profile[0]) == (200, 200)
    else:
        error_of(other, 403, "auth_error")
        error_of(profile, 404, "not_found_error")
        answer = await get(admin, "/user/info", key, user_id="nobody")
        error_of(answer, 403, "auth_error")


async def test_a_key_without_a_user(admin: Admin) -> None:
    """A key that nobody owns has no user to tell of."""
    key = (await admin.generate(team_id="t1"))["key"]
    error_of(await get(admin, "/user/info", key), 404, "not_found_error")
    error_of(await get(admin, "/user/info", key, user_id="u1"), 403, "auth_error")


async def test_profiles_of_a_teams_members(admin: Admin) -> None:
    """A team's admin sees the profiles of its members, a member does not."""
    boss = await user_key(admin, "internal_user", "boss", team="t1")
    member = await user_key(admin, "internal_user", "member", team="t1", team_role="user")
    status, body = await get(admin, "/v2/user/info", boss, user_id="u1")
    assert (status, body["user_id"]) == (200, "u1")
    error_of(await get(admin, "/v2/user/info", boss, user_id="u2"), 404, "not_found_error")
    error_of(await get(admin, "/v2/user/info", member, user_id="u1"), 404, "not_found_error")


async def test_who_lists(admin: Admin) -> None:
    """Those who see everything list everybody, an organization's admin its members; others 403."""
    chief = await user_key(admin, "internal_user", "chief", organization="o1")
    plain = await user_key(
        admin, "internal_user", "plain", organization="o1", org_role="internal_user", team="t1"
    )
    for role in ADMINS:
        _, body = await get(admin, "/user/list", await user_key(admin, role))
        assert {"u1", "u2", "chief"} <= {user["user_id"] for user in body["users"]}
    status, body = await get(admin, "/user/list", chief)
    assert (status, {user["user_id"] for user in body["users"]}) == (200, {"u1", "chief", "plain"})
    status, body = await get(admin, "/user/list", chief, organization_ids="o1", search="u")
    assert [user["user_id"] for user in body["users"]] == ["u1"]
    _, body = await get(admin, "/user/list", chief, user_ids="u2")
    assert body["users"] == []
    detail_of(await get(admin, "/user/list", chief, organization_ids="o1,o2"), 403)
    for role in ROLES[2:]:
        detail_of(await get(admin, "/user/list", await user_key(admin, role)), 403)
    detail_of(await get(admin, "/user/list", plain), 403)


async def test_who_is_found(admin: Admin) -> None:
    """A search shows those the caller administers, and itself."""
    chief = await user_key(admin, "internal_user", "chief", organization="o1")
    boss = await user_key(admin, "internal_user", "boss", team="t2")
    alone = await user_key(admin, "internal_user", "alone")
    for key, wanted in ((chief, {"chief", "u1"}), (boss, {"boss", "u2"}), (alone, {"alone"})):
        status, body = await get(admin, "/user/filter/ui", key)
        assert (status, {user["user_id"] for user in body}) == (200, wanted)
    nobody = (await admin.generate())["key"]
    assert await get(admin, "/user/filter/ui", nobody) == (200, [])


@pytest.mark.parametrize("role", ROLES)
async def test_roles_are_for_all_and_seats_for_admins(admin: Admin, role: str) -> None:
    """Any key learns which roles there are."""
    key = await user_key(admin, role)
    assert (await get(admin, "/user/available_roles", key))[0] == 200
    answer = await get(admin, "/user/available_users", key)
    if role in ADMINS:
        assert answer[0] == 200
    else:
        error_of(answer, 401, "auth_error")


async def test_an_organizations_admin_makes_users(admin: Admin) -> None:
    """In its own organization, named, and the key counts for that organization."""
    chief = await user_key(admin, "internal_user", "chief", organization="o1")
    body = {"user_id": "new", "organizations": ["o1"], "teams": ["t1"], "max_budget": 1}
    status, made = await post(admin, "/user/new", body, chief)
    assert (status, made["teams"], made["max_budget"]) == (200, ["t1"], 1.0)
    assert made["organization_memberships"][0]["organization_id"] == "o1"
    key = await admin.info(made["key"])
    assert (key["organization_id"], key["user_id"], key["created_by"]) == ("o1", "new", "chief")
    assert (await post(admin, "/user/new", {"organization_id": "o1"}, chief))[0] == 200
    answer = await post(admin, "/user/new", {"user_id": "x"}, chief)
    error_of(answer, 401, "auth_error", "organizations")
    for orgs in (["o2"], ["o1", "o2"], ["none"]):
        answer = await post(admin, "/user/new", {"organizations": orgs}, chief)
        error_of(answer, 403, "auth_error", "organizations")
    member = await user_key(
        admin, "internal_user", "m", organization="o1", org_role="internal_user"
    )
    error_of(await post(admin, "/user/new", body, member), 401, "auth_error")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"user_role": "proxy_admin"}, "user_role"),
        ({"user_role": "proxy_admin_viewer"}, "user_role"),
        ({"teams": ["t2"]}, "teams"),
        ({"team_id": "t2"}, "teams"),
        ({"permissions": {"get_spend_routes": True}}, "permissions"),
        ({"allowed_routes": ["/key/generate"]}, "allowed_routes"),
        ({"key_type": "management"}, "key_type"),
        ({"key": "sk-of-my-own-choosing-01"}, "key"),
        ({"disable_global_guardrails": True}, "disable_global_guardrails"),
        ({"allowed_passthrough_routes": ["/x"]}, "allowed_passthrough_routes"),
        ({"metadata": {"allowed_passthrough_routes": ["/x"]}}, None),
        ({"metadata": {"service_account_id": "x"}}, None),
        ({"budget_id": "b"}, "budget_id"),
        ({"sso_user_id": "s"}, "sso_user_id"),
        ({"object_permission": {"agents": ["a"]}}, "object_permission"),
    ],
)
async def test_what_an_organizations_admin_cannot_give(
    admin: Admin, fields: dict[str, Any], param: str | None
) -> None:
    """Neither roles, nor foreign teams, nor what only proxy admins may say, inside metadata
    either; nothing stays behind."""
    chief = await user_key(admin, "internal_user", "chief", organization="o1")
    before = await counts(admin)
    answer = await post(admin, "/user/new", {"organizations": ["o1"], **fields}, chief)
    assert answer[0] == 403
    if param is not None:
        error_of(answer, 403, "auth_error", param)
    assert await counts(admin) == before


async def test_an_organizations_admin_gives_no_more_than_it_has(admin: Admin) -> None:
    """Its own limits fill what is open in a new user, and cap the rest."""
    chief = await user_key(admin, "internal_user", "chief", organization="o1")
    await admin.sql(
        "update app_user set max_budget = 10, rpm_limit = 5, models = '{m1,m2}' "
        "where user_id = 'chief'"
    )
    _, made = await post(admin, "/user/new", {"organizations": ["o1"]}, chief)
    assert (made["max_budget"], made["rpm_limit"], made["models"]) == (10.0, 5, ["m1", "m2"])
    for name, value in (("max_budget", 11), ("rpm_limit", 6), ("models", ["m3"])):
        answer = await post(admin, "/user/new", {"organizations": ["o1"], name: value}, chief)
        error_of(answer, 400, "invalid_request_error", name)


async def test_ids_that_others_name_are_taken(admin: Admin) -> None:
    """An organization's admin cannot become a user whom keys or teams name already."""
    chief = await user_key(admin, "internal_user", "chief", organization="o1")
    await admin.generate(user_id="ghost")
    await admin.sql("insert into team_member (team_id, user_id, role) values ('t2', 'g2', 'admin')")
    for user_id in ("ghost", "g2", "u1"):
        body = {"user_id": user_id, "organizations": ["o1"]}
        error_of(await post(admin, "/user/new", body, chief), 409, "invalid_request_error")
    assert (await post(admin, "/user/new", {"user_id": "ghost"}, MASTER))[0] == 200


async def test_an_organizations_admin_deletes_its_users(admin: Admin) -> None:
    """Only users all of whose organizations are its own, and no proxy admins; else nobody."""
    chief = await user_key(admin, "internal_user", "chief", organization="o1")
    await user_key(admin, "proxy_admin", "root", organization="o1")
    await user_key(admin, "internal_user", "both", organization="o1")
    await admin.sql(
        "insert into organization_member (organization_id, user_id) values ('o2', 'both')"
    )
    await user_key(admin, "internal_user", "none")
    for other in ("u2", "root", "both", "none", "nobody"):
        detail_of(await post(admin, "/user/delete", {"user_ids": ["u1", other]}, chief), 403)
    assert await post(admin, "/user/delete", {"user_ids": ["u1"]}, chief) == (200, 1)


async def test_allowed_routes(admin: Admin) -> None:
    """A key for other routes is refused with 403 and says so; groups open what they hold."""
    await user_key(admin, "proxy_admin", "root")
    llm = (await admin.generate(user_id="root", key_type="llm_api"))["key"]
    status, body = await post(admin, "/user/new", {}, llm)
    assert (status, list(body)) == (403, ["detail"])
    manager = (await admin.generate(user_id="root", key_type="management"))["key"]
    assert (await post(admin, "/user/new", {}, manager))[0] == 200
    reader = (await admin.generate(user_id="root", key_type="read_only"))["key"]
    assert (await get(admin, "/v2/user/info", reader))[0] == 200
    assert (await get(admin, "/user/list", reader))[0] == 403
