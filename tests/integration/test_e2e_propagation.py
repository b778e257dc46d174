"""A change on the admin is in force on every worker within a second, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.fleet import Answer, Calls, Member, chat_body, until

pytestmark = pytest.mark.xdist_group("fleet")

OBEYED_S = 1.0
Check = Callable[[Member], Awaitable[bool]]
LISTENERS = (
    "select pid from pg_stat_activity where application_name = 'meridian-worker-listen'"
    " and datname = current_database()"
)


@pytest.fixture(params=[False, True], ids=["calm", "listen-cut"])
def disturb(request: pytest.FixtureRequest, calls: Calls) -> Callable[[], Awaitable[None]]:
    """To be called right before a change: cuts the connections on which workers listen, or not."""

    async def cut() -> None:
        gone = await calls.sql(f"select pg_terminate_backend(pid) from ({LISTENERS}) as l")
        assert len(gone) == 2

    async def leave() -> None:
        return

    return cut if request.param else leave


async def obeyed(calls: Calls, check: Check) -> None:
    """Both workers come to pass the check within the promised second."""

    async def one(worker: Member) -> float:
        return await until(lambda: check(worker), what=f"{worker.name} to obey")

    took = await asyncio.gather(*map(one, calls.fleet.workers))
    assert max(took) < OBEYED_S, took


def status_is(calls: Calls, key: str, status: int, model: str = "up/any") -> Check:
    """Whether a call by the key is answered with the status."""

    async def check(worker: Member) -> bool:
        return (await calls.chat(worker, key, model)).status == status

    return check


async def used_everywhere(calls: Calls, key: str, status: int = 200) -> None:
    """Both workers have seen the key, and have the answer in their caches."""
    for worker in calls.fleet.workers:
        assert (await calls.chat(worker, key, "up/any")).status == status


async def test_block_and_unblock(calls: Calls, disturb: Callable[[], Awaitable[None]]) -> None:
    """A blocked key is refused by both workers, and served again once it is unblocked."""
    key = await calls.new_key()
    await used_everywhere(calls, key)
    await disturb()
    await calls.admin("/key/block", {"key": key})
    await obeyed(calls, status_is(calls, key, 401))
    await calls.admin("/key/unblock", {"key": key})
    await obeyed(calls, status_is(calls, key, 200))


async def test_delete(calls: Calls, disturb: Callable[[], Awaitable[None]]) -> None:
    """A deleted key is unknown to both workers."""
    key = await calls.new_key()
    await used_everywhere(calls, key)
    await disturb()
    await calls.admin("/key/delete", {"keys": [key]})
    await obeyed(calls, status_is(calls, key, 401))
    answer = await calls.chat(calls.fleet.workers[0], key, "up/any")
    assert answer.body["error"]["type"] == "token_not_found_in_db"


async def test_models_of_a_key(calls: Calls, disturb: Callable[[], Awaitable[None]]) -> None:
    """Another model list changes what both workers serve and list."""
    key = await calls.new_key(models=["up/any", "chat-one"])
    await used_everywhere(calls, key)
    await disturb()
    await calls.admin("/key/update", {"key": key, "models": ["chat-other"]})
    await obeyed(calls, status_is(calls, key, 403))
    await obeyed(calls, status_is(calls, key, 200, "chat-other"))
    for worker in calls.fleet.workers:
        listed = await calls.request("GET", f"{worker.url}/v1/models", key)
        assert [model["id"] for model in listed.body["data"]] == ["chat-other"]


async def test_rate_limit_of_a_key(calls: Calls, disturb: Callable[[], Awaitable[None]]) -> None:
    """A limit that was lowered to nothing refuses, and one that was lifted lets calls through."""
    key = await calls.new_key(rpm_limit=100_000)
    await used_everywhere(calls, key)
    await disturb()
    await calls.admin("/key/update", {"key": key, "rpm_limit": 0})
    await obeyed(calls, status_is(calls, key, 429))
    await calls.admin("/key/update", {"key": key, "rpm_limit": None})
    await obeyed(calls, status_is(calls, key, 200))


async def test_key_refused_a_moment_ago(
    calls: Calls, disturb: Callable[[], Awaitable[None]]
) -> None:
    """A key that both workers have just refused works once it is made."""
    key = f"sk-{secrets.token_hex(16)}"
    await used_everywhere(calls, key, status=401)
    await disturb()
    await calls.admin("/key/generate", {"key": key})
    await obeyed(calls, status_is(calls, key, 200))


async def test_wait_applied(calls: Calls) -> None:
    """With `?wait=applied` the answer names all three instances, and the very next call on any of
    them obeys."""
    made = await calls.admin("/key/generate?wait=applied", {})
    key = made["key"]
    for path, body, status in (
        ("/key/block", {"key": key}, 401),
        ("/key/unblock", {"key": key}, 200),
        ("/key/update", {"key": key, "models": ["chat-one"]}, 403),
        ("/key/delete", {"keys": [key]}, 401),
    ):
        answer = await calls.admin(f"{path}?wait=applied", body)
        propagation = answer["propagation"]
        assert (propagation["applied"], propagation["unreachable"]) == (3, 0)
        assert propagation["elapsed_ms"] < OBEYED_S * 1000
        for member in calls.fleet.members.values():
            assert (await calls.chat(member, key, "up/any")).status == status, path


async def test_block_under_load(calls: Calls) -> None:
    """With 200 calls of the key in flight and the listeners cut, a block is obeyed in time; what
    had begun is finished, to its last byte."""
    key = await calls.new_key()
    body = chat_body("up/loaded+chunks:12+chunk-delay-ms:200", stream=True)

    async def stream(number: int) -> Answer:
        url = f"{calls.fleet.workers[number % 2].url}/v1/chat/completions"
        return await calls.request("POST", url, key, body)

    streams = [asyncio.create_task(stream(number)) for number in range(200)]

    async def all_in_flight() -> bool:
        return bool((await calls.stats())["in_flight"] >= 200)

    await until(all_in_flight, what="200 calls in flight")
    await calls.sql(f"select pg_terminate_backend(pid) from ({LISTENERS}) as l")
    await calls.admin("/key/block", {"key": key})
    await obeyed(calls, status_is(calls, key, 401))
    assert not any(task.done() for task in streams)
    answers = await asyncio.gather(*streams)
    assert {answer.status for answer in answers} == {200}
    assert all(answer.body.endswith("data: [DONE]\n\n") for answer in answers)


async def test_many_changes(calls: Calls) -> None:
    """Of many changes to one key in a row, the last one holds on both workers."""
    key = await calls.new_key()
    await used_everywhere(calls, key)
    body: dict[str, Any] = {"key": key}
    started = time.monotonic()
    for _ in range(10):
        await calls.admin("/key/block", body)
        await calls.admin("/key/unblock", body)
    await calls.admin("/key/block?wait=applied", body)
    assert time.monotonic() - started < 10
    for worker in calls.fleet.workers:
        assert (await calls.chat(worker, key, "up/any")).status == 401
