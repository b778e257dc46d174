"""Who may do what with which key: users, team members and admins, organization admins, viewers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from attrs import frozen

from services.admin.api.key_policy import KeyRules, MakerRule
from tests.support.admin_api import (
    Admin,
    Answer,
    StartAdmin,
    admins,
    error_of,
)

DENIED = "team_member_permission_error"


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


@frozen
class House:
    """An admin with users, of whom each has a key: `core` is a team in the organization `acme`."""

    admin: Admin
    keys: dict[str, str]

    async def by(self, who: str, path: str, body: Any = None, **more: Any) -> Answer:
        """A POST by a user's key."""
        return await self.admin.call("POST", path, body or {}, key=self.keys[who], **more)

    async def get(self, who: str, path: str, **params: str) -> Answer:
        """A GET by a user's key."""
        return await self.admin.call("GET", path, params=params, key=self.keys[who])

    async def permit(self, *routes: str) -> None:
        """Sets what members of `core` may do."""
        await self.admin.sql(
            "update team set team_member_permissions = $1 where team_id = 'core'", list(routes)
        )


PEOPLE = {
    "viewer": "proxy_admin_viewer",
    "reader": "internal_user_viewer",
    "ann": "internal_user",
    "bob": "internal_user",
    "lead": "internal_user",
    "boss": "internal_user",
    "eve": "internal_user",
    "root": "proxy_admin",
}

FURNITURE = """
with people as (
    insert into app_user (user_id, user_role) select * from unnest($1::text[], $2::text[])
), organizations as (
    insert into organization (organization_id, organization_alias) values ('acme', 'a')
), teams as (
    insert into team (team_id, organization_id) values ('core', 'acme'), ('other', null)
), members as (
    insert into team_member (team_id, user_id, role)
    values ('core', 'ann', 'user'), ('core', 'bob', 'user'), ('core', 'lead', 'admin')
)
insert into organization_member (organization_id, user_id, user_role)
values ('acme', 'boss', 'org_admin'), ('acme', 'ann', 'internal_user')
"""


async def furnish(admin: Admin) -> House:
    """`ann` and `bob` are members of `core`, `lead` is its admin, `boss` admin of `acme`; `eve` is
    in nothing."""
    await admin.sql(FURNITURE, list(PEOPLE), list(PEOPLE.values()))
    made = await asyncio.gather(*(admin.generate(user_id=user) for user in PEOPLE))
    return House(admin, {body["user_id"]: body["key"] for body in made})


@pytest.fixture
async def house(start: StartAdmin) -> House:
    """The furnished house with default rules."""
    return await furnish(await start())


async def test_a_user_makes_keys_for_itself(house: House) -> None:
    """Its own id is the default; somebody else's, or an unknown team, is refused."""
    status, made = await house.by("ann", "/key/generate", {"key_alias": "mine"})
    assert (status, made["user_id"], made["created_by"]) == (200, "ann", "ann")
    other = await house.by("ann", "/key/generate", {"user_id": "bob"})
    error_of(other, 403, "auth_error", "team_id")
    unknown = await house.by("ann", "/key/generate", {"team_id": "none"})
    error_of(unknown, 400, "invalid_request_error", "team_id")
    foreign = await house.by("eve", "/key/generate", {"organization_id": "acme"})
    error_of(foreign, 403, "auth_error", "organization_id")
    assert (await house.by("ann", "/key/generate", {"organization_id": "acme"}))[0] == 200


async def test_a_user_and_its_own_keys(house: House) -> None:
    """Update, rotate and delete are the owner's; block and a fresh budget are not."""
    key = (await house.by("ann", "/key/generate"))[1]["key"]
    status, body = await house.by("ann", "/key/update", {"key": key, "rpm_limit": 3})
    assert (status, body["rpm_limit"], body["updated_by"]) == (200, 3, "ann")
    error_of(await house.by("ann", "/key/block", {"key": key}), 403, "auth_error", "key")
    error_of(await house.by("bob", "/key/update", {"key": key}), 403, "auth_error", "key")
    error_of(await house.by("bob", "/key/delete", {"keys": [key]}), 403, "auth_error", "keys")
    error_of(await house.by("bob", "/key/regenerate", {"key": key}), 403, "auth_error", "key")
    reset = await house.by("ann", f"/key/{key}/reset_spend", {"reset_to": 0})
    assert (reset[0], list(reset[1]["detail"])) == (403, ["error"])
    status, rotated = await house.by("ann", "/key/regenerate", {"key": key})
    assert status == 200
    assert await house.by("ann", "/key/delete", {"keys": [rotated["key"]]}) == (
        200,
        {"deleted_keys": [rotated["key"]]},
    )


async def test_owners_do_not_undo_what_admins_did(house: House) -> None:
    """A blocked key stays blocked and its spend counted, whatever its owner sends."""
    made = (await house.by("ann", "/key/generate", {"blocked": True}))[1]
    for change, param in (
        ({"blocked": False}, "blocked"),
        ({"spend": 0}, "spend"),
        ({"user_id": "bob"}, "user_id"),
        ({"user_id": None}, "user_id"),
        ({"team_id": "core"}, None),
        ({"organization_id": "acme"}, "organization_id"),
    ):
        answer = await house.by("ann", "/key/update", {"key": made["key"], **change})
        assert answer[0] in {401, 403}, (change, answer)
        assert answer[1]["error"]["param"] == param, (change, answer)
    status, rotated = await house.by("ann", "/key/regenerate", {"key": made["key"]})
    assert (status, rotated["blocked"]) == (200, True)
    again = await house.by("ann", "/key/regenerate", {"key": rotated["key"], "blocked": False})
    error_of(again, 403, "auth_error", "blocked")


async def test_viewers_write_nothing(house: House) -> None:
    """An admin viewer is 403, a user that may only look 401, about its own keys too."""
    paths = ("generate", "update", "delete", "regenerate", "block", "service-account/generate")
    for who, status, path in (
        *(("viewer", 403, path) for path in paths),
        *(("reader", 401, path) for path in paths),
    ):
        key = house.keys[who]
        answer = await house.by(who, f"/key/{path}", {"key": key, "keys": [key]})
        error_of(answer, status, "auth_error")


async def test_viewers_read(house: House) -> None:
    """An admin viewer sees all keys, a user that may only look its own."""
    key = house.keys["ann"]
    assert (await house.get("viewer", "/key/info", key=key))[0] == 200
    assert (await house.get("viewer", "/key/list"))[1]["total_count"] == len(PEOPLE)
    assert (await house.get("reader", "/key/list"))[1]["total_count"] == 1
    assert (await house.get("reader", "/key/info"))[0] == 200
    error_of(await house.get("reader", "/key/info", key=key), 403, "auth_error", "key")
    status, body = await house.by("viewer", "/v2/key/info", {"keys": [key]})
    assert (status, len(body["info"])) == (200, 1)


async def test_members_need_the_teams_permission(house: House) -> None:
    """Without it 401 of its own type, with it the call; the type is the same for a key that the
    member owns, which is the team's."""
    owned = await house.admin.generate(team_id="core", user_id="ann")
    teams = await house.admin.generate(team_id="core")
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("/key/generate", "/key/generate", {"team_id": "core"}),
        ("/key/update", "/key/update", {"key": teams["key"], "rpm_limit": 1}),
        ("/key/update", "/key/update", {"key": owned["key"], "rpm_limit": 1}),
        ("/key/block", "/key/block", {"key": teams["key"]}),
        ("/key/unblock", "/key/unblock", {"key": teams["key"]}),
        (
            "/key/regenerate",
            "/key/regenerate",
            {"key": owned["key"], "new_key": owned["key"] + "1"},
        ),
        ("/key/service-account/generate", "/key/service-account/generate", {"team_id": "core"}),
    ]
    for permission, path, body in calls:
        await house.permit()
        status, refused = await house.by("ann", path, body)
        error = refused.get("error") or refused["detail"]["error"]
        assert status == 401, (path, refused)
        assert "permit" in (error if isinstance(error, str) else error["message"])
        if isinstance(error, dict):
            assert error["type"] == DENIED
        await house.permit(permission)
        assert (await house.by("ann", path, body))[0] == 200, path
    await house.permit("/key/generate")
    outsider = await house.by("eve", "/key/generate", {"team_id": "core"})
    error_of(outsider, 403, "auth_error", "key")
    status, made = await house.by("ann", "/key/generate", {"team_id": "core"})
    assert (status, made["user_id"], made["team_id"]) == (200, "ann", "core")
    given = await house.by("ann", "/key/generate", {"team_id": "core", "user_id": "bob"})
    error_of(given, 403, "auth_error", "user_id")
    account = {"team_id": "core", "metadata": {"service_account_id": "x"}}
    refused = (await house.by("ann", "/key/generate", account))[1]
    assert refused["error"]["param"] == "metadata.service_account_id"


async def test_members_see_the_teams_keys(house: House) -> None:
    """Looking at a key of the team needs no permission; listing them does."""
    teams = await house.admin.generate(team_id="core")
    assert (await house.get("bob", "/key/info", key=teams["key"]))[0] == 200
    error_of(await house.get("eve", "/key/info", key=teams["key"]), 403, "auth_error", "key")
    _, seen = await house.get("bob", "/key/list", team_id="core")
    assert seen["keys"] == []
    error_of(await house.get("eve", "/key/list", team_id="core"), 403, "auth_error")
    await house.permit("/key/list")
    _, seen = await house.get("bob", "/key/list", team_id="core")
    assert seen["keys"] == [teams["token"]]
    _, seen = await house.get("bob", "/key/list", include_team_keys="true")
    assert len(seen["keys"]) == 2
    status, body = await house.by(
        "eve", "/v2/key/info", {"keys": [teams["key"], house.keys["eve"]]}
    )
    assert (status, [row["user_id"] for row in body["info"]]) == (200, ["eve"])
    assert body["key"] == [teams["key"], house.keys["eve"]]


@pytest.mark.parametrize("who", ["lead", "boss", "root"])
async def test_admins_of_team_and_organization(house: House, who: str) -> None:
    """Both do everything with the team's keys, for its members too."""
    status, made = await house.by(who, "/key/generate", {"team_id": "core", "user_id": "bob"})
    assert (status, made["user_id"]) == (200, "bob")
    key = made["key"]
    for path, body in (
        ("/key/update", {"key": key, "max_budget": 5, "user_id": "ann"}),
        ("/key/block", {"key": key}),
        ("/key/unblock", {"key": key}),
        (f"/key/{key}/reset_spend", {"reset_to": 0}),
        (
            "/team/key/bulk_update",
            {"team_id": "core", "key_ids": [key], "update_fields": {"tpm_limit": 9}},
        ),
    ):
        status, answer = await house.by(who, path, body)
        assert status == 200, (path, answer)
    listed = (await house.get(who, "/key/list", team_id="core"))[1]["keys"]
    assert listed == [made["token"]]
    assert (await house.get(who, "/key/info", key=key))[0] == 200
    status, made = await house.by(who, "/key/service-account/generate", {"team_id": "core"})
    assert (status, made["user_id"]) == (200, None)
    assert (await house.by(who, "/key/delete", {"keys": [key]}))[0] == 200


@pytest.mark.parametrize("who", ["lead", "boss"])
async def test_admins_elsewhere_are_strangers(house: House, who: str) -> None:
    """A team's admin has no say in other teams, nor over its members' own keys."""
    foreign = await house.admin.generate(team_id="other")
    personal = house.keys["ann"]
    for key in (foreign["key"], personal):
        error_of(await house.by(who, "/key/update", {"key": key}), 403, "auth_error", "key")
        error_of(await house.by(who, "/key/block", {"key": key}), 403, "auth_error", "key")
        error_of(await house.get(who, "/key/info", key=key), 403, "auth_error", "key")
    error_of(await house.by(who, "/key/generate", {"team_id": "other"}), 403, "auth_error", "key")
    stranger = {"team_id": "core", "user_id": "eve"}
    error_of(await house.by(who, "/key/generate", stranger), 403, "auth_error", "user_id")
    error_of(await house.get(who, "/key/list", team_id="other"), 403, "auth_error")
    error_of(await house.get(who, "/key/list", user_id="ann"), 403, "auth_error")
    _, seen = await house.get(who, "/key/list", user_id="ann", team_id="core")
    assert seen["total_count"] == 0


async def test_delete_spares_all_for_one_foreign_key(house: House) -> None:
    """403 and nothing is gone; an unknown one is 404 for all but proxy admins."""
    own = (await house.by("ann", "/key/generate"))[1]["key"]
    both = {"keys": [own, house.keys["bob"]]}
    error_of(await house.by("ann", "/key/delete", both), 403, "auth_error", "keys")
    unknown = {"keys": [own, "sk-nobody"]}
    error_of(await house.by("ann", "/key/delete", unknown), 404, "invalid_request_error", "keys")
    assert (await house.admin.info(own))["status"] == "active"
    assert (await house.by("root", "/key/delete", unknown))[0] == 200
    teams = await house.admin.generate(team_id="core", user_id="ann")
    assert (await house.by("ann", "/key/delete", {"keys": [teams["key"]]}))[0] == 200


async def test_organization_filter(house: House) -> None:
    """An organization's admin lists its keys; a member only its own; others not at all."""
    made = await house.admin.generate(organization_id="acme", user_id="eve")
    _, seen = await house.get("boss", "/key/list", organization_id="acme")
    assert seen["keys"] == [made["token"]]
    _, seen = await house.get("ann", "/key/list", organization_id="acme")
    assert seen["keys"] == []
    error_of(await house.get("bob", "/key/list", organization_id="acme"), 403, "auth_error")


async def test_session_keys_are_hidden(house: House) -> None:
    """A browser session's key is in no list, not even its own user's."""
    made = await house.admin.generate(user_id="ann", team_id="litellm-dashboard")
    for who in ("ann", "root"):
        _, seen = await house.get(who, "/key/list", size="100")
        assert made["token"] not in seen["keys"]


async def test_aliases_are_scoped(house: House) -> None:
    """Pages of aliases in order, of what the caller may list."""
    for n in range(3):
        await house.admin.generate(key_alias=f"team-{n}", team_id="core")
    await house.admin.generate(key_alias="Own", user_id="ann")
    status, body = await house.get("root", "/key/aliases", size="2", page="2")
    assert (status, body["aliases"]) == (200, ["team-1", "team-2"])
    del body["aliases"]
    assert body == {"total_count": 4, "current_page": 2, "total_pages": 2, "size": 2}
    assert (await house.get("root", "/key/aliases", search="OW"))[1]["aliases"] == ["Own"]
    assert (await house.get("ann", "/key/aliases"))[1]["aliases"] == ["Own"]
    assert len((await house.get("lead", "/key/aliases", team_id="core"))[1]["aliases"]) == 3
    error_of(await house.get("eve", "/key/aliases", team_id="core"), 403, "auth_error")


RESERVED = (
    ({"permissions": {"get_spend_routes": True}}, "permissions"),
    ({"allowed_passthrough_routes": ["/x"]}, "allowed_passthrough_routes"),
    ({"denied_passthrough_routes": ["/x"]}, "denied_passthrough_routes"),
    ({"disable_global_guardrails": True}, "disable_global_guardrails"),
    ({"metadata": {"disable_global_guardrails": True}}, "disable_global_guardrails"),
    ({"metadata": {"allow_client_mock_response": True}}, "allow_client_mock_response"),
    ({"end_user_budget_id": "b"}, "end_user_budget_id"),
    ({"budget_id": "b"}, "budget_id"),
    ({"throttle_on_budget_exceeded": True}, "throttle_on_budget_exceeded"),
    ({"allowed_routes": ["management_routes"]}, "allowed_routes"),
    ({"allowed_routes": ["/v1/chat/completions", "/budget/new"]}, "allowed_routes"),
    ({"allowed_routes": ["*"]}, "allowed_routes"),
    ({"allowed_routes": ["/"]}, "allowed_routes"),
    ({"key_type": "management"}, "allowed_routes"),
    ({"access_group_ids": ["g"]}, "access_group_ids"),
)  # fmt: skip


async def test_what_only_proxy_admins_say(house: House) -> None:
    """403 on making and on changing; a proxy admin may, and then it stays through edits."""
    await house.admin.sql("insert into budget (budget_id) values ('b')")
    for fields, param in RESERVED:
        await check_reserved(house, fields, param)


async def check_reserved(house: House, fields: dict[str, Any], param: str) -> None:
    """The three refusals, and what a proxy admin sets."""
    error_of(await house.by("ann", "/key/generate", fields), 403, "auth_error", param)
    key = (await house.by("ann", "/key/generate"))[1]["key"]
    for path in ("/key/update", "/key/regenerate"):
        error_of(await house.by("ann", path, {"key": key, **fields}), 403, "auth_error", param)
    assert (await house.by("root", "/key/update", {"key": key, **fields}))[0] == 200
    before = await house.admin.info(key)
    mine = {"key": key, "metadata": {"mine": 1}, "rpm_limit": 2}
    assert (await house.by("ann", "/key/update", mine))[0] == 200
    after = await house.admin.info(key)
    assert after["metadata"].pop("mine") == 1
    for name in ("permissions", "allowed_routes", "end_user_budget_id", "metadata"):
        assert after[name] == before[name], name


async def test_harmless_routes_are_the_users_to_choose(house: House) -> None:
    """A user may narrow its key to the use of models, or to looking."""
    for routes in (["llm_api_routes"], ["/v1/chat/completions"], ["info_routes"]):
        status, made = await house.by("ann", "/key/generate", {"allowed_routes": routes})
        assert (status, made["allowed_routes"]) == (200, routes)


async def test_no_key_has_more_than_its_user(house: House) -> None:
    """Amounts, rates and models above the user's own are 400, naming the field."""
    await house.admin.sql(
        "update app_user set max_budget = 10, rpm_limit = 5, tpm_limit = 50, tpd_limit = 7, "
        "max_parallel_requests = 2, models = '{gpt-4o,openai/*}' where user_id = 'ann'"
    )
    key = (await house.by("ann", "/key/generate"))[1]["key"]
    for fields, param in (
        ({"max_budget": 10.01}, "max_budget"),
        ({"rpm_limit": 6}, "rpm_limit"),
        ({"tpm_limit": 51}, "tpm_limit"),
        ({"tpd_limit": 8}, "tpd_limit"),
        ({"max_parallel_requests": 3}, "max_parallel_requests"),
        ({"models": ["gpt-4o", "other"]}, "models"),
        ({"models": ["*"]}, "models"),
        ({"models": ["all-proxy-models"]}, "models"),
        ({"models": ["all-team-models"]}, "models"),
        ({"budget_limits": [{"budget_duration": "1d", "max_budget": 11}]}, "budget_limits"),
    ):
        answer = await house.by("ann", "/key/generate", fields)
        error_of(answer, 400, "invalid_request_error", param)
        answer = await house.by("ann", "/key/update", {"key": key, **fields})
        error_of(answer, 400, "invalid_request_error", param)
    extra = {"temp_budget_increase": 6, "temp_budget_expiry": "2030-01-01", "max_budget": 5}
    answer = await house.by("ann", "/key/update", {"key": key, **extra})
    error_of(answer, 400, "invalid_request_error", "temp_budget_increase")
    most = {"max_budget": 10, "rpm_limit": 5, "models": ["gpt-4o", "openai/o1"]}
    assert (await house.by("ann", "/key/generate", most))[0] == 200
    assert (await house.by("ann", "/key/update", {"key": key, **most}))[0] == 200


async def test_no_key_has_more_than_its_team(house: House) -> None:
    """A team's admin is bound by the team's means, not by its own; a member by both."""
    await house.admin.sql(
        "update team set max_budget = 100, models = '{gpt-4o}' where team_id = 'core'"
    )
    await house.admin.sql("update app_user set max_budget = 10, models = '{x}'")
    await house.permit("/key/generate")
    team = {"team_id": "core"}
    status, _ = await house.by("lead", "/key/generate", {**team, "max_budget": 100})
    assert status == 200
    above = await house.by("lead", "/key/generate", {**team, "max_budget": 101})
    error_of(above, 400, "invalid_request_error", "max_budget")
    above = await house.by("ann", "/key/generate", {**team, "max_budget": 11})
    error_of(above, 400, "invalid_request_error", "max_budget")
    models = await house.by("ann", "/key/generate", {**team, "models": ["x"]})
    error_of(models, 400, "invalid_request_error", "models")
    for named in (["gpt-4o"], ["all-team-models"], []):
        status, _ = await house.by("ann", "/key/generate", {**team, "models": named})
        assert status == 200


async def test_object_permissions_of_the_team(house: House) -> None:
    """Where the team is limited to some, its keys get no others."""
    await house.admin.sql(
        "insert into object_permission (object_permission_id, vector_stores) values ('p', '{a}')"
    )
    await house.admin.sql("update team set object_permission_id = 'p' where team_id = 'core'")
    for stores, status in ((["a"], 200), (["a", "b"], 403)):
        body = {"team_id": "core", "object_permission": {"vector_stores": stores}}
        assert (await house.by("lead", "/key/generate", body))[0] == status


async def test_service_accounts(house: House) -> None:
    """A team's key of nobody's, which makes and changes keys of its team within its own means."""
    path = "/key/service-account/generate"
    for body, name in (({}, "team_id"), ({"team_id": "none"}, "team_id")):
        status, refused = await house.by("root", path, body)
        assert (status, list(refused["detail"])) == (400, ["error"])
        assert name in refused["detail"]["error"]
    body = {"team_id": "core", "key_alias": "robot", "user_id": "ann", "max_budget": 5}
    status, account = await house.by("root", path, body)
    assert (status, account["user_id"]) == (200, None)
    assert account["metadata"]["service_account_id"] == "robot"
    robot = House(house.admin, {"robot": account["key"]})
    status, made = await robot.by("robot", "/key/generate", {"team_id": "core", "max_budget": 5})
    assert (status, made["user_id"], made["team_id"]) == (200, None, "core")
    change = {"key": made["key"], "max_budget": 4}
    assert (await robot.by("robot", "/key/update", change))[0] == 200
    above = await robot.by("robot", "/key/update", {"key": account["key"], "max_budget": 50})
    error_of(above, 400, "invalid_request_error", "max_budget")
    for path, body in (
        ("/key/generate", {"team_id": "other"}),
        ("/key/generate", {}),
        ("/key/update", {"key": house.keys["ann"]}),
        ("/key/delete", {"keys": [made["key"]]}),
        ("/key/regenerate", {"key": account["key"]}),
        ("/key/service-account/generate", {"team_id": "core"}),
    ):
        assert (await robot.by("robot", path, body))[0] == 403, path
    gone = {"key": account["key"], "metadata": {"service_account_id": "other"}}
    answer = await house.by("root", "/key/update", gone)
    error_of(answer, 400, "invalid_request_error", "metadata.service_account_id")
    status, kept = await house.by("root", "/key/update", {"key": account["key"], "metadata": {}})
    assert kept["metadata"] == {"service_account_id": "robot"}


async def test_makers_are_restricted(start: StartAdmin) -> None:
    """`key_generation_settings`: roles that may make keys, and what they must say."""
    rules = KeyRules(
        personal_keys=MakerRule(frozenset({"proxy_admin"})),
        team_keys=MakerRule(frozenset({"admin"}), ("tags",)),
    )
    house = await furnish(await start(rules))
    await house.permit("/key/generate")
    error_of(await house.by("ann", "/key/generate"), 400, "invalid_request_error")
    member = await house.by("ann", "/key/generate", {"team_id": "core", "tags": ["t"]})
    error_of(member, 400, "invalid_request_error")
    team = {"team_id": "core"}
    error_of(await house.by("lead", "/key/generate", team), 400, "invalid_request_error", "tags")
    assert (await house.by("lead", "/key/generate", {**team, "tags": ["t"]}))[0] == 200
    assert (await house.by("root", "/key/generate"))[0] == 200


async def test_health_of_a_key(house: House) -> None:
    """A key without callbacks is healthy; one that counts on them hears that none is called."""
    healthy = (200, {"key": "healthy", "logging_callbacks": None})
    assert await house.by("reader", "/key/health") == healthy
    logging = [{"callback_name": "langfuse", "callback_type": "success", "callback_vars": {}}]
    made = await house.admin.generate(logging=logging)
    status, body = await house.admin.call("POST", "/key/health", {}, key=made["key"])
    assert (status, body["key"]) == (200, "unhealthy")
    assert body["logging_callbacks"]["callbacks"] == ["langfuse"]
    assert body["logging_callbacks"]["status"] == "unhealthy"
