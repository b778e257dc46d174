#!/usr/bin/env python3
"""The spend and activity pages over a large ledger: p50 and worst time of each route.

  spend.py [--rows N] [--repeat R] [--dsn URL] [--keep] [--only PART]

Makes a scratch database, fills it with N calls of 90 days (2 000 keys, 200 users, 50 teams,
30 models, end users, tags) by COPY, with the roll-ups and counters that the ledger would have
made of them, starts an admin on it and calls every page. Without --dsn it runs a throw-away
PostgreSQL with its shipped settings. --keep leaves the database of --dsn for a further run, which
then loads nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import random
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import asyncpg

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BIN = Path(sys.executable).parent
sys.path.insert(0, str(ROOT))

from shared.db import local_server  # noqa: E402
from shared.db.local import ensure_local_postgres  # noqa: E402
from shared.db.migrate import migrate  # noqa: E402

DATABASE = "meridian_bench_spend"
DAYS, KEYS, USERS, TEAMS, ORGANIZATIONS = 90, 2000, 200, 50, 5
MODELS, END_USERS, TAGS, INSTANCES = 30, 5000, 40, 4
TARGET_MS = 500
BATCH = 50_000

COLUMNS = (
    "id", "started_at", "ended_at", "ttft_ms", "prompt_tokens", "completion_tokens",
    "cached_tokens", "cache_write_tokens", "reasoning_tokens", "path_id", "payer_id", "http_status",
    "attempts", "estimated", "stream", "cost", "status", "end_user", "session_id", "requester_ip",
    "error_type", "upstream_id", "tags",
)  # fmt: skip
SUMS = """
    sum(cost), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens),
    sum(cache_write_tokens), sum(reasoning_tokens), count(*),
    count(*) filter (where status in ('success', 'client_closed')),
    count(*) filter (where status in ('failure', 'interrupted')),
    sum(round(extract(epoch from ended_at - started_at) * 1000)::bigint)
"""
OWNERS = {
    "key": ("key", "spend_row"),
    "user": ("user_id", "spend_row"),
    "team": ("team_id", "spend_row"),
    "organization": ("organization_id", "spend_row"),
    "end_user": ("end_user", "spend_row"),
    "tag": ("tag", "spend_row cross join lateral unnest(tags) as tag"),
}


class Traffic:
    """Who calls what how often; the same for the same seed."""

    def __init__(self, now: datetime) -> None:
        self.random = random.Random(7)
        self.now = now
        rnd = self.random
        self.tokens = [hashlib.sha256(f"sk-bench-{n}".encode()).hexdigest() for n in range(KEYS)]
        self.owners = []
        for n in range(KEYS):
            team = rnd.randrange(TEAMS) if rnd.random() < 0.9 else None
            user = rnd.randrange(USERS) if rnd.random() < 0.8 else None
            self.owners.append(
                (
                    self.tokens[n],
                    f"key-{n}",
                    "" if user is None else f"user-{user}",
                    "" if team is None else f"team-{team}",
                    "" if team is None else f"org-{team % ORGANIZATIONS}",
                )
            )
        self.paths = [
            (
                "aembedding" if model % 6 == 5 else "acompletion",
                f"model-{model}-2026",
                f"model-{model}",
                f"deployment-{model}-{copy}",
                ("openai", "anthropic", "bedrock", "vertex_ai", "azure")[model % 5],
                f"https://upstream-{model % 5}.example/v1",
                ("eu-west-1", "us-east-1")[instance % 2],
                f"worker-{instance}",
            )
            for model in range(MODELS)
            for copy in range(2)
            for instance in range(INSTANCES)
        ]
        # Half of the keys are busy all the time; a key calls one to four models.
        weights = [rnd.lognormvariate(0, 1.2) for _ in range(KEYS)]
        popular = [1 / (1 + model) for model in range(MODELS)]
        pairs, pair_weights = [], []
        for n in range(KEYS):
            chosen = set(rnd.choices(range(MODELS), popular, k=rnd.randint(1, 4)))
            for model in chosen:
                pairs.append((n, model))
                pair_weights.append(weights[n] / len(chosen) * rnd.uniform(0.2, 1))
        self.pairs, self.pair_weights = pairs, list(_running(pair_weights))
        self.end_user_weights = list(_running([1 / (5 + n) for n in range(END_USERS)]))
        self.tag_weights = list(_running([1 / (2 + n) for n in range(TAGS)]))
        self.status_weights = list(_running([97, 1, 2]))

    def batches(self, count: int) -> Iterator[list[tuple]]:
        """Rows for COPY, oldest first, ending now."""
        first = self.now - timedelta(days=DAYS)
        step = (self.now - first) / count
        for start in range(0, count, BATCH):
            yield self._batch(first, step, start, min(BATCH, count - start))

    def _batch(self, first: datetime, step: timedelta, start: int, size: int) -> list[tuple]:
        rnd = self.random
        pairs = rnd.choices(self.pairs, cum_weights=self.pair_weights, k=size)
        end_users = rnd.choices(range(END_USERS), cum_weights=self.end_user_weights, k=size)
        tags = rnd.choices(range(TAGS), cum_weights=self.tag_weights, k=size)
        statuses = rnd.choices(
            ("success", "client_closed", "failure"), cum_weights=self.status_weights, k=size
        )
        rows = []
        for n, ((key, model), end_user, tag, status) in enumerate(
            zip(pairs, end_users, tags, statuses)
        ):
            at = first + (start + n) * step
            ended = at + timedelta(milliseconds=rnd.randrange(200, 4000))
            failed = status == "failure"
            prompt, completion = rnd.randrange(50, 4000), 0 if failed else rnd.randrange(10, 1500)
            path = (model * 2 + rnd.randrange(2)) * INSTANCES + n % INSTANCES
            code = rnd.choice((429, 500, 502, 400)) if failed else 200
            identity = int(at.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62 | rnd.getrandbits(62)
            rows.append(
                (
                    UUID(int=identity), at, ended, 150 + n % 500, prompt, completion,
                    prompt // 2 if n % 3 == 0 else 0, 0, 0, path + 1, key + 1, code, 1, False,
                    n % 2 == 0,
                    Decimal(0 if failed else prompt * (model + 1) * 25 + completion * 10)
                    .scaleb(-8),
                    status, f"customer-{end_user}" if n % 3 == 0 else None,
                    f"session-{(start + n) // 20}" if n % 5 == 0 else None, None,
                    "UpstreamRejected" if failed else None, None,
                    [f"tag-{tag}", f"tag-{(tag + n) % TAGS}"][: 1 + n % 2] if n % 5 < 2 else None,
                )
            )  # fmt: skip
        return rows


def _running(weights: list[float]) -> Iterator[float]:
    total = 0.0
    for weight in weights:
        total += weight
        yield total


# ---------------------------------------------------------------- loading
async def load(dsn: str, count: int) -> None:
    """Fills an empty, migrated database."""
    now = datetime.now(UTC)
    traffic = Traffic(now)
    link = await asyncpg.connect(dsn)
    try:
        await link.execute("set synchronous_commit = off")
        await link.execute("set maintenance_work_mem = '256MB'; set work_mem = '256MB'")
        for age in range(DAYS, -1, -1):
            await link.execute(
                "select spend_log_ensure_partitions(1, $1)", now - timedelta(days=age)
            )
        await owners(link, traffic)
        began = time.monotonic()
        done = 0
        for rows in traffic.batches(count):
            await link.copy_records_to_table("spend_log", records=rows, columns=COLUMNS)
            done += len(rows)
            if done % 1_000_000 < BATCH:
                print(f"  {done:>10} rows, {done / (time.monotonic() - began):.0f} a second")
        await roll_up(link)
        await link.execute("vacuum analyze")
    finally:
        await link.close()


async def owners(link: asyncpg.Connection, traffic: Traffic) -> None:
    """Keys, users, teams, organizations, and the names that the log refers to by number."""
    await link.copy_records_to_table(
        "call_path",
        records=traffic.paths,
        columns=[
            "route",
            "model",
            "model_group",
            "deployment_id",
            "provider",
            "api_base",
            "region",
            "instance",
        ],
    )
    await link.copy_records_to_table(
        "call_payer",
        records=traffic.owners,
        columns=["key", "key_alias", "user_id", "team_id", "organization_id"],
    )
    await link.execute(
        """
        insert into virtual_key (token, key_alias, key_name, user_id, team_id, organization_id)
        select key, key_alias, 'sk-...' || left(key, 4), nullif(user_id, ''), nullif(team_id, ''),
            nullif(organization_id, '')
        from call_payer;
        insert into app_user (user_id, user_email, user_role)
        select 'user-' || n, 'user-' || n || '@bench.example', 'internal_user'
        from generate_series(0, 199) n;
        insert into organization (organization_id, organization_alias)
        select 'org-' || n, 'Organization ' || n from generate_series(0, 4) n;
        insert into team (team_id, team_alias, organization_id)
        select 'team-' || n, 'Team ' || n, 'org-' || n % 5 from generate_series(0, 49) n;
        """
    )


async def roll_up(link: asyncpg.Connection) -> None:
    """Roll-ups and counters as sums over the rows, which is what the ledger adds up call by call."""
    await link.execute(
        "alter table daily_spend drop constraint daily_spend_pkey; drop index daily_spend_day"
    )
    for kind, (owner, source) in OWNERS.items():
        began = time.monotonic()
        await link.execute(
            f"""
            insert into daily_spend
            select '{kind}', {owner}, (started_at at time zone 'UTC')::date, key, model_group,
                model, provider, route, case when '{kind}' = 'key' then deployment_id else '' end,
                {SUMS}
            from {source} where {owner} is not null group by 1, 2, 3, 4, 5, 6, 7, 8, 9
            order by 3
            """
        )
        has = "tags is not null" if kind == "tag" else f"{owner} is not null"
        await link.execute(
            f"""
            insert into daily_model_spend
            select '{kind}', (started_at at time zone 'UTC')::date, model_group, model, provider,
                route, deployment_id, {SUMS}
            from spend_row where {has} group by 1, 2, 3, 4, 5, 6, 7
            """
        )
        print(f"  roll-ups of kind {kind} in {time.monotonic() - began:.0f} s")
    await link.execute(
        """
        alter table daily_spend add primary key (
            kind, id, day, key, model_group, model, provider, route, deployment_id);
        create index daily_spend_day on daily_spend (day);
        insert into daily_owner_spend
        select kind, day, id, sum(spend), sum(prompt_tokens), sum(completion_tokens),
            sum(cached_tokens), sum(cache_write_tokens), sum(reasoning_tokens), sum(calls),
            sum(successes), sum(failures), sum(duration_ms)
        from daily_spend group by 1, 2, 3;
        insert into spend_counter (kind, id, spend, calls, prompt_tokens, completion_tokens)
        select kind, id, sum(spend), sum(calls), sum(prompt_tokens), sum(completion_tokens)
        from daily_spend group by 1, 2;
        insert into spend_counter (kind, id, spend, calls, prompt_tokens, completion_tokens)
        select 'global', '', sum(spend), sum(calls), sum(prompt_tokens), sum(completion_tokens)
        from daily_spend where kind = 'key';
        """
    )


# ---------------------------------------------------------------- measuring
def pages(now: datetime) -> list[tuple[str, str, dict[str, str]]]:
    """Name, path and parameters of every page; POST where a body is given as `body`."""

    def span(days: int) -> dict[str, str]:
        return {
            "start_date": f"{now - timedelta(days=days):%Y-%m-%d}",
            "end_date": f"{now:%Y-%m-%d}",
        }

    def times(days: int, **more: str) -> dict[str, str]:
        return {
            "start_date": f"{now - timedelta(days=days):%Y-%m-%d %H:%M:%S}",
            "end_date": f"{now:%Y-%m-%d %H:%M:%S}",
            **more,
        }

    key = hashlib.sha256(b"sk-bench-1").hexdigest()
    found = [
        ("logs: summary, 30 days", "/spend/logs", span(30)),
        ("logs: summary of a key, 90 days", "/spend/logs", {**span(90), "api_key": key}),
        ("logs: newest 10 000 rows", "/spend/logs", {}),
        ("logs: rows of a user", "/spend/logs", {"user_id": "user-1"}),
    ]
    for name, params in (
        ("last 24 hours", times(1)),
        ("90 days", times(90)),
        ("90 days, page 1000", times(90, page="1000")),
        ("90 days, page in the middle", times(90, page="3000")),
        ("90 days, oldest first", times(90, sort_order="asc")),
        ("90 days of a key", times(90, api_key=key)),
        ("90 days of a user, page 20", times(90, user_id="user-1", page="20")),
        ("90 days of a team", times(90, team_id="team-1")),
        ("90 days of a user in a team", times(90, user_id="user-1", team_id="team-1")),
        ("90 days of a rare model", times(90, model="model-29-2026")),
        ("90 days of an end user", times(90, end_user="customer-4000")),
        ("90 days of a frequent end user", times(90, end_user="customer-0")),
        ("90 days, failures", times(90, status_filter="failure")),
        ("90 days, code 429", times(90, error_code="429")),
        ("90 days, costly", times(90, min_spend="0.02")),
        ("90 days, by spend", times(90, sort_by="spend")),
        ("90 days, search", times(90, search="key-17")),
        ("90 days, grouped by session", times(90, group_by_session="true")),
    ):
        found.append((f"logs page: {name}", "/spend/logs/v2", params))
    found += [
        ("session", "/spend/logs/session/ui", {"session_id": "session-100"}),
        ("spend by key", "/spend/keys", {}),
        ("spend by user", "/spend/users", {}),
        ("spend by tag", "/spend/tags", {}),
        ("end users seen", "/management/v1/spend_logs/end_users", {}),
        ("report of keys", "/key/spend/report", span(30)),
        ("report of users", "/user/spend/report", span(30)),
        ("report of teams", "/team/spend/report", span(30)),
        ("report of organizations", "/organization/spend/report", span(30)),
        ("global total", "/global/spend", {}),
        ("global by day", "/global/spend/logs", {}),
        ("global by key", "/global/spend/keys", {}),
        ("global by team", "/global/spend/teams", {}),
        ("global by model", "/global/spend/models", {}),
        ("global by provider", "/global/spend/provider", span(90)),
        ("global by tag", "/global/spend/tags", span(90)),
        ("global tag names", "/global/spend/all_tag_names", {}),
        ("global end user names", "/global/all_end_users", {}),
        ("global end users", "/global/spend/end_users", {"body": "{}"}),
        ("global report by team", "/global/spend/report", span(30)),
        ("global report by customer", "/global/spend/report", {**span(7), "group_by": "customer"}),
        ("global report by key", "/global/spend/report", {**span(30), "group_by": "api_key"}),
        ("global activity", "/global/activity", span(90)),
        ("global activity by model", "/global/activity/model", span(90)),
        ("global faults", "/global/activity/exceptions", span(90)),
        ("global faults by deployment", "/global/activity/exceptions/deployment", span(90)),
        ("global cache hits", "/global/activity/cache_hits", span(30)),
    ]
    for kind, name, value in (
        ("user", "user_id", "user-1"),
        ("team", "team_ids", "team-1,team-2"),
        ("organization", "organization_ids", "org-1"),
        ("tag", "tags", "tag-0"),
        ("customer", "end_user_ids", "customer-0,customer-1"),
    ):
        path = f"/{kind}/daily/activity"
        found += [
            (f"activity: {kind}s", path, span(30)),
            (f"activity: {kind}s, aggregated, 90 days", f"{path}/aggregated", span(90)),
            (f"activity: a {kind}", path, {**span(30), name: value}),
            (f"activity: a {kind}, aggregated", f"{path}/aggregated", {**span(30), name: value}),
            (f"activity: keys of a {kind}", f"{path}/aggregated/keys", {**span(30), name: value}),
        ]
    found += [
        ("activity: keys of all", "/user/daily/activity/aggregated/keys", span(30)),
        ("activity: keys of a model", "/team/daily/activity/aggregated/model_top_keys",
         {**span(30), "model": "model-3"}),
        ("activity: export of a user", "/user/daily/activity/export",
         {**span(30), "user_id": "user-1"}),
    ]  # fmt: skip
    return found


def measure(url: str, master: str, repeat: int, only: str) -> int:
    """Calls every page; prints its times, and returns how many were over the target."""
    print(f"{'page':<46}{'p50 ms':>9}{'max ms':>9}{'KiB':>9}")
    slow = 0
    for name, path, params in pages(datetime.now(UTC)):
        if only not in name:
            continue
        body = params.pop("body", None)
        target = f"{url}{path}?{urllib.parse.urlencode(params)}"
        took, size = [], 0
        for _ in range(repeat):
            request = urllib.request.Request(
                target,
                None if body is None else body.encode(),
                {"authorization": f"Bearer {master}", "content-type": "application/json"},
            )
            began = time.perf_counter()
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    size = len(answer.read())
            except urllib.error.HTTPError as error:
                print(f"{name}: {error.status} {error.read()[:200]!r}")
                slow += 1
                break
            took.append((time.perf_counter() - began) * 1000)
        if not took:
            continue
        mark = "" if max(took) <= TARGET_MS else f"  over {TARGET_MS}"
        slow += bool(mark)
        print(
            f"{name:<46}{statistics.median(took):>9.0f}{max(took):>9.0f}{size / 1024:>9.0f}{mark}"
        )
    return slow


@contextlib.contextmanager
def admin_on(dsn: str, folder: Path, master: str) -> Iterator[str]:
    """A real admin process over the database, ready."""
    port = 23_000 + os.getpid() % 1000
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "DATABASE_URL": dsn,
        "HOST": "127.0.0.1",
        "LITELLM_MASTER_KEY": master,
        "MERIDIAN_ENV": "test",
        "MERIDIAN_STATE_DIR": str(folder / "admin"),
    }
    with (folder / "admin.log").open("wb") as log:
        child = subprocess.Popen(
            [str(BIN / "meridian-admin"), "--port", str(port)], env=env, stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                urllib.request.urlopen(f"{url}/health/readiness", timeout=2).close()
                break
            if child.poll() is not None or time.monotonic() > end:
                raise SystemExit((folder / "admin.log").read_text()[-2000:])
            time.sleep(0.05)
        yield url
    finally:
        child.terminate()
        child.wait(30)


async def prepared(server: str, rows: int) -> str:
    """The scratch database with at least that many rows, made unless a former run has left it."""
    dsn = urllib.parse.urlsplit(server)._replace(path=f"/{DATABASE}").geturl()
    link = await asyncpg.connect(server)
    try:
        name = "select exists (select from pg_database where datname = $1)"
        if await link.fetchval(name, DATABASE):
            held = await asyncpg.connect(dsn)
            count = await held.fetchval("select coalesce(sum(calls), 0) from daily_model_spend"
                                        " where kind = 'key'")  # fmt: skip
            await held.close()
            if count >= rows:
                print(f"{count} rows are there already")
                return dsn
            await link.execute(f"drop database {DATABASE} with (force)")
        await link.execute(f"create database {DATABASE}")
    finally:
        await link.close()
    await migrate(dsn)
    print(f"loading {rows} rows")
    await load(dsn, rows)
    return dsn


async def dropped(server: str) -> None:
    """Removes the scratch database."""
    link = await asyncpg.connect(server)
    await link.execute(f"drop database {DATABASE} with (force)")
    await link.close()


def main() -> None:
    """Load, measure, clear away."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--repeat", type=int, default=5, help="calls of each page")
    parser.add_argument("--dsn", help="a server to make the scratch database on")
    parser.add_argument("--keep", action="store_true", help="leave the database of --dsn")
    parser.add_argument("--only", default="", help="pages whose names hold this")
    options = parser.parse_args()
    master = "sk-" + secrets.token_urlsafe(24)
    with tempfile.TemporaryDirectory(prefix="meridian-spend-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        local = None
        if options.dsn is None:
            local = ensure_local_postgres(os.environ, folder / "postgres")
        server = options.dsn or local.dsn
        try:
            dsn = asyncio.run(prepared(server, options.rows))
            with admin_on(dsn, folder, master) as url:
                slow = measure(url, master, options.repeat, options.only)
        finally:
            if local is not None:
                local_server.stop(local.data_dir, "immediate")
                # As root the data is not in the state directory; see shared/db/local.py.
                shutil.rmtree(local.data_dir.parent)
            elif not options.keep:
                asyncio.run(dropped(server))
    print(f"{slow} pages over {TARGET_MS} ms" if slow else f"all pages within {TARGET_MS} ms")
    sys.exit(bool(slow))


if __name__ == "__main__":
    main()
