"""`meridian import litellm`, again: the source has changed, and so has what is here."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg
import pytest

from shared.db.rollups import complete_days
from shared.domain.keys import hash_key
from tests.support.litellm_database import (
    LiteLLMDatabase,
    Outcome,
    boxed,
    contents,
    imported_here,
    rows,
)

TOKEN = hash_key("sk-a")
LATER = (datetime.now(UTC) + timedelta(days=20)).strftime("%Y-%m-%dT%H:%M:%S")
DAY = {"date": "2026-03-01", "api_key": TOKEN, "model": "m", "api_requests": 1}


@pytest.fixture
async def source(empty_database: str) -> LiteLLMDatabase:
    """A small proxy's database."""
    database = LiteLLMDatabase(empty_database)
    await database.create()
    await database.add("BudgetTable", {"budget_id": "b", "max_budget": 1})
    await database.add("UserTable", {"user_id": "u", "user_email": "u@x.org", "spend": 1})
    members = [{"role": "user", "user_id": name} for name in ("u", "v")]
    await database.add("TeamTable", {"team_id": "t", "members_with_roles": members, "spend": 5})
    await database.add(
        "VerificationToken",
        {"token": TOKEN, "key_alias": "a", "team_id": "t", "spend": 5, "max_budget": 9,
         "budget_duration": "30d", "budget_reset_at": LATER},
        {"token": hash_key("sk-b"), "key_alias": "b"},
    )  # fmt: skip
    await database.add("DailyTeamSpend", {**DAY, "id": "1", "team_id": "t", "spend": 5})
    return database


async def take(source: LiteLLMDatabase, database: str, status: int = 0) -> Outcome:
    """An import that ends as expected."""
    outcome = await imported_here(source.dsn, database)
    assert outcome.status == status, (outcome.out, outcome.err)
    return outcome


async def lifetime(database: str, kind: str, owner: str) -> Decimal:
    """What an owner has spent."""
    query = "select sum(spend) from spend_counter where (kind, id, window_start_s) = ($1, $2, 0)"
    found = (await rows(database, query, kind, owner))[0][0]
    assert isinstance(found, Decimal)
    return found


async def test_changed_rows_are_updated_and_only_they(
    source: LiteLLMDatabase, database: str
) -> None:
    """What the source has changed or added comes over; what was changed here alone stays."""
    await take(source, database)
    await rows(database, "update virtual_key set rpm_limit = 3")
    await source.run(
        """update "LiteLLM_VerificationToken" set models = '{gpt}' where key_alias = 'b'""",
        """update "LiteLLM_UserTable" set user_alias = 'U', updated_at = now()""",
    )
    await source.add("VerificationToken", {"token": hash_key("sk-c"), "key_alias": "c"})
    report = (await take(source, database)).report
    assert (report["added"], report["updated"], report["removed"]) == (1, 2, 0)
    found = await rows(
        database, "select key_alias, models, rpm_limit from virtual_key order by key_alias"
    )
    assert [tuple(row) for row in found] == [("a", [], 3), ("b", ["gpt"], None), ("c", [], None)]
    assert (await rows(database, "select user_alias from app_user"))[0][0] == "U"


async def test_spend_is_not_counted_twice(source: LiteLLMDatabase, database: str) -> None:
    """Counters that traffic has moved since get what the source has added, and no more; daily
    figures likewise, beside those of calls that were made here."""
    await take(source, database)
    await rows(database, "update spend_counter set spend = spend + 0.5 where kind = 'team'")
    await rows(database, "update daily_owner_spend set spend = spend + 0.5 where kind = 'team'")
    await source.run(
        """update "LiteLLM_TeamTable" set spend = 6.25""",
        """update "LiteLLM_DailyTeamSpend" set spend = 6.25""",
    )
    outcome = await take(source, database)
    assert outcome.line("spend of teams") == ("6.25", "0", "6.25", True)
    assert any(
        "6.75, 0.5 of it by what was done here" in each for each in outcome.report["remarks"]
    )
    before = await contents(database)
    await take(source, database)
    assert await contents(database) == before
    assert await lifetime(database, "team", "t") == Decimal("6.75")
    day = await rows(database, "select spend from daily_owner_spend where kind = 'team'")
    assert day[0]["spend"] == Decimal("6.75")
    figures = await rows(database, "select spend from daily_spend where kind = 'team'")
    assert [row["spend"] for row in figures] == [Decimal("6.25")]


async def test_a_budget_that_began_anew_adds_to_the_lifetime(
    source: LiteLLMDatabase, database: str
) -> None:
    """A key's spend falls from 5 to 2 by the reset of its budget: it has spent 7. A team's, which
    has no period, falls by hand: it has spent 2."""
    await take(source, database)
    await source.run(
        """update "LiteLLM_VerificationToken" set spend = 2 where spend = 5""",
        """update "LiteLLM_TeamTable" set spend = 2""",
    )
    await take(source, database)
    assert await lifetime(database, "key", TOKEN) == 7
    assert await lifetime(database, "team", "t") == 2


async def test_what_was_deleted_here_stays_deleted(source: LiteLLMDatabase, database: str) -> None:
    """A key and a user that somebody took away do not come back, even if the source changes
    them."""
    await take(source, database)
    await rows(database, "delete from virtual_key where key_alias = 'b'")
    await rows(database, "delete from app_user")
    await source.run("""update "LiteLLM_VerificationToken" set models = '{gpt}'""")
    outcome = await take(source, database)
    assert outcome.line("keys") == ("2", "1", "1", True)
    assert outcome.line("users") == ("1", "1", "0", True)
    assert [row[0] for row in await rows(database, "select key_alias from virtual_key")] == ["a"]


async def test_a_key_that_the_source_deleted_works_no_longer(
    source: LiteLLMDatabase, database: str
) -> None:
    """Its row in the source's archive says so. A user that is merely missing stays."""
    await take(source, database)
    await source.run('delete from "LiteLLM_VerificationToken"', 'delete from "LiteLLM_UserTable"')
    await source.add(
        "DeletedVerificationToken", {"id": "1", "token": TOKEN, "key_alias": "a", "spend": 5}
    )
    outcome = await take(source, database)
    assert outcome.report["removed"] == 1
    left = [row[0] for row in await rows(database, "select key_alias from virtual_key")]
    assert left == ["b"]
    archived = await rows(database, "select token, spend from deleted_virtual_key")
    assert [tuple(row) for row in archived] == [(TOKEN, Decimal(5))]
    assert any("users: 1 are in the source no longer" in e for e in outcome.report["remarks"])
    assert any("keys: 1 are in the source no longer" in e for e in outcome.report["remarks"])


async def test_members_follow_their_team(source: LiteLLMDatabase, database: str) -> None:
    """Who has left a team there leaves it here; who joined it here stays."""
    await take(source, database)
    await rows(database, "insert into team_member (team_id, user_id) values ('t', 'local')")
    await source.run(
        """update "LiteLLM_TeamTable" set members_with_roles =
            '[{"role": "admin", "user_id": "u"}, {"role": "user", "user_id": "w"}]'"""
    )
    report = (await take(source, database)).report
    assert (report["added"], report["updated"], report["removed"]) == (1, 1, 1)
    found = await rows(database, "select user_id, role from team_member order by user_id")
    assert [tuple(row) for row in found] == [("local", "user"), ("u", "admin"), ("w", "user")]


async def test_what_was_here_before_is_left_alone(source: LiteLLMDatabase, database: str) -> None:
    """A user and an alias of our own win; the report says so, and the rest comes over."""
    await rows(database, "insert into app_user (user_id, user_alias) values ('u', 'ours')")
    await rows(
        database,
        "insert into virtual_key (token, key_alias) values ($1, 'b')",
        hash_key("sk-ours"),
    )
    outcome = await take(source, database, status=1)
    assert outcome.examples("wrong") == {"users[u].row"}
    assert outcome.examples("changed") == {f"keys[{hash_key('sk-b')[:12]}…].key_alias"}
    assert (await rows(database, "select user_alias from app_user"))[0][0] == "ours"
    assert await rows(database, "select from virtual_key where token = $1", hash_key("sk-b"))
    before = await contents(database)
    again = await take(source, database, status=1)
    assert (again.report["added"], again.report["updated"]) == (0, 0)
    assert await contents(database) == before


async def test_an_alias_that_changed_hands_arrives(source: LiteLLMDatabase, database: str) -> None:
    """Two keys swap their aliases; after two more imports at most, they have done so here."""
    await take(source, database)
    await source.run(
        """update "LiteLLM_VerificationToken" set key_alias =
            case key_alias when 'a' then 'b' else 'a' end"""
    )
    for _ in range(2):
        await take(source, database)
    query = "select key_alias from virtual_key where token = $1"
    assert (await rows(database, query, TOKEN))[0][0] == "b"


async def test_the_run_is_in_the_audit_log(source: LiteLLMDatabase, database: str) -> None:
    """One entry for a run that wrote something, none for one that did not."""
    await take(source, database)
    await take(source, database)
    entries = await rows(database, "select actor, table_name, updated_values::text from audit_log")
    assert [row["table_name"] for row in entries] == ["import_litellm"]
    assert '"added"' in entries[0]["updated_values"]


async def test_days_with_imported_figures_are_not_put_right(
    source: LiteLLMDatabase, database: str
) -> None:
    """The job that compares daily figures with calls leaves such a day out: the calls of the other
    gateway are not here."""
    day = datetime.now(UTC).date() - timedelta(days=2)
    await rows(database, "select spend_log_ensure_partitions(5, now() - interval '5 days')")
    connection = await asyncpg.connect(database)
    try:
        assert day in await complete_days(connection, 5)
        await source.add(
            "DailyTeamSpend", {**DAY, "id": "2", "team_id": "t", "date": str(day), "spend": 1}
        )
        await take(source, database)
        assert day not in await complete_days(connection, 5)
    finally:
        await connection.close()


async def test_encrypted_callbacks_of_a_key_are_left_out(
    source: LiteLLMDatabase, database: str
) -> None:
    """They would have to be stored in clear; the report says which keys had some."""
    entry = {"callback_name": "l", "callback_vars": {"secret_key": boxed("callback-secret")}}
    await source.add(
        "VerificationToken",
        {"token": hash_key("sk-c"), "metadata": {"logging": [entry], "tags": ["x"]}},
    )
    outcome = await take(source, database)
    assert outcome.examples("changed") == {f"keys[{hash_key('sk-c')[:12]}…].metadata.logging"}
    query = "select metadata::text from virtual_key where token = $1"
    metadata = json.loads((await rows(database, query, hash_key("sk-c")))[0][0])
    assert metadata == {"logging": [{**entry, "callback_vars": {}}], "tags": ["x"]}
