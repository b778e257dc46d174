"""Named credentials: stored sealed, shown masked, lent to models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.config.secret import MASK, Secret
from shared.secrets.members import credential_values, paths_of
from shared.secrets.sealing import Sealer, is_sealed
from tests.integration.test_models_teams import user_key
from tests.support.admin_api import Admin, admins, error_of, issues_of
from tests.support.stored_models import SALT, SECRET, body, catalog_of, make, stored_secrets

VALUES = {"api_key": SECRET, "api_base": "http://c/v1"}


@pytest.fixture
async def admin(database: str, aiohttp_client: Any, tmp_path: Path) -> AsyncIterator[Admin]:
    async with admins(database, aiohttp_client) as start:
        yield await start(models=catalog_of(tmp_path))


async def add(admin: Admin, name: str = "c", **more: Any) -> dict[str, Any]:
    """A credential that was made."""
    sent = {"credential_name": name, "credential_values": VALUES, **more}
    status, answer = await admin.call("POST", "/credentials", sent)
    assert status == 200, answer
    return dict(answer)


async def opened(admin: Admin, name: str = "c") -> dict[str, Any]:
    """The stored values, opened."""
    (row,) = await admin.sql("select * from credential where credential_name = $1", name)
    values = msgspec.json.decode(row["credential_values"])
    sealer = Sealer(Secret(SALT))
    return credential_values(row["credential_id"]).open(values, lambda: sealer)


async def test_create(admin: Admin) -> None:
    """Every value is sealed; the answer says so and shows none."""
    answer = await add(admin, credential_info={"custom_llm_provider": "openai"})
    assert sorted(answer) == ["message", "success"]
    assert answer["success"] is True
    (row,) = await admin.sql("select * from credential")
    values = msgspec.json.decode(row["credential_values"])
    assert paths_of(values, is_sealed, "v") == ["v.api_key", "v.api_base"]
    assert row["secret_key_id"] == Sealer(Secret(SALT)).key_id
    assert await opened(admin) == VALUES
    assert SECRET not in await stored_secrets(admin)


async def test_reading(admin: Admin) -> None:
    """Lists and single ones show where a credential leads, and a mask for its secrets; those of
    the file come first."""
    await add(admin, "with/slash", display_name="Shown", credential_info={"a": 1})
    status, answer = await admin.call("GET", "/credentials")
    assert (status, answer["success"]) == (200, True)
    masked = {"api_key": MASK, "api_base": "http://c/v1"}
    assert [
        (row["credential_name"], row["credential_values"]) for row in answer["credentials"]
    ] == [
        ("of-file", masked),
        ("with/slash", masked),
    ]
    stored = answer["credentials"][1]
    assert (stored["display_name"], stored["credential_info"]) == ("Shown", {"a": 1})
    for name in ("of-file", "with/slash"):
        status, answer = await admin.call("GET", f"/credentials/by_name/{name}")
        assert (status, answer["credential_values"]) == (200, masked)
    answer = await admin.call("GET", "/credentials/by_name/nobody")
    error_of(answer, 404, "not_found_error", "credential_name")


async def test_by_model(admin: Admin) -> None:
    """What a model of the database or the file connects with, masked."""
    await make(admin, model_id="m1")
    status, answer = await admin.call("GET", "/credentials/by_model/m1")
    assert status == 200
    assert answer["credential_values"] == {"api_key": MASK, "api_base": "http://h/v1"}
    status, answer = await admin.call("GET", "/credentials/by_model/file-1")
    assert answer["credential_values"] == {"api_base": "http://h/v1"}
    answer = await admin.call("GET", "/credentials/by_model/nobody")
    error_of(answer, 404, "not_found_error", "model_id")


async def test_made_of_a_model(admin: Admin) -> None:
    """A model's own connection becomes a credential, opened and sealed anew."""
    await make(admin, model_id="m1")
    sent = {"credential_name": "c", "model_id": "m1"}
    assert (await admin.call("POST", "/credentials", sent))[0] == 200
    assert await opened(admin) == {"api_key": SECRET, "api_base": "http://h/v1"}
    answer = await admin.call(
        "POST", "/credentials", {**sent, "credential_name": "d", "model_id": "x"}
    )
    error_of(answer, 404, "not_found_error", "model_id")


async def test_patch(admin: Admin) -> None:
    """Values merge, masks keep what they hid, named ones go; the name stays."""
    await add(admin, credential_info={"a": 1})
    status, answer = await admin.call(
        "PATCH",
        "/credentials/c",
        {
            "credential_name": "c",
            "credential_values": {"api_key": MASK, "organization": "o"},
            "credential_values_to_delete": ["api_base", "not-there"],
            "credential_info": {"b": 2},
            "display_name": "D",
        },
    )
    assert (status, answer["success"]) == (200, True)
    assert await opened(admin) == {"api_key": SECRET, "organization": "o"}
    status, answer = await admin.call("GET", "/credentials/by_name/c")
    assert (answer["credential_info"], answer["display_name"]) == ({"a": 1, "b": 2}, "D")
    answer = await admin.call("PATCH", "/credentials/c", {"credential_name": "d"})
    error_of(answer, 400, "invalid_request_error", "credential_name")
    answer = await admin.call("PATCH", "/credentials/c", {"credential_values": {"x": MASK}})
    error_of(answer, 400, "invalid_request_error", "credential_values.x")
    answer = await admin.call("PATCH", "/credentials/nobody", {})
    error_of(answer, 404, "not_found_error", "credential_name")


async def test_delete(admin: Admin) -> None:
    """A credential that no model names goes; one that is named stays, and the answer says why."""
    await add(admin)
    sent = {
        "model_name": "m",
        "litellm_params": {"model": "openai/x", "litellm_credential_name": "c"},
    }
    status, answer = await admin.call("POST", "/model/new", {**sent, "model_info": {"id": "m1"}})
    assert status == 200, answer
    error = error_of(await admin.call("DELETE", "/credentials/c"), 400, "invalid_request_error")
    assert "model[m1].litellm_params.litellm_credential_name" in error["message"]
    await admin.call("POST", "/model/delete", {"id": "m1"})
    status, answer = await admin.call("DELETE", "/credentials/c")
    assert (status, answer["success"]) == (200, True)
    error_of(
        await admin.call("DELETE", "/credentials/c"), 404, "not_found_error", "credential_name"
    )


async def test_a_change_that_breaks_a_model(admin: Admin) -> None:
    """Values that a model cannot work with are refused, naming the model's trouble."""
    await add(admin)
    params = {"model": "openai/x", "litellm_credential_name": "c"}
    await admin.call("POST", "/model/new", {"model_name": "m", "litellm_params": params})
    change = {"credential_values": {"api_base": "no url"}}
    error_of(await admin.call("PATCH", "/credentials/c", change), 400, "invalid_request_error")
    assert (await opened(admin))["api_base"] == "http://c/v1"


async def test_names_are_unique(admin: Admin) -> None:
    """A second one of a name is 409, also when made at once or when the file has the name."""
    sent = {"credential_name": "c", "credential_values": VALUES}
    answers = await asyncio.gather(*(admin.call("POST", "/credentials", sent) for _ in range(6)))
    assert sorted(status for status, _ in answers) == [200, *[409] * 5]
    answer = await admin.call("POST", "/credentials", {**sent, "credential_name": "of-file"})
    message = error_of(answer, 409, "invalid_request_error", "credential_name")["message"]
    assert "config.yaml" in message
    for method in ("PATCH", "DELETE"):
        answer = await admin.call(method, "/credentials/of-file", {} if method == "PATCH" else None)
        error_of(answer, 400, "invalid_request_error", "credential_name")


async def test_models_use_credentials_of_the_file(admin: Admin) -> None:
    """A stored model may name a credential of the configuration file."""
    sent = body(api_base=None, api_key=None, litellm_credential_name="of-file")
    assert (await admin.call("POST", "/model/new", sent))[0] == 200


async def test_bad_bodies(admin: Admin) -> None:
    """Wrong forms are 422, empty, masked and forged values 400."""
    assert issues_of(await admin.call("POST", "/credentials", {})) == [
        ("missing", ["body", "credential_name"])
    ]
    wrong = {"credential_name": 1, "credential_values": "x", "credential_info": []}
    assert len(issues_of(await admin.call("POST", "/credentials", wrong))) == 3
    for values, param in (
        (None, "credential_values"),
        ({}, "credential_values"),
        ({"api_key": MASK}, "credential_values.api_key"),
        ({"api_key": "sealed:1:x:y"}, "credential_values.api_key"),
        ({"api_key": "a\x00"}, "credential_values.api_key"),
    ):
        sent = {"credential_name": "c", "credential_values": values}
        answer = await admin.call("POST", "/credentials", sent)
        error_of(answer, 400, "invalid_request_error", param)
    for name in ("", "\x00", "x" * 513):
        answer = await admin.call(
            "POST", "/credentials", {"credential_name": name, "credential_values": VALUES}
        )
        error_of(answer, 400, "invalid_request_error", "credential_name")
    assert await admin.sql("select from credential") == []


async def test_roles(admin: Admin) -> None:
    """Proxy admins alone write; a viewer reads masks; nobody else sees anything."""
    await add(admin)
    viewer = await user_key(admin, "proxy_admin_viewer")
    status, answer = await admin.call("GET", "/credentials", key=viewer)
    assert status == 200
    assert SECRET not in str(answer)
    sent = {"credential_name": "d", "credential_values": VALUES}
    assert (await admin.call("POST", "/credentials", sent, key=viewer))[0] == 403
    await admin.sql("insert into team (team_id) values ('t1')")
    for role, place in (("internal_user", "admin"), ("internal_user_viewer", "user")):
        key = await user_key(admin, role, "t1", place)
        for method, path in (
            ("GET", "/credentials"),
            ("POST", "/credentials"),
            ("GET", "/credentials/by_name/c"),
            ("GET", "/credentials/by_model/m"),
            ("PATCH", "/credentials/c"),
            ("DELETE", "/credentials/c"),
        ):
            sent = {} if method in {"POST", "PATCH"} else None
            error_of(await admin.call(method, path, sent, key=key), 401, "auth_error")
    manager = await user_key(admin, "proxy_admin")
    assert (await admin.call("DELETE", "/credentials/c", key=manager))[0] == 200


async def test_audit_and_feed(admin: Admin) -> None:
    """Each change is in the audit log without values, and in the feed by its name."""
    await add(admin)
    await admin.call("PATCH", "/credentials/c", {"credential_values": {"api_key": "sk-another-00"}})
    status, answer = await admin.call("DELETE", "/credentials/c?wait=applied")
    assert (status, answer["propagation"]["applied"]) == (200, 0)
    rows = await admin.sql("select * from audit_log order by seq")
    assert [(row["action"], row["table_name"], row["object_id"]) for row in rows] == [
        (action, "LiteLLM_CredentialsTable", "c") for action in ("created", "updated", "deleted")
    ]
    assert msgspec.json.decode(rows[1]["updated_values"])["rewritten"] == ["api_key"]
    everything = await stored_secrets(admin)
    assert SECRET not in everything
    assert "another" not in everything
    feed = await admin.sql("select ids from change_feed where kind = 'credential'")
    assert {name for row in feed for name in row["ids"]} == {"c"}
