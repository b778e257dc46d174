"""`meridian import litellm` of databases that are not as they should be."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from services.admin.litellm_import.report import Report
from shared.domain.keys import hash_key
from tests.support.litellm_database import (
    TABLES,
    LiteLLMDatabase,
    boxed,
    contents,
    gcm,
    imported_here,
    rows,
)

WRONG_SALT = "sk-a-wrong-salt-0123456789"


@pytest.fixture
async def source(empty_database: str) -> LiteLLMDatabase:
    """A proxy's database without any row."""
    database = LiteLLMDatabase(empty_database)
    await database.create()
    return database


def key(name: str, **columns: Any) -> dict[str, Any]:
    """A key's row."""
    return {"token": hash_key(name), "key_alias": name, **columns}


def named(name: str, column: str) -> str:
    """How the report calls a column of it."""
    return f"keys[{hash_key(name)[:12]}…].{column}"


async def test_limits_that_make_no_sense_never_become_wider(
    source: LiteLLMDatabase, database: str
) -> None:
    """What is not enforced there is no limit here; what lets nothing through still does; what is
    too big is the most that there is."""
    await source.add(
        "VerificationToken",
        key("nan", max_budget="NaN", rpm_limit=5),
        key("inf", max_budget="Infinity"),
        key("negative", max_budget=-1, rpm_limit=-1, max_parallel_requests=-3),
        key("huge", max_budget=1e300, tpm_limit=2**62, budget_duration="sometimes"),
        key("spent", spend="NaN"),
        key("owing", spend=-5),
    )
    outcome = await imported_here(source.dsn, database)
    assert outcome.status == 0, (outcome.out, outcome.err)
    found = {
        row["key_alias"]: (row["max_budget"], row["rpm_limit"])
        for row in await rows(database, "select * from virtual_key")
    }
    assert found == {
        "nan": (None, 5),
        "inf": (None, None),
        "negative": (Decimal(0), 0),
        "huge": (Decimal(9_999_999_999), None),
        "spent": (None, None),
        "owing": (None, None),
    }
    changed = outcome.examples("changed")
    assert {named("nan", "max_budget"), named("negative", "rpm_limit")} <= changed
    assert {named("huge", "budget_duration"), named("spent", "spend")} <= changed
    assert outcome.line("spend of keys") == ("0", "0", "0", True)


async def test_broken_rows_are_named_and_stop_nothing(
    source: LiteLLMDatabase, database: str
) -> None:
    """Rows whose limits cannot be read stay out, each with its field; the others come over."""
    deep: Any = 1
    for _ in range(100):
        deep = {"a": deep}
    await source.add(
        "VerificationToken",
        key("json", metadata="{not json"),
        key("list", metadata=[1, 2]),
        key("deep", metadata=deep),
        key("models", models=[None, None]),
        key("routes", allowed_routes=[None]),
        key("limits", model_max_budget={"gpt": {"max_budget": "lots"}}),
        key("windows", budget_limits={"a": 1}),
        key("type", key_type="root"),
        {"token": "sk-this-is-a-plain-key-0001", "key_alias": "plain"},
        key("some", models=["gpt", None], aliases={"a": 1, "b": "gpt"}, config="nonsense"),
        key("fine", metadata='{"a": "b"}', expires="infinity"),
    )
    await source.add("UserTable", {"user_id": "", "spend": 0}, {"user_id": "x" * 600})
    await source.add(
        "TeamTable",
        {"team_id": "t", "members_with_roles": [{"role": "user"}, "x", {"user_id": None},
                                                {"user_id": "u", "role": "king"}],
         "members": ["v", None]},
        {"team_id": "r", "members_with_roles": "rubbish"},
    )  # fmt: skip
    await source.run(
        """insert into "LiteLLM_VerificationToken" (token, expires)
            values (repeat('0', 64), '-infinity')"""
    )
    outcome = await imported_here(source.dsn, database)
    assert outcome.status == 1, outcome.err
    found = await rows(database, "select key_alias, models, aliases::text from virtual_key")
    assert {row["key_alias"]: row["models"] for row in found} == {"some": ["gpt"], "fine": []}
    expected = {"json": "metadata", "list": "metadata", "deep": "metadata", "models": "models",
                "routes": "allowed_routes", "limits": "model_max_budget",
                "windows": "budget_limits", "type": "key_type"}  # fmt: skip
    wrong = outcome.examples("wrong")
    assert {named(name, column) for name, column in expected.items()} <= wrong
    assert {"keys[000000000000…].expires", "keys[?].token", "users[].user_id"} <= wrong
    assert outcome.line("team members")[2] == "1"
    assert outcome.line("keys")[3] is False
    assert "sk-this-is-a-plain-key" not in outcome.out + outcome.err
    assert {named("some", "models"), named("some", "config")} <= outcome.examples("changed")


async def test_a_row_whose_budget_stays_out_stays_out(
    source: LiteLLMDatabase, database: str
) -> None:
    """Without its budget it would have no limit."""
    await source.add(
        "BudgetTable",
        {"budget_id": "bad", "max_budget": 1, "model_max_budget": "{not json"},
        {"budget_id": "good", "max_budget": 1},
    )
    await source.add("VerificationToken", key("a", budget_id="bad"), key("b", budget_id="good"))
    outcome = await imported_here(source.dsn, database)
    assert outcome.status == 1
    assert outcome.examples("wrong") == {"budgets[bad].model_max_budget", named("a", "budget_id")}
    assert [row[0] for row in await rows(database, "select key_alias from virtual_key")] == ["b"]


async def test_a_wrong_salt_key_stores_no_model(source: LiteLLMDatabase, database: str) -> None:
    """Nothing undecipherable is stored; the report names it, and the right key mends it."""
    await source.add(
        "ProxyModelTable",
        {"model_id": "m1", "model_name": "a",
         "litellm_params": {"model": boxed("openai/gpt-x"), "api_key": boxed("sk-provider")}},
        {"model_id": "m2", "model_name": "b", "litellm_params": {"model": gcm("openai/gpt-x")}},
        {"model_id": "m3", "model_name": "c", "litellm_params": {
            "model": "openai/gpt-x", "api_key": "os.environ/A_KEY", "api_base": "http://h/v1"}},
    )  # fmt: skip
    await source.add("CredentialsTable", {"credential_id": "c", "credential_name": "c",
                     "credential_values": {"api_key": boxed("sk-provider")}})  # fmt: skip
    outcome = await imported_here(source.dsn, database, environ={"OTHER_SALT": WRONG_SALT})
    assert outcome.status == 1, outcome.err
    assert outcome.examples("wrong") == {
        "models[m1].litellm_params.model",
        "models[m2].litellm_params.model",
        "credentials[c].credential_values.api_key",
    }
    stored = await rows(database, "select model_id from model union select credential_id "
                        "from credential")  # fmt: skip
    assert [row[0] for row in stored] == ["m3"]
    assert WRONG_SALT not in outcome.out + outcome.err
    assert (await imported_here(source.dsn, database)).status == 0
    assert len(await rows(database, "select from model")) == 3


async def test_models_that_could_not_be_in_force_stay_out(
    source: LiteLLMDatabase, database: str
) -> None:
    """One of them would keep workers from taking over all the others."""
    base = {"model": "openai/gpt-x", "api_base": "http://h/v1"}
    await source.add(
        "ProxyModelTable",
        {"model_id": "good", "model_name": "a", "litellm_params": base},
        {"model_id": "bad", "model_name": "b", "litellm_params": {**base, "rpm": "many"}},
        {"model_id": "none", "model_name": "c", "litellm_params": {"api_base": "http://h/v1"}},
        {"model_id": "lost", "model_name": "d", "litellm_params": {
            **base, "litellm_credential_name": "nowhere"}},
        {"model_id": "forged", "model_name": "e", "litellm_params": {
            **base, "api_key": "sealed:1:0011223344556677:AAAA"}},
    )  # fmt: skip
    outcome = await imported_here(source.dsn, database)
    assert outcome.status == 1, outcome.err
    assert [row[0] for row in await rows(database, "select model_id from model")] == ["good"]
    owners = {name.split("[")[1].split("]")[0] for name in outcome.examples("wrong")}
    assert owners == {"bad", "none", "lost", "forged"}
    before = await contents(database)
    await imported_here(source.dsn, database)
    assert await contents(database) == before


async def test_an_older_release_lacks_tables_and_columns(
    empty_database: str, database: str
) -> None:
    """What is missing is named and taken for empty or unset; columns of others are ignored."""
    source = LiteLLMDatabase(empty_database)
    await source.create(
        without=set(TABLES) - {"UserTable", "VerificationToken", "TeamTable", "BudgetTable"}
    )
    await source.run(
        'alter table "LiteLLM_VerificationToken" drop column tpd_limit, drop column key_type, '
        "drop column budget_limits, add column of_a_fork text default 'x'",
        'alter table "LiteLLM_TeamTable" drop column model_id, drop column soft_budget',
        'alter table "LiteLLM_VerificationToken" alter metadata drop default, '
        "alter metadata type text",
    )
    await source.add("VerificationToken", key("a", metadata='{"x": 1}', spend=1.5))
    await source.add("TeamTable", {"team_id": "t", "members": ["u"]})
    outcome = await imported_here(source.dsn, database)
    assert outcome.status == 0, (outcome.out, outcome.err)
    remarks = outcome.report["remarks"]
    assert "LiteLLM_ProxyModelTable: there is no such table; taken for empty" in remarks
    lacking = next(each for each in remarks if each.startswith("LiteLLM_VerificationToken: has no"))
    assert all(name in lacking for name in ("tpd_limit", "key_type", "budget_limits"))
    found = await rows(database, "select metadata::text from virtual_key")
    assert json.loads(found[0][0]) == {"x": 1}
    assert outcome.line("team members") == ("1", "0", "1", True)


async def test_the_source_is_only_read_and_may_be_in_a_schema(
    source: LiteLLMDatabase, database: str
) -> None:
    """An address as the proxy has it, with parameters of its client, works; a role that may only
    read is enough."""
    await source.add("VerificationToken", key("a"))
    await source.run(
        "create schema proxy",
        *(f'alter table "LiteLLM_{name}" set schema proxy' for name in TABLES),
        "create role reader login password 'r'",
        "grant usage on schema proxy to reader",
        "grant select on all tables in schema proxy to reader",
    )
    try:
        address, at, place = source.dsn.partition("@")
        assert address
        dsn = f"postgresql://reader:r{at}{place}?schema=proxy&connection_limit=9&pgbouncer=true"
        outcome = await imported_here(dsn, database)
        assert outcome.status == 0, outcome.err
        assert outcome.line("keys") == ("1", "0", "1", True)
    finally:
        await source.run("drop owned by reader", "drop role reader")


@pytest.mark.parametrize(
    ("dsn", "status", "what"),
    [
        ("postgresql://someone:hidden-word@127.0.0.1:1/x", 3, "--from"),
        ("postgresql://someone:hidden-word@[oops/x", 2, "--from"),
        ("nonsense hidden-word", 2, "--from"),
    ],
)
async def test_a_source_that_cannot_be_had(database: str, dsn: str, status: int, what: str) -> None:
    """The command says so without the password, and writes nothing."""
    before = await contents(database)
    outcome = await imported_here(dsn, database)
    assert (outcome.status, outcome.out) == (status, "")
    assert what in outcome.err
    assert "hidden-word" not in outcome.err
    assert "Traceback" not in outcome.err
    assert await contents(database) == before


async def test_a_database_of_something_else_is_refused(empty_database: str, database: str) -> None:
    """It is no proxy's; and a variable that is not set is no salt key."""
    outcome = await imported_here(empty_database, database)
    assert outcome.status == 2
    assert "no tables of a LiteLLM proxy" in outcome.err
    outcome = await imported_here(empty_database, database, "--salt-key-env", "NOT_SET_AT_ALL")
    assert outcome.status == 2
    assert "NOT_SET_AT_ALL" in outcome.err


async def test_a_failure_in_the_middle_leaves_nothing(
    source: LiteLLMDatabase, database: str
) -> None:
    """Whatever the last step meets, nothing of the first ones remains."""
    await source.add("VerificationToken", key("a", spend=1))
    await rows(database, "alter table daily_model_spend rename to elsewhere")
    before = await contents(database)
    outcome = await imported_here(source.dsn, database)
    assert outcome.status == 2
    assert "nothing was imported" in outcome.err
    assert await contents(database) == before


async def test_what_no_check_foresaw_is_refused_alone(
    source: LiteLLMDatabase, database: str
) -> None:
    """A row that only the database refuses is named; its whole batch comes over but for it."""
    await rows(database, "alter table virtual_key add constraint odd check (key_alias <> 'k-77')")
    await source.add("VerificationToken", *(key(f"k-{n}") for n in range(100)))
    outcome = await imported_here(source.dsn, database)
    assert outcome.status == 1
    assert outcome.examples("wrong") == {named("k-77", "row")}
    assert outcome.line("keys") == ("100", "0", "99", False)


async def test_many_rows(source: LiteLLMDatabase, database: str) -> None:
    """Some batches' worth of keys, with progress on the way."""
    await source.run(
        """insert into "LiteLLM_VerificationToken" (token, key_alias, spend, metadata)
            select encode(sha256(n::text::bytea), 'hex'), 'k' || n, n / 1000.0, '{"n": 1}'
            from generate_series(1, 5000) n"""
    )
    outcome = await imported_here(source.dsn, database)
    assert outcome.status == 0, outcome.err
    assert outcome.line("keys") == ("5000", "0", "5000", True)
    assert outcome.line("spend of keys") == ("12502.5", "0", "12502.5", True)
    assert "keys: 3000" in outcome.err
    connection = await asyncpg.connect(database)
    try:
        assert await connection.fetchval("select sum(n) from key_tally") == 5000
    finally:
        await connection.close()


def test_the_report_for_people() -> None:
    """Counts and totals side by side, the differing ones marked; reasons with dotted names, of
    many the first; nothing that would move a terminal's cursor."""
    report = Report(dry_run=True)
    report.count("keys", 200, 1, 198)
    report.total("spend of keys", Decimal("12.50"), Decimal(0), Decimal("12.5000000000"))
    for number in range(25):
        report.change("keys", f"k{number}", "max_budget", "is no finite number: left empty")
    report.refuse("users", "a\x1b[2Jb", "row", "is refused")
    report.leave("LiteLLM_SpendLogs", "single calls stay there", count=7)
    text = "\n".join(report.text())
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "keys 200 1 198 DIFFERS" in lines
    assert "spend of keys 12.5 0 12.5 equal" in lines
    assert "keys: max_budget is no finite number: left empty (25)" in lines
    assert "and 5 more" in lines
    assert "users[a\\x1b[2Jb].row" in lines
    assert "LiteLLM_SpendLogs: single calls stay there (7)" in lines
    assert lines[0] == "dry run: nothing was written"
    assert lines[-2:] == ["nothing to change", "not everything is equal"]
    assert "\x1b" not in text
