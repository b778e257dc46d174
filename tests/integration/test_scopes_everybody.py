"""Limits that the configuration sets for everybody, over two workers that have them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal

import pytest
import yaml

from shared.domain.capabilities import Binary
from tests.support.fleet import (
    INPUT_PRICE,
    OUTPUT_PRICE,
    UPSTREAM_KEY,
    Answer,
    Calls,
    Fleet,
    Member,
)
from tests.support.owned_keys import Owned, of_team, of_user

pytestmark = pytest.mark.xdist_group("fleet")

LIMIT = 20
EACH = 12 * Decimal(INPUT_PRICE) + 8 * Decimal(OUTPUT_PRICE)
TEXT = "[[usage:12,8]]"


@pytest.fixture(scope="module")
def special(fleet: Fleet) -> Iterator[tuple[Member, Member]]:
    """Two workers whose configuration has limits for everybody."""
    priced = {"input_cost_per_token": INPUT_PRICE, "output_cost_per_token": OUTPUT_PRICE}
    base = {"api_base": f"{fleet.upstream_url}/v1", "api_key": UPSTREAM_KEY, **priced}
    grouped = {
        "model_name": "grouped/*",
        "litellm_params": {"model": "openai/*", **base},
        "model_info": {"access_groups": ["costly"]},
    }
    anything = {"model_name": "up/*", "litellm_params": {"model": "openai/*", **base}}
    config = {
        "model_list": [grouped, anything],
        "router_settings": {"num_retries": 0},
        "litellm_settings": {"max_budget": 200.0, "max_end_user_budget_id": "of-everybody"},
        "general_settings": {"apply_user_budget_to_team_keys": True},
    }
    path = fleet.folder / "special.yaml"
    path.write_text(yaml.safe_dump(config))
    env = {"CONFIG_FILE_PATH": str(path)}
    with (
        fleet.member("special-1", Binary.WORKER, **env) as one,
        fleet.member("special-2", Binary.WORKER, **env) as other,
    ):
        yield one, other


async def test_default_budget_of_end_users(calls: Calls, special: tuple[Member, Member]) -> None:
    """Each end user without a budget has the operator's, by itself."""
    owned = Owned(calls)
    await owned.row("budget", budget_id="of-everybody", rpm_limit=2)
    await owned.applied()
    key = await owned.key()
    try:
        for name in ("one", "other"):
            statuses = Counter(
                [
                    (
                        await calls.chat(special[number % 2], key, "up/any", user=owned.name(name))
                    ).status
                    for number in range(6)
                ]
            )
            assert statuses == {200: 2, 429: 4}
        assert (await calls.chat(special[0], key, "up/any")).status == 200
    finally:
        await calls.sql("delete from budget where budget_id = 'of-everybody'")
        await owned.applied()


async def test_a_users_budget_counts_where_the_operator_says(
    calls: Calls, special: tuple[Member, Member]
) -> None:
    """With `apply_user_budget_to_team_keys` a user's budget is that of its team keys too."""
    owned = Owned(calls)
    columns = {**await of_user(owned, {"max_budget": 0.0}), **await of_team(owned, {})}
    key = await owned.key(**columns)
    assert (await calls.chat(special[0], key, "up/any")).status == 422


async def test_budget_of_a_model_access_group(calls: Calls, special: tuple[Member, Member]) -> None:
    """The models of an access group share its budget, whoever calls them."""
    owned = Owned(calls)
    budget_id = await owned.budget(max_budget=LIMIT * EACH)
    await owned.row("model_access_group", access_group="costly", budget_id=budget_id)
    await owned.applied()
    keys = [await owned.key() for _ in range(2)]
    answers: list[Answer] = []

    async def client(number: int) -> None:
        for _ in range(10):
            place = special[number % 2]
            model = f"grouped/{owned.mark}-{number}"
            answers.append(await calls.chat(place, keys[number % 2], model, TEXT))
            await asyncio.sleep(0.05)

    await asyncio.gather(*(client(number) for number in range(6)))
    statuses = Counter(answer.status for answer in answers)
    assert set(statuses) == {200, 422}
    assert 0.95 * LIMIT <= statuses[200] <= LIMIT + 2
    refused = next(answer for answer in answers if answer.status == 422)
    assert "The model access group's budget" in refused.body["error"]["message"]
    assert (await calls.chat(special[0], keys[0], "up/any", TEXT)).status == 200
    await calls.ledger(statuses[200], f"{owned.mark}-%")
    assert await owned.spent("model_access_group", "costly") == statuses[200] * EACH


async def test_global_budget(calls: Calls, special: tuple[Member, Member]) -> None:
    """When all calls together have cost more than the gateway's budget, paid calls are refused;
    other workers, which were told of no such budget, are not concerned."""
    owned = Owned(calls)
    key = await owned.key()
    assert (await calls.chat(special[0], key, "up/any", TEXT)).status == 200
    price = Decimal(100)
    dear = f"[[usage:{int(price / Decimal(INPUT_PRICE))},0]]"
    statuses = [
        (await calls.chat(special[number % 2], key, "up/dear", dear)).status for number in range(6)
    ]
    assert statuses[-1] == 422
    assert 2 <= statuses.count(200) <= 4
    answer = await calls.chat(special[1], key, "up/any", TEXT)
    assert answer.status == 422
    assert "The gateway's budget" in answer.body["error"]["message"]
    assert (await calls.chat(calls.fleet.workers[0], key, "up/any", TEXT)).status == 200
