"""Callbacks of teams and what members may do to keys; secrets stay where they are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared.config.secret import Secret
from shared.secrets.sealing import Place, Sealer
from shared.telemetry.redact import MASK
from tests.support.admin_api import StartAdmin, admins, error_of, issues_of
from tests.support.stored_models import SALT, catalog_of
from tests.support.team_kit import TeamKit, detail_of

SECRET = "lf-5ecret-of-a-team"
PATH = "/team/t1/callback"
VARIABLES = {"langfuse_secret_key": SECRET, "langfuse_host": "https://example.org"}


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    """Starts an admin on the test's database."""
    async with admins(database, aiohttp_client) as start_one:
        yield start_one


@pytest.fixture
async def kit(start: StartAdmin, tmp_path: Path) -> TeamKit:
    """An admin with team `t1` and a key for secrets."""
    kit = TeamKit(await start(models=catalog_of(tmp_path)))
    await kit.team("t1")
    return kit


async def add(kit: TeamKit, name: str = "langfuse", kind: str = "success", **more: Any) -> Any:
    """A callback of the team."""
    body = {"callback_name": name, "callback_type": kind, "callback_vars": VARIABLES, **more}
    return await kit.post(PATH, **body)


async def stored(kit: TeamKit) -> dict[str, Any]:
    """The team's metadata as the database has it."""
    [[data]] = await kit.admin.sql("select metadata::text from team where team_id = 't1'")
    return dict(json.loads(data))


def opened(entry: dict[str, Any]) -> str:
    """The secret of a stored callback, which stands there as an envelope."""
    envelope = entry["callback_vars"]["langfuse_secret_key"]
    path = "metadata.callback_vars.langfuse.success.langfuse_secret_key"
    return Sealer(Secret(SALT)).open(envelope, Place("team", "t1", path))


async def test_callbacks(kit: TeamKit) -> None:
    """Callbacks are added by event, shown by event, and taken away by name."""
    status, body = await add(kit)
    assert (status, body["status"], body["data"]["team_id"]) == (200, "success", "t1")
    await add(kit, kind="failure")
    await add(kit, "gcs_bucket", "success_and_failure", callback_vars={"gcs_bucket_name": 5})
    answer = await kit.get(PATH)
    assert answer == (
        200,
        {
            "status": "success",
            "data": {
                "team_id": "t1",
                "success_callbacks": ["langfuse", "gcs_bucket"],
                "failure_callbacks": ["langfuse", "gcs_bucket"],
                "callback_vars": {
                    "langfuse_secret_key": MASK,
                    "langfuse_host": "https://example.org",
                    "gcs_bucket_name": "5",
                },
            },
        },
    )
    status, body = await kit.call("DELETE", f"{PATH}/langfuse")
    assert (status, body["data"]) == (
        200,
        {
            "team_id": "t1",
            "success_callbacks": ["gcs_bucket"],
            "failure_callbacks": ["gcs_bucket"],
        },
    )
    answer = await kit.call("DELETE", f"{PATH}/langfuse")
    error_of(answer, 404, "not_found_error", "callback_name")


async def test_secrets_are_masked(kit: TeamKit) -> None:
    """A secret goes into no answer, no audit entry and no table."""
    old = {"callback_settings": {"callback_vars": {"gcs_path_service_account": SECRET}}}
    answers = [
        await add(kit),
        await add(kit, kind="failure"),
        await kit.get(PATH),
        await kit.get("/team/list"),
        await kit.get("/v2/team/list"),
        await kit.get("/team/info", team_id="t1"),
        await kit.post("/team/block", team_id="t1"),
        await kit.post("/team/update", team_id="t1", team_alias="x"),
        await kit.call("DELETE", f"{PATH}/langfuse"),
        await kit.post("/team/update", team_id="t1", metadata=old),
        await kit.post("/team/t1/disable_logging"),
        await kit.post("/team/delete", team_ids=["t1"]),
        await kit.get("/v2/team/list", status="deleted"),
    ]
    assert {status for status, _ in answers} == {200}
    assert SECRET not in json.dumps(answers)
    for table, fewest in (("audit_log", 7), ("deleted_team", 1)):
        rows = await kit.admin.sql(f"select t::text from {table} t")
        assert len(rows) >= fewest
        assert SECRET not in str([tuple(row) for row in rows])


async def test_masked_values_sent_back_keep_the_secret(kit: TeamKit) -> None:
    """A form that sends metadata back as it was shown changes no secret; a new one counts."""
    await add(kit)
    metadata = (await kit.info("t1"))["team_info"]["metadata"]
    assert metadata["logging"][0]["callback_vars"]["langfuse_secret_key"] == MASK
    await kit.post("/team/update", team_id="t1", metadata={**metadata, "more": 1})
    after = await stored(kit)
    assert after["more"] == 1
    assert after["logging"][0]["callback_vars"]["langfuse_host"] == VARIABLES["langfuse_host"]
    assert opened(after["logging"][0]) == SECRET
    metadata["logging"][0]["callback_vars"]["langfuse_secret_key"] = "new"
    await kit.post("/team/update", team_id="t1", metadata=metadata)
    assert opened((await stored(kit))["logging"][0]) == "new"
    metadata["logging"][0]["callback_vars"]["langfuse_secret_key"] = "os.environ/NAME"
    await kit.post("/team/update", team_id="t1", metadata=metadata)
    variables = (await stored(kit))["logging"][0]["callback_vars"]
    assert variables["langfuse_secret_key"] == "os.environ/NAME"


async def test_the_older_form_counts_without_a_list(kit: TeamKit) -> None:
    """`callback_settings` counts until there is a list of callbacks, an empty one too."""
    old = {"success_callback": ["s3"], "callback_vars": {"s3_bucket": "b", "s3_secret": "x"}}
    await kit.post("/team/update", team_id="t1", metadata={"callback_settings": old})
    _, body = await kit.get(PATH)
    assert body["data"] == {
        "team_id": "t1",
        "success_callbacks": ["s3"],
        "failure_callbacks": [],
        "callback_vars": {"s3_bucket": "b", "s3_secret": MASK},
    }
    status, body = await kit.post("/team/t1/disable_logging")
    assert (status, body["data"]["success_callbacks"]) == (200, [])
    assert (await kit.get(PATH))[1]["data"]["success_callbacks"] == []


async def test_refusals(kit: TeamKit) -> None:
    """The same callback twice, unknown teams, and wrong bodies."""
    await add(kit)
    error_of(await add(kit), 400, "bad_request_error", "callback_name")
    answer = await kit.post("/team/none/callback", callback_name="a", callback_vars={})
    error_of(answer, 404, "not_found_error", "team_id")
    error_of(await kit.get("/team/none/callback"), 404, "not_found_error", "team_id")
    answer = await kit.post("/team/none/disable_logging")
    error_of(answer, 404, "not_found_error", "team_id")
    for body, place in (
        ({"callback_vars": {}}, "callback_name"),
        ({"callback_name": "a"}, "callback_vars"),
        ({"callback_name": "a", "callback_vars": []}, "callback_vars"),
        ({"callback_name": "a", "callback_vars": {}, "callback_type": "x"}, "callback_type"),
    ):
        assert [loc for _, loc in issues_of(await kit.post(PATH, **body))] == [["body", place]]
    answer = await kit.post(PATH, callback_name="a", callback_vars={"b": "\x00"})
    error_of(answer, 400, "invalid_request_error", "callback_vars.b")


async def test_many_at_once_and_no_more(kit: TeamKit) -> None:
    """Callbacks added at once are all there; their number is bounded."""
    answers = await asyncio.gather(*(add(kit, f"c{n}") for n in range(6)))
    assert {status for status, _ in answers} == {200}
    assert len((await stored(kit))["logging"]) == 6
    entry = {"callback_name": "x", "callback_type": "success", "callback_vars": {}}
    await kit.post("/team/update", team_id="t1", metadata={"logging": [entry] * 50})
    error_of(await add(kit), 400, "invalid_request_error", "callback_name")


async def test_ids_with_slashes(kit: TeamKit) -> None:
    """The route takes ids with slashes in them."""
    await kit.team("a/b")
    status, body = await kit.post("/team/a/b/callback", callback_name="s3", callback_vars={})
    assert (status, body["data"]["team_id"]) == (200, "a/b")
    status, body = await kit.call("DELETE", "/team/a/b/callback/s3")
    assert (status, body["data"]["success_callbacks"]) == (200, [])


async def test_permissions(kit: TeamKit) -> None:
    """What every member may is always listed; the rest is set whole."""
    _, body = await kit.get("/team/permissions_list", team_id="t1")
    assert body["team_member_permissions"] == ["/key/info", "/key/health"]
    assert {"/key/generate", "/key/info"} <= set(body["all_available_permissions"])
    permissions = ["/key/update", "/key/info", "/key/update"]
    status, body = await kit.post(
        "/team/permissions_update", team_id="t1", team_member_permissions=permissions
    )
    assert (status, body["team_member_permissions"]) == (200, ["/key/update", "/key/info"])
    _, body = await kit.get("/team/permissions_list", team_id="t1")
    assert body["team_member_permissions"] == ["/key/info", "/key/health", "/key/update"]
    detail_of(await kit.get("/team/permissions_list", team_id="none"), 404)
    assert issues_of(await kit.get("/team/permissions_list"))
    assert issues_of(await kit.post("/team/permissions_update", team_id="t1"))


async def test_permissions_in_bulk(kit: TeamKit) -> None:
    """Permissions are added to some teams or to all, each once; each team is audited."""
    for n in range(2, 6):
        await kit.team(f"t{n}")
    path = "/team/permissions_bulk_update"
    wanted = ["/key/update", "/key/delete"]
    status, body = await kit.post(path, team_ids=["t1", "t2", "none"], permissions=wanted[:1])
    assert (status, body["teams_updated"], body["permissions_appended"]) == (200, 2, wanted[:1])
    status, body = await kit.post(path, apply_to_all_teams=True, permissions=wanted)
    assert (status, body["teams_updated"]) == (200, 5)
    _, body = await kit.post(path, apply_to_all_teams=True, permissions=wanted)
    assert body["teams_updated"] == 0
    for n in range(1, 6):
        team = (await kit.info(f"t{n}"))["team_info"]
        assert team["team_member_permissions"] == wanted
    assert len(await kit.audited("updated", "LiteLLM_TeamTable", "t1")) == 2
    for body in ({}, {"team_ids": ["t1"], "apply_to_all_teams": True}, {"team_ids": []}):
        detail_of(await kit.post(path, permissions=wanted, **body), 400)
    answer = await kit.post(path, team_ids=["t1"], permissions=["/team/delete"])
    assert issues_of(answer)[0][1][:2] == ["body", "permissions"]
