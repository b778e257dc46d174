"""What owners, end users and tags may do and must send, on running workers."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.support.fleet import Calls
from tests.support.owned_keys import Owned

pytestmark = pytest.mark.xdist_group("fleet")


async def test_blocked_owners(calls: Calls) -> None:
    """Blocked end users, teams and projects are refused with 401 on every worker, also when they
    were known before."""
    owned = Owned(calls)
    await owned.row("team", team_id=owned.name("team"))
    await owned.row("project", project_id=owned.name("project"))
    keys = {
        "team": await owned.key(team_id=owned.name("team")),
        "project": await owned.key(project_id=owned.name("project")),
        "end_user": await owned.key(),
    }

    async def statuses() -> dict[str, set[int]]:
        found: dict[str, set[int]] = {}
        for kind, key in keys.items():
            for worker in calls.fleet.workers:
                answer = await calls.chat(worker, key, "up/any", user=owned.name("customer"))
                found.setdefault(kind, set()).add(answer.status)
                if answer.status != 200:
                    assert answer.body["error"]["type"] == "auth_error"
        return found

    assert await statuses() == {kind: {200} for kind in keys}
    await calls.sql("update team set blocked = true where team_id = $1", owned.name("team"))
    await calls.sql(
        "update project set blocked = true where project_id = $1", owned.name("project")
    )
    await owned.applied()
    assert await statuses() == {"team": {401}, "project": {401}, "end_user": {200}}
    await owned.row("end_user", end_user_id=owned.name("customer"), blocked=True)
    await owned.applied()
    assert (await statuses())["end_user"] == {401}
    await calls.sql("delete from end_user where end_user_id = $1", owned.name("customer"))
    await owned.applied()
    assert (await statuses())["end_user"] == {200}


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({"x-litellm-customer-id": "U"}, {"user": "other"}),
        ({"x-litellm-end-user-id": "U"}, {}),
        ({}, {"user": "U", "metadata": {"user_id": "other"}}),
        ({}, {"litellm_metadata": {"user": "U"}, "metadata": {"user_id": "other"}}),
        ({}, {"metadata": {"user_id": "U"}, "safety_identifier": "other"}),
        ({}, {"safety_identifier": "U"}),
    ],
    ids=["customer header", "end user header", "user", "litellm_metadata", "metadata", "safety"],
)
async def test_where_the_end_user_is_named(
    calls: Calls, headers: dict[str, str], fields: dict[str, Any]
) -> None:
    """The first of the places, in the contract's order, says who the end user is."""
    owned = Owned(calls)
    customer = owned.name("customer")
    await owned.row("end_user", end_user_id=customer, blocked=True)
    key = await owned.key()
    await owned.applied()
    for name in (customer, owned.name("free")):
        text = str({"headers": headers, "fields": fields}).replace("'U'", f"'{name}'")
        named = yaml.safe_load(text)
        body = {"model": "up/any", "messages": [{"role": "user", "content": "hi"}]}
        answer = await calls.request(
            "POST",
            f"{calls.fleet.workers[0].url}/v1/chat/completions",
            key,
            {**body, **named["fields"]},
            headers=named["headers"],
        )
        assert answer.status == (401 if name == customer else 200), answer


async def test_model_lists_of_owners(calls: Calls) -> None:
    """Every owner's list can deny a model, with an error type of its own; unified access groups
    and aliases of the team let it through."""
    owned = Owned(calls)
    worker = calls.fleet.workers[0]
    team, user, org = owned.name("team"), owned.name("user"), owned.name("org")
    await owned.row("organization", organization_id=org, organization_alias="o", models=["no"])
    await owned.row(
        "team", team_id=team, models=["chat-one", "nick"], model_aliases={"nick": "chat-other"}
    )
    await owned.row("app_user", user_id=user, models=["chat-one"])
    await owned.row("app_user", user_id=f"{user}-2", models=["no-default-models"])
    await owned.row(
        "team_member",
        team_id=team,
        user_id=user,
        budget_id=await owned.budget(allowed_models=["nick"]),
    )
    await owned.row("project", project_id=owned.name("project"), models=["chat-one"])
    await owned.row("end_user", end_user_id=owned.name("customer"), models=["chat-one"])
    await owned.row(
        "access_group",
        access_group_id=owned.name("group"),
        access_group_name=owned.name("group"),
        access_model_names=["two"],
    )
    await owned.applied()
    asks = (
        ({"models": ["chat-one"]}, "two", "key"),
        ({"models": ["chat-one"], "access_group_ids": [owned.name("group")]}, "two", None),
        ({"team_id": team}, "two", "team"),
        ({"team_id": team}, "chat-one", None),
        ({"team_id": team}, "nick", None),
        ({"team_id": team, "access_group_ids": [owned.name("group")]}, "two", None),
        ({"team_id": team, "user_id": user}, "chat-one", "team"),
        ({"team_id": team, "user_id": user}, "nick", None),
        ({"organization_id": org}, "two", "org"),
        ({"user_id": user}, "two", "user"),
        ({"user_id": f"{user}-2"}, "two", "key"),
        ({"project_id": owned.name("project")}, "two", "project"),
        ({"call:user": owned.name("customer")}, "two", "customer"),
        ({"call:user": owned.name("customer")}, "chat-one", None),
    )
    for columns, model, denied in asks:
        fields = {"user": columns["call:user"]} if "call:user" in columns else {}
        key = await owned.key(**{n: v for n, v in columns.items() if n != "call:user"})
        answer = await calls.chat(worker, key, model, **fields)
        if denied is None:
            assert answer.status == 200, (columns, model, answer)
        else:
            assert answer.status == 403, (columns, model, answer)
            error = answer.body["error"]
            assert error["type"] == f"{denied}_model_access_denied", (columns, model, error)
            assert error["param"] == "model"


async def test_enforced_params(calls: Calls) -> None:
    """What a key's requests must have is asked for with a 400 that names it."""
    owned = Owned(calls)
    key = await owned.key(metadata={"enforced_params": ["user", "metadata.job"]})
    worker = calls.fleet.workers[0]
    for fields, missing in (
        ({}, "user"),
        ({"user": "u"}, "metadata.job"),
        ({"user": "u", "metadata": {}}, "metadata.job"),
        ({"user": "u", "metadata": {"job": 1}}, None),
    ):
        answer = await calls.chat(worker, key, "up/any", **fields)
        assert answer.status == (200 if missing is None else 400)
        if missing is not None:
            error = answer.body["error"]
            assert (error["type"], error["param"]) == ("invalid_request_error", missing)


async def test_allowed_routes(calls: Calls) -> None:
    """A key that may not call the route is told so in a plain detail."""
    owned = Owned(calls)
    key = await owned.key(allowed_routes=["/v1/embeddings"])
    answer = await calls.chat(calls.fleet.workers[0], key, "up/any")
    assert answer.status == 403
    assert list(answer.body) == ["detail"]
    assert isinstance(answer.body["detail"], str)


async def test_odd_end_users_and_tags(calls: Calls) -> None:
    """Ids that the database cannot hold as they are break nothing, with rules or without."""
    owned = Owned(calls)
    budget_id = await owned.budget(max_budget=1.0, rpm_limit=50)
    plain, ruled = await owned.key(), await owned.key(end_user_budget_id=budget_id)
    worker = calls.fleet.workers[0]
    for key in (plain, ruled):
        for name in ("\x00", "a\x1fb", "é" * 5000, "x:y", "\U0001f600", "'", " "):
            answer = await calls.chat(worker, key, "up/odd", user=name, tags=[name])
            assert answer.status == 200, (name[:9], answer)
    await calls.ledger(14, "odd")
