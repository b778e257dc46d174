"""The schema refuses what could not be read back, and keeps its promises about references."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import asyncpg
import pytest

from shared.db.rows import RawConnection as Connection

# Tables that are no one's cached state: written by traffic, or by jobs of the admin.
UNWATCHED = {
    "audit_head",
    "audit_log",
    "change_ack",
    "change_feed",
    "change_head",
    "deleted_team",
    "deleted_virtual_key",
    "instance",
    "invitation",
    "key_activity",
    "leader",
    "schema_migrations",
    "ui_session",
}
WATCHED = {
    "access_group",
    "app_user",
    "budget",
    "config",
    "credential",
    "deprecated_virtual_key",
    "end_user",
    "model",
    "model_access_group",
    "object_permission",
    "organization",
    "organization_member",
    "project",
    "tag",
    "team",
    "team_member",
    "virtual_key",
}


def token(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


@pytest.fixture
async def db(database: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def test_exactly_the_cached_tables_are_watched(db: Connection) -> None:
    """Every cached table has all four feed triggers, and no table that traffic writes has any."""
    rows = await db.fetch(
        "select c.relname, count(t.oid) as triggers from pg_class c "
        "left join pg_trigger t on t.tgrelid = c.oid and t.tgname like 'feed\\_%' "
        "where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace group by 1"
    )
    counts = {row["relname"]: row["triggers"] for row in rows}
    assert {name for name, count in counts.items() if count} == WATCHED
    assert all(counts[name] == 4 for name in WATCHED)
    assert counts.keys() >= UNWATCHED


async def test_watched_tables_hold_no_column_that_traffic_changes(db: Connection) -> None:
    """Spend, last use and liveness are nowhere in a watched table."""
    hot = await db.fetchval(
        "select count(*) from information_schema.columns where table_schema = 'public' "
        "and table_name = any($1::text[]) "
        "and column_name ~ '^(spend|total_spend|last_active|last_seen|used|held)$'",
        sorted(WATCHED),
    )
    assert hot == 0


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("max_budget", "'NaN'"),
        ("max_budget", "-1"),
        ("soft_budget", "-0.01"),
        ("rpm_limit", "-1"),
        ("max_parallel_requests", "-1"),
        ("expires", "'infinity'"),
        ("models", "array['a', null]"),
        ("metadata", "'[]'"),
        ("metadata", "'null'"),
        ("aliases", """'{"a": 1}'"""),
        ("key_type", "'root'"),
        ("token", "'sk-plain'"),
        ("budget_id", "'none such'"),
    ],
)
async def test_a_key_that_could_not_be_used_is_refused(
    db: Connection, column: str, value: str
) -> None:
    """Values that no reader could decode or enforce never get into a key's row."""
    await db.execute("insert into virtual_key (token) values ($1)", token("k"))
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await db.execute(f"update virtual_key set {column} = {value}")


async def test_aliases_are_unique_but_may_be_absent(db: Connection) -> None:
    """Two keys cannot share an alias; any number may have none."""
    add = "insert into virtual_key (token, key_alias) values ($1, $2)"
    await db.execute(add, token("1"), None)
    await db.execute(add, token("2"), None)
    await db.execute(add, token("3"), "ci")
    with pytest.raises(asyncpg.UniqueViolationError):
        await db.execute(add, token("4"), "ci")


async def test_deleting_a_budget_frees_what_was_linked_to_it(db: Connection) -> None:
    """A deleted budget leaves its key without one, and the key is named in the feed."""
    await db.execute("insert into budget (budget_id) values ('b')")
    await db.execute("insert into virtual_key (token, budget_id) values ($1, 'b')", token("k"))
    before = await db.fetchval("select version from change_head")
    await db.execute("delete from budget")
    assert await db.fetchval("select budget_id from virtual_key") is None
    rows = await db.fetch("select kind, ids from change_feed where version > $1", before)
    assert {row["kind"]: row["ids"] for row in rows} == {"budget": ["b"], "key": [token("k")]}


async def test_rotating_a_key_takes_its_old_hash_along(db: Connection) -> None:
    """A deprecated hash follows the active one through rotations and goes with the key."""
    await db.execute("insert into virtual_key (token) values ($1)", token("1"))
    await db.execute(
        "insert into deprecated_virtual_key (token, active_token, revoke_at) "
        "values ($1, $2, now() + interval '1 day')",
        token("0"),
        token("1"),
    )
    await db.execute("update virtual_key set token = $1", token("2"))
    assert await db.fetchval("select active_token from deprecated_virtual_key") == token("2")
    await db.execute("delete from virtual_key")
    assert await db.fetchval("select count(*) from deprecated_virtual_key") == 0


async def test_the_archive_takes_every_column_of_a_key(db: Connection) -> None:
    """A key's row can be copied to the archive whole."""
    missing = await db.fetch(
        "select column_name, data_type from information_schema.columns "
        "where table_name = 'virtual_key' and table_schema = 'public' except "
        "select column_name, data_type from information_schema.columns "
        "where table_name = 'deleted_virtual_key' and table_schema = 'public'"
    )
    assert missing == []


async def test_the_audit_log_is_one_chain_under_concurrent_writers(
    db: Connection, database: str
) -> None:
    """Digests chain without a gap whoever writes, and a forged row no longer fits."""

    async def write(writer: int) -> None:
        connection = await asyncpg.connect(database)
        for number in range(10):
            async with connection.transaction():
                await connection.execute(
                    "insert into audit_log (id, changed_by, route, action, table_name, object_id, "
                    "updated_values) values ($1, 'root', '/', 'updated', 'virtual_key', 'x', $2)",
                    f"{writer}-{number}",
                    '{"blocked": true}',
                )
                await connection.execute(
                    "insert into config (param_name, value) values ($1, '1')",
                    f"{writer}-{number}",
                )
        await connection.close()

    await asyncio.gather(*(write(writer) for writer in range(4)))
    broken = (
        "select count(*) from (select l, lag(digest, 1, '\\x') over (order by seq) as previous, "
        "row_number() over (order by seq) as expected from audit_log l) as chain "
        "where (chain.l).seq <> expected "
        "or (chain.l).digest <> audit_digest(previous, chain.l)"
    )
    assert await db.fetchval("select count(*) from audit_log") == 40
    assert await db.fetchval(broken) == 0
    with pytest.raises(asyncpg.RestrictViolationError):
        await db.execute("update audit_log set changed_by = 'nobody'")
    await db.execute("alter table audit_log disable trigger append_only")
    await db.execute("update audit_log set changed_by = 'nobody' where seq = 7")
    assert await db.fetchval(broken) == 1
