"""Limits of every owner over two workers, by what the upstream counted.

Each owner has two keys, one used on either worker. A rate run ends before a second window could
open, so it may admit the limit and no more; budgets are exact up to a call of each worker.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest

from tests.support.fleet import (
    INPUT_PRICE,
    OUTPUT_PRICE,
    WINDOW_S,
    Answer,
    Calls,
    Member,
    until,
)
from tests.support.owned_keys import Owned, of_team, of_user

pytestmark = pytest.mark.xdist_group("fleet")

LIMIT = 20
RUN_S = WINDOW_S - 0.25
EACH = 12 * Decimal(INPUT_PRICE) + 8 * Decimal(OUTPUT_PRICE)
TEXT = "[[usage:12,8]]"

Make = Callable[[Owned, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Makes an owner with limits; answers with the columns of its keys. `call:` members go into the
bodies of calls."""


async def of_member(owned: Owned, limits: dict[str, Any]) -> dict[str, Any]:
    await owned.row("team", team_id=owned.name("team"))
    await owned.row(
        "team_member",
        team_id=owned.name("team"),
        user_id=owned.name("user"),
        budget_id=await owned.budget(**limits),
    )
    return {"team_id": owned.name("team"), "user_id": owned.name("user")}


async def of_any_member(owned: Owned, limits: dict[str, Any]) -> dict[str, Any]:
    default = {"team_member_budget_id": await owned.budget(**limits)}
    await owned.row("team", team_id=owned.name("team"), metadata=default)
    await owned.row("team_member", team_id=owned.name("team"), user_id=owned.name("user"))
    return {"team_id": owned.name("team"), "user_id": owned.name("user")}


async def of_organization(owned: Owned, limits: dict[str, Any]) -> dict[str, Any]:
    await owned.row(
        "organization",
        organization_id=owned.name("org"),
        organization_alias="o",
        budget_id=await owned.budget(**limits),
    )
    await owned.row("team", team_id=owned.name("team"), organization_id=owned.name("org"))
    return {"team_id": owned.name("team")}


async def of_project(owned: Owned, limits: dict[str, Any]) -> dict[str, Any]:
    budget_id = await owned.budget(**limits)
    await owned.row("project", project_id=owned.name("project"), budget_id=budget_id)
    return {"project_id": owned.name("project")}


async def of_end_user(owned: Owned, limits: dict[str, Any]) -> dict[str, Any]:
    budget_id = await owned.budget(**limits)
    await owned.row("end_user", end_user_id=owned.name("end-user"), budget_id=budget_id)
    return {"call:user": owned.name("end-user")}


async def of_keys_end_users(owned: Owned, limits: dict[str, Any]) -> dict[str, Any]:
    budget_id = await owned.budget(**limits)
    return {"end_user_budget_id": budget_id, "call:user": owned.name("end-user")}


async def of_tag(owned: Owned, limits: dict[str, Any]) -> dict[str, Any]:
    await owned.row("tag", name=owned.name("tag"), budget_id=await owned.budget(**limits))
    return {"call:tags": [owned.name("tag")]}


async def of_keys_tag(owned: Owned, limits: dict[str, Any]) -> dict[str, Any]:
    await owned.row("tag", name=owned.name("tag"), budget_id=await owned.budget(**limits))
    return {"metadata": {"tags": [owned.name("tag")]}}


async def of_model_in_team(owned: Owned, limits: dict[str, Any]) -> dict[str, Any]:
    """The limit stands at a pattern that covers the call's model."""
    await owned.row(
        "team", team_id=owned.name("team"), model_max_budget={f"up/{owned.mark}*": limits}
    )
    return {"team_id": owned.name("team")}


class Run:
    """Two keys of one owner, and where and with what their calls go."""

    def __init__(self, owned: Owned, keys: list[str], fields: dict[str, Any]) -> None:
        self.owned = owned
        self.calls = owned.calls
        self.keys = keys
        self.fields = fields
        self.model = f"{owned.mark}-m"
        self.workers: tuple[Member, ...] = owned.calls.fleet.workers

    async def call(self, number: int) -> Answer:
        """The call of a number; even ones with one key at one worker, odd ones with the other."""
        worker, key = self.workers[number % 2], self.keys[number % 2]
        return await self.calls.chat(worker, key, f"up/{self.model}", TEXT, **self.fields)

    async def made(self) -> int:
        """How many calls the upstream has seen."""
        return int((await self.calls.stats())["by_model"].get(self.model, 0))

    async def offer(self, rate: float) -> list[Answer]:
        """Calls at a steady rate for the run."""
        started = time.monotonic()
        tasks: list[asyncio.Task[Answer]] = []
        while (elapsed := time.monotonic() - started) < RUN_S:
            while len(tasks) < elapsed * rate:
                tasks.append(asyncio.create_task(self.call(len(tasks))))
            await asyncio.sleep(0.005)
        return await asyncio.gather(*tasks)

    async def spend_all(self, clients: int = 6, calls: int = 10) -> list[Answer]:
        """More calls than a budget of `LIMIT` calls covers, a few at a time."""
        answers: list[Answer] = []

        async def client(number: int) -> None:
            for _ in range(calls):
                answers.append(await self.call(number))
                await asyncio.sleep(0.05)

        await asyncio.gather(*(client(number) for number in range(clients)))
        return answers


async def prepare(calls: Calls, make: Make, limits: dict[str, Any]) -> Run:
    """An owner with limits and its keys, known to all workers."""
    owned = Owned(calls)
    columns = await make(owned, limits)
    fields = {name[5:]: columns.pop(name) for name in list(columns) if name.startswith("call:")}
    keys = [await owned.key(**columns) for _ in range(2)]
    await owned.applied()
    return Run(owned, keys, fields)


OWNERS = {
    "user": (of_user, "user", "user's"),
    "team": (of_team, "team", "team's"),
    "member": (of_member, "team_member", "team member's"),
    "any member": (of_any_member, "team_member", "team member's"),
    "organization": (of_organization, "organization", "organization's"),
    "project": (of_project, "project", "project's"),
    "end user": (of_end_user, "end_user", "end user's"),
    "key's end users": (of_keys_end_users, "end_user", "end user's"),
    "tag": (of_tag, "tag", "tag's"),
    "key's tag": (of_keys_tag, "tag", "tag's"),
    "team's model": (of_model_in_team, "model_per_team", "team's per-model"),
}


@pytest.mark.parametrize("owner", OWNERS)
async def test_requests(calls: Calls, owner: str) -> None:
    """An owner's rpm holds over its keys and both workers and is used; answers say how much is
    left, refusals whose limit it was and until when."""
    make, level, words = OWNERS[owner]
    run = await prepare(calls, make, {"rpm_limit": LIMIT})
    answers = await run.offer(3 * LIMIT / WINDOW_S)
    statuses = Counter(answer.status for answer in answers)
    admitted = await run.made()
    assert set(statuses) == {200, 429}
    assert admitted == statuses[200]
    assert 0.95 * LIMIT <= admitted <= LIMIT
    good = next(answer for answer in answers if answer.status == 200)
    assert good.headers[f"x-ratelimit-{level}-limit-requests"] == str(LIMIT)
    assert int(good.headers[f"x-ratelimit-{level}-remaining-requests"]) < LIMIT
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.headers["rate_limit_type"] == "requests"
    assert refused.headers["reset_at"].endswith("Z")
    assert refused.body["error"]["type"] == "throttling_error"
    assert f"The {words} limit" in refused.body["error"]["message"]


@pytest.mark.parametrize("dimension", ["tpm_limit", "max_parallel_requests"])
async def test_other_dimensions_of_a_team(calls: Calls, dimension: str) -> None:
    """A team's tokens and parallel requests hold over its keys and both workers."""
    if dimension == "tpm_limit":
        run = await prepare(calls, of_team, {dimension: 20 * LIMIT})
        await run.offer(3 * LIMIT / WINDOW_S)
        assert 0.95 * LIMIT <= await run.made() <= LIMIT
        return
    run = await prepare(calls, of_team, {dimension: 4})
    run.fields["messages"] = [{"role": "user", "content": "[[delay-ms:300]]"}]
    answers = await run.spend_all(clients=10, calls=3)
    assert {answer.status for answer in answers} == {200, 429}
    assert (await calls.stats())["max_in_flight"] == 4


BUDGETS = {
    **{name: found for name, found in OWNERS.items() if name != "team's model"},
    "team's model": (of_model_in_team, None, "team's per-model"),
}


@pytest.mark.parametrize("owner", BUDGETS)
async def test_budget(calls: Calls, owner: str) -> None:
    """An owner's budget is used and exceeded by a call of each worker at most; the counter that
    it reads is the sum of its calls, and the refusal names the owner."""
    make, kind, words = BUDGETS[owner]
    run = await prepare(calls, make, {"max_budget": float(LIMIT * EACH)})
    answers = await run.spend_all()
    assert {answer.status for answer in answers} == {200, 422}
    made = await run.made()
    # Levels that refuse only above their budget let one call more begin.
    assert 0.95 * LIMIT <= made <= LIMIT + 3
    refused = next(answer for answer in answers if answer.status == 422)
    assert refused.body["error"]["type"] == "budget_exceeded"
    assert f"The {words} budget" in refused.body["error"]["message"]
    rows = await calls.ledger(made, run.model)
    assert sum(row["cost"] for row in rows) == made * EACH
    if kind is None:
        owner_id = f"{run.owned.name('team')}:up/{run.owned.mark}*"
        assert await run.owned.spent("model_per_team", owner_id) == made * EACH
    else:
        ((spent, owners),) = await calls.sql(
            "select sum(spend), count(distinct id) from spend_counter "
            "where kind = $1 and window_start_s = 0 and id like '%' || $2 || '%'",
            kind,
            run.owned.mark,
        )
        assert (spent, owners) == (made * EACH, 1)


@pytest.mark.parametrize("table", ["key", "team", "user"])
async def test_several_windows(calls: Calls, table: str) -> None:
    """Of several budgets that run at once each holds, also where their periods begin together;
    each counts all calls."""
    cheap, dear = float(LIMIT * EACH), float(1000 * EACH)
    windows = [
        {"budget_duration": "1d", "max_budget": dear},
        {"budget_duration": "24h", "max_budget": cheap},
        {"budget_duration": "30d", "max_budget": dear},
    ]
    limits: dict[str, Any] = {"budget_limits": windows, "max_budget": dear}

    async def make(owned: Owned, limits: dict[str, Any]) -> dict[str, Any]:
        return (
            limits
            if table == "key"
            else await {"team": of_team, "user": of_user}[table](owned, limits)
        )

    run = await prepare(calls, make, limits)
    run.keys = [run.keys[0]] * 2
    answers = await run.spend_all()
    made = await run.made()
    assert 0.95 * LIMIT <= made <= LIMIT + 2
    refused = next(answer for answer in answers if answer.status == 422)
    assert "it resets at" in refused.body["error"]["message"]
    await calls.ledger(made, run.model)
    rows = await calls.sql(
        "select distinct window_start_s, spend from spend_counter c where kind = $1 and "
        "id in (select case $1 when 'key' then key when 'team' then team_id else user_id end "
        "from spend_row where model = $2)",
        table,
        run.model,
    )
    starts = {row["window_start_s"] for row in rows}
    assert len(starts) >= 2
    assert {row["spend"] for row in rows} == {made * EACH}


async def test_models_without_a_price_are_not_checked(calls: Calls) -> None:
    """A spent budget of any owner blocks paid use only."""
    run = await prepare(calls, of_team, {"max_budget": 0.0, "max_parallel_requests": 9})
    # A team refuses above its budget, so the first call's cost is what spends it.
    worker, key = run.workers[0], run.keys[0]
    statuses = [(await calls.chat(worker, key, "up/paid", TEXT)).status for _ in range(3)]
    assert statuses[1:] == [422, 422]
    assert (await calls.chat(worker, key, "free/any", TEXT)).status == 200


async def test_a_users_budget_does_not_count_for_team_keys(calls: Calls) -> None:
    """What a user's own budget does not cover is refused to the user's own key only."""
    owned = Owned(calls)
    columns = {**await of_user(owned, {"max_budget": 0.0}), **await of_team(owned, {})}
    team_key, own_key = await owned.key(**columns), await owned.key(user_id=columns["user_id"])
    worker = calls.fleet.workers[0]
    assert (await calls.chat(worker, team_key, "up/any")).status == 200
    assert (await calls.chat(worker, own_key, "up/any")).status == 422


async def test_a_temporary_increase_ends_by_itself(calls: Calls) -> None:
    """A raised budget is the old one again once the increase expires, without any change."""
    owned = Owned(calls)
    until_s = time.time() + 1.5
    expiry = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(until_s + 1))
    key = await owned.key(
        max_budget=Decimal(0),
        metadata={"temp_budget_increase": 1.0, "temp_budget_expiry": expiry},
    )
    worker = calls.fleet.workers[0]
    assert (await calls.chat(worker, key, "up/any")).status == 200

    async def over() -> bool:
        return (await calls.chat(worker, key, "up/any")).status == 422

    await until(over, what="the increase to end")
    assert time.time() >= until_s
