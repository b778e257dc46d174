"""The migration runner against a real server."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest

from shared.db.examine import examine
from shared.db.migrate import NO_TRANSACTION, Migration, check_schema, load_migrations, migrate
from shared.domain.errors import ConfigError, StoreUnavailable


def files(*texts: str) -> tuple[Migration, ...]:
    """Migrations 1, 2, … of the given texts."""
    return tuple(
        Migration(number, f"step{number}", text, hashlib.sha256(text.encode()).hexdigest())
        for number, text in enumerate(texts, 1)
    )


def versions(applied: Sequence[Migration]) -> list[int]:
    """Their numbers."""
    return [migration.version for migration in applied]


@pytest.fixture
async def connection(empty_database: str) -> AsyncIterator[asyncpg.Connection]:
    """A look into the database under test."""
    connection = await asyncpg.connect(empty_database)
    yield connection
    await connection.close()


async def recorded(connection: asyncpg.Connection) -> list[int]:
    """The versions that are marked as applied."""
    rows = await connection.fetch("SELECT version FROM schema_migrations ORDER BY version")
    return [row["version"] for row in rows]


async def has_table(connection: asyncpg.Connection, name: str) -> bool:
    """Whether a table exists."""
    return await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", name)


async def test_real_migrations_apply_once(empty_database: str) -> None:
    """The packaged files apply to an empty database, and a second run has nothing to do."""
    applied = await migrate(empty_database)
    assert applied == load_migrations()
    assert await migrate(empty_database) == ()
    state = await check_schema(empty_database)
    assert state.version == state.needed == len(applied)


async def test_record_holds_slug_checksum_time_and_duration(
    empty_database: str, connection: asyncpg.Connection
) -> None:
    """Each applied file leaves one full row."""
    steps = files("CREATE TABLE a (id int)")
    await migrate(empty_database, migrations=steps)
    row = await connection.fetchrow(
        "SELECT *, clock_timestamp() - applied_at < interval '1 minute' AS fresh"
        " FROM schema_migrations"
    )
    assert row is not None
    assert (row["version"], row["slug"], row["checksum"]) == (1, "step1", steps[0].checksum)
    assert row["fresh"]
    assert row["duration_ms"] >= 0


async def test_dry_run_changes_nothing(empty_database: str, connection: asyncpg.Connection) -> None:
    """A dry run names what would be applied and does not even make the runner's table."""
    steps = files("CREATE TABLE a (id int)", "CREATE TABLE b (id int)")
    assert versions(await migrate(empty_database, dry_run=True, migrations=steps)) == [1, 2]
    assert not await has_table(connection, "schema_migrations")
    assert not await has_table(connection, "a")


async def test_to_stops_early_and_never_goes_back(
    empty_database: str, connection: asyncpg.Connection
) -> None:
    """`to` bounds a run; a bound behind the schema or beyond the files is refused."""
    steps = files("CREATE TABLE a (id int)", "CREATE TABLE b (id int)", "CREATE TABLE c (id int)")
    assert versions(await migrate(empty_database, to=2, migrations=steps)) == [1, 2]
    assert not await has_table(connection, "c")
    with pytest.raises(ConfigError, match="only go forward"):
        await migrate(empty_database, to=1, migrations=steps)
    for beyond in (0, 4, -1):
        with pytest.raises(ConfigError, match="no migration"):
            await migrate(empty_database, to=beyond, migrations=steps)
    assert versions(await migrate(empty_database, migrations=steps)) == [3]


async def test_failing_file_leaves_nothing_and_says_where(
    empty_database: str, connection: asyncpg.Connection
) -> None:
    """A failure rolls its whole file back, keeps earlier ones, and names file and line."""
    steps = files("CREATE TABLE a (id int)", "CREATE TABLE b (id int);\n\nSELECT nothing FROM a;")
    with pytest.raises(ConfigError, match=r"0002_step2 failed at line 3: .*nothing") as caught:
        await migrate(empty_database, migrations=steps)
    assert "nothing of it remains" in str(caught.value)
    assert await has_table(connection, "a")
    assert not await has_table(connection, "b")
    assert await recorded(connection) == [1]
    repaired = files("CREATE TABLE a (id int)", "CREATE TABLE b (id int)")
    assert versions(await migrate(empty_database, migrations=repaired)) == [2]


async def test_changed_file_is_refused(empty_database: str) -> None:
    """A file that was edited after it was applied stops every run, dry ones too."""
    await migrate(empty_database, migrations=files("CREATE TABLE a (id int)"))
    edited = files("CREATE TABLE a (id bigint)")
    with pytest.raises(ConfigError, match="0001_step1 was changed"):
        await migrate(empty_database, migrations=edited)
    with pytest.raises(ConfigError, match="0001_step1 was changed"):
        await migrate(empty_database, dry_run=True, migrations=edited)


async def test_hole_in_the_history_is_refused(
    empty_database: str, connection: asyncpg.Connection
) -> None:
    """A database that has a later version but not an earlier one is left alone."""
    steps = files("CREATE TABLE a (id int)", "CREATE TABLE b (id int)", "CREATE TABLE c (id int)")
    await migrate(empty_database, migrations=steps)
    await connection.execute("DELETE FROM schema_migrations WHERE version = 2")
    with pytest.raises(ConfigError, match="another line of releases"):
        await migrate(empty_database, migrations=steps)


async def test_concurrent_runners_apply_each_file_once(
    empty_database: str, connection: asyncpg.Connection
) -> None:
    """Eight runners at once share the work: together they apply every file exactly once."""
    steps = files(
        *(
            f"CREATE TABLE t{number} (id int); INSERT INTO t{number} VALUES (1);"
            " SELECT pg_sleep(0.02)"
            for number in range(6)
        )
    )
    runs = await asyncio.gather(*(migrate(empty_database, migrations=steps) for _ in range(8)))
    assert sorted(version for run in runs for version in versions(run)) == [1, 2, 3, 4, 5, 6]
    assert await recorded(connection) == [1, 2, 3, 4, 5, 6]
    assert [await connection.fetchval(f"SELECT count(*) FROM t{n}") for n in range(6)] == [1] * 6


async def test_file_outside_a_transaction_builds_an_index_beside_waiting_runners(
    empty_database: str, connection: asyncpg.Connection
) -> None:
    """A concurrent index build ends although other runners wait for the lock meanwhile."""
    steps = files(
        "CREATE TABLE a (id int); INSERT INTO a SELECT generate_series(1, 20000)",
        f"{NO_TRANSACTION}\nCREATE INDEX CONCURRENTLY IF NOT EXISTS a_id ON a (id)",
        "CREATE TABLE b (id int)",
    )
    async with asyncio.timeout(30):
        runs = await asyncio.gather(*(migrate(empty_database, migrations=steps) for _ in range(4)))
    assert sorted(version for run in runs for version in versions(run)) == [1, 2, 3]
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'a_id'::regclass"
    assert await connection.fetchval(valid)


async def test_failing_file_outside_a_transaction_is_not_recorded(
    empty_database: str, connection: asyncpg.Connection
) -> None:
    """It runs again next time."""
    steps = files(f"{NO_TRANSACTION}\nCREATE INDEX CONCURRENTLY IF NOT EXISTS x ON absent (id)")
    with pytest.raises(ConfigError, match="it is not recorded"):
        await migrate(empty_database, migrations=steps)
    assert await recorded(connection) == []


async def test_lock_that_others_hold_ends_the_wait(
    empty_database: str, connection: asyncpg.Connection
) -> None:
    """A migration behind a long transaction gives up instead of queueing everybody behind it."""
    await migrate(empty_database, migrations=files("CREATE TABLE a (id int)"))
    steps = files("CREATE TABLE a (id int)", "ALTER TABLE a ADD COLUMN more int")
    async with connection.transaction():
        await connection.execute("LOCK TABLE a IN ACCESS SHARE MODE")
        with pytest.raises(ConfigError, match=r"0002_step2 failed: .*lock timeout"):
            await migrate(empty_database, migrations=steps, lock_timeout_s=0.05)
    assert versions(await migrate(empty_database, migrations=steps)) == [2]


async def test_check_refuses_older_and_tolerates_newer(
    empty_database: str, connection: asyncpg.Connection
) -> None:
    """An empty or older schema names the command that helps; a newer one is served."""
    steps = files("CREATE TABLE a (id int)", "CREATE TABLE b (id int)")
    with pytest.raises(ConfigError, match=r"version 0, .* needs 2: run `meridian migrate`"):
        await check_schema(empty_database, migrations=steps)
    await migrate(empty_database, to=1, migrations=steps)
    with pytest.raises(ConfigError, match="version 1"):
        await check_schema(connection, migrations=steps)
    await migrate(empty_database, migrations=steps)
    state = await check_schema(connection, migrations=steps[:1])
    assert (state.version, state.needed) == (2, 1)
    assert await migrate(empty_database, migrations=steps[:1]) == ()


async def test_unreachable_database_is_not_a_configuration_error(
    empty_database: str, unused_tcp_port: int
) -> None:
    """Nobody listening is `StoreUnavailable`, for the runner and for the check at start."""
    address = f"postgresql://nobody:hidden@127.0.0.1:{unused_tcp_port}/x"
    for attempt in (migrate(address), check_schema(address), examine(address, address)):
        with pytest.raises(StoreUnavailable) as caught:
            await attempt
        assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["mysql://u:hidden@h/x", "postgresql://u:hid/den@h:port/x", "postgresql://u:p@h:hidden/x"],
)
async def test_address_that_is_none_is_refused_without_repeating_it(address: str) -> None:
    """A malformed address may hold a password anywhere, so nothing of it is shown."""
    with pytest.raises(ConfigError) as caught:
        await migrate(address)
    assert "hid" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_wrong_password_is_a_configuration_error(empty_database: str) -> None:
    """The server's refusal is passed on, the password is not."""
    wrong = empty_database.replace("meridian:", "meridian:wrong", 1)
    with pytest.raises(ConfigError, match="password authentication failed") as caught:
        await migrate(wrong)
    assert "wrong" not in str(caught.value)


async def test_examination_of_a_healthy_database(empty_database: str) -> None:
    """Version, clock and notifications are as they are on this machine."""
    facts = await examine(empty_database, empty_database)
    assert facts.version >= 150000
    assert facts.release.split(".")[0] == str(facts.version // 10000)
    assert abs(facts.clock_offset_s) < 1.0
    assert facts.listens
    assert not facts.read_only
