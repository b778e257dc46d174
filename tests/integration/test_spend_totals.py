"""What everybody spent: global pages, reports, rankings, setting back, and prices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from services.admin.api.model_catalog import ModelCatalog
from shared.config.config_file import load
from shared.domain.errors import ConfigError
from shared.domain.ledger import BudgetCharge
from shared.domain.usage import Rates
from shared.routing.whole import Wholes
from shared.secrets.sealing import Sealer
from tests.support.admin_api import Admin, admins, error_of, issues_of
from tests.support.spend_calls import Book, Posted, opened_book, traffic

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
FIRST = TODAY - timedelta(days=6)
DATES = {
    "start_date": FIRST.date().isoformat(),
    "end_date": (FIRST + timedelta(days=3)).date().isoformat(),
}


@pytest.fixture
async def admin(database: str, aiohttp_client: Any) -> AsyncIterator[Admin]:
    """An admin on the test's database."""
    async with admins(database, aiohttp_client) as start:
        yield await start()


@pytest.fixture
async def book(database: str) -> AsyncIterator[Book]:
    """Calls of four days of the last month, and one of long ago."""
    async with opened_book(database) as opened:
        await opened.post(traffic(opened, FIRST, 4, 160))
        yield opened


async def get(admin: Admin, path: str, **params: Any) -> Any:
    """The body of an answer that must be 200."""
    status, body = await admin.call("GET", path, params=params)
    assert status == 200, body
    return body


def close(sums: dict[Any, Decimal]) -> Any:
    """Sums as answers give them."""
    return pytest.approx({name: float(value) for name, value in sums.items()})


def tagged(book: Book) -> dict[str, list[Posted]]:
    """Calls by tag."""
    found: dict[str, list[Posted]] = {}
    for call in book.calls:
        for tag in call.opened.tags:
            found.setdefault(tag, []).append(call)
    return found


def day_of(call: Posted) -> str:
    return call.day.isoformat()


# ---------------------------------------------------------------- global pages


async def test_roll_ups_agree_with_the_calls(admin: Admin, book: Book) -> None:
    """Every roll-up of the ledger holds the sums of its calls, to the last digit."""
    await book.add(FIRST, end_user="cust-a", tags=("a", "a", "b"), cost=Decimal("0.5"))
    for table, kinds in (
        ("daily_spend", "kind = 'key'"),
        ("daily_owner_spend", "kind = 'key'"),
        ("daily_model_spend", "kind = 'key'"),
    ):
        [row] = await admin.sql(
            f"select sum(spend) as spend, sum(calls) as calls, sum(failures) as failures, "
            f"sum(prompt_tokens + completion_tokens) as tokens from {table} where {kinds}"
        )
        assert row["spend"] == sum(call.cost for call in book.calls)
        assert row["calls"] == len(book.calls)
        assert row["failures"] == sum(call.failed for call in book.calls)
        assert row["tokens"] == sum(call.tokens for call in book.calls)
    rows = await admin.sql(
        "with d as (select kind, id, day, sum(spend) as spend, sum(calls) as calls "
        "from daily_spend group by 1, 2, 3) "
        "select 1 from d full join daily_owner_spend o using (kind, id, day) "
        "where (d.spend, d.calls) is distinct from (o.spend, o.calls)"
    )
    assert rows == []
    rows = await admin.sql(
        "select kind, sum(spend) as spend from daily_model_spend group by 1 order by 1"
    )
    assert {row["kind"]: row["spend"] for row in rows} == {
        "key": sum(call.cost for call in book.calls),
        "user": sum(call.cost for call in book.calls if call.opened.user_id),
        "team": sum(call.cost for call in book.calls if call.opened.team_id),
        "organization": sum(call.cost for call in book.calls if call.opened.organization_id),
        "end_user": sum(call.cost for call in book.calls if call.opened.end_user),
        "tag": sum(call.cost for call in book.calls if call.opened.tags),
    }


async def test_totals_and_rankings(admin: Admin, book: Book) -> None:
    """Each global page adds up to the calls of the last thirty days, the total to all calls."""
    everything = sum(call.cost for call in book.calls)
    await admin.sql("insert into team (team_id, team_alias) values ('team-1', 'One')")
    old = await book.add(TODAY - timedelta(days=60), cost=Decimal(7))
    body = await get(admin, "/global/spend")
    assert body == {"spend": pytest.approx(float(everything + old.cost)), "max_budget": 0.0}
    book.calls.remove(old)

    body = await get(admin, "/global/spend/logs")
    assert {row["date"]: row["spend"] for row in body} == close(book.sums(day_of))
    mine = await get(admin, "/global/spend/logs", api_key="01" * 32)
    assert sum(row["spend"] for row in mine) == pytest.approx(
        float(book.sums(lambda c: c.opened.key)["01" * 32])
    )
    body = await get(admin, "/global/spend/keys")
    keys = book.sums(lambda c: c.opened.key)
    assert {row["api_key"]: row["total_spend"] for row in body} == close(keys)
    assert [row["api_key"] for row in body] == sorted(keys, key=lambda k: -keys[k])
    assert len(await get(admin, "/global/spend/keys", limit=2)) == 2
    body = await get(admin, "/global/spend/models", limit=10)
    assert {row["model"]: row["total_spend"] for row in body} == close(
        book.sums(lambda c: c.opened.model)
    )
    body = await get(admin, "/global/spend/provider")
    assert {row["provider"]: row["spend"] for row in body} == close(
        book.sums(lambda c: c.opened.provider)
    )
    teams = await get(admin, "/global/spend/teams")
    names = {"team-1": "One", "team-0": "team-0"}
    by_team = book.sums(lambda c: names.get(c.opened.team_id or ""))
    assert {row["team_id"]: row["total_spend"] for row in teams["total_spend_per_team"]} == close(
        by_team
    )
    assert teams["teams"] == sorted(by_team, key=lambda name: -by_team[name])
    by_day = book.sums(lambda c: c.opened.team_id and (day_of(c), names[c.opened.team_id]))
    assert {
        (row["date"], name): value
        for row in teams["daily_spend"]
        for name, value in row.items()
        if name != "date"
    } == close(by_day)


async def test_tags_and_end_users(admin: Admin, book: Book) -> None:
    """A call counts once for each of its tags; end users are ranked by what they cost."""
    tags = tagged(book)
    expected = {
        tag: (pytest.approx(float(sum(call.cost for call in calls))), len(calls))
        for tag, calls in tags.items()
    }
    body = await get(admin, "/global/spend/tags", **DATES)
    rows = body["spend_per_tag"]
    assert {row["name"]: (row["spend"], row["log_count"]) for row in rows} == expected
    body = await get(admin, "/global/spend/tags", tags="b, c", **DATES)
    assert [row["name"] for row in body["spend_per_tag"]] == ["b"]
    body = await get(admin, "/spend/tags")
    assert {
        row["individual_request_tag"]: (row["total_spend"], row["log_count"]) for row in body
    } == expected
    assert (await get(admin, "/global/spend/all_tag_names")) == {"tag_names": ["a", "b"]}
    assert (await get(admin, "/global/all_end_users")) == {"end_users": ["cust-a", "cust-b"]}
    for fields, meant in (
        ({}, book.calls),
        ({"startTime": DATES["start_date"], "endTime": DATES["start_date"]},
         [call for call in book.calls if day_of(call) == DATES["start_date"]]),
        ({"api_key": "02" * 32}, [call for call in book.calls if call.opened.key == "02" * 32]),
    ):  # fmt: skip
        status, body = await admin.call("POST", "/global/spend/end_users", fields)
        part = [call for call in meant if call.opened.end_user]
        assert status == 200
        assert {row["end_user"]: row["total_count"] for row in body} == {
            name: sum(call.opened.end_user == name for call in part)
            for name in {call.opened.end_user for call in part}
        }
        assert sum(row["total_spend"] for row in body) == pytest.approx(
            float(sum(call.cost for call in part))
        )
    answer = await admin.call("POST", "/global/spend/end_users", {"startTime": "soon"})
    error_of(answer, 400, "invalid_request_error", "startTime")
    answer = await admin.call("POST", "/global/spend/end_users", {"startTime": 5})
    assert issues_of(answer) == [("string_type", ["body", "startTime"])]


async def test_requests_and_tokens_by_day(admin: Admin, book: Book) -> None:
    """Activity counts requests and tokens by day, of all and by model group."""
    body = await get(admin, "/global/activity", **DATES)
    assert body["sum_api_requests"] == len(book.calls)
    assert body["sum_total_tokens"] == sum(call.tokens for call in book.calls)
    assert {row["date"]: row["total_tokens"] for row in body["daily_data"]} == book.sums(
        day_of, lambda c: c.tokens
    )
    body = await get(admin, "/global/activity/model", **DATES)
    assert {row["model"]: row["sum_api_requests"] for row in body} == book.sums(
        lambda c: c.opened.model_group, lambda _: 1
    )
    body = await get(admin, "/global/activity/cache_hits", **DATES)
    assert sum(row["total_rows"] for row in body) == len(book.calls)
    assert {row["call_type"] for row in body} == {"acompletion", "aembedding"}
    assert not any(row["cache_hit_true_rows"] for row in body)


async def test_rate_limit_exceptions(admin: Admin, book: Book) -> None:
    """Calls that failed with 429 are counted by day and by upstream."""
    await book.add(
        FIRST, status="failure", http_status=429, api_base="https://b", model_group="slow"
    )
    limited = [
        call
        for call in book.calls
        if call.closed.status == "failure" and call.closed.http_status == 429
        if call.day <= date.fromisoformat(DATES["end_date"])
    ]
    body = await get(admin, "/global/activity/exceptions", **DATES)
    assert body["sum_num_rate_limit_exceptions"] == len(limited) > 1
    body = await get(admin, "/global/activity/exceptions", model_group="slow", **DATES)
    slow = sum(call.opened.model_group == "slow" for call in limited)
    assert body["sum_num_rate_limit_exceptions"] == slow
    body = await get(admin, "/global/activity/exceptions/deployment", **DATES)
    assert {row["api_base"]: row["sum_num_rate_limit_exceptions"] for row in body} == {
        "https://api.openai.com/v1": len(limited) - 1,
        "https://b": 1,
    }


async def test_nothing_yet(admin: Admin) -> None:
    """Without a call every page is empty and none fails."""
    assert await get(admin, "/global/spend") == {"spend": 0.0, "max_budget": 0.0}
    for path in ("logs", "keys", "models", "provider", "report"):
        assert await get(admin, f"/global/spend/{path}", **DATES) == []
    assert await get(admin, "/global/activity", **DATES) == {
        "daily_data": [],
        "sum_api_requests": 0,
        "sum_total_tokens": 0,
    }
    assert await get(admin, "/provider/budgets") == {"providers": {}}
    assert await get(admin, "/spend/logs") == []


@pytest.mark.parametrize("path", ["/global/activity", "/global/activity/exceptions/deployment"])
async def test_dates_of_activity(admin: Admin, path: str) -> None:
    """Both dates are needed and must be dates: 400 in the shape of these routes."""
    for params in ({}, {"start_date": "2026-01-01"}, {"start_date": "2026-01-01", "end_date": "x"}):
        status, body = await admin.call("GET", path, params=params)
        assert (status, list(body["detail"])) == (400, ["error"])


# ---------------------------------------------------------------- reports


async def test_reports_by_day(admin: Admin, book: Book) -> None:
    """A report tells each day's spend by team and model; of one team by key, too."""
    for group, many, name, owner in (
        ("team", "teams", "team_name", lambda c: c.opened.team_id),
        ("customer", "customers", "customer", lambda c: c.opened.end_user),
    ):
        body = await get(admin, "/global/spend/report", group_by=group, **DATES)
        shown = {
            (day["group_by_day"], each[name]): each["total_spend"]
            for day in body
            for each in day[many]
        }
        assert shown == close(book.sums(lambda c, owner=owner: owner(c) and (day_of(c), owner(c))))
    body = await get(admin, "/global/spend/report", team_id="team-1", **DATES)
    shown = {
        (day["group_by_day"], row["model"], row["api_key"]): row["spend"]
        for day in body
        for team in day["teams"]
        for row in team["metadata"]
    }
    assert shown == close(
        book.sums(
            lambda c: (
                (day_of(c), c.opened.model, c.opened.key) if c.opened.team_id == "team-1" else None
            )
        )
    )
    body = await get(
        admin, "/global/spend/report", customer_id="cust-a", group_by="customer", **DATES
    )
    assert {each["customer"] for day in body for each in day["customers"]} == {"cust-a"}


async def test_reports_by_key(admin: Admin, book: Book) -> None:
    """A report by key has each key's models with cost and tokens."""
    for path in ("/global/spend/report", "/key/spend/report"):
        body = await get(admin, path, group_by="api_key", **DATES)
        assert {row["api_key"]: row["total_cost"] for row in body} == close(
            book.sums(lambda c: c.opened.key)
        )
        assert {row["api_key"]: row["total_input_tokens"] for row in body} == book.sums(
            lambda c: c.opened.key, lambda c: c.closed.prompt_tokens
        )
        assert {
            (row["api_key"], model["model"]): model["total_output_tokens"]
            for row in body
            for model in row["model_details"]
        } == book.sums(
            lambda c: (c.opened.key, c.opened.model), lambda c: c.closed.completion_tokens
        )
    body = await get(admin, "/global/spend/report", internal_user_id="user-1", **DATES)
    assert [row["internal_user_id"] for row in body] == ["user-1"]


async def test_names_seen(admin: Admin, book: Book) -> None:
    """Users and end users of calls are listed by name, searched and paged."""
    body = await get(admin, "/management/v1/spend_logs/users", page_size=2)
    assert (body["users"], body["total"], body["total_pages"]) == (["user-0", "user-1"], 3, 2)
    body = await get(admin, "/management/v1/spend_logs/users", page_size=2, page=9)
    assert (body["users"], body["total"]) == ([], 3)
    body = await get(admin, "/management/v1/spend_logs/end_users", search="ST-B")
    assert (body["end_users"], body["total"]) == (["cust-b"], 1)


# ---------------------------------------------------------------- setting back


async def test_reset_zeroes_keys_and_teams(admin: Admin, book: Book) -> None:
    """Every counter of keys and teams is zero, whatever its window; all else stays."""
    window = int(TODAY.timestamp())
    await book.add(
        TODAY,
        key="01" * 32,
        team_id="team-1",
        charges=(BudgetCharge(f"key:{'01' * 32}", window), BudgetCharge("team:team-1", window)),
    )
    before = {
        row["kind"]: row["spend"]
        for row in await admin.sql("select kind, sum(spend) as spend from spend_counter group by 1")
    }
    held = await admin.sql("select * from budget_hold order by scope")
    status, body = await admin.call("POST", "/global/spend/reset", {})
    assert (status, body["status"]) == (200, "success")
    after = {
        row["kind"]: row["spend"]
        for row in await admin.sql("select kind, sum(spend) as spend from spend_counter group by 1")
    }
    assert after == before | {"key": 0, "team": 0}
    assert await admin.sql("select * from budget_hold order by scope") == held
    assert (await admin.sql("select count(*) from spend_log"))[0][0] == len(book.calls)
    body = await get(admin, "/global/spend/keys")
    assert sum(row["total_spend"] for row in body) == pytest.approx(
        float(sum(call.cost for call in book.calls))
    )
    rows = await admin.sql("select * from audit_log where action = 'reset' order by table_name")
    assert [(row["table_name"], row["object_id"]) for row in rows] == [
        ("LiteLLM_TeamTable", "*"),
        ("LiteLLM_VerificationToken", "*"),
    ]


async def test_reset_loses_nothing_that_is_posted_meanwhile(admin: Admin, book: Book) -> None:
    """Calls posted while the counters are zeroed count either before or after, none is stuck."""
    done = asyncio.Event()

    async def post() -> None:
        for _ in range(30):
            await book.post(
                book.call(TODAY, key=f"{who:02x}" * 32, cost=Decimal(1), team_id="team-1")
                for who in range(6)
            )
        done.set()

    async def reset() -> None:
        while not done.is_set():
            assert (await admin.call("POST", "/global/spend/reset", {}))[0] == 200

    await asyncio.gather(post(), reset())
    [row] = await admin.sql(
        "select sum(spend) filter (where kind = 'key') as key, "
        "sum(spend) filter (where kind = 'team') as team, "
        "sum(spend) filter (where kind = 'global') as total from spend_counter"
    )
    assert row["total"] == sum(call.cost for call in book.calls)
    assert row["key"] == row["team"]
    assert 0 <= row["key"] <= 180
    assert (await admin.call("POST", "/global/spend/reset", {}))[0] == 200
    await book.add(TODAY, key="01" * 32, cost=Decimal(3))
    [row] = await admin.sql("select sum(spend) as spend from spend_counter where kind = 'key'")
    assert row["spend"] == 3


# ---------------------------------------------------------------- prices


async def test_what_a_call_cost(admin: Admin) -> None:
    """An answer is priced by its usage, a request by the bytes of its text; nothing else is."""
    for body in (
        {"model": "openai/none-such", "messages": [{"role": "user", "content": "hi"}]},
        {"completion_response": {"model": "gpt-4o"}},
        {"model": "gpt-4o"},
        {"messages": [{"role": "user", "content": "hi"}]},
        {"completion_response": {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}},
    ):
        status, answer = await admin.call("POST", "/spend/calculate", body)
        assert status == 400, (body, answer)
    for body, loc in (
        ({"messages": "hi"}, "messages"),
        ({"completion_response": []}, "completion_response"),
        ({"model": 4}, "model"),
    ):
        answer = await admin.call("POST", "/spend/calculate", body)
        assert issues_of(answer)[0][1] == ["body", loc]
    answer = await admin.call(
        "POST", "/cost/estimate", {"model": "none", "input_tokens": 1, "output_tokens": 1}
    )
    error_of(answer, 404, "not_found_error", "model")
    answer = await admin.call("POST", "/cost/estimate", {"model": "gpt-4o"})
    assert [loc for _, loc in issues_of(answer)] == [
        ["body", "input_tokens"],
        ["body", "output_tokens"],
    ]
    answer = await admin.call(
        "POST", "/cost/estimate", {"model": "m", "input_tokens": -1, "output_tokens": 1}
    )
    error_of(answer, 400, "invalid_request_error", "input_tokens")


@pytest.fixture
async def priced(database: str, aiohttp_client: Any, tmp_path: Path) -> AsyncIterator[Admin]:
    """An admin with a configured model at prices of its own, and one whose price is listed."""
    path = tmp_path / "config.yaml"
    path.write_text(_CONFIG)
    listed = {("openai", "gpt-listed"): Rates(Decimal("0.000003"), Decimal("0.000006"))}
    wholes = Wholes(load(path, {}), lambda *name: listed.get(name), no_key)
    async with admins(database, aiohttp_client) as start:
        yield await start(models=ModelCatalog(wholes))


_CONFIG = """
model_list:
  - model_name: house
    litellm_params:
      model: openai/gpt-house
      api_key: sk-x
      input_cost_per_token: 0.000001
      output_cost_per_token: 0.000002
      cache_read_input_token_cost: 0.0000001
"""


def no_key() -> Sealer:
    raise ConfigError("There is no key in this test")


async def test_prices_of_models(priced: Admin) -> None:
    """A configured model has the operator's price, another one the listed price."""
    usage = {
        "prompt_tokens": 1000,
        "completion_tokens": 500,
        "prompt_tokens_details": {"cached_tokens": 400},
    }
    for body, cost in (
        ({"completion_response": {"model": "house", "usage": usage}}, 0.00164),
        ({"model": "house", "completion_response": {"model": "x", "usage": usage}}, 0.00164),
        ({"model": "house", "messages": [{"role": "user", "content": "a" * 400}]}, 0.0001),
        ({"model": "house", "messages": [{"content": [{"type": "text", "text": "ü" * 200}]}]},
         0.0001),
        ({"model": "openai/gpt-listed", "messages": ["a" * 400]}, 0.0003),
        ({"model": "gpt-listed", "messages": [None, 5, {"content": 7}]}, 0.0),
    ):  # fmt: skip
        status, answer = await priced.call("POST", "/spend/calculate", body)
        assert (status, answer) == (200, {"cost": pytest.approx(cost)}), body


async def test_estimates_of_costs(priced: Admin) -> None:
    """An estimate tells a request's cost in parts, and of a day and a month of them."""
    asked = {
        "model": "house",
        "input_tokens": 1000,
        "output_tokens": 500,
        "cache_read_input_tokens": 400,
        "num_requests_per_day": 10,
    }
    status, body = await priced.call("POST", "/cost/estimate", asked)
    assert status == 200
    assert body == {
        "model": "house",
        "provider": "openai",
        "input_tokens": 1000,
        "output_tokens": 500,
        "num_requests_per_day": 10,
        "num_requests_per_month": None,
        "input_cost_per_token": 0.000001,
        "output_cost_per_token": 0.000002,
        "cost_per_request": pytest.approx(0.00164),
        "input_cost_per_request": pytest.approx(0.00064),
        "output_cost_per_request": pytest.approx(0.001),
        "margin_cost_per_request": 0.0,
        "daily_cost": pytest.approx(0.0164),
        "daily_input_cost": pytest.approx(0.0064),
        "daily_output_cost": pytest.approx(0.01),
        "daily_margin_cost": 0.0,
        "monthly_cost": None,
        "monthly_input_cost": None,
        "monthly_output_cost": None,
        "monthly_margin_cost": None,
    }


async def test_a_model_that_a_key_may_not_use_has_no_price(priced: Admin) -> None:
    """A key learns the prices of its own models only."""
    made = await priced.generate(models=["other"])
    asked = {"model": "house", "input_tokens": 1, "output_tokens": 1}
    answer = await priced.call("POST", "/cost/estimate", asked, key=made["key"])
    error_of(answer, 404, "not_found_error", "model")
    free = await priced.generate()
    assert (await priced.call("POST", "/cost/estimate", asked, key=free["key"]))[0] == 200
