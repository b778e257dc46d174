"""Ways in which callers could have become somebody else, each closed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.admin.api.team_rules import TeamRules
from tests.support.admin_api import MASTER, StartAdmin, admins, error_of
from tests.support.team_kit import TeamKit, detail_of

LLM_ONLY = ["llm_api_routes"]


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


@pytest.fixture
async def kit(start: StartAdmin) -> TeamKit:
    """Team `t`, made by the master key, with the admin `lead` and members `bob` and `root`, a
    proxy admin; organization `o` with the admin `chief`; `eve` is in nothing."""
    kit = TeamKit(await start())
    for name in ("lead", "bob", "chief", "eve"):
        await kit.user(name)
    await kit.user("root", "proxy_admin")
    await kit.organization("o", "chief")
    members = [{"role": "user", "user_id": name} for name in ("bob", "root")]
    lead = {"role": "admin", "user_id": "lead"}
    await kit.team("t", members_with_roles=[lead, *members])
    return kit


async def check_harmless(kit: TeamKit, key: str) -> None:
    """A key that manages and shows nothing, and says so in its row."""
    assert (await kit.admin.info(key))["allowed_routes"] == LLM_ONLY
    for path in ("/user/list", "/user/info", "/key/list", "/team/info?team_id=t"):
        assert (await kit.call("GET", path, key))[0] == 403
    assert (await kit.post("/team/new", key, team_id="taken-over"))[0] == 403


@pytest.mark.parametrize("victim", ["root", "bob", "default_user_id"])
async def test_a_team_admin_makes_a_members_key(kit: TeamKit, victim: str) -> None:
    """A team's admin made a key for a proxy admin in its team, or for the master key's user, and
    was then one itself."""
    status, made = await kit.post("/key/generate", "lead", team_id="t", user_id=victim)
    assert (status, made["allowed_routes"], made["key_type"]) == (200, LLM_ONLY, "llm_api")
    await check_harmless(kit, made["key"])
    asked = {"team_id": "t", "user_id": victim, "allowed_routes": ["info_routes"]}
    answer = await kit.post("/key/generate", "lead", **asked)
    error_of(answer, 403, "auth_error", "allowed_routes")


async def test_a_team_admin_adds_a_proxy_admin_first(kit: TeamKit) -> None:
    """The victim did not even have to be in the team: its admin adds whomever it wants."""
    await kit.user("other-root", "proxy_admin")
    member = {"role": "user", "user_id": "other-root"}
    assert (await kit.post("/team/member_add", "lead", team_id="t", member=member))[0] == 200
    made = (await kit.post("/key/generate", "lead", team_id="t", user_id="other-root"))[1]
    await check_harmless(kit, made["key"])


async def test_a_team_admin_rotates_a_members_key(kit: TeamKit) -> None:
    """Rotating the team's key of a proxy admin gave its value to a team's admin, and with it all
    that its user may do."""
    victim = await kit.admin.generate(team_id="t", user_id="root")
    for path in ("/key/regenerate", f"/key/{victim['key']}/regenerate"):
        status, made = await kit.post(path, "lead", key=victim["key"], grace_period="1h")
        assert status == 200
        await check_harmless(kit, made["key"])
        victim = made


async def test_a_member_rotates_an_admins_key(kit: TeamKit) -> None:
    """A member that may rotate keys got those of the team's admin."""
    permissions = ["/key/regenerate", "/key/update"]
    await kit.post("/team/permissions_update", team_id="t", team_member_permissions=permissions)
    victim = await kit.admin.generate(team_id="t", user_id="lead")
    made = (await kit.post("/key/regenerate", "bob", key=victim["key"]))[1]
    await check_harmless(kit, made["key"])
    wider = {"key": made["key"], "allowed_routes": []}
    error_of(await kit.post("/key/update", "bob", **wider), 403, "auth_error", "allowed_routes")
    own = await kit.post("/key/regenerate", "lead", key=made["key"], allowed_routes=["info_routes"])
    assert (own[0], own[1]["allowed_routes"]) == (200, ["info_routes"])


async def test_a_team_admin_gives_its_key_to_a_member(kit: TeamKit) -> None:
    """A key whose value one knows became the key of a proxy admin by an update."""
    for path in ("/key/update", "/key/regenerate"):
        own = (await kit.post("/key/generate", "lead", team_id="t"))[1]
        status, changed = await kit.post(path, "lead", key=own["key"], user_id="root")
        assert (status, changed["user_id"]) == (200, "root")
        await check_harmless(kit, changed["key"])
    fields = {"user_id": "root"}
    own = (await kit.post("/key/generate", "lead", team_id="t"))[1]
    body = {"team_id": "t", "key_ids": [own["key"]], "update_fields": fields}
    assert (await kit.post("/team/key/bulk_update", "lead", **body))[0] == 200
    await check_harmless(kit, own["key"])


async def test_a_narrowed_key_widens_itself(kit: TeamKit) -> None:
    """A key for few routes lost its list of them by its own update, and could call everything."""
    routes = ["/key/update", "/v1/chat/completions"]
    key = (await kit.admin.generate(user_id="bob", allowed_routes=routes))["key"]
    for wider in ([], None, ["key_management_routes"]):
        answer = await kit.post("/key/update", key, key=key, allowed_routes=wider)
        error_of(answer, 403, "auth_error", "allowed_routes")
    narrower = ["/v1/chat/completions"]
    assert (await kit.post("/key/update", key, key=key, allowed_routes=narrower))[0] == 200


async def test_an_org_admin_deletes_anybody(kit: TeamKit) -> None:
    """An organization's admin took any user without one in, and could then delete it with all its
    keys."""
    member = {"role": "internal_user", "user_id": "eve"}
    body = {"organization_id": "o", "member": member}
    assert (await kit.post("/organization/member_add", "chief", **body))[0] == 200
    detail_of(await kit.post("/user/delete", "chief", user_ids=["eve"]), 403)
    fresh = {"organization_id": "o", "member": {"role": "internal_user", "user_id": "new"}}
    assert (await kit.post("/organization/member_add", "chief", **fresh))[0] == 200
    assert await kit.post("/user/delete", "chief", user_ids=["new"]) == (200, 1)
    named = {"organization_id": "o", "user_id": "eve"}
    await kit.call("DELETE", "/organization/member_delete", None, named)
    assert (await kit.post("/organization/member_add", **body))[0] == 200
    assert await kit.post("/user/delete", "chief", user_ids=["eve"]) == (200, 1)


async def test_admins_read_whom_they_take_in(kit: TeamKit) -> None:
    """Admins of teams and organizations took any user in, and read its profile: address, budget,
    metadata, and its teams and organizations elsewhere."""
    await kit.user("victim", metadata={"note": "private"}, max_budget=1234.5678)
    await kit.team("elsewhere", members_with_roles=[{"role": "user", "user_id": "victim"}])
    member = {"role": "user", "user_id": "victim"}
    answers = [await kit.post("/team/member_add", "lead", team_id="t", member=member)]
    member = {"role": "internal_user", "user_id": "victim"}
    body = {"organization_id": "o", "member": member}
    answers += [
        await kit.post("/organization/member_add", "chief", **body),
        await kit.get("/user/list", "chief"),
    ]
    for status, answer in answers:
        assert status == 200
        assert "victim" in str(answer)
        assert not [word for word in ("private", "1234.5678", "elsewhere") if word in str(answer)]
    error_of(await kit.get("/v2/user/info", "lead", user_id="victim"), 404, "not_found_error")
    assert "private" in str(await kit.get("/user/list"))


async def test_a_team_admin_names_a_variable_of_the_gateway(kit: TeamKit) -> None:
    """A team's admin stored a callback that would report a secret of the gateway to its own
    host."""
    for value in ("os.environ/LITELLM_MASTER_KEY", "x os.environ/DATABASE_URL"):
        variables = {"langfuse_secret_key": value, "langfuse_host": "https://mine"}
        body = {"callback_name": "langfuse", "callback_vars": variables}
        error_of(
            await kit.post("/team/t/callback", "lead", **body), 403, "auth_error", "callback_vars"
        )


async def test_an_admin_invites_whom_it_took_in(kit: TeamKit) -> None:
    """Admins of teams and organizations took in users who have no password yet, and set one by an
    invitation."""
    for name in ("u1", "u2"):
        body = {"user_id": name, "auto_create_key": False}
        assert (await kit.post("/user/new", **body))[0] == 200
    member = {"role": "internal_user", "user_id": "u1"}
    added = await kit.post("/organization/member_add", "chief", organization_id="o", member=member)
    assert added[0] == 200
    detail_of(await kit.post("/invitation/new", "chief", user_id="u1"), 400)
    team = await kit.post("/team/new", "chief", team_id="of-o", organization_id="o")
    assert team[0] == 200
    member = {"role": "user", "user_id": "u2"}
    for team_id, by in (("of-o", "chief"), ("t", "lead")):
        assert (await kit.post("/team/member_add", by, team_id=team_id, member=member))[0] == 200
        detail_of(await kit.post("/invitation/new", by, user_id="u2"), 400)
        await kit.post("/team/member_delete", by, team_id=team_id, user_id="u2")
    assert (await kit.post("/team/member_add", team_id="t", member=member))[0] == 200
    assert (await kit.post("/invitation/new", "lead", user_id="u2"))[0] == 200


async def test_a_user_who_joins_by_itself_is_not_invited(start: StartAdmin, kit: TeamKit) -> None:
    """Who joined an open team could be taken over by its admin."""
    open_kit = TeamKit(await start(team_rules=TeamRules(available=("t",))))
    open_kit.keys = kit.keys
    member = {"role": "user", "user_id": "eve"}
    assert (await open_kit.post("/team/member_add", "eve", team_id="t", member=member))[0] == 200
    detail_of(await open_kit.post("/invitation/new", "lead", user_id="eve"), 400)


@pytest.mark.parametrize("user_id", ["default_user_id", "named", "spent", "gone"])
async def test_an_org_admin_takes_an_id_that_has_a_past(kit: TeamKit, user_id: str) -> None:
    """An organization's admin made a user of the id of the master key's user, of keys that name no
    stored user, or of somebody deleted, and had what is theirs."""
    await kit.admin.generate(user_id="named")
    await kit.spend("user", "spent", 5)
    assert (await kit.post("/user/new", user_id="gone"))[0] == 200
    assert (await kit.post("/user/delete", user_ids=["gone"]))[0] == 200
    body = {"user_id": user_id, "organizations": ["o"]}
    error_of(await kit.post("/user/new", "chief", **body), 409, "invalid_request_error")
    member = {"role": "internal_user", "user_id": user_id}
    body = {"organization_id": "o", "member": member}
    error_of(
        await kit.post("/organization/member_add", "chief", **body), 409, "invalid_request_error"
    )
    assert (await kit.post("/organization/member_add", MASTER, **body))[0] == 200


async def test_a_membership_that_is_counted_as_another(kit: TeamKit) -> None:
    """A user `a` in a team `b:c` and a user `a:b` in a team `c` had one counter, and the admin of
    one reset what the other had spent."""
    user = {"user_id": "a:b", "organizations": ["o"]}
    answer = await kit.post("/user/new", "chief", **user)
    error_of(answer, 400, "invalid_request_error", "user_id")
    team = {"team_id": "b:c", "organization_id": "o"}
    answer = await kit.post("/team/new", "chief", **team)
    error_of(answer, 400, "invalid_request_error", "team_id")


async def test_an_org_admin_takes_a_teams_id(kit: TeamKit) -> None:
    """A new team had the id of a deleted one, and with it its projects and its history."""
    await kit.team("old")
    assert (await kit.post("/project/new", team_id="old", project_id="p"))[0] == 200
    await kit.post("/team/delete", team_ids=["old"])
    await kit.admin.generate(team_id="not-made-yet")
    await kit.spend("team", "spent", 5)
    for team_id in ("old", "not-made-yet", "spent"):
        body = {"team_id": team_id, "organization_id": "o"}
        answer = await kit.post("/team/new", "chief", **body)
        error_of(answer, 400, "invalid_request_error", "team_id")
    assert (await kit.get("/project/list", "chief"))[1] == []
    await kit.team("old")


async def test_an_address_in_other_letters(kit: TeamKit) -> None:
    """An update by an address changed the user of another one, where letters are lowered in more
    than one way."""
    await kit.user("mallory", user_email="i\u0307@x.org")
    await kit.user("victim", user_email="İ@x.org")
    changed = await kit.post("/user/update", user_email="İ@x.org", user_alias="v")
    assert (changed[0], changed[1]["user_id"]) == (200, "victim")
    item = {"user_email": "İ@x.org", "user_alias": "w"}
    _, body = await kit.post("/user/bulk_update", users=[item])
    assert body["results"][0]["user_id"] == "victim"
    member = {"role": "internal_user", "user_email": "İ@x.org"}
    _, body = await kit.post("/organization/member_add", organization_id="o", member=member)
    assert [user["user_id"] for user in body["updated_users"]] == ["victim"]
