"""Members of organizations through the management API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.admin_api import Admin, Answer, StartAdmin, admins, error_of, issues_of
from tests.support.management import audit_of, detail_of, fed, spent, user_key


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


@pytest.fixture
async def admin(start: StartAdmin) -> Admin:
    """An admin with an organization `o` of 100 USD."""
    admin = await start()
    body = {"organization_id": "o", "organization_alias": "o", "max_budget": 100}
    assert (await admin.call("POST", "/organization/new", body))[0] == 200
    return admin


async def add(admin: Admin, member: Any, **fields: Any) -> Answer:
    """Adds a member to the organization."""
    more = {name: value for name, value in fields.items() if name != "key"}
    body = {"organization_id": "o", "member": member, **more}
    keys = {"key": fields["key"]} if "key" in fields else {}
    return await admin.call("POST", "/organization/member_add", body, **keys)


async def member_ids(admin: Admin) -> list[str]:
    """Who is in the organization."""
    _, body = await admin.call("GET", "/organization/info?organization_id=o")
    return [member["user_id"] for member in body["members"]]


async def test_a_new_member_with_a_budget(admin: Admin) -> None:
    """A user who is new is made; the membership shows its role, budget and spend."""
    member = {"role": "internal_user", "user_id": "ann", "user_email": "Ann@x.org"}
    status, body = await add(admin, member, max_budget_in_organization=20)
    assert status == 200
    assert body["organization_id"] == "o"
    (user,) = body["updated_users"]
    assert (user["user_id"], user["user_email"]) == ("ann", "Ann@x.org")
    assert user["user_role"] == "internal_user"
    assert "password_hash" not in user
    (row,) = body["updated_organization_memberships"]
    assert set(row) == {
        "budget_id", "created_at", "litellm_budget_table", "organization_id", "spend",
        "updated_at", "user", "user_email", "user_id", "user_role",
    }  # fmt: skip
    assert (row["user_role"], row["user_email"], row["spend"]) == ("internal_user", "Ann@x.org", 0)
    assert row["litellm_budget_table"]["max_budget"] == 20.0
    await spent(admin, "organization_member", "ann:o", 3)
    _, shown = await admin.call("GET", "/organization/info?organization_id=o")
    assert [(each["user_id"], each["spend"]) for each in shown["members"]] == [("ann", 3.0)]
    tables = ("LiteLLM_UserTable", "LiteLLM_OrganizationMembership", "LiteLLM_BudgetTable")
    assert [len(await audit_of(admin, table)) for table in tables] == [1, 1, 2]


async def test_several_members_by_id_and_address(admin: Admin) -> None:
    """Known users are found by either, whatever the case of the address."""
    await admin.sql("insert into app_user (user_id, user_email) values ('u1', 'Bob@X.org')")
    members = [
        {"role": "org_admin", "user_email": "bob@x.ORG"},
        {"role": "internal_user_viewer", "user_id": "u2"},
        {"role": "internal_user", "user_email": "new@x.org"},
    ]
    status, body = await add(admin, members)
    assert status == 200
    ids = [user["user_id"] for user in body["updated_users"]]
    assert ids[:2] == ["u1", "u2"]
    assert len(ids[2]) == 36
    assert sorted(await member_ids(admin)) == sorted(ids)
    roles = {row["user_id"]: row["user_role"] for row in body["updated_organization_memberships"]}
    assert roles["u1"] == "org_admin"


async def test_refusals_of_new_members(admin: Admin) -> None:
    """Wrong forms are 422; members already in, two users at once and budgets above 400."""
    one = {"role": "internal_user", "user_id": "ann"}
    assert (await add(admin, one))[0] == 200
    error_of(await add(admin, one), 400, "bad_request_error", "member")
    error_of(
        await add(admin, [{**one, "user_id": "b"}] * 2), 400, "invalid_request_error", "member"
    )
    await admin.sql("insert into app_user (user_id, user_email) values ('c', 'c@x.org')")
    mixed = {"role": "internal_user", "user_id": "ann", "user_email": "c@x.org"}
    error_of(await add(admin, mixed), 400, "invalid_request_error", "member")
    above = await add(admin, {**one, "user_id": "d"}, max_budget_in_organization=101)
    error_of(above, 400, "invalid_request_error", "max_budget_in_organization")
    unknown = {"organization_id": "none", "member": one}
    answer = await admin.call("POST", "/organization/member_add", unknown)
    error_of(answer, 404, "invalid_request_error", "organization_id")
    for member, issue in (
        ({"role": "boss", "user_id": "x"}, ("literal_error", ["body", "member", "role"])),
        ({"user_id": "x"}, ("missing", ["body", "member", "role"])),
        ({"role": "org_admin"}, ("value_error", ["body", "member"])),
        ("ann", ("dict_type", ["body", "member"])),
        ([one, 7], ("dict_type", ["body", "member", 1])),
        (None, ("missing", ["body", "member"])),
    ):
        assert issues_of(await add(admin, member)) == [issue]
    assert await member_ids(admin) == ["ann"]
    assert (await admin.sql("select count(*) from app_user"))[0][0] == 2


async def test_update_of_a_member(admin: Admin) -> None:
    """Role and budget change alone or together, by id or address; a stranger is 404."""
    await add(admin, {"role": "internal_user", "user_id": "ann", "user_email": "a@x.org"})

    async def change(**fields: Any) -> Answer:
        body = {"organization_id": "o", **fields}
        return await admin.call("PATCH", "/organization/member_update", body)

    status, body = await change(user_id="ann", role="org_admin")
    assert (status, body["user_role"], body["budget_id"]) == (200, "org_admin", None)
    status, body = await change(user_email="A@X.org", max_budget_in_organization=5)
    assert (body["user_role"], body["litellm_budget_table"]["max_budget"]) == ("org_admin", 5.0)
    budget_id = body["budget_id"]
    _, body = await change(user_id="ann", max_budget_in_organization=6, role=None)
    assert (body["budget_id"], body["litellm_budget_table"]["max_budget"]) == (budget_id, 6.0)
    detail_of(await change(user_id="ann", max_budget_in_organization=101), 400)
    detail_of(await change(user_id="bob", role="org_admin"), 404)
    detail_of(await change(user_email="nobody@x.org", role="org_admin"), 404)
    detail_of(await change(role="org_admin"), 400)
    assert issues_of(await change(user_id="ann", role="king")) == [
        ("literal_error", ["body", "role"])
    ]


async def test_delete_of_a_member(admin: Admin) -> None:
    """The membership is answered once more; the user stays; a second time is 404."""
    await add(admin, {"role": "internal_user", "user_id": "ann"})
    body = {"organization_id": "o", "user_id": "ann"}
    status, row = await admin.call("DELETE", "/organization/member_delete", body)
    assert (status, row["user_id"], row["organization_id"]) == (200, "ann", "o")
    assert await member_ids(admin) == []
    assert (await admin.sql("select count(*) from app_user"))[0][0] == 1
    detail_of(await admin.call("DELETE", "/organization/member_delete", body), 404)
    log = await audit_of(admin, "LiteLLM_OrganizationMembership")
    assert [(entry["action"], entry["object_id"]) for entry in log] == [
        ("created", "ann:o"),
        ("deleted", "ann:o"),
    ]
    assert len(await fed(admin, "organization_member")) == 2


async def test_what_org_admins_may_do(admin: Admin) -> None:
    """In their own organization they manage members, but neither touch nor make proxy admins."""
    body = {"organization_id": "p", "organization_alias": "p"}
    await admin.call("POST", "/organization/new", body)
    boss = await user_key(admin, "internal_user", "boss", organization="o")
    await admin.sql("insert into app_user (user_id, user_role) values ('root', 'proxy_admin')")
    assert (await add(admin, {"role": "org_admin", "user_id": "ann"}, key=boss))[0] == 200
    error_of(
        await add(admin, {"role": "org_admin", "user_id": "root"}, key=boss), 403, "auth_error"
    )
    assert (await add(admin, {"role": "internal_user", "user_id": "root"}))[0] == 200
    named = {"organization_id": "o", "user_id": "root"}
    change = {**named, "role": "org_admin"}
    detail_of(await admin.call("PATCH", "/organization/member_update", change, key=boss), 403)
    detail_of(await admin.call("DELETE", "/organization/member_delete", named, key=boss), 403)
    elsewhere = {"organization_id": "p", "member": {"role": "internal_user", "user_id": "x"}}
    answer = await admin.call("POST", "/organization/member_add", elsewhere, key=boss)
    error_of(answer, 403, "auth_error")
    own = {"organization_id": "o", "user_id": "boss", "max_budget_in_organization": 1000}
    detail_of(await admin.call("PATCH", "/organization/member_update", own, key=boss), 400)


async def test_an_org_admin_may_not_change_a_shared_budget(admin: Admin) -> None:
    """A budget that somebody else has too is changed by proxy admins alone."""
    boss = await user_key(admin, "internal_user", "boss", organization="o")
    await user_key(admin, "internal_user", "ann", organization="o", org_role="internal_user")
    await admin.call("POST", "/budget/new", {"budget_id": "b", "max_budget": 1})
    await admin.sql("update organization_member set budget_id = 'b' where user_id = 'ann'")
    anns = {"organization_id": "o", "user_id": "ann", "max_budget_in_organization": 50}
    assert (await admin.call("PATCH", "/organization/member_update", anns, key=boss))[0] == 200
    await admin.generate(budget_id="b")
    detail_of(await admin.call("PATCH", "/organization/member_update", anns, key=boss), 403)
    assert (await admin.call("PATCH", "/organization/member_update", anns))[0] == 200


async def test_others_are_refused_at_the_gate(admin: Admin) -> None:
    """Members, strangers and viewers manage nobody."""
    member = await user_key(
        admin, "internal_user", "ann", organization="o", org_role="internal_user"
    )
    stranger = await user_key(admin, "internal_user", "bob")
    viewer = await user_key(admin, "proxy_admin_viewer")
    named = {"organization_id": "o", "user_id": "ann"}
    for key, status in ((member, 401), (stranger, 401), (viewer, 403)):
        new = await add(admin, {"role": "org_admin", "user_id": "bob"}, key=key)
        error_of(new, status, "auth_error")
        for method, name in (("PATCH", "member_update"), ("DELETE", "member_delete")):
            answer = await admin.call(method, f"/organization/{name}", named, key=key)
            error_of(answer, status, "auth_error")
    assert await member_ids(admin) == ["ann"]


async def test_the_same_new_user_in_several_organizations_at_once(admin: Admin) -> None:
    """An address that nobody had becomes one user, whoever comes first."""
    for name in ("p", "q", "r"):
        body = {"organization_id": name, "organization_alias": name}
        await admin.call("POST", "/organization/new", body)
    member = {"role": "internal_user", "user_email": "new@x.org"}
    answers = await asyncio.gather(
        *(
            admin.call(
                "POST", "/organization/member_add", {"organization_id": name, "member": member}
            )
            for name in ("o", "p", "q", "r")
        )
    )
    assert [status for status, _ in answers] == [200] * 4
    assert len({body["updated_users"][0]["user_id"] for _, body in answers}) == 1
    assert (await admin.sql("select count(*) from organization_member"))[0][0] == 4


async def test_many_members_at_once(admin: Admin) -> None:
    """Three hundred new users join in one call."""
    members = [{"role": "internal_user", "user_id": f"u{number}"} for number in range(300)]
    status, body = await add(admin, members)
    assert (status, len(body["updated_organization_memberships"])) == (200, 300)
