"""Stored settings reach every worker: real processes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from shared.domain.capabilities import Binary
from tests.support.fleet import Answer, Calls, Member, until

pytestmark = pytest.mark.xdist_group("fleet")

OBEYED_S = 1.0
USAGE = "[[usage:12,8]]"
PLAIN_COST = 12 * 0.000001 + 8 * 0.000002
SECRET = "sk-stored-variable-0123456789"


class Settings:
    """Changes settings on the admin, and takes them all away at the end."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self._set: dict[str, dict[str, None]] = {}

    def mine(self, section: str, *members: str) -> None:
        """Members to be taken away at the end."""
        self._set.setdefault(section, {}).update(dict.fromkeys(members))

    async def change(self, **sections: Mapping[str, Any]) -> dict[str, Any]:
        for section, members in sections.items():
            self.mine(section, *members)
        return dict(await self.calls.admin("/config/update", sections))

    async def clear(self) -> None:
        done = await self.calls.admin("/config/update?wait=applied", self._set)
        assert done["propagation"]["unreachable"] == 0


@pytest.fixture
async def settings(calls: Calls) -> AsyncIterator[Settings]:
    found = Settings(calls)
    yield found
    await found.clear()


async def everywhere(
    calls: Calls, check: Callable[[Answer], bool], model: str, key: str | None = None
) -> None:
    """Until a call of the model on both workers answers so, within the promised time."""

    async def one(worker: Member) -> float:
        async def obeyed() -> bool:
            return check(await calls.chat(worker, key or calls.fleet.master_key, model, USAGE))

        return await until(obeyed, what=f"{worker.name} to obey")

    took = max(await asyncio.gather(*map(one, calls.fleet.workers)))
    assert took < OBEYED_S, took


def status(wanted: int) -> Callable[[Answer], bool]:
    return lambda answer: answer.status == wanted


def costs(wanted: float) -> Callable[[Answer], bool]:
    return lambda answer: abs(float(answer.headers["x-litellm-response-cost"]) - wanted) < 1e-12


async def test_aliases(calls: Calls, settings: Settings) -> None:
    """An alias is served within a second of its making, and no longer than that after its end."""
    one, other = f"alias-{secrets.token_hex(4)}", f"alias-{secrets.token_hex(4)}"
    await settings.change(
        router_settings={"model_group_alias": {one: "chat-one"}},
        litellm_settings={"model_alias_map": {other: "chat-other"}},
    )
    await everywhere(calls, status(200), one)
    await everywhere(calls, status(200), other)
    await settings.change(router_settings={"model_group_alias": None})
    await everywhere(calls, status(400), one)
    await everywhere(calls, status(200), other)


async def test_what_is_wrong_changes_nothing(calls: Calls, settings: Settings) -> None:
    """Of a change with something wrong in it nothing comes into force."""
    alias = f"alias-{secrets.token_hex(4)}"
    bad = {
        "router_settings": {"model_group_alias": {alias: "chat-one"}, "retry_after": "soon"},
    }
    answer = await calls.request(
        "POST", f"{calls.fleet.admin.url}/config/update", calls.fleet.master_key, bad
    )
    assert answer.status == 400
    done = await settings.change(router_settings={"retry_after": 0.1})
    assert done["notices"] == []
    for worker in calls.fleet.workers:
        assert (await calls.chat(worker, calls.fleet.master_key, alias)).status == 400


async def test_limits_follow(calls: Calls, settings: Settings) -> None:
    """The status of a spent budget, and what every request must name, for keys in use too."""
    poor = await calls.new_key(max_budget=1, spend=2)
    key = await calls.new_key()
    await everywhere(calls, status(422), "chat-one", poor)
    await everywhere(calls, status(200), "chat-one", key)
    await settings.change(
        litellm_settings={"budget_exceeded_status_code": 429},
        general_settings={"enforced_params": ["user"]},
    )
    await everywhere(calls, status(400), "chat-one", key)
    await settings.change(general_settings={"enforced_params": None})
    await everywhere(calls, status(200), "chat-one", key)
    await everywhere(calls, status(429), "chat-one", poor)


async def test_prices(calls: Calls, settings: Settings) -> None:
    """Discount, then margin, on what calls cost: in the header and in the ledger."""
    name = secrets.token_hex(4)
    model = f"up/{name}"
    await everywhere(calls, costs(PLAIN_COST), model)
    settings.mine("litellm_settings", "cost_discount_config", "cost_margin_config")
    await calls.admin("/config/cost_discount_config", {"openai": 0.5}, "PATCH")
    margin = {"openai": {"percentage": 0.1, "fixed_amount": 0.001}, "global": 5}
    await calls.admin("/config/cost_margin_config", margin, "PATCH")
    await settings.change(litellm_settings={"cost_discount_config": {"openai": 0.25}})
    wanted = PLAIN_COST * 0.75 * 1.1 + 0.001
    await everywhere(calls, costs(wanted), model)
    assert (await calls.admin("/config/cost_margin_config", None, "GET"))["values"] == margin

    async def posted() -> bool:
        rows = await calls.sql("select cost from spend_row where model = $1", name)
        return any(abs(float(row["cost"]) - wanted) < 1e-10 for row in rows)

    await until(posted, what="the adjusted cost in the ledger")


async def test_calls_without_a_price(calls: Calls, settings: Settings) -> None:
    """Models whose price is not known are refused where the operator wants it, others not."""
    model = f"free/{secrets.token_hex(4)}"
    await everywhere(calls, status(200), model)
    await settings.change(litellm_settings={"block_requests_for_models_without_pricing": True})
    await everywhere(calls, status(400), model)
    await everywhere(calls, status(200), "chat-one")


async def test_the_operators_model(calls: Calls, settings: Settings) -> None:
    """`completion_model` is every request's model while it is set."""
    name = f"nobody-{secrets.token_hex(4)}"
    await everywhere(calls, status(400), name)
    await settings.change(general_settings={"completion_model": "chat-one"})
    await everywhere(calls, status(200), name)


async def test_variables(calls: Calls, settings: Settings) -> None:
    """A stored variable is there for the models that refer to it, on instances whose environment
    does not have it."""
    name = f"live-{secrets.token_hex(4)}"
    variable = f"KEY_{secrets.token_hex(4).upper()}"
    params = {
        "model": f"openai/up-{name}",
        "api_base": f"{calls.fleet.upstream_url}/v1",
        "api_key": f"os.environ/{variable}",
    }
    made = await calls.admin("/model/new", {"model_name": name, "litellm_params": params})
    await everywhere(calls, status(400), name)
    answer = await settings.change(environment_variables={variable: SECRET})
    assert SECRET not in str(answer)
    await everywhere(calls, status(200), name)
    received = await calls.received(f"up-{name}")
    assert received[-1]["headers"]["authorization"] == f"Bearer {SECRET}"
    for member in calls.fleet.members.values():
        assert SECRET not in member.log.read_text()
    await calls.admin("/model/delete", {"id": made["model_id"]})


async def test_at_the_next_start(calls: Calls, settings: Settings) -> None:
    """What needs a restart is told, is not in force before, and is after."""
    done = await settings.change(general_settings={"litellm_key_header_name": "x-company-key"})
    assert done["restart_required"] == ["general_settings.litellm_key_header_name"]
    key = await calls.new_key()
    worker = calls.fleet.workers[0]
    own = {"x-company-key": f"Bearer {key}"}
    body = {"model": "chat-one", "messages": [{"role": "user", "content": "hi"}]}
    before = await calls.request(
        "POST", f"{worker.url}/v1/chat/completions", None, body, headers=own
    )
    assert before.status == 401
    with calls.fleet.member("worker-new", Binary.WORKER) as started:
        url = f"{started.url}/v1/chat/completions"
        assert (await calls.request("POST", url, None, body, headers=own)).status == 200
