"""Models of one team: who may make them, what a team's admin may say, and the team's list."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared.domain.keys import hash_key
from tests.support.admin_api import Admin, admins, error_of
from tests.support.stored_models import SECRET, body, catalog_of, make


@pytest.fixture
async def admin(database: str, aiohttp_client: Any, tmp_path: Path) -> AsyncIterator[Admin]:
    async with admins(database, aiohttp_client) as start:
        started = await start(models=catalog_of(tmp_path))
        await started.sql("insert into team (team_id) values ('t1'), ('t2')")
        yield started


async def user_key(admin: Admin, role: str, team: str | None = None, place: str = "user") -> str:
    """A key of a user with a role, and a place in a team."""
    user, key = secrets.token_hex(4), f"sk-{secrets.token_hex(16)}"
    await admin.sql("insert into app_user (user_id, user_role) values ($1, $2)", user, role)
    await admin.sql("insert into virtual_key (token, user_id) values ($1, $2)", hash_key(key), user)
    if team is not None:
        await admin.sql(
            "insert into team_member (team_id, user_id, role) values ($1, $2, $3)",
            *(team, user, place),
        )
    return key


async def team_models(admin: Admin, team: str = "t1") -> list[str]:
    """The team's list."""
    (row,) = await admin.sql("select models from team where team_id = $1", team)
    return list(row["models"])


def of_team(name: str = "own", team: str = "t1", model_id: str | None = None) -> dict[str, Any]:
    """A body of a team's model."""
    sent = body(name, model_id=model_id)
    return {**sent, "model_info": {**sent.get("model_info", {}), "team_id": team}}


async def test_a_models_team_has_it_in_its_list(admin: Admin) -> None:
    """Stored under a name of its own, its public name kept and added to the team's list, which
    gives no less than before."""
    status, answer = await admin.call("POST", "/model/new", of_team())
    assert status == 200, answer
    assert answer["model_name"].startswith("model_name_t1_")
    assert answer["model_info"]["team_public_model_name"] == "own"
    assert await team_models(admin) == ["all-proxy-models", "own"]
    await admin.call("POST", "/model/new", of_team("own"))
    await admin.call("POST", "/model/new", of_team("second"))
    assert await team_models(admin) == ["all-proxy-models", "own", "second"]
    rows = await admin.sql("select table_name from audit_log order by seq")
    assert [row["table_name"] for row in rows] == [
        "LiteLLM_TeamTable",
        "LiteLLM_ProxyModelTable",
        "LiteLLM_ProxyModelTable",
        "LiteLLM_TeamTable",
        "LiteLLM_ProxyModelTable",
    ]


async def test_the_list_follows(admin: Admin) -> None:
    """A renamed model is renamed in the list; it leaves the list with the last of its name."""
    await admin.sql("update team set models = '{base}' where team_id = 't1'")
    for model_id in ("a", "b"):
        await admin.call("POST", "/model/new", of_team("own", model_id=model_id))
    status, answer = await admin.call("PATCH", "/model/a/update", {"model_name": "new"})
    assert status == 200
    assert answer["model_name"].startswith("model_name_t1_")
    assert answer["model_info"]["team_public_model_name"] == "new"
    assert await team_models(admin) == ["base", "own", "new"]
    await admin.call("POST", "/model/delete", {"id": "b"})
    assert await team_models(admin) == ["base", "new"]
    await admin.sql("update team set models = '{new}' where team_id = 't1'")
    await admin.call("POST", "/model/delete", {"id": "a"})
    assert await team_models(admin) == ["no-default-models"]


async def test_roles(admin: Admin) -> None:
    """Proxy admins and the team's own admin make, change and delete; nobody else does."""
    status, answer = await admin.call("POST", "/model/new", of_team(model_id="m1"))
    assert status == 200, answer
    await make(admin, "everybodys", model_id="m2")
    change = {"litellm_params": {"rpm": 3}}
    team_admin = await user_key(admin, "internal_user", "t1", "admin")
    other_admin = await user_key(admin, "internal_user", "t2", "admin")
    for key, made, changed in (
        (await user_key(admin, "proxy_admin"), 200, 200),
        (team_admin, 200, 200),
        (other_admin, 403, 403),
        (await user_key(admin, "internal_user", "t1"), 401, 401),
        (await user_key(admin, "internal_user"), 401, 401),
        (await user_key(admin, "internal_user_viewer", "t1"), 401, 401),
        (await user_key(admin, "proxy_admin_viewer"), 403, 403),
    ):
        status, answer = await admin.call("POST", "/model/new", of_team("x"), key=key)
        assert status == made, answer
        status, answer = await admin.call("PATCH", "/model/m1/update", change, key=key)
        assert status == changed, answer
    for key in (team_admin, other_admin):
        for method, path, sent in (
            ("POST", "/model/new", body("for-everybody")),
            ("PATCH", "/model/m2/update", change),
            ("POST", "/model/update", {**change, "model_info": {"id": "m2"}}),
            ("POST", "/model/delete", {"id": "m2"}),
        ):
            error_of(await admin.call(method, path, sent, key=key), 403, "auth_error")
        for path in ("/model/block", "/model/unblock"):
            error_of(await admin.call("POST", path, {"model_id": "m1"}, key=key), 401, "auth_error")
    error_of(
        await admin.call("POST", "/model/delete", {"id": "m1"}, key=other_admin), 403, "auth_error"
    )
    assert (await admin.call("POST", "/model/delete", {"id": "m1"}, key=team_admin))[0] == 200


GREEDY: list[tuple[dict[str, Any], str]] = [
    ({"api_key": "os.environ/DATABASE_URL"}, "litellm_params.api_key"),
    ({"api_base": "http://x/os.environ/SECRET"}, "litellm_params.api_base"),
    ({"extra_headers": {"X-A": "os.environ/SECRET"}}, "litellm_params.extra_headers.X-A"),
    ({"litellm_credential_name": "of-file"}, "litellm_params.litellm_credential_name"),
    ({"api_key": None}, "litellm_params.api_key"),
    ({"api_key": ""}, "litellm_params.api_key"),
]


@pytest.mark.parametrize(("params", "param"), GREEDY, ids=[param for _, param in GREEDY])
async def test_a_team_admin_brings_its_own_secret(
    admin: Admin, params: dict[str, Any], param: str
) -> None:
    """Variables, credentials and provider keys of the gateway are not a team admin's to send
    anywhere."""
    key = await user_key(admin, "internal_user", "t1", "admin")
    sent = of_team()
    sent["litellm_params"] |= params
    error_of(await admin.call("POST", "/model/new", sent, key=key), 403, "auth_error", param)


@pytest.mark.parametrize(
    "change",
    [
        {"litellm_params": {"api_base": "http://elsewhere/v1"}},
        {"litellm_params": {"api_base": "http://elsewhere/v1", "api_key": "********"}},
        {"litellm_params": {"model": "groq/x"}},
        {"litellm_params": {"custom_llm_provider": "groq"}},
        {"litellm_params": {"input_cost_per_token": 0}},
        {"model_info": {"input_cost_per_token": 0}},
        {"model_info": {"base_model": "cheap"}},
        {"litellm_params": {"api_key": "own-key-0123456789", "api_base": "http://elsewhere/v1"}},
    ],
    ids=str,
)
async def test_a_stored_secret_is_led_nowhere_else(admin: Admin, change: dict[str, Any]) -> None:
    """Where a secret goes and what a call costs changes only with every secret sent anew."""
    sent = of_team(model_id="m1")
    sent["litellm_params"]["extra_headers"] = {"X-Secret": "given-by-an-admin"}
    assert (await admin.call("POST", "/model/new", sent))[0] == 200
    key = await user_key(admin, "internal_user", "t1", "admin")
    answer = await admin.call("PATCH", "/model/m1/update", change, key=key)
    assert error_of(answer, 403, "auth_error", answer[1]["error"]["param"])
    change = {"litellm_params": {"rpm": 1, "timeout": 5}, "model_name": "renamed"}
    assert (await admin.call("PATCH", "/model/m1/update", change, key=key))[0] == 200
    own = {"api_base": "http://e/v1", "api_key": "own-0123456789", "extra_headers": None}
    answer = await admin.call("PATCH", "/model/m1/update", {"litellm_params": own}, key=key)
    assert answer[0] == 200
    assert SECRET not in str(answer)


async def test_a_team_admin_does_not_block(admin: Admin) -> None:
    """Neither by the patch nor by the model's info."""
    await admin.call("POST", "/model/new", of_team(model_id="m1"))
    key = await user_key(admin, "internal_user", "t1", "admin")
    for change in ({"blocked": True}, {"blocked": False}, {"model_info": {"blocked": True}}):
        answer = await admin.call("PATCH", "/model/m1/update", change, key=key)
        error_of(answer, 403, "auth_error", answer[1]["error"]["param"])


async def test_team_stays(admin: Admin) -> None:
    """A model does not change its team, not even by an admin."""
    await admin.call("POST", "/model/new", of_team(model_id="m1"))
    for team in ("t2", "nobody"):
        answer = await admin.call("PATCH", "/model/m1/update", {"model_info": {"team_id": team}})
        error_of(answer, 400, "invalid_request_error", "model_info.team_id")


async def test_concurrent_models_of_one_team(admin: Admin) -> None:
    """Models made and deleted at once leave the list as their sum; nothing waits for ever."""
    made = [
        admin.call("POST", "/model/new", of_team(f"n{number}", model_id=f"m{number}"))
        for number in range(12)
    ]
    assert {status for status, _ in await asyncio.gather(*made)} == {200}
    gone = [admin.call("POST", "/model/delete", {"id": f"m{number}"}) for number in range(6)]
    more = [admin.call("POST", "/model/new", of_team(f"p{number}")) for number in range(6)]
    assert {status for status, _ in await asyncio.gather(*gone, *more)} == {200}
    wanted = {f"n{number}" for number in range(6, 12)} | {f"p{number}" for number in range(6)}
    assert set(await team_models(admin)) == wanted | {"all-proxy-models"}
