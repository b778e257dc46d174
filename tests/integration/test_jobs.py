"""What each background job deletes, keeps and puts right."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import yaml
from attrs import evolve

from services.admin.api.key_policy import KeyRules
from services.admin.jobs import job_settings, key_rotation
from shared.config.startup import read_configuration
from shared.db.feed import head_version
from shared.db.ledger import Stretch, apply
from shared.db.pool import Store
from shared.db.upkeep import forget_instances
from shared.domain.capabilities import Binary
from shared.domain.clock import Clock
from shared.domain.errors import ConfigError, RequestError
from shared.domain.ids import id_floor
from shared.domain.keys import hash_key
from shared.fleet.jobs import DAY_S, JobSettings, all_jobs
from shared.fleet.leader import Leader
from shared.gateway.build import Start
from shared.spend.records import encode_close, encode_open
from tests.support import ledger_calls
from tests.support.admin_api import admins
from tests.support.fleet import Calls, until

_INVENT = """
insert into daily_spend select (jsonb_populate_record(d, '{"id": "invented"}')).*
from daily_spend d where kind = 'user'
"""
ALL_DEFAULT = {"expired_logins", "old_tokens", "rollup_repair"}


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    opened = Store(database, application_name="test-jobs", size=4, statement_timeout_s=30)
    await opened.open()
    yield opened
    await opened.close()


async def run(store: Store, **settings: Any) -> None:
    """Runs every job that the settings ask for, once, whatever has been run before."""
    await store.execute("update leader set done_at = null, until = '-infinity'")
    jobs = all_jobs(JobSettings(**settings))
    leader = Leader(store, str(uuid4()), jobs)
    while await leader.run_one():
        pass
    done = await store.fetch("select job from leader where done_at is not null")
    assert {row["job"] for row in done} == {job.name for job in jobs}, "a job failed"


async def add_key(store: Store, name: str, **columns: Any) -> str:
    """A key's row; `expires_in_s` and `rotate_in_s` count from now."""
    token = hash_key(f"sk-{name}")
    await store.execute(
        "insert into virtual_key (token, key_alias, team_id, expires, auto_rotate, "
        "key_rotation_at, blocked) values ($1, $2, $3, "
        "clock_timestamp() + make_interval(secs => $4::float8), $5, "
        "clock_timestamp() + make_interval(secs => $6::float8), $7)",
        token,
        name,
        columns.get("team_id"),
        columns.get("expires_in_s"),
        columns.get("auto_rotate", False),
        columns.get("rotate_in_s"),
        columns.get("blocked"),
    )
    return token


async def names(store: Store, table: str = "virtual_key", column: str = "key_alias") -> set[str]:
    """What is left of a table."""
    return {row[0] for row in await store.fetch(f"select {column} from {table}")}


def test_only_what_is_wanted_is_a_job():
    """By default nothing that somebody may want to keep is deleted."""
    assert {job.name for job in all_jobs(JobSettings())} == ALL_DEFAULT


async def test_expired_logins_go_and_expired_keys_stay(store: Store):
    """Keys of browser sessions go when they expire; other keys stay and just do not work."""
    for number in range(3):
        await add_key(store, f"ui-{number}", team_id="litellm-dashboard", expires_in_s=-1)
    await add_key(store, "ui-live", team_id="litellm-dashboard", expires_in_s=60)
    await add_key(store, "ui-for-ever", team_id="litellm-dashboard")
    await add_key(store, "expired", expires_in_s=-400 * DAY_S)
    await store.execute(
        "insert into ui_session (session_id, user_id, user_role, login_method, expires_at) values "
        "('old', 'u', 'r', 'm', now() - interval '25 hours'), ('new', 'u', 'r', 'm', now())"
    )
    await store.execute("insert into app_user (user_id) values ('u')")
    await store.execute(
        "insert into invitation (id, user_id, expires_at) values "
        "('old', 'u', now() - interval '8 days'), ('new', 'u', now() - interval '6 days')"
    )
    await run(store)
    assert await names(store) == {"ui-live", "ui-for-ever", "expired"}
    assert await names(store, "ui_session", "session_id") == {"new"}
    assert await names(store, "invitation", "id") == {"new"}
    assert await names(store, "deleted_virtual_key") == set()


async def test_many_rows_go_in_steps(store: Store):
    """More rows than a step takes go in one run."""
    await store.execute(
        "insert into virtual_key (token, team_id, expires) "
        "select encode(sha256(n::text::bytea), 'hex'), 'litellm-dashboard', now() - interval '1 s' "
        "from generate_series(1, 1200) n"
    )
    await run(store)
    assert await store.fetchval("select count(*) from virtual_key") == 0


async def test_expired_keys_are_archived_where_that_is_asked_for(store: Store):
    """After the time that they are kept they move to the archive, each with an audit entry."""
    old = await add_key(store, "old", expires_in_s=-8 * DAY_S)
    await add_key(store, "young", expires_in_s=-6 * DAY_S)
    await add_key(store, "live")
    before = await head_version(store)
    await run(store, expired_keys_kept_s=7 * DAY_S)
    assert await names(store) == {"young", "live"}
    assert await names(store, "deleted_virtual_key") == {"old"}
    entry = await store.fetchrow("select * from audit_log")
    assert entry is not None
    assert (entry["action"], entry["object_id"], entry["actor"]) == ("deleted", old, "meridian")
    assert await head_version(store) == before + 1
    await run(store, expired_keys_kept_s=7 * DAY_S)
    assert await store.fetchval("select count(*) from audit_log") == 1


async def test_old_tokens_go_after_their_grace_period(store: Store):
    """The hash of a rotated key goes when it does not work any more."""
    active = await add_key(store, "active")
    await store.execute(
        "insert into deprecated_virtual_key (token, active_token, revoke_at) values "
        "($1, $3, now() - interval '1 s'), ($2, $3, now() + interval '1 h')",
        hash_key("sk-1"),
        hash_key("sk-2"),
        active,
    )
    await run(store)
    assert await names(store, "deprecated_virtual_key", "token") == {hash_key("sk-2")}


async def test_audit_retention(store: Store):
    """Entries go by age, in steps; the chain goes on."""
    await store.execute(
        "insert into audit_log (id, changed_at, changed_by, route, action, table_name, object_id) "
        "select n::text, now() - make_interval(mins => 3000 - n), 'a', '/', 'updated', 't', 'o' "
        "from generate_series(1, 3000) n"
    )
    await run(store, audit_kept_s=DAY_S)
    assert 1430 < await store.fetchval("select count(*) from audit_log") <= 1440
    base = await store.fetchval("select seq from audit_base")
    assert base + 1 == await store.fetchval("select min(seq) from audit_log")


async def test_rotation_takes_each_due_key_once(store: Store):
    """Due keys, oldest first; one that cannot be rotated keeps no other from it."""
    for name, more in {
        "never": {"auto_rotate": True},
        "due": {"auto_rotate": True, "rotate_in_s": -60},
        "bad": {"auto_rotate": True, "rotate_in_s": -120},
        "later": {"auto_rotate": True, "rotate_in_s": 60},
        "plain": {"rotate_in_s": -60},
    }.items():
        await add_key(store, name, **more)
    await store.execute("update virtual_key set rotation_interval = '30d' where auto_rotate")
    rotated: list[str] = []

    async def rotate(connection: asyncpg.Connection, token: str) -> None:
        name = await connection.fetchval(
            "update virtual_key set key_rotation_at = now() + interval '1 day' "
            "where token = $1 returning key_alias",
            token,
        )
        rotated.append(name)
        if name == "bad":
            raise RequestError("no interval")

    await run(store, rotate=rotate)
    assert rotated == ["never", "bad", "due"]
    due = await store.fetch("select key_alias from virtual_key where key_rotation_at < now()")
    assert "bad" in {row["key_alias"] for row in due}, "a refused rotation leaves nothing"


async def test_instances_long_gone_are_forgotten(store: Store):
    """A week unseen, stopped or not; what was seen since stays."""
    await store.execute(
        "insert into instance (id, binary_name, region, host, version, schema_version, "
        "capabilities, last_seen, stopped_at) values "
        "('a', 'w', 'r', 'h', '1', 1, '{}', now() - interval '8 days', null), "
        "('b', 'w', 'r', 'h', '1', 1, '{}', now() - interval '8 days', now()), "
        "('c', 'w', 'r', 'h', '1', 1, '{}', now() - interval '6 days', now()), "
        "('d', 'w', 'r', 'h', '1', 1, '{}', now(), null)"
    )
    assert await forget_instances(store) == 2
    assert await names(store, "instance", "id") == {"c", "d"}


class Past:
    """Calls of days gone by, posted as a worker posts them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._calls = ledger_calls.Calls()
        self._count = 0

    async def day(self, days_ago: int, calls: int = 3, **fields: Any) -> None:
        """Some calls of a day (UTC), spread over it."""
        midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        start = midnight - timedelta(days=days_ago)
        pairs = []
        for number in range(calls):
            at = (start + timedelta(hours=23.9 * number / max(1, calls - 1))).timestamp()
            self._count += 1
            call_id = UUID(int=id_floor(at).int + self._count)
            opened = self._calls.opened(id=call_id, started_s=at, **fields)
            closed = self._calls.closed(opened, cost=Decimal("0.25"))
            pairs.append([_payload(encode_open(opened)), _payload(encode_close(closed))])
        stretch = Stretch(uuid4(), 1, 0, 1, "i", 1)
        applied = await apply(self._store, stretch, json.dumps(pairs).encode())
        assert applied.inserted == calls

    async def rollups(self, what: str = "t") -> dict[str, list[str]]:
        """All roll-ups, or something of their rows."""
        found = {}
        for table in ("daily_spend", "daily_owner_spend", "daily_model_spend"):
            rows = await self._store.fetch(f"select ({what})::text from {table} t order by 1")
            found[table] = [row[0] for row in rows]
        return found


def _payload(record: bytes) -> Any:
    """A record's JSON, without the id in front of it."""
    return json.loads(record[16:])


@pytest.fixture
async def past(store: Store) -> Past:
    await store.fetchval("select spend_log_ensure_partitions(1, now() - interval '6 days')")
    for days in (5, 4, 3, 2, 1):
        await store.fetchval(
            "select spend_log_ensure_partitions(1, now() - make_interval(days => $1))", days
        )
    return Past(store)


async def test_rollups_that_are_right_stay_as_they_are(store: Store, past: Past):
    """What the ledger has added up is what the repair adds up."""
    for days_ago in (3, 2, 1, 0):
        await past.day(days_ago, tags=["a", "b"], end_user="e")
    before = await past.rollups("row(ctid, xmin)")
    await run(store)
    assert all(before.values())
    assert await past.rollups("row(ctid, xmin)") == before, "no row was written"


async def test_rollups_are_corrected_exactly(store: Store, past: Past):
    """Too much, too little, missing or invented: afterwards they say what the calls add up to."""
    await past.day(2, tags=["a", "b"], end_user="e")
    await past.day(1, 5)
    right = await past.rollups()
    for statement in (
        "update daily_spend set spend = spend + 1.5, calls = calls + 2 where kind = 'key'",
        "update daily_spend set prompt_tokens = 0 where kind = 'team'",
        "update daily_spend set failures = 1 where kind = 'user'",
        "delete from daily_spend where kind = 'organization'",
        "delete from daily_spend",
        "update daily_owner_spend set spend = 0 where kind = 'tag'",
        "delete from daily_owner_spend where kind = 'user'",
        "update daily_model_spend set calls = calls + 1, spend = spend * 2",
        "delete from daily_model_spend",
        _INVENT,
    ):
        await store.execute(statement)
        assert await past.rollups() != right, statement
        await run(store)
        assert await past.rollups() == right, statement


async def test_today_and_days_that_lost_calls_are_left_alone(store: Store, past: Past):
    """Only days that are over and whose calls are all there are compared."""
    for days_ago in (0, 1, 2, 3):
        await past.day(days_ago)
    await store.fetchval(
        "select spend_log_drop_before(date_trunc('day', now(), 'UTC') - interval '2 days')"
    )
    await store.execute("update daily_spend set spend = spend + 1")
    await run(store)
    wrong = await store.fetch(
        "select (now() at time zone 'UTC')::date - day as ago, spend > 1 as wrong from daily_spend "
        "where kind = 'key'"
    )
    assert {row["ago"]: row["wrong"] for row in wrong} == {0: True, 1: False, 2: True, 3: True}


async def test_repair_while_calls_are_posted_loses_nothing(store: Store, past: Past):
    """Calls of a day gone by that come during its repair are counted once."""
    await past.day(1, 50)
    await store.execute("update daily_spend set spend = 0, calls = 0")

    async def post() -> None:
        for _ in range(15):
            await past.day(1, 4)

    async def repair() -> None:
        for _ in range(10):
            await run(store)

    await asyncio.gather(post(), repair())
    await run(store)
    calls = await store.fetchval("select sum(calls) from daily_spend where kind = 'key'")
    spend = await store.fetchval("select sum(spend) from daily_spend where kind = 'key'")
    assert (calls, spend) == (110, Decimal("27.5"))


async def test_spend_retention_drops_whole_days(store: Store, past: Past):
    """Days that ended long enough ago go from the ledger; roll-ups and totals stay."""
    for days_ago in (5, 3, 1):
        await past.day(days_ago)
    before = await past.rollups()
    await run(store, spend_kept_s=2 * DAY_S)
    kept = await store.fetch(
        "select distinct (now() at time zone 'UTC')::date - (started_at at time zone 'UTC')::date "
        "as ago from spend_log"
    )
    assert {row["ago"] for row in kept} == {1}
    assert await past.rollups() == before
    lifetime = await store.fetchval(
        "select sum(spend) from spend_counter where kind = 'global' and window_start_s = 0"
    )
    assert lifetime == Decimal("2.25")


async def test_spend_retention_takes_calls_that_no_partition_holds(store: Store):
    """Calls of a day without a partition wait in the default one, and go from there too."""
    past = Past(store)
    await past.day(40)
    assert await store.fetchval("select count(*) from spend_log_default") == 3
    await run(store, spend_kept_s=30 * DAY_S)
    assert await store.fetchval("select count(*) from spend_log") == 0


async def test_the_admin_s_rotation_gives_due_keys_new_values(
    database: str, aiohttp_client: Any, store: Store
):
    """The old value works for the grace period, the entry says what was done, and no more."""
    async with admins(database, aiohttp_client) as start:
        admin = await start()
        key = await admin.generate(auto_rotate=True, rotation_interval="30d", key_alias="ci")
        other = await admin.generate()
        await admin.sql("update virtual_key set key_rotation_at = now() where auto_rotate")
        rotate = key_rotation(KeyRules(rotation_grace="1h"), Clock())
        await run(store, rotate=rotate)
        await run(store, rotate=rotate)
        (row,) = await admin.sql("select * from virtual_key where key_alias = 'ci'")
        assert row["token"] != key["token"]
        assert row["rotation_count"] == 1
        assert timedelta(days=29) < row["key_rotation_at"] - datetime.now(UTC) <= timedelta(days=30)
        assert (await admin.info(key["key"], by=key["key"]))["key_alias"] == "ci"
        entries = await admin.sql("select * from audit_log where action = 'rotated'")
    (entry,) = entries
    assert (entry["object_id"], entry["actor"]) == (key["token"], "meridian")
    assert json.loads(entry["updated_values"])["token"] == row["token"]
    assert other["token"] in await names(store, "virtual_key", "token")


def start_of(tmp_path: Path, general: dict[str, Any], **environ: str) -> Start:
    """What an admin starts with."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"general_settings": general}))
    environ["LITELLM_MASTER_KEY"] = "sk-" + "m" * 40
    read = read_configuration(environ, Binary.ADMIN, path)
    return Start(Binary.ADMIN, read.settings, read.gateway, None, "", "")


def test_settings_of_the_jobs(tmp_path: Path):
    """Each name of the specification does what it says; by default nothing is deleted."""
    asked = job_settings(start_of(tmp_path, {}), KeyRules(), Clock())
    assert asked == JobSettings()
    asked = job_settings(
        start_of(
            tmp_path,
            {
                "maximum_spend_logs_retention_period": "30d",
                "maximum_spend_logs_retention_interval": "1h",
            },
            LITELLM_KEY_ROTATION_ENABLED="true",
            LITELLM_KEY_ROTATION_CHECK_INTERVAL_SECONDS="60",
            MERIDIAN_EXPIRED_KEYS_KEEP_DAYS="0",
            MERIDIAN_AUDIT_KEEP_DAYS="365",
        ),
        KeyRules(),
        Clock(),
    )
    assert asked.rotate is not None
    assert evolve(asked, rotate=None) == JobSettings(
        expired_keys_kept_s=0,
        spend_kept_s=30 * DAY_S,
        spend_dropped_every_s=3600,
        audit_kept_s=365 * DAY_S,
        rotation_every_s=60,
    )


@pytest.mark.parametrize("period", ["7", "d", "0d", "-1d", "7 days", "1y", 7])
def test_retention_that_is_no_duration_is_refused(tmp_path: Path, period: Any):
    """A mistyped period deletes nothing: the admin does not start."""
    with pytest.raises(ConfigError, match="maximum_spend_logs_retention_period"):
        start_of(tmp_path, {"maximum_spend_logs_retention_period": period})


@pytest.mark.xdist_group("fleet")
async def test_an_admin_runs_the_jobs(calls: Calls):
    """A running admin has done all that is due by default; workers have done nothing."""

    async def done() -> bool:
        rows = await calls.sql("select job, owner from leader where done_at is not null")
        return {row["job"] for row in rows} == ALL_DEFAULT

    await until(done, 30, "the jobs of the admin")
