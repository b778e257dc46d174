"""/spend/logs, its pages and single calls: rows, sums, filters, order, and who sees what."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from shared.domain.ledger import CallStatus
from tests.support.admin_api import AS_MASTER, Admin, admins, error_of
from tests.support.spend_calls import Book, Posted, opened_book, traffic

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
KEY = "ab" * 32


@pytest.fixture
async def admin(database: str, aiohttp_client: Any) -> AsyncIterator[Admin]:
    """An admin on the test's database."""
    async with admins(database, aiohttp_client) as start:
        yield await start()


@pytest.fixture
async def book(database: str) -> AsyncIterator[Book]:
    """Posts calls to it."""
    async with opened_book(database) as opened:
        yield opened


async def get(admin: Admin, path: str, key: str | None = None, **params: Any) -> Any:
    """The body of an answer that must be 200."""
    more = {} if key is None else {"key": key}
    status, body = await admin.call("GET", path, params=params, **more)
    assert status == 200, body
    return body


def text(moment: datetime) -> str:
    """An instant as the pages' own client writes it."""
    return moment.strftime("%Y-%m-%d %H:%M:%S")


async def page(admin: Admin, path: str = "/spend/logs/v2", **params: Any) -> Any:
    """A page of the whole time unless it is narrowed."""
    dates = {"start_date": "2026-02-01 00:00:00", "end_date": "2026-04-01 00:00:00"}
    return await get(admin, path, **(dates | params))


def ids(body: Any) -> list[str]:
    return [row["request_id"] for row in body["data"]]


def newest(calls: list[Posted]) -> list[str]:
    return [each.request_id for each in sorted(calls, key=lambda c: c.opened.id, reverse=True)]


# ---------------------------------------------------------------- rows


async def test_a_row_has_the_reference_s_members(admin: Admin, book: Book) -> None:
    """A call is shown with the names of the contract; prompts and answers are empty."""
    at = START + timedelta(hours=9, milliseconds=250)
    made = await book.add(
        at, key=KEY, key_alias="ci-bot", user_id="u1", team_id="t1", organization_id=None,
        end_user="cust-1", tags=("a",), session_id="s1", requester_ip="10.0.0.9", model="gpt-4o",
        model_group="gpt-4o", deployment_id="m1", route="/v1/chat/completions",
        cost=Decimal("0.0012"),
        prompt_tokens=20, completion_tokens=10, cached_tokens=4, ended_s=at.timestamp() + 0.812,
        ttft_s=0.3,
    )  # fmt: skip
    [row] = await get(admin, "/spend/logs")
    metadata = row.pop("metadata")
    assert row == {
        "request_id": made.request_id,
        "call_type": "acompletion",
        "api_key": KEY,
        "spend": 0.0012,
        "total_tokens": 30,
        "prompt_tokens": 20,
        "completion_tokens": 10,
        "startTime": "2026-03-01T09:00:00.250000Z",
        "endTime": "2026-03-01T09:00:01.062000Z",
        "completionStartTime": "2026-03-01T09:00:00.550000Z",
        "request_duration_ms": 812,
        "model": "gpt-4o",
        "model_id": "m1",
        "model_group": "gpt-4o",
        "custom_llm_provider": "openai",
        "api_base": "https://api.openai.com/v1",
        "user": "u1",
        "team_id": "t1",
        "organization_id": None,
        "end_user": "cust-1",
        "requester_ip_address": "10.0.0.9",
        "request_tags": ["a"],
        "cache_hit": "False",
        "cache_key": "Cache OFF",
        "session_id": "s1",
        "status": "success",
        "messages": {},
        "response": {},
        "proxy_server_request": {},
    }
    assert (metadata["status"], metadata["user_api_key_alias"]) == ("success", "ci-bot")
    assert metadata["additional_usage_values"]["cache_read_input_tokens"] == 4
    assert (metadata["region"], metadata["outcome"]) == ("eu-west-1", "success")


async def test_outcomes_are_success_or_failure(admin: Admin, book: Book) -> None:
    """A call whose client left is a success, an interrupted one a failure; more is in metadata."""
    for status, shown in (
        (CallStatus.SUCCESS, "success"),
        (CallStatus.CLIENT_CLOSED, "success"),
        (CallStatus.FAILURE, "failure"),
        (CallStatus.INTERRUPTED, "failure"),
    ):
        made = await book.add(START, status=status, http_status=502, error_type="Gone")
        row = await get(admin, f"/spend/logs/ui/{made.request_id}")
        assert (row["status"], row["metadata"]["outcome"]) == (shown, status.value)
        assert row["metadata"]["error_information"] == {
            "error_code": "502",
            "error_class": "Gone",
        }


async def test_one_call_by_its_id(admin: Admin, book: Book) -> None:
    """A call is found by the id of the response header; anything else is 404."""
    made = await book.add(START)
    assert (await get(admin, f"/spend/logs/ui/{made.request_id}"))["model"] == "gpt-4o"
    for wrong in ("00000000-0000-7000-8000-000000000000", "chatcmpl-1", "ü"):
        answer = await admin.call("GET", f"/spend/logs/ui/{wrong}")
        error_of(answer, 404, "not_found_error", "request_id")


# ---------------------------------------------------------------- /spend/logs


async def test_raw_rows_come_newest_first(admin: Admin, book: Book) -> None:
    """Without dates, or without a summary, the calls themselves are listed, narrowed by filters."""
    await book.post(traffic(book, START, 5, 60))
    rows = await get(admin, "/spend/logs")
    assert [row["request_id"] for row in rows] == newest(book.calls)
    rows = await get(admin, "/spend/logs", user_id="user-1")
    assert [row["request_id"] for row in rows] == newest(
        [call for call in book.calls if call.opened.user_id == "user-1"]
    )
    rows = await get(admin, "/spend/logs", api_key="03" * 32)
    assert {row["api_key"] for row in rows} == {"03" * 32}
    one = book.calls[7].request_id
    rows = await get(admin, "/spend/logs", request_id=one)
    assert [row["request_id"] for row in rows] == [one]
    assert await get(admin, "/spend/logs", request_id="chatcmpl-1") == []


async def test_a_plain_key_is_looked_up_by_its_hash(admin: Admin, book: Book) -> None:
    """`api_key` may be the key itself."""
    made = await admin.generate()
    await book.add(START, key=made["token"])
    await book.add(START, key=KEY)
    rows = await get(admin, "/spend/logs", api_key=made["key"])
    assert [row["api_key"] for row in rows] == [made["token"]]


async def test_more_rows_than_are_given_are_told_of(admin: Admin, book: Book) -> None:
    """At most ten thousand rows come, the newest, and a header says that there are more."""
    for part in range(7):
        at = START + part * timedelta(hours=1)
        await book.post(book.call(at + n * timedelta(milliseconds=5)) for n in range(1430))
    async with admin.client.get("/spend/logs", headers=AS_MASTER) as response:
        rows = await response.json()
        assert response.headers["x-litellm-spend-logs-truncated"] == "true"
    assert [row["request_id"] for row in rows] == newest(book.calls)[:10_000]
    params = {"start_date": "2026-03-01", "end_date": "2026-03-01", "summarize": "false"}
    async with admin.client.get("/spend/logs", headers=AS_MASTER, params=params) as response:
        assert await response.json() == []
        assert "x-litellm-spend-logs-truncated" not in response.headers


async def test_the_end_day_is_left_out(admin: Admin, book: Book) -> None:
    """`end_date` is its midnight, so the day itself needs the next one to be asked for."""
    first = await book.add(START + 23 * timedelta(hours=1))
    last = await book.add(START + DAY)
    raw = {"start_date": "2026-03-01", "summarize": "false"}
    rows = await get(admin, "/spend/logs", end_date="2026-03-02", **raw)
    assert [row["request_id"] for row in rows] == [first.request_id]
    rows = await get(admin, "/spend/logs", end_date="2026-03-03", **raw)
    assert [row["request_id"] for row in rows] == [last.request_id, first.request_id]


async def test_the_summary_adds_up(admin: Admin, book: Book) -> None:
    """A day's spend, and its parts by user, model and key, are the sums of its calls; days of
    nothing follow up to the end date."""
    await book.post(traffic(book, START, 3, 120))
    rows = await get(admin, "/spend/logs", start_date="2026-03-01", end_date="2026-03-06")
    assert [row["startTime"] for row in rows] == [f"2026-03-{day:02}" for day in range(1, 7)]
    for row in rows[:3]:
        calls = [call for call in book.calls if call.day.isoformat() == row["startTime"]]
        part = Book.__new__(Book)
        part.calls = calls
        assert row.pop("startTime")
        assert row.pop("spend") == pytest.approx(float(sum(call.cost for call in calls)))
        assert row.pop("users") == pytest.approx(floats(part.sums(lambda c: c.opened.user_id)))
        assert row.pop("models") == pytest.approx(floats(part.sums(lambda c: c.opened.model)))
        assert row == pytest.approx(floats(part.sums(lambda c: c.opened.key)))
    assert rows[3] == {"startTime": "2026-03-04", "spend": 0, "users": {}, "models": {}}
    empty = await get(admin, "/spend/logs", start_date="2025-03-01", end_date="2025-03-06")
    assert empty == []
    one = await get(
        admin, "/spend/logs", start_date="2026-03-01", end_date="2026-03-04", api_key="02" * 32
    )
    assert {name for row in one for name in row["users"]} == {"user-2"}
    spend = sum(row["spend"] for row in one)
    assert spend == pytest.approx(float(book.sums(lambda c: c.opened.key)["02" * 32]))


def floats(sums: dict[str, Decimal]) -> dict[str, float]:
    return {name: float(value) for name, value in sums.items()}


@pytest.mark.parametrize("wrong", ["x", "2026-13-01", "2026-03-01; drop", "99999-01-01", "-1"])
async def test_dates_that_are_none(admin: Admin, wrong: str) -> None:
    """A date that cannot be read is 400 and named."""
    for path in ("/spend/logs", "/spend/logs/v2", "/spend/logs/ui"):
        for name in ("start_date", "end_date"):
            dates = {"start_date": "2026-03-01", "end_date": "2026-03-02"} | {name: wrong}
            answer = await admin.call("GET", path, params=dates)
            error_of(answer, 400, "invalid_request_error", name)


async def test_odd_but_readable_dates(admin: Admin, book: Book) -> None:
    """The ends of the calendar, dates the wrong way round and offsets do no harm."""
    made = await book.add(START + timedelta(hours=1))
    body = await page(admin, start_date="0001-01-01", end_date="9999-12-31")
    assert ids(body) == [made.request_id]
    assert (await page(admin, start_date="2026-04-01", end_date="2026-03-01"))["total"] == 0
    early = {"start_date": "2026-03-01T02:00:00+02:00", "end_date": "2026-03-01T03:00:00+02:00"}
    assert (await page(admin, **early))["total"] == 0
    late = {"start_date": "2026-03-01T03:00:00+02:00", "end_date": "2026-03-01T03:00:01+02:00"}
    assert (await page(admin, **late))["total"] == 1
    rows = await get(admin, "/spend/logs", start_date="2026-03-01", end_date="9999-12-31")
    assert len(rows) == 367


# ---------------------------------------------------------------- pages


async def test_both_dates_are_needed(admin: Admin) -> None:
    """A page without a beginning or an end of its time is 400."""
    for name in ("start_date", "end_date"):
        answer = await admin.call("GET", "/spend/logs/ui", params={name: "2026-03-01"})
        assert error_of(answer, 400, "invalid_request_error", _other(name))


def _other(name: str) -> str:
    return {"start_date": "end_date", "end_date": "start_date"}[name]


async def test_pages_hold_everything_once(admin: Admin, book: Book) -> None:
    """Pages of any size in both orders, over whole days and parts of them, add up to the calls."""
    await book.post(traffic(book, START, 6, 150))
    times = {
        "start_date": text(START + timedelta(hours=7)),
        "end_date": text(START + timedelta(days=4, hours=5)),
    }
    meant = [
        call
        for call in book.calls
        if START + timedelta(hours=7) <= call.at < START + timedelta(days=4, hours=5)
    ]
    for size in (7, 50, 1000):
        for order, expected in (("desc", newest(meant)), ("asc", newest(meant)[::-1])):
            seen: list[str] = []
            pages = -(-len(meant) // size)
            for number in range(1, pages + 1):
                body = await page(admin, page=number, page_size=size, sort_order=order, **times)
                assert body["total"] == len(meant)
                assert (body["page"], body["page_size"]) == (number, size)
                assert body["total_pages"] == pages
                seen += ids(body)
            assert seen == expected
    beyond = await page(admin, page=100, page_size=50, **times)
    assert (beyond["data"], beyond["total"]) == ([], len(meant))


FILTERS: tuple[tuple[dict[str, str], Any], ...] = (
    ({"api_key": "01" * 32}, lambda c: c.opened.key == "01" * 32),
    ({"user_id": "user-0"}, lambda c: c.opened.user_id == "user-0"),
    ({"team_id": "team-1"}, lambda c: c.opened.team_id == "team-1"),
    ({"end_user": "cust-a"}, lambda c: c.opened.end_user == "cust-a"),
    ({"model": "claude"}, lambda c: c.opened.model == "claude"),
    ({"model_group": "fast"}, lambda c: c.opened.model_group == "fast"),
    ({"model_id": "d2"}, lambda c: c.opened.deployment_id == "d2"),
    ({"key_alias": "key-3"}, lambda c: c.opened.key_alias == "key-3"),
    ({"session_id": "s3"}, lambda c: c.opened.session_id == "s3"),
    ({"status_filter": "failure"}, lambda c: c.failed),
    ({"status_filter": "success"}, lambda c: not c.failed),
    ({"error_code": "429"}, lambda c: c.closed.http_status == 429),
    ({"error_message": "rejected"}, lambda c: c.closed.error_type is not None),
    ({"min_spend": "0.005"}, lambda c: c.cost >= Decimal("0.005")),
    ({"max_spend": "0.002"}, lambda c: c.cost <= Decimal("0.002")),
    ({"min_spend": "0.002", "max_spend": "0.004"},
     lambda c: Decimal("0.002") <= c.cost <= Decimal("0.004")),
    ({"cache_hit_filter": "miss"}, lambda c: True),
    ({"cache_hit_filter": "hit"}, lambda c: False),
    ({"request_id": "chatcmpl-1"}, lambda c: False),
    ({"search": "cust-b"}, lambda c: c.opened.end_user == "cust-b"),
    ({"search": "KEY-2"}, lambda c: c.opened.key_alias == "key-2"),
    ({"search": "claude"}, lambda c: c.opened.model == "claude"),
    ({"search": "s5"}, lambda c: c.opened.session_id == "s5"),
    ({"user_id": "user-0", "team_id": "team-1"},
     lambda c: c.opened.user_id == "user-0" and c.opened.team_id == "team-1"),
    ({"user_id": "user-2", "model": "gpt-a", "status_filter": "success"},
     lambda c: c.opened.user_id == "user-2" and c.opened.model == "gpt-a" and not c.failed),
    ({"api_key": "05" * 32, "model_id": "d1"},
     lambda c: c.opened.key == "05" * 32 and c.opened.deployment_id == "d1"),
    ({"team_id": "team-0", "api_key": "00" * 32},
     lambda c: c.opened.team_id == "team-0" and c.opened.key == "00" * 32),
    ({"end_user": "cust-a", "model_group": "slow"},
     lambda c: c.opened.end_user == "cust-a" and c.opened.model_group == "slow"),
    ({"team_id": "team-9"}, lambda c: False),
    ({"user_id": "'; drop table spend_log; --"}, lambda c: False),
    ({"search": "100%_\\"}, lambda c: False),
)  # fmt: skip


async def test_filters_and_their_totals(admin: Admin, book: Book) -> None:
    """Each filter gives exactly the calls that it names, and says how many they are."""
    await book.post(traffic(book, START, 5, 200))
    times = {
        "start_date": text(START + timedelta(hours=3)),
        "end_date": text(START + timedelta(days=4, hours=12)),
    }
    within = [
        call
        for call in book.calls
        if START + timedelta(hours=3) <= call.at < START + timedelta(days=4, hours=12)
    ]
    for params, meant in FILTERS:
        expected = [call for call in within if meant(call)]
        body = await page(admin, page_size=1000, **params, **times)
        assert ids(body) == newest(expected), params
        assert body["total"] == len(expected), params
        small = await page(admin, page_size=5, page=2, **params, **times)
        assert ids(small) == newest(expected)[5:10], params
        assert small["total"] == len(expected), params
    one = within[0].request_id
    assert ids(await page(admin, request_id=one)) == [one]
    assert ids(await page(admin, search=one)) == [one]


async def test_other_orders(admin: Admin, book: Book) -> None:
    """Calls can be sorted by what they cost, used and took."""
    await book.post(traffic(book, START, 2, 40))
    for name, value in (
        ("spend", lambda c: c.cost),
        ("total_tokens", lambda c: c.tokens),
        ("prompt_tokens", lambda c: c.closed.prompt_tokens),
    ):
        for order in ("asc", "desc"):
            body = await page(admin, sort_by=name, sort_order=order, page_size=15, page=2)
            expected = sorted(
                book.calls, key=lambda c: (value(c), c.opened.id), reverse=order == "desc"
            )
            assert ids(body) == [call.request_id for call in expected[15:30]], (name, order)
            assert body["total"] == 40
    for name in ("endTime", "request_duration_ms", "ttft_ms", "status", "completion_tokens"):
        assert (await page(admin, sort_by=name))["total"] == 40
    status, body = await admin.call(
        "GET",
        "/spend/logs/v2",
        params={"start_date": "2026-03-01", "end_date": "2026-03-02", "sort_by": "cost; drop"},
    )
    assert (status, body["detail"][0]["loc"]) == (422, ["query", "sort_by"])


async def test_pages_stay_while_calls_come_in(admin: Admin, book: Book) -> None:
    """With the end of its time in the past, what is posted meanwhile moves nothing."""
    now = datetime.now(UTC)
    await book.post(traffic(book, now - 3 * DAY, 2, 60))
    times = {"start_date": text(now - 4 * DAY), "end_date": text(now - timedelta(hours=1))}
    expected = newest(book.calls)
    seen: list[str] = []
    for number in range(1, 7):
        seen += ids(await page(admin, page=number, page_size=10, **times))
        await book.post(book.call(now, user_id="late") for _ in range(7))
    assert seen == expected


async def test_sessions_are_grouped(admin: Admin, book: Book) -> None:
    """Grouped by session, each session is one row that says how many calls it had."""
    for minute, session in enumerate(("s1", "s2", "s1", None, "s1", None)):
        await book.add(START + minute * timedelta(minutes=1), session_id=session)
    body = await page(admin, group_by_session="true")
    assert body["total"] == 4
    assert [(row["session_id"], row["session_total_count"]) for row in body["data"]] == [
        (None, 1), ("s1", 3), (None, 1), ("s2", 1),
    ]  # fmt: skip
    assert body["data"][1]["session_total_spend"] == pytest.approx(3 * 0.0012345678)
    second = await page(admin, group_by_session="true", page=2, page_size=3)
    assert [row["session_id"] for row in second["data"]] == ["s2"]


async def test_a_session_from_its_beginning(admin: Admin, book: Book) -> None:
    """The calls of a session come oldest first, a page at a time."""
    made = [
        await book.add(START + n * timedelta(hours=9), session_id="s1", end_user=f"e{n}")
        for n in range(5)
    ]
    await book.add(START, session_id="s2")
    body = await get(admin, "/spend/logs/session/ui", session_id="s1", page_size=3)
    assert ids(body) == [call.request_id for call in made[:3]]
    assert (body["total"], body["total_pages"]) == (5, 2)
    answer = await admin.call("GET", "/spend/logs/session/ui")
    error_of(answer, 400, "invalid_request_error", "session_id")


async def test_days_without_a_partition_of_their_own(admin: Admin, book: Book) -> None:
    """Calls that wait in the default partition are counted and shown like all others."""
    await book.post(traffic(book, START, 4, 40))
    await admin.sql("create table aside as select * from spend_log_20260302")
    await admin.sql("drop table spend_log_20260302")
    await admin.sql("insert into spend_log select * from aside")
    body = await page(admin, page_size=1000)
    assert (ids(body), body["total"]) == (newest(book.calls), 40)
    mine = [call for call in book.calls if call.opened.user_id == "user-1"]
    body = await page(admin, page_size=1000, user_id="user-1")
    assert (ids(body), body["total"]) == (newest(mine), len(mine))


async def test_days_that_retention_has_dropped(admin: Admin, book: Book) -> None:
    """Totals count the calls that are still there, although the sums of older days stay."""
    await book.post(traffic(book, START, 4, 60))
    await admin.sql("select spend_log_drop_before($1)", START + 2 * DAY)
    left = [call for call in book.calls if call.at >= START + 2 * DAY]
    body = await page(admin, page_size=1000)
    assert (ids(body), body["total"]) == (newest(left), len(left))
    rows = await get(admin, "/spend/logs", start_date="2026-03-01", end_date="2026-03-05")
    assert rows[0]["startTime"] == "2026-03-01"


async def test_sums_that_were_imported_are_no_calls(admin: Admin, book: Book) -> None:
    """Figures of another gateway, of which there are no calls, are not in the totals."""
    await book.post(traffic(book, START, 3, 40))
    for table, names in (
        ("daily_spend", "kind, id, day, key, model_group, model, provider, route"),
        ("daily_model_spend", "kind, day, model_group, model, provider, route"),
    ):
        await admin.sql(
            f"insert into {table} select (jsonb_populate_record(null::{table}, to_jsonb(d) || "
            f'\'{{"deployment_id": "litellm"}}\')).* from '
            f"(select distinct on ({names}) * from {table}) d"
        )
    assert (await page(admin, page_size=1000))["total"] == 40
    mine = [call for call in book.calls if call.opened.user_id == "user-1"]
    assert (await page(admin, user_id="user-1"))["total"] == len(mine)


async def test_a_search_of_too_many_calls_ends_somewhere(admin: Admin, book: Book) -> None:
    """What no index finds is looked for in the newest days only, and the answer says since when."""
    await book.post(traffic(book, START, 4, 60))
    # As if a quarter of a million calls had been made on every day.
    await admin.sql("update daily_model_spend set calls = calls * (250000 / 15)")
    body = await page(admin, min_spend="0.001", page_size=1000)
    since = datetime.fromisoformat(body["searched_from"])
    assert START < since < START + 4 * DAY
    expected = [call for call in book.calls if call.at >= since and call.cost >= Decimal("0.001")]
    assert (ids(body), body["total"]) == (newest(expected), len(expected))
    params = {"start_date": "2026-02-01", "end_date": "2026-04-01", "sort_by": "spend"}
    async with admin.client.get("/spend/logs/v2", params=params, headers=AS_MASTER) as response:
        assert response.headers["x-litellm-spend-logs-truncated"] == "true"
    for found in ({"session_id": "s3"}, {"end_user": "cust-a", "min_spend": "0.001"}):
        assert "searched_from" not in await page(admin, **found)


async def test_a_call_is_its_start_s(admin: Admin, book: Book) -> None:
    """A call whose id was drawn just before midnight and that started after it is on one day."""
    late = book.call(START + DAY - timedelta(milliseconds=1))
    midnight = (START + DAY + timedelta(microseconds=200)).timestamp()
    moved = late.opened.__class__(
        **{
            name: getattr(late.opened, name)
            for name in late.opened.__class__.__slots__
            if not name.startswith("_")
        }
        | {"started_s": midnight}
    )
    await book.post([Posted(moved, late.closed)])
    for first, total in ((START, 0), (START + DAY, 1)):
        body = await page(admin, start_date=text(first), end_date=text(first + DAY))
        assert (body["total"], len(body["data"])) == (total, total)


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"page": "0"}, "page"),
        ({"page": "x"}, "page"),
        ({"page_size": "1001"}, "page_size"),
        ({"page": "99999999999999999999"}, "page"),
        ({"status_filter": "maybe"}, "status_filter"),
        ({"error_code": "none"}, "error_code"),
        ({"error_code": "70000"}, "error_code"),
        ({"min_spend": "much"}, "min_spend"),
        ({"sort_order": "up"}, "sort_order"),
        ({"group_by_session": "perhaps"}, "group_by_session"),
        ({"search": "a\x00b"}, "search"),
        ({"user_id": "x" * 5000}, "user_id"),
        ({"cache_hit_filter": "cold"}, "cache_hit_filter"),
    ],
)
async def test_parameters_that_are_none(admin: Admin, params: dict[str, str], name: str) -> None:
    """A parameter of the wrong form is 422 and named."""
    dates = {"start_date": "2026-03-01", "end_date": "2026-03-02"}
    status, body = await admin.call("GET", "/spend/logs/v2", params=dates | params)
    assert (status, body["detail"][0]["loc"]) == (422, ["query", name])


@pytest.mark.parametrize("value", ["-1", "1e400", "nan"])
async def test_amounts_out_of_range(admin: Admin, value: str) -> None:
    """An amount that cannot be one is 400 and named."""
    dates = {"start_date": "2026-03-01", "end_date": "2026-03-02", "max_spend": value}
    answer = await admin.call("GET", "/spend/logs/v2", params=dates)
    error_of(answer, 400, "invalid_request_error", "max_spend")
