"""Making, changing and deleting models through the management API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.config.secret import MASK, Secret
from shared.secrets.members import model_params
from shared.secrets.sealing import Sealer
from tests.support.admin_api import Admin, StartAdmin, admins, error_of, issues_of
from tests.support.stored_models import (
    FILE,
    SALT,
    SECRET,
    body,
    catalog_of,
    make,
    stored_secrets,
)


@pytest.fixture
async def start(database: str, aiohttp_client: Any) -> AsyncIterator[StartAdmin]:
    async with admins(database, aiohttp_client) as started:
        yield started


@pytest.fixture
async def admin(start: StartAdmin, tmp_path: Path) -> Admin:
    return await start(models=catalog_of(tmp_path))


async def opened(admin: Admin, model_id: str) -> dict[str, Any]:
    """The stored parameters of a model, secrets opened."""
    (row,) = await admin.sql("select * from model where model_id = $1", model_id)
    params = msgspec.json.decode(row["litellm_params"])
    return model_params(model_id).open(params, lambda: Sealer(Secret(SALT)))


async def count(admin: Admin) -> int:
    """How many models are stored."""
    return int((await admin.sql("select count(*) from model"))[0]["count"])


async def test_new_model(admin: Admin) -> None:
    """The stored row is answered, secrets masked; in the database they are sealed."""
    answer = await make(admin, "gpt-4o", model_id="m1", rpm=100, temperature=0.5)
    assert answer == {
        "model_id": "m1",
        "model_name": "gpt-4o",
        "litellm_params": {
            "model": "openai/gpt",
            "api_base": "http://h/v1",
            "api_key": MASK,
            "rpm": 100,
            "temperature": 0.5,
        },
        "model_info": {"id": "m1", "db_model": True},
        "blocked": False,
        "created_at": answer["created_at"],
        "created_by": "default_user_id",
        "updated_at": answer["updated_at"],
        "updated_by": "default_user_id",
    }
    assert answer["created_at"].endswith("Z")
    assert (await opened(admin, "m1"))["api_key"] == SECRET
    (row,) = await admin.sql("select secret_key_id from model")
    assert row["secret_key_id"] == Sealer(Secret(SALT)).key_id
    assert SECRET not in await stored_secrets(admin)


async def test_new_model_without_an_id_or_secret(admin: Admin) -> None:
    """An id is made; a reference is no secret and needs no key; the variable may be elsewhere."""
    answer = await make(admin, api_key="os.environ/SOMEWHERE_ELSE")
    assert len(answer["model_id"]) == 36
    assert answer["model_info"]["id"] == answer["model_id"]
    assert answer["litellm_params"]["api_key"] == "os.environ/SOMEWHERE_ELSE"
    (row,) = await admin.sql("select secret_key_id from model")
    assert row["secret_key_id"] is None


async def test_key_of_the_provider_may_be_elsewhere(admin: Admin) -> None:
    """A model without a key of its own is taken: workers may have the provider's variable."""
    status, _ = await admin.call(
        "POST", "/model/new", {"model_name": "m", "litellm_params": {"model": "openai/gpt"}}
    )
    assert status == 200


REFUSED: list[tuple[dict[str, Any], str]] = [
    (body(rpm="many"), "litellm_params.rpm"),
    (body(rpm=-1), "litellm_params.rpm"),
    (body(timeout=0), "litellm_params.timeout"),
    (body(timeout=1e308), "litellm_params.timeout"),
    (body(model="nobody/x"), "litellm_params.model"),
    (body(model="what-is-this", api_base=None), "litellm_params.model"),
    (body(model="anthropic/claude"), "litellm_params.model"),
    (body(model="openai/*"), "litellm_params.model"),
    (body(model=""), "litellm_params.model"),
    (body(model=5), "litellm_params.model"),
    (body(api_base="not a url"), "litellm_params.api_base"),
    (body(api_base="http://user:pw@h/v1"), "litellm_params.api_base"),
    (body(api_key="line\nbreak"), "litellm_params.api_key"),
    (body(api_key=["x"]), "litellm_params.api_key"),
    (body(api_key=MASK), "litellm_params.api_key"),
    (body(api_key="sealed:1:0123456789abcdef:AAAA"), "litellm_params.api_key"),
    (body(extra_headers={"Host": "x"}), "litellm_params.extra_headers.Host"),
    (body(extra_headers={"X-A": "a\r\nb: c"}), "litellm_params.extra_headers.X-A"),
    (body(stream=True), "litellm_params.stream"),
    (body(input_cost_per_token="free"), "litellm_params.input_cost_per_token"),
    (body(litellm_credential_name="nobody"), "litellm_params.litellm_credential_name"),
    (body(timeout="os.environ.TIMEOUT"), "litellm_params.timeout"),
    (body(weird="a\x00b"), "litellm_params.weird"),
    (body("\x00"), "model_name"),
    (body("x" * 513), "model_name"),
    (body(" "), "model_name"),
    (body() | {"model_info": {"mode": "dance"}}, "model_info.mode"),
    (body() | {"model_info": {"id": ""}}, "model_info.id"),
    (body() | {"model_info": {"id": "file-1"}}, "model_info.id"),
    (body() | {"model_info": {"access_groups": [""]}}, "model_info.access_groups"),
    (body() | {"model_info": {"team_id": "no-such-team"}}, "model_info.team_id"),
    (body() | {"model_info": {"max_tokens": -1}}, "model_info.max_tokens"),
]


@pytest.mark.parametrize(("sent", "param"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
async def test_refused_models(admin: Admin, sent: dict[str, Any], param: str) -> None:
    """What no worker could serve is refused, naming the field; nothing is stored or shown."""
    answer = await admin.call("POST", "/model/new", sent)
    error = error_of(answer, 400, "invalid_request_error", param)
    assert SECRET not in error["message"]
    assert await count(admin) == 0


async def test_bodies_of_the_wrong_form(admin: Admin) -> None:
    """Missing fields and wrong types are 422 with every issue."""
    assert issues_of(await admin.call("POST", "/model/new", {})) == [
        ("missing", ["body", "model_name"]),
        ("missing", ["body", "litellm_params"]),
    ]
    answer = await admin.call("POST", "/model/new", {"model_name": "m", "litellm_params": {}})
    assert issues_of(answer) == [("missing", ["body", "litellm_params", "model"])]
    wrong = {"model_name": 5, "litellm_params": [], "model_info": "x"}
    assert [kind for kind, _ in issues_of(await admin.call("POST", "/model/new", wrong))] == [
        "string_type",
        "dict_type",
        "dict_type",
    ]
    for path, field in (
        ("/model/delete", "id"),
        ("/model/block", "model_id"),
        ("/model/unblock", "model_id"),
    ):
        assert issues_of(await admin.call("POST", path, {})) == [("missing", ["body", field])]


async def test_ids_clash(admin: Admin) -> None:
    """An id that is stored is refused; one of the file names the file and the place there."""
    await make(admin, model_id="m1")
    answer = await admin.call("POST", "/model/new", body(model_id="m1"))
    error_of(answer, 400, "bad_request_error", "model_info.id")
    for method, path, sent, param in (
        ("POST", "/model/new", body(model_id="file-1"), "model_info.id"),
        ("POST", "/model/update", {"model_info": {"id": "file-1"}}, "model_info.id"),
        ("POST", "/model/delete", {"id": "file-1"}, "id"),
        ("POST", "/model/block", {"model_id": "file-2"}, "model_id"),
    ):
        answer = await admin.call(method, path, sent)
        error = error_of(answer, 400, "invalid_request_error", param)
        assert "config.yaml:" in error["message"]
        assert "model_list[" in error["message"]
    answer = await admin.call("PATCH", "/model/file-1/update", {})
    error_of(answer, 400, "validation_error", "model_id")


async def test_derived_ids_clash(admin: Admin) -> None:
    """Ids that follow from an entry are checked too: one deployment of each organization."""
    await make(admin, model_id="a:o1")
    answer = await admin.call("POST", "/model/new", body(model_id="a", organization=["o1", "o2"]))
    error = error_of(answer, 400, "invalid_request_error", "model_info.id")
    assert "model[a:o1]" in error["message"]
    assert await count(admin) == 1


async def test_update_merges(admin: Admin) -> None:
    """Sent members win, others stay, a mask keeps the secret, null says nothing."""
    await make(admin, model_id="m1", rpm=5, extra_headers={"X-A": "secret-a", "X-B": "secret-b"})
    status, answer = await admin.call(
        "POST",
        "/model/update",
        {
            "model_name": "renamed",
            "litellm_params": {
                "api_base": "http://other/v1",
                "api_key": MASK,
                "rpm": None,
                "extra_headers": {"X-A": MASK, "X-C": "new"},
            },
            "model_info": {"id": "m1", "mode": "chat", "note": "hello"},
        },
    )
    assert status == 200, answer
    assert answer["model_name"] == "renamed"
    assert answer["litellm_params"]["api_base"] == "http://other/v1"
    assert answer["model_info"] == {"id": "m1", "db_model": True, "mode": "chat", "note": "hello"}
    assert await opened(admin, "m1") == {
        "model": "openai/gpt",
        "api_base": "http://other/v1",
        "api_key": SECRET,
        "rpm": 5,
        "extra_headers": {"X-A": "secret-a", "X-C": "new"},
    }


async def test_patch(admin: Admin) -> None:
    """A patch changes what it names, removes what is null, and can block."""
    await make(admin, model_id="m1", rpm=5)
    status, answer = await admin.call(
        "PATCH",
        "/model/m1/update",
        {"litellm_params": {"rpm": None, "tpm": 9}, "model_info": {"a": 1}, "blocked": True},
    )
    assert status == 200, answer
    assert answer["blocked"] is True
    assert await opened(admin, "m1") == {
        "model": "openai/gpt",
        "api_base": "http://h/v1",
        "api_key": SECRET,
        "tpm": 9,
    }
    status, answer = await admin.call(
        "PATCH", "/model/m1/update", {"model_info": {"a": None}, "blocked": False}
    )
    assert (answer["blocked"], answer["model_info"]) == (False, {"id": "m1", "db_model": True})


async def test_refused_updates_change_nothing(admin: Admin) -> None:
    """An update that nobody could serve leaves the row as it was."""
    await make(admin, model_id="m1")
    before = await admin.sql("select * from model")
    for change, param in (
        ({"litellm_params": {"rpm": "x"}}, "litellm_params.rpm"),
        ({"litellm_params": {"model": "anthropic/x"}}, "litellm_params.model"),
        ({"litellm_params": {"other_key": MASK}}, "litellm_params.other_key"),
        ({"model_info": {"mode": "dance"}}, "model_info.mode"),
        ({"model_info": {"team_id": "t"}}, "model_info.team_id"),
        ({"model_info": {"id": "other"}}, "model_info.id"),
        ({"model_name": ""}, "model_name"),
    ):
        answer = await admin.call("PATCH", "/model/m1/update", change)
        error_of(answer, 400, "invalid_request_error", param)
    answer = await admin.call("PATCH", "/model/m1/update", {"litellm_params": {"model": None}})
    error_of(answer, 400, "invalid_request_error", "litellm_params.model")
    assert await admin.sql("select * from model") == before


async def test_unknown_models(admin: Admin) -> None:
    """A model that there is not: 400 for update and delete, 404 for patch and block."""
    answer = await admin.call("POST", "/model/update", {"model_info": {"id": "x"}})
    error_of(answer, 400, "invalid_request_error", "model_info.id")
    error_of(
        await admin.call("POST", "/model/update", {"model_name": "x"}),
        400,
        "invalid_request_error",
        "model_info.id",
    )
    answer = await admin.call("POST", "/model/delete", {"id": "x"})
    error_of(answer, 400, "invalid_request_error", "id")
    answer = await admin.call("PATCH", "/model/x/update", {})
    error_of(answer, 404, "not_found_error", "model_id")
    answer = await admin.call("POST", "/model/block", {"model_id": "x"})
    error_of(answer, 404, "not_found_error", "model_id")


async def test_delete(admin: Admin) -> None:
    """A deleted model is gone, and its id is free again."""
    await make(admin, model_id="m1")
    status, answer = await admin.call("POST", "/model/delete", {"id": "m1"})
    assert (status, list(answer)) == (200, ["message"])
    assert await count(admin) == 0
    await make(admin, model_id="m1")


async def test_what_an_alias_stands_for_stays(start: StartAdmin, tmp_path: Path) -> None:
    """The last model behind an alias of the file can be blocked, and not deleted or renamed."""
    file = {**FILE, "router_settings": {"model_group_alias": {"alias": "needed"}}}
    admin = await start(models=catalog_of(tmp_path, file=file))
    answer = await admin.call("POST", "/model/new", body("other"))
    assert "model_group_alias.alias" in error_of(answer, 400, "invalid_request_error")["message"]
    await make(admin, "needed", model_id="m1")
    for path, sent in (
        ("/model/delete", {"id": "m1"}),
        ("/model/update", {"model_name": "x", "model_info": {"id": "m1"}}),
    ):
        error = error_of(await admin.call("POST", path, sent), 400, "invalid_request_error")
        assert "router_settings.model_group_alias.alias" in error["message"]
    assert (await admin.call("POST", "/model/block", {"model_id": "m1"}))[0] == 200
    assert await count(admin) == 1


async def test_block_and_unblock(admin: Admin) -> None:
    """Blocking answers the row, again and again; a blocked model can be changed."""
    await make(admin, model_id="m1")
    for _ in range(2):
        status, answer = await admin.call("POST", "/model/block", {"model_id": "m1"})
        assert (status, answer["blocked"]) == (200, True)
    answer = await admin.call("PATCH", "/model/m1/update", {"litellm_params": {"rpm": "x"}})
    error_of(answer, 400, "invalid_request_error", "litellm_params.rpm")
    assert (await admin.call("PATCH", "/model/m1/update", {"model_name": "n"}))[0] == 200
    status, answer = await admin.call("POST", "/model/unblock", {"model_id": "m1"})
    assert (status, answer["blocked"], answer["model_name"]) == (200, False, "n")


async def test_audit(admin: Admin) -> None:
    """Each change has an entry without secrets that says what changed, a secret included."""
    await make(admin, model_id="m1")
    patch = "/model/m1/update"
    await admin.call("PATCH", patch, {"litellm_params": {"api_key": "sk-rotated-0123456789"}})
    await admin.call("POST", "/model/block", {"model_id": "m1"})
    await admin.call("POST", "/model/unblock", {"model_id": "m1"})
    await admin.call("POST", "/model/delete", {"id": "m1"})
    rows = await admin.sql("select * from audit_log order by seq")
    assert [row["action"] for row in rows] == [
        "created",
        "updated",
        "blocked",
        "unblocked",
        "deleted",
    ]
    assert {(row["table_name"], row["object_id"]) for row in rows} == {
        ("LiteLLM_ProxyModelTable", "m1")
    }
    after = msgspec.json.decode(rows[1]["updated_values"])
    assert after["rewritten"] == ["api_key"]
    everything = await stored_secrets(admin)
    assert SECRET not in everything
    assert "rotated" not in everything


async def test_two_updates_at_once_both_count(admin: Admin) -> None:
    """Concurrent patches of one model lose nothing, and concurrent makers do not deadlock."""
    await make(admin, model_id="m1")
    patches = [
        admin.call("PATCH", "/model/m1/update", {"model_info": {f"n{number}": number}})
        for number in range(20)
    ]
    made = [make(admin, f"made-{number}") for number in range(10)]
    answers = await asyncio.gather(*patches)
    await asyncio.gather(*made)
    assert {status for status, _ in answers} == {200}
    (row,) = await admin.sql("select model_info from model where model_id = 'm1'")
    info = msgspec.json.decode(row["model_info"])
    assert {f"n{number}" for number in range(20)} <= set(info)
    assert await count(admin) == 11


async def test_same_id_at_once(admin: Admin) -> None:
    """Of many makers of one id exactly one wins, the others are told."""
    answers = await asyncio.gather(
        *(admin.call("POST", "/model/new", body(model_id="m1")) for _ in range(8))
    )
    assert sorted(status for status, _ in answers) == [200, *[400] * 7]


async def test_feed_and_wait(admin: Admin) -> None:
    """Every change is announced by its id; nobody runs, so nobody has applied it."""
    status, answer = await admin.call("POST", "/model/new?wait=applied", body(model_id="m1"))
    assert status == 200
    assert answer["propagation"]["applied"] == 0
    rows = await admin.sql("select ids from change_feed where kind = 'model'")
    assert [row["ids"] for row in rows] == [["m1"]]


@pytest.mark.parametrize(
    ("method", "path", "sent"),
    [
        ("POST", "/model/new", body()),
        ("POST", "/model/update", {"model_info": {"id": "x"}}),
        ("PATCH", "/model/x/update", {}),
        ("POST", "/model/delete", {"id": "x"}),
        ("POST", "/model/block", {"model_id": "x"}),
        ("POST", "/model/unblock", {"model_id": "x"}),
    ],
)
async def test_not_stored_here(
    start: StartAdmin, tmp_path: Path, method: str, path: str, sent: dict[str, Any]
) -> None:
    """With STORE_MODEL_IN_DB off the routes say so."""
    admin = await start(models=catalog_of(tmp_path, stored=False))
    error = error_of(await admin.call(method, path, sent), 500, "internal_server_error")
    assert "STORE_MODEL_IN_DB" in error["message"]


async def test_another_salt_key(start: StartAdmin, tmp_path: Path) -> None:
    """An admin with another key changes nothing that it could not check."""
    first = await start(models=catalog_of(tmp_path))
    await make(first, model_id="m1")
    second = await start(models=catalog_of(tmp_path, salt="sk-another-salt-0123"))
    answer = await second.call("POST", "/model/new", body(model_id="m2"))
    message = error_of(answer, 400, "invalid_request_error")["message"]
    assert "model[m1].litellm_params.api_key" in message
    assert "LITELLM_SALT_KEY" in message
    assert await count(second) == 1


async def test_many_models(admin: Admin) -> None:
    """Models with odd names are made one after the other, and all listed."""
    names = [f"m\u00e4rz-\U0001f680-{number}" for number in range(40)]
    for name in names:
        await make(admin, name)
    status, answer = await admin.call("GET", "/v2/model/info", params={"size": "1000"})
    assert status == 200
    assert set(names) <= {row["model_name"] for row in answer["data"]}
