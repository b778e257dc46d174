"""Changes of models reach every worker: real processes, and the machinery that they rest on."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.db.feed import FEED_CHANNEL
from shared.db.link import Link
from shared.db.pool import Store
from shared.domain.capabilities import Binary
from shared.domain.clock import Clock
from shared.domain.errors import ConfigError, StoreUnavailable
from shared.fleet.follower import Follower
from shared.fleet.reload import Reload
from tests.support.fleet import Answer, Calls, Fleet, Member, until
from tests.support.one_worker import one_worker

fleet_test = pytest.mark.xdist_group("fleet")

OBEYED_S = 1.0
OWN_KEY = "sk-own-upstream-key-0123456789"
LISTENERS = (
    "select pid from pg_stat_activity where application_name = 'meridian-worker-listen'"
    " and datname = current_database()"
)


def name_of(what: str = "live") -> str:
    """A model name that no other test uses."""
    return f"{what}-{secrets.token_hex(4)}"


def params_of(calls: Calls, model: str, **more: Any) -> dict[str, Any]:
    """Parameters of a model at the fleet's upstream."""
    base = f"{calls.fleet.upstream_url}/v1"
    return {"model": f"openai/{model}", "api_base": base, "api_key": OWN_KEY, **more}


async def make(calls: Calls, name: str, query: str = "", **params: Any) -> str:
    """A model made on the admin; its id."""
    sent = {"model_name": name, "litellm_params": params_of(calls, f"up-{name}", **params)}
    return str((await calls.admin(f"/model/new{query}", sent))["model_id"])


async def everywhere(calls: Calls, check: Callable[[Answer], bool], model: str) -> float:
    """Until a call of the model on both workers answers so; the longest time that it took."""

    async def one(worker: Member) -> float:
        async def obeyed() -> bool:
            return check(await calls.chat(worker, calls.fleet.master_key, model))

        return await until(obeyed, what=f"{worker.name} to obey")

    took = max(await asyncio.gather(*map(one, calls.fleet.workers)))
    assert took < OBEYED_S, took
    return took


def served(answer: Answer) -> bool:
    return answer.status == 200


def unknown(answer: Answer) -> bool:
    return answer.status == 400 and answer.body["error"]["param"] == "model"


@pytest.fixture(params=[False, True], ids=["calm", "listen-cut"])
def disturb(request: pytest.FixtureRequest, calls: Calls) -> Callable[[], Awaitable[None]]:
    """To be called right before a change: cuts the connections on which workers listen, or not."""

    async def cut() -> None:
        assert await calls.sql(f"select pg_terminate_backend(pid) from ({LISTENERS}) as l")

    async def leave() -> None:
        return

    return cut if request.param else leave


@fleet_test
async def test_a_models_life(calls: Calls, disturb: Callable[[], Awaitable[None]]) -> None:
    """Made, led elsewhere, blocked, unblocked, deleted: within a second on both workers, also when
    their connections break just then."""
    name = name_of()
    await disturb()
    model_id = await make(calls, name)
    await everywhere(calls, served, name)
    for worker in calls.fleet.workers:
        listed = await calls.request("GET", f"{worker.url}/v1/models", calls.fleet.master_key)
        assert name in [model["id"] for model in listed.body["data"]]
    patch = f"/model/{model_id}/update"
    await disturb()
    change = {"litellm_params": {"api_base": "http://127.0.0.1:9/v1"}}
    await calls.admin(patch, change, "PATCH")
    await everywhere(calls, lambda answer: answer.status == 502, name)
    await calls.admin(patch, {"litellm_params": params_of(calls, "second")}, "PATCH")
    await everywhere(calls, served, name)
    assert await calls.received("second")
    await disturb()
    await calls.admin("/model/block", {"model_id": model_id})
    await everywhere(calls, unknown, name)
    await calls.admin("/model/unblock", {"model_id": model_id})
    await everywhere(calls, served, name)
    await disturb()
    await calls.admin("/model/delete", {"id": model_id})
    await everywhere(calls, unknown, name)


@fleet_test
async def test_applied_means_in_force(calls: Calls) -> None:
    """An answer that all have applied a change is followed by no call that knows the old state."""
    members = [calls.fleet.admin, *calls.fleet.workers]
    for _ in range(5):
        name = name_of()
        sent = {"model_name": name, "litellm_params": params_of(calls, "first")}
        answer = await calls.admin("/model/new?wait=applied", sent)
        assert answer["propagation"]["applied"] >= 3
        assert answer["propagation"]["unreachable"] == 0
        assert answer["propagation"]["elapsed_ms"] < 1000
        patch = f"/model/{answer['model_id']}/update?wait=applied"
        for model in ("first", "second", "third"):
            change = {"litellm_params": {"model": f"openai/{model}"}}
            await calls.admin(patch, change, "PATCH")
            for member in members:
                before = len(await calls.received(model))
                reply = await calls.chat(member, calls.fleet.master_key, name)
                assert reply.status == 200
                assert len(await calls.received(model)) == before + 1
        await calls.admin("/model/delete?wait=applied", {"id": answer["model_id"]})
        for member in members:
            assert unknown(await calls.chat(member, calls.fleet.master_key, name))


@fleet_test
async def test_the_admin_knows_at_once(calls: Calls) -> None:
    """Whoever made a model finds it on the admin without waiting."""
    admin = calls.fleet.admin
    for _ in range(5):
        name = name_of()
        model_id = await make(calls, name)
        url = f"{admin.url}/model/info?litellm_model_id={model_id}"
        answer = await calls.request("GET", url, calls.fleet.master_key)
        (row,) = answer.body["data"]
        assert (row["model_name"], row["model_info"]["db_model"]) == (name, True)
        assert OWN_KEY not in str(answer.body)
        assert (await calls.chat(admin, calls.fleet.master_key, name)).status == 200
        await calls.admin("/model/delete", {"id": model_id})
        assert unknown(await calls.chat(admin, calls.fleet.master_key, name))


@fleet_test
async def test_refused_changes_change_nothing(calls: Calls) -> None:
    """What no worker could serve is refused; both go on with what there was."""
    name = name_of()
    model_id = await make(calls, name, "?wait=applied")
    url = f"{calls.fleet.admin.url}/model/{model_id}/update"
    for params in ({"model": "anthropic/x"}, {"api_base": "no url"}, {"rpm": "x"}):
        change = {"litellm_params": params}
        answer = await calls.request("PATCH", url, calls.fleet.master_key, change)
        assert answer.status == 400
        for worker in calls.fleet.workers:
            assert served(await calls.chat(worker, calls.fleet.master_key, name))
    assert {row["body"]["model"] for row in await calls.received()} == {f"up-{name}"}
    await calls.admin("/model/delete", {"id": model_id})


@fleet_test
async def test_a_burst(calls: Calls) -> None:
    """Twenty models made at once are all served a second after the last, and gone together."""
    names = [name_of("burst") for _ in range(20)]
    ids = await asyncio.gather(*(make(calls, name) for name in names))
    await asyncio.gather(*(everywhere(calls, served, name) for name in names))
    await asyncio.gather(*(calls.admin("/model/delete", {"id": each}) for each in ids))
    await asyncio.gather(*(everywhere(calls, unknown, name) for name in names))


@fleet_test
async def test_open_streams(calls: Calls) -> None:
    """A hundred open streams end whole at the upstream that they began with, while their model is
    led elsewhere and then deleted."""
    name, key = name_of(), await calls.new_key()
    model_id = await make(calls, name, "?wait=applied")
    knobs = "[[chunks:15]][[chunk-delay-ms:100]]"
    running = [
        asyncio.create_task(calls.chat(worker, key, name, knobs, stream=True))
        for worker in calls.fleet.workers
        for _ in range(50)
    ]

    async def open_all() -> bool:
        return bool((await calls.stats())["in_flight"] == len(running))

    await until(open_all, what="open streams")
    change = {"litellm_params": {"api_base": "http://127.0.0.1:9/v1"}}
    await calls.admin(f"/model/{model_id}/update?wait=applied", change, "PATCH")
    for worker in calls.fleet.workers:
        assert (await calls.chat(worker, key, name)).status == 502
    await calls.admin("/model/delete?wait=applied", {"id": model_id})
    answers = await asyncio.gather(*running)
    assert {answer.status for answer in answers} == {200}
    assert all(answer.body.endswith("data: [DONE]\n\n") for answer in answers)
    assert all(answer.headers["x-litellm-model-id"] == model_id for answer in answers)


@fleet_test
async def test_a_credential_that_changes(calls: Calls) -> None:
    """A model that names a credential is called with its new key within a second."""
    name, credential = name_of(), name_of("credential")
    values = {"api_key": "sk-first-000000", "api_base": f"{calls.fleet.upstream_url}/v1"}
    await calls.admin("/credentials", {"credential_name": credential, "credential_values": values})
    params = {"model": f"openai/{name}", "litellm_credential_name": credential}
    sent = {"model_name": name, "litellm_params": params}
    model_id = (await calls.admin("/model/new", sent))["model_id"]
    await everywhere(calls, served, name)

    async def keys() -> set[str]:
        return {row["headers"]["authorization"] for row in await calls.received(name)}

    assert await keys() == {"Bearer sk-first-000000"}
    change = {"credential_values": {"api_key": "sk-second-00000"}}
    await calls.admin(f"/credentials/{credential}?wait=applied", change, "PATCH")
    await calls.upstream("/_reset", {})
    for member in (calls.fleet.admin, *calls.fleet.workers):
        assert served(await calls.chat(member, calls.fleet.master_key, name))
    assert await keys() == {"Bearer sk-second-00000"}
    await calls.admin("/model/delete", {"id": model_id})
    await calls.admin(f"/credentials/{credential}", method="DELETE")
    for log in calls.fleet.logs.values():
        assert "sk-second-00000" not in log.read_text("utf-8", "replace")


@fleet_test
async def test_a_model_of_one_team(calls: Calls) -> None:
    """A team's model serves the team's keys under its public name, even one that everybody has,
    and nobody else's; the master key finds it by its id."""
    team, name = name_of("team"), name_of()
    await calls.sql("insert into team (team_id) values ($1)", team)
    key, other = await calls.new_key(team_id=team), await calls.new_key()
    ids = []
    for public in (name, "chat-one"):
        params = params_of(calls, f"of-{team}")
        info = {"team_id": team}
        sent = {"model_name": public, "litellm_params": params, "model_info": info}
        ids.append((await calls.admin("/model/new?wait=applied", sent))["model_id"])
    for worker in calls.fleet.workers:
        for public in (name, "chat-one"):
            answer = await calls.chat(worker, key, public)
            assert served(answer)
            assert answer.headers["x-litellm-model-group"] == public
        assert served(await calls.chat(worker, other, "chat-one"))
        for asked in (name, *ids):
            assert unknown(await calls.chat(worker, other, asked))
        assert served(await calls.chat(worker, calls.fleet.master_key, ids[0]))
        listed = await calls.request("GET", f"{worker.url}/v1/models", key)
        assert name in {model["id"] for model in listed.body["data"]}
        listed = await calls.request("GET", f"{worker.url}/v1/models", other)
        assert name not in {model["id"] for model in listed.body["data"]}
        info = await calls.request("GET", f"{worker.url}/model/info", other)
        assert team not in str(info.body)
    assert len(await calls.received(f"of-{team}")) == 6
    assert len(await calls.received("upstream-chat")) == 2
    for each in ids:
        await calls.admin("/model/delete", {"id": each})


@fleet_test
async def test_parameters_of_the_list(calls: Calls) -> None:
    """GET /v1/models: wildcards, access groups, metadata, scope, Anthropic's shape."""
    name, group = name_of(), name_of("group")
    sent = {
        "model_name": name,
        "litellm_params": params_of(calls, name),
        "model_info": {"access_groups": [group], "supports_vision": True, "max_input_tokens": 9},
    }
    model_id = (await calls.admin("/model/new?wait=applied", sent))["model_id"]
    url, master = calls.fleet.workers[0].url, calls.fleet.master_key
    key = await calls.new_key(models=[group])

    async def listed(query: str, by: str = master) -> list[dict[str, Any]]:
        answer = await calls.request("GET", f"{url}/v1/models?{query}", by)
        assert answer.status == 200
        return list(answer.body["data"])

    assert [row["id"] for row in await listed("", key)] == [name]
    assert [row["id"] for row in await listed("only_model_access_groups=true", key)] == [group]
    both = [row["id"] for row in await listed("include_model_access_groups=true", key)]
    assert both == [name, group]
    assert "up/*" not in {row["id"] for row in await listed("")}
    assert "up/*" in {row["id"] for row in await listed("return_wildcard_routes=true")}
    assert [row["metadata"] for row in await listed("include_metadata=true", key)] == [
        {"fallbacks": []}
    ]
    assert name in {row["id"] for row in await listed("scope=expand")}
    for query, status in (("scope=x", 400), ("fallback_type=x", 400), ("team_id=other", 403)):
        answer = await calls.request("GET", f"{url}/v1/models?{query}", key)
        assert (answer.status, list(answer.body)) == (status, ["detail"])
    for path in (f"/v1/models/{name}", f"/models/{name}"):
        answer = await calls.request(
            "GET", url + path, key, headers={"anthropic-version": "2023-06-01"}
        )
        assert (answer.body["type"], answer.body["id"]) == ("model", name)
    facts = (await calls.request("GET", f"{url}/model_group/info?model_group={name}", key)).body
    (row,) = facts["data"]
    assert (row["supports_vision"], row["max_input_tokens"]) == (True, 9)
    assert "temperature" in row["supported_openai_params"]
    answer = await calls.request("GET", f"{url}/model/info?litellm_model_id=nobody", key)
    assert (answer.status, list(answer.body)) == (400, ["detail"])
    await calls.admin("/model/delete", {"id": model_id})


@fleet_test
async def test_a_worker_that_comes_later(calls: Calls, fleet: Fleet) -> None:
    """What is stored is served from the first request on; switched off, only the file is; with
    another salt key the process says so and does not start."""
    name = name_of()
    model_id = await make(calls, name)
    with fleet.member("comes-later", Binary.WORKER) as member:
        assert served(await calls.chat(member, fleet.master_key, name))
    with fleet.member("file-only", Binary.WORKER, STORE_MODEL_IN_DB="false") as member:
        assert unknown(await calls.chat(member, fleet.master_key, name))
        assert served(await calls.chat(member, fleet.master_key, "chat-one"))
    member = fleet.start("other-salt", Binary.WORKER, LITELLM_SALT_KEY="sk-not-that-one")
    assert await asyncio.to_thread(member.wait) == 2
    log = member.log.read_text("utf-8", "replace")
    assert "cannot_start" in log
    assert f"model[{model_id}].litellm_params.api_key" in log
    assert "LITELLM_SALT_KEY" in log
    for secret in (OWN_KEY, "sk-not-that-one", fleet.master_key):
        assert secret not in log
    await calls.admin("/model/delete", {"id": model_id})


ROW = """('{}', '{}', '{{"model": "{}"}}')"""
MODEL = f"insert into model (model_id, model_name, litellm_params) values {ROW}"


def chat_of(model: str) -> dict[str, Any]:
    """A chat body."""
    return {"model": model, "messages": [{"role": "user", "content": "hi"}]}


async def test_the_last_good_stays(tmp_path: Path, database: str) -> None:
    """A row that cannot be in force, written past the API: nothing of the change is taken over,
    the log, readiness and the metric say so, keys go on being followed, and once the row is right
    everything is in force."""
    with one_worker(tmp_path, database) as worker:

        async def serves(model: str) -> bool:
            return (await worker.ask(chat_of(model))).status == 200

        async def refused() -> bool:
            return (await worker.details())["models"]["refused"] is not None

        async def behind() -> bool:
            return (await worker.scrape()).total("meridian_models_behind_seconds") > 0

        async def in_step() -> bool:
            return not await behind()

        await worker.sql(MODEL.format("m1", "good", "demo/echo"))
        assert await until(lambda: serves("good")) < OBEYED_S
        await worker.sql(
            MODEL.format("m2", "other", "demo/echo") + ", " + ROW.format("broken", "b", "nobody/x")
        )
        await until(refused)
        details = await worker.details()
        assert "model[broken].litellm_params.model" in details["models"]["refused"]
        assert details["feed"]["in_force"] < details["feed"]["applied"] == details["feed"]["head"]
        await until(behind)
        assert await serves("good")
        assert not await serves("other")
        key = await worker.new_key()
        assert (await worker.ask(chat_of("good"), key)).status == 200
        await worker.sql("delete from model where model_id = 'broken'")
        assert await until(lambda: serves("other")) < OBEYED_S
        assert not await refused()
        await until(in_step)
        details = await worker.details()
        assert details["feed"]["in_force"] == details["feed"]["head"]
        assert "reload_refused" in worker.member.log.read_text()


@asynccontextmanager
async def following(
    dsn: str, load: Callable[[], Awaitable[None]], told: list[Any]
) -> AsyncIterator[tuple[Follower, Reload, list[int]]]:
    """A follower with keys and a reload, which has read once, and the versions that it confirms."""
    link = Link("listen", dsn, application_name="meridian-test-feed", listen=(FEED_CHANNEL,))
    await link.open()
    reload, confirmed = Reload("things", ("model", "credential"), load), []

    async def confirm(version: int) -> None:
        confirmed.append(version)

    follower = Follower(
        link, Clock(), {"key": told.append}, reloads=(reload,), ack=confirm, poll_s=0.05
    )
    await follower.catch_up()
    await reload.once(lambda: follower.applied)
    tasks = [
        asyncio.create_task(follower.run()),
        asyncio.create_task(reload.run(lambda: follower.applied, follower.wake)),
    ]
    try:
        yield follower, reload, confirmed
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await link.close()


class Loading:
    """A load that waits until it is let go on, or fails as it is told."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.failures: list[Exception] = []
        self.begun = self.done = 0

    async def __call__(self) -> None:
        self.begun += 1
        await self.go.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.done += 1


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    made = Store(database, application_name="meridian-test-store", size=4)
    await made.open()
    yield made
    await made.close()


async def add(store: Store, model_id: str) -> int:
    """A model; the feed's head then."""
    await store.execute(MODEL.format(model_id, "n", "demo/x"))
    return int(await store.fetchval("select version from change_head"))


async def soon(check: Callable[[], bool]) -> None:
    """Until it is so."""

    async def checked() -> bool:
        return check()

    await until(checked, 5.0)


async def test_nothing_is_confirmed_before_it_is_in_force(store: Store, database: str) -> None:
    """While a change of models is being read the version is not in force and not confirmed, and
    changes of keys are obeyed all the same; one that comes meanwhile is read after it."""
    load, told = Loading(), []
    async with following(database, load, told) as (follower, reload, confirmed):
        assert not reload.behind
        started = follower.in_force
        load.go.clear()
        first = await add(store, "m1")
        await store.execute("update change_ack set wanted = $1", first)
        await soon(lambda: load.begun == 2)
        await store.execute("insert into virtual_key (token) values ($1)", "a" * 64)
        await soon(lambda: ("a" * 64,) in told)
        assert follower.applied > first
        assert (follower.in_force, confirmed) == (started, [])
        second = await add(store, "m2")
        await soon(lambda: follower.applied == second)
        load.go.set()
        await soon(lambda: follower.in_force == second)
        assert load.begun == 3
        await soon(lambda: bool(confirmed))
        assert confirmed[0] >= first


async def test_loads_that_fail(store: Store, database: str) -> None:
    """An unreachable store is asked again; what is refused waits for the next change; a fault of
    ours is logged and tried again."""
    load: Loading = Loading()
    async with following(database, load, []) as (follower, reload, _):
        load.failures = [StoreUnavailable("away"), StoreUnavailable("away"), ValueError("bug")]
        version = await add(store, "m1")
        await soon(lambda: follower.in_force == version)
        assert load.begun == 5
        load.failures = [ConfigError("refused")]
        version = await add(store, "m2")
        await soon(lambda: load.begun == 6)
        await soon(lambda: follower.applied == version)
        assert reload.behind
        assert follower.in_force < version
        version = await add(store, "m3")
        await soon(lambda: follower.in_force == version)
        assert load.begun == 7
