"""Daily activity: sums, breakdowns, pages of days, rankings of keys, and the export."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.support.admin_api import AS_MASTER, Admin, admins
from tests.support.spend_calls import Book, Posted, opened_book, traffic

START = datetime(2026, 3, 1, tzinfo=UTC)
DATES = {"start_date": "2026-03-01", "end_date": "2026-03-05"}
# The kind of a path, its parameter, and whose a call is.
KINDS: tuple[tuple[str, str, Callable[[Posted], Iterable[str]]], ...] = (
    ("user", "user_id", lambda c: (c.opened.user_id,) if c.opened.user_id else ()),
    ("team", "team_ids", lambda c: (c.opened.team_id,) if c.opened.team_id else ()),
    (
        "organization",
        "organization_ids",
        lambda c: (c.opened.organization_id,) if c.opened.organization_id else (),
    ),
    ("customer", "end_user_ids", lambda c: (c.opened.end_user,) if c.opened.end_user else ()),
    ("tag", "tags", lambda c: c.opened.tags),
)
ENDPOINTS = {"/v1/chat/completions": "/chat/completions", "/v1/embeddings": "/embeddings"}


@pytest.fixture
async def admin(database: str, aiohttp_client: Any) -> AsyncIterator[Admin]:
    """An admin on the test's database."""
    async with admins(database, aiohttp_client) as start:
        yield await start()


@pytest.fixture
async def book(database: str) -> AsyncIterator[Book]:
    """Calls of five days."""
    async with opened_book(database) as opened:
        await opened.post(traffic(opened, START, 5, 150))
        yield opened


async def get(admin: Admin, path: str, **params: Any) -> Any:
    """The body of an answer that must be 200."""
    status, body = await admin.call("GET", path, params=params)
    assert status == 200, body
    return body


def metrics(calls: list[Posted]) -> Any:
    """What the metrics of some calls must be."""
    prompt = sum(call.closed.prompt_tokens for call in calls)
    completion = sum(call.closed.completion_tokens for call in calls)
    return {
        "spend": pytest.approx(float(sum(call.cost for call in calls))),
        "flat_cost": 0.0,
        "ptu_hours": 0.0,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "cache_read_input_tokens": sum(call.closed.cached_tokens for call in calls),
        "cache_creation_input_tokens": sum(call.closed.cache_write_tokens for call in calls),
        "total_tokens": prompt + completion,
        "api_requests": len(calls),
        "successful_requests": sum(not call.failed for call in calls),
        "failed_requests": sum(call.failed for call in calls),
        "total_response_time_ms": len(calls) * 250,
        "timed_requests": len(calls),
    }


def check_day(day: Any, calls: list[Posted], owners: dict[str, list[Posted]]) -> None:
    """A day's numbers, and all of its breakdown but single keys, against its calls."""
    assert day["metrics"] == metrics(calls)
    for part, name in (
        ("models", lambda c: c.opened.model),
        ("model_groups", lambda c: c.opened.model_group),
        ("providers", lambda c: c.opened.provider),
        ("endpoints", lambda c: ENDPOINTS[c.opened.route]),
        ("api_keys", lambda c: c.opened.key),
    ):
        shown = day["breakdown"][part]
        assert set(shown) == {name(call) for call in calls}, part
        for each, entry in shown.items():
            mine = [call for call in calls if name(call) == each]
            assert entry["metrics"] == metrics(mine), (part, each)
            if part == "api_keys":
                continue
            keys = {call.opened.key for call in mine}
            assert set(entry["api_key_breakdown"]) == keys
            for key in keys:
                of_key = [call for call in mine if call.opened.key == key]
                assert entry["api_key_breakdown"][key]["metrics"] == metrics(of_key)
    entities = day["breakdown"]["entities"]
    assert set(entities) == set(owners)
    for name, mine in owners.items():
        assert entities[name]["metrics"] == metrics(mine)
    assert (day["breakdown"]["mcp_servers"], day["breakdown"]["guardrails"]) == ({}, {})


def by_owner(calls: list[Posted], owner: Callable[[Posted], Iterable[str]]) -> dict[str, Any]:
    found: dict[str, list[Posted]] = {}
    for call in calls:
        for name in owner(call):
            found.setdefault(name, []).append(call)
    return found


async def test_an_owner_s_days(admin: Admin, book: Book) -> None:
    """The days of one owner, newest first, hold exactly its calls, however they are asked for."""
    for kind, param, owner in KINDS:
        everybody = by_owner(book.calls, owner)
        name = min(everybody)
        if kind == "tag":
            # A call with several tags counts for each; of one tag there is nothing to count twice.
            name = "b"
        for path in ("", "/aggregated"):
            body = await get(admin, f"/{kind}/daily/activity{path}", **DATES, **{param: name})
            dates = sorted({call.day.isoformat() for call in everybody[name]}, reverse=True)
            assert [day["date"] for day in body["results"]] == dates
            for day in body["results"]:
                calls = [call for call in everybody[name] if call.day.isoformat() == day["date"]]
                check_day(day, calls, {name: calls})
            total = metrics(everybody[name])
            assert body["metadata"] == {
                "total_spend": total["spend"],
                "total_prompt_tokens": total["prompt_tokens"],
                "total_completion_tokens": total["completion_tokens"],
                "total_tokens": total["total_tokens"],
                "total_api_requests": total["api_requests"],
                "total_successful_requests": total["successful_requests"],
                "total_failed_requests": total["failed_requests"],
                "total_cache_read_input_tokens": total["cache_read_input_tokens"],
                "total_cache_creation_input_tokens": total["cache_creation_input_tokens"],
                "page": 1,
                "total_pages": 1,
                "has_more": False,
            }


async def test_everybody_s_days(admin: Admin, book: Book) -> None:
    """Over all owners of a kind each call with an owner counts once, over all users every call."""
    for kind, _, owner in KINDS:
        body = await get(admin, f"/{kind}/daily/activity/aggregated", **DATES)
        counted = [call for call in book.calls if kind == "user" or tuple(owner(call))]
        assert body["metadata"]["total_api_requests"] == len(counted)
        for day in body["results"]:
            calls = [call for call in counted if call.day.isoformat() == day["date"]]
            owners = by_owner(calls, owner)
            if kind in ("tag", "customer"):
                # Keys are not told apart here.
                assert day["breakdown"]["api_keys"] == {}
                assert day["metrics"] == metrics(calls)
                shown = day["breakdown"]["entities"]
                assert {name: entry["metrics"] for name, entry in shown.items()} == {
                    name: metrics(mine) for name, mine in owners.items()
                }
            else:
                check_day(day, calls, owners)


async def test_pages_hold_whole_days(admin: Admin, book: Book) -> None:
    """Pages of days do not overlap, and what they hold adds up to everything."""
    whole = (await get(admin, "/team/daily/activity/aggregated", **DATES))["results"]
    seen = []
    for number in (1, 2, 3):
        body = await get(admin, "/team/daily/activity", page=number, page_size=2, **DATES)
        assert (body["metadata"]["page"], body["metadata"]["total_pages"]) == (number, 3)
        assert body["metadata"]["has_more"] == (number < 3)
        seen += body["results"]
    assert [day["date"] for day in seen] == [day["date"] for day in whole]
    assert [day["metrics"] for day in seen] == [day["metrics"] for day in whole]
    body = await get(admin, "/team/daily/activity", page=9, page_size=2, **DATES)
    assert (body["results"], body["metadata"]["has_more"]) == ([], False)


async def test_narrowed_by_key_model_and_exclusion(admin: Admin, book: Book) -> None:
    """A key, a model or group, and owners left out, alone and together."""
    for kind, params, meant in (
        ("user", {"api_key": "05" * 32}, lambda c: c.opened.key == "05" * 32),
        ("user", {"model": "claude"}, lambda c: c.opened.model == "claude"),
        ("user", {"model": "fast"}, lambda c: c.opened.model_group == "fast"),
        ("team", {"api_key": "01" * 32}, lambda c: c.opened.key == "01" * 32),
        ("team", {"api_key": "04" * 32}, lambda c: False),
        ("team", {"exclude_team_ids": "team-1"}, lambda c: c.opened.team_id == "team-0"),
        ("team", {"team_ids": "team-0,team-1", "exclude_team_ids": "team-0"},
         lambda c: c.opened.team_id == "team-1"),
        ("team", {"team_ids": "team-0", "model": "gpt-a", "api_key": "02" * 32},
         lambda c: c.opened.model == "gpt-a" and c.opened.key == "02" * 32),
        ("customer", {"api_key": "03" * 32},
         lambda c: c.opened.end_user and c.opened.key == "03" * 32),
        ("user", {"user_id": "user-1", "api_key": "00" * 32}, lambda c: False),
        ("user", {"user_id": "nobody"}, lambda c: False),
        ("tag", {"tags": "'; drop table daily_spend; --"}, lambda c: False),
    ):  # fmt: skip
        expected = [call for call in book.calls if meant(call)]
        for path in ("", "/aggregated"):
            body = await get(admin, f"/{kind}/daily/activity{path}", **DATES, **params)
            total = metrics(expected)
            assert body["metadata"]["total_api_requests"] == total["api_requests"], (kind, params)
            assert body["metadata"]["total_spend"] == total["spend"], (kind, params)
            entities = {name for day in body["results"] for name in day["breakdown"]["entities"]}
            owner = next(each for name, _, each in KINDS if name == kind)
            if kind != "tag":
                assert entities == set(by_owner(expected, owner)), (kind, params)


async def test_names_beside_ids(admin: Admin, book: Book) -> None:
    """Owners and keys are shown with what they are called, deleted keys too."""
    await admin.sql("insert into team (team_id, team_alias) values ('team-1', 'One')")
    made = await admin.generate(key_alias="gone", team_id="team-1")
    await book.add(START, key=made["token"], team_id="team-1")
    await admin.call("POST", "/key/delete", {"keys": [made["key"]]})
    body = await get(admin, "/team/daily/activity", team_ids="team-1", **DATES)
    breakdown = body["results"][-1]["breakdown"]
    assert breakdown["entities"]["team-1"]["metadata"] == {"team_alias": "One"}
    assert breakdown["api_keys"][made["token"]]["metadata"] == {
        "key_alias": "gone",
        "team_id": "team-1",
    }
    unknown = {"key_alias": None, "team_id": None}
    assert breakdown["api_keys"]["01" * 32]["metadata"] == unknown


async def test_the_biggest_spenders_stand_in_the_breakdown(admin: Admin, book: Book) -> None:
    """Of more keys than fit, those that spent most are told apart; all are listed elsewhere."""
    await book.post(
        book.call(START, key=f"{n:064x}", team_id="team-9", cost=Decimal(n)) for n in range(1, 71)
    )
    body = await get(admin, "/team/daily/activity", team_ids="team-9", **DATES)
    [day] = body["results"]
    assert day["metrics"]["api_requests"] == 70
    assert set(day["breakdown"]["api_keys"]) == {f"{n:064x}" for n in range(21, 71)}
    path = "/team/daily/activity/aggregated/keys"
    seen = []
    for number in (1, 2):
        body = await get(admin, path, team_ids="team-9", page=number, page_size=60, **DATES)
        assert (body["total"], body["total_pages"]) == (70, 2)
        seen += body["keys"]
    assert [row["api_key"] for row in seen] == [f"{n:064x}" for n in range(70, 0, -1)]
    assert seen[0]["metrics"]["spend"] == 70.0
    body = await get(admin, path, team_ids="team-9", page=5, page_size=60, **DATES)
    assert (body["keys"], body["total"]) == ([], 70)


async def test_keys_are_searched(admin: Admin, book: Book) -> None:
    """Keys are found by a part of the alias, the team, or the beginning of the token."""
    made = await admin.generate(key_alias="Batch-Runner", team_id="team-1")
    await book.add(START, key=made["token"], team_id="team-1")
    path = "/user/daily/activity/aggregated/search"
    for search, found in (
        ("batch", [made["token"]]),
        (made["token"][:12], [made["token"]]),
        ("team-1", [made["token"]]),
        ("%", []),
    ):
        body = await get(admin, path, search=search, **DATES)
        assert [row["api_key"] for row in body["keys"]] == found, search
    body = await get(admin, path, **DATES)
    assert body["total"] == len({call.opened.key for call in book.calls})
    assert body["keys"][0]["metrics"] == metrics(
        [call for call in book.calls if call.opened.key == body["keys"][0]["api_key"]]
    )


async def test_top_keys_of_a_model(admin: Admin, book: Book) -> None:
    """The keys that spent most on a model; the model must be named."""
    path = "/user/daily/activity/aggregated/model_top_keys"
    body = await get(admin, path, model="claude", **DATES)
    sums = book.sums(lambda c: c.opened.key if c.opened.model == "claude" else None)
    assert [row["api_key"] for row in body["keys"]] == sorted(sums, key=lambda k: -sums[k])
    status, answer = await admin.call("GET", path, params=DATES)
    assert (status, list(answer["detail"])) == (400, ["error"])


async def test_keys_of_all_end_users_are_not_ranked(admin: Admin, book: Book) -> None:
    """Over all end users or tags a ranking of keys wants some to be named."""
    for kind, param, name in (("customer", "end_user_ids", "cust-a"), ("tag", "tags", "a")):
        path = f"/{kind}/daily/activity/aggregated/keys"
        status, body = await admin.call("GET", path, params=DATES)
        assert (status, list(body["detail"])) == (400, ["error"])
        assert (await get(admin, path, **DATES, **{param: name}))["total"] > 1


async def test_days_of_a_clock_elsewhere(admin: Admin, book: Book) -> None:
    """The UTC days that cover the days of a time zone, and today's where it is asked for."""
    book.calls.clear()
    for day in range(8):
        await book.add(START - timedelta(days=2) + timedelta(days=day, hours=12), user_id="u9")
    one = {"start_date": "2026-03-02", "end_date": "2026-03-03", "user_id": "u9"}
    for timezone, dates in (
        (None, ["2026-03-03", "2026-03-02"]),
        ("0", ["2026-03-03", "2026-03-02"]),
        ("300", ["2026-03-04", "2026-03-03", "2026-03-02"]),
        ("-120", ["2026-03-03", "2026-03-02", "2026-03-01"]),
    ):
        more = {} if timezone is None else {"timezone": timezone}
        body = await get(admin, "/user/daily/activity", **one, **more)
        assert [day["date"] for day in body["results"]] == dates, timezone
    now = datetime.now(UTC)
    await book.add(now, user_id="u9")
    yesterday = (now - timedelta(days=1)).date().isoformat()
    recent = {"start_date": yesterday, "end_date": yesterday, "user_id": "u9"}
    assert (await get(admin, "/user/daily/activity", **recent))["results"] == []
    body = await get(admin, "/user/daily/activity", include_current_utc_day="true", **recent)
    assert [day["date"] for day in body["results"]] == [now.date().isoformat()]


async def test_an_export_holds_every_sum(admin: Admin, book: Book) -> None:
    """The CSV has a line per day, owner, key, model and route, and no formula gets through."""
    await book.add(START, team_id="=1+1", model="-x", cost=Decimal("0.25"))
    async with admin.client.get(
        "/team/daily/activity/export", params=DATES, headers=AS_MASTER
    ) as response:
        assert response.status == 200
        assert response.content_type == "text/csv"
        assert "team_activity.csv" in response.headers["content-disposition"]
        rows = list(csv.DictReader(io.StringIO(await response.text())))
    names = ("date", "entity", "api_key", "model_group", "model", "provider", "endpoint")
    shown = {tuple(row[name] for name in names): float(row["spend"]) for row in rows}
    guarded = {"=1+1": "'=1+1", "-x": "'-x"}
    sums = book.sums(
        lambda c: (
            c.opened.team_id
            and (
                c.day.isoformat(),
                guarded.get(c.opened.team_id, c.opened.team_id),
                c.opened.key,
                c.opened.model_group,
                guarded.get(c.opened.model, c.opened.model),
                c.opened.provider,
                ENDPOINTS.get(c.opened.route, c.opened.route),
            )
        )
    )
    assert len(rows) == len(sums)
    assert shown == pytest.approx({name: float(value) for name, value in sums.items()})
    assert sum(int(row["api_requests"]) for row in rows) == sum(
        call.opened.team_id is not None for call in book.calls
    )


async def test_nothing_in_the_time(admin: Admin, book: Book) -> None:
    """A time without calls, dates the wrong way round, and agents have empty results."""
    empty = {"start_date": "2025-01-01", "end_date": "2025-12-31"}
    backwards = {"start_date": "2026-03-05", "end_date": "2026-03-01"}
    for kind in ("user", "team", "tag", "organization", "customer", "end_user", "agent"):
        for dates in (empty, backwards):
            for path in ("", "/aggregated"):
                body = await get(admin, f"/{kind}/daily/activity{path}", **dates)
                assert (body["results"], body["metadata"]["total_spend"]) == ([], 0.0)
    assert (await get(admin, "/agent/daily/activity", **DATES))["results"] == []
    async with admin.client.get(
        "/user/daily/activity/export", params=empty, headers=AS_MASTER
    ) as response:
        assert (await response.text()).count("\n") == 1


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({}, 400),
        ({"start_date": "2026-03-01"}, 400),
        ({"end_date": "2026-03-01"}, 400),
        ({"start_date": "yesterday", "end_date": "2026-03-01"}, 400),
        (DATES | {"user_id": ",".join(map(str, range(1001)))[:2040]}, 200),
        (DATES | {"page": "0"}, 422),
        (DATES | {"page_size": "1001"}, 422),
        (DATES | {"timezone": "1441"}, 422),
        (DATES | {"timezone": "here"}, 422),
        (DATES | {"model": "a\x00"}, 422),
        (DATES | {"user_id": "\ud83e\udd80 'x' \u202e"}, 200),
    ],
)
async def test_parameters(admin: Admin, params: dict[str, str], status: int) -> None:
    """Dates are needed (400), and what is not a parameter's is 422, in the shape of the route."""
    answer = await admin.call("GET", "/user/daily/activity", params=params)
    assert answer[0] == status, answer
    if status == 400:
        assert list(answer[1]["detail"]) == ["error"]
