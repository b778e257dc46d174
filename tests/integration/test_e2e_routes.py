"""The matrix of routes over HTTP: what each instance serves, however a path is spelled."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from shared.domain.capabilities import Binary, RouteClass
from shared.gateway.route_specs import sample
from tests.support.fleet import Answer, Calls, Fleet, Member
from tests.support.raw_http import RawAnswer, RawClient, request
from tests.support.served_routes import Matrix, methods_at

pytestmark = pytest.mark.xdist_group("fleet")

MATRIX = Matrix(Path(__file__).parent.parent / "contract" / "route_matrix.txt")
NOT_FOUND = {"detail": "Not Found"}


@frozen
class Instance:
    """A running instance and what the matrix says of it."""

    member: Member
    row: dict[str, str]


@pytest.fixture(scope="module")
def instances(fleet: Fleet) -> Iterator[dict[str, Instance]]:
    """A worker and an admin as they come, and one of each with flags."""
    extra = {
        "admin-without-admin": (Binary.ADMIN, ("DISABLE_ADMIN_ENDPOINTS", "DISABLE_ADMIN_UI")),
        "worker-without-llm": (Binary.WORKER, ("DISABLE_LLM_API_ENDPOINTS",)),
    }
    with ExitStack() as stack:
        found = {
            "worker": Instance(fleet.workers[0], MATRIX.row(Binary.WORKER, frozenset())),
            "admin": Instance(fleet.admin, MATRIX.row(Binary.ADMIN, frozenset())),
        }
        for name, (binary, flags) in extra.items():
            # Python then tells each module that the process imports, in its log.
            env = dict.fromkeys(flags, "true") | {"PYTHONPROFILEIMPORTTIME": "1"}
            member = stack.enter_context(fleet.member(name, binary, **env))
            found[name] = Instance(member, MATRIX.row(binary, frozenset(flags)))
        yield found


NAMES = ("worker", "admin", "admin-without-admin", "worker-without-llm")


def paths() -> list[tuple[str, RouteClass]]:
    """A fifth of the known paths, the same every time, and all with handlers behind them."""
    source = random.Random(3)
    chosen = [each for each in MATRIX.paths if not each[0].endswith("/...")]
    served = [each for each in chosen if methods_at(sample(each[0]))]
    return sorted({*source.sample(chosen, len(chosen) // 5), *served})


@pytest.mark.parametrize("name", NAMES)
async def test_matrix(calls: Calls, instances: dict[str, Instance], name: str) -> None:
    """Without a credential every path answers as the matrix says: refused at once where its class
    is not served, else asked for a key, or not supported yet; and never with a fault of ours."""
    instance = instances[name]
    asked = [(method, path, each) for path, each in paths() for method in ("GET", "POST")]
    assert len(asked) > 400
    gate = asyncio.Semaphore(16)

    async def one(method: str, path: str, route_class: RouteClass) -> None:
        if method == "GET" and path.startswith("/models/{"):
            # Whatever a model's name looks like, its facts may be read.
            route_class = RouteClass.PUBLIC
        url = instance.member.url + sample(path)
        async with gate:
            answer = await calls.request(
                method, url, None, {} if method == "POST" else None, allow_redirects=False
            )
        wrong = complaint(answer, method, sample(path), route_class, instance.row)
        assert wrong is None, (method, path, wrong, answer)

    await asyncio.gather(*(one(*each) for each in asked))
    assert (await calls.stats())["requests"] == 0


def complaint(
    answer: Answer, method: str, path: str, route_class: RouteClass, row: dict[str, str]
) -> str | None:
    """What is wrong with an answer to a caller without a key."""
    outcome = row[route_class.value]
    if outcome == "404":
        return None if (answer.status, answer.body) == (404, NOT_FOUND) else "not a 404"
    if outcome == "403":
        reason = answer.body.get("detail") if answer.status == 403 else None
        return None if isinstance(reason, str) and len(answer.body) == 1 else "not a 403"
    methods = methods_at(path)
    if method in methods:
        if path.startswith("/onboarding/") and answer.status == 422:
            # It asks for no key, but for an invitation.
            return None
        fine = answer.status in (200, 401)
        return None if fine and (answer.status == 200 or is_error(answer.body)) else "not served"
    if methods:
        return None if answer.status == 405 and answer.headers["allow"] else "not a 405"
    if route_class is RouteClass.UI:
        return None if answer.body == NOT_FOUND else "not a 404"
    if answer.status != 501:
        return "not a 501"
    return None if path.strip("/") in json.dumps(answer.body) else "names another path"


def is_error(body: Any) -> bool:
    """Whether a body has the OpenAI shape."""
    return isinstance(body, dict) and sorted(body["error"]) == ["code", "message", "param", "type"]


@pytest.mark.parametrize("name", NAMES)
async def test_open_paths(calls: Calls, instances: dict[str, Instance], name: str) -> None:
    """What stays on every instance: liveness and readiness for everybody; model lists, facts and
    metrics for every valid key."""
    url = instances[name].member.url
    key = await calls.new_key()
    for path in ("/health/liveliness", "/health/liveness", "/health/readiness"):
        for method in ("GET", "OPTIONS"):
            assert (await calls.request(method, url + path)).status == 200
    for path in (
        *("/v1/models", "/models", "/v1/models/chat-one", "/models/chat-one"),
        *("/model/info", "/v1/model/info", "/model_group/info", "/metrics"),
    ):
        assert (await calls.request("GET", url + path)).status == 401, path
        assert (await calls.request("GET", url + path, key)).status == 200, path


async def test_model_facts_hold_no_credential(calls: Calls) -> None:
    """What a key is told of its models has neither the upstream's key nor other models."""
    key = await calls.new_key(models=["chat-one"])
    for path in ("/model/info", "/model_group/info"):
        answer = await calls.request("GET", calls.fleet.workers[0].url + path, key)
        names = {row.get("model_name") or row.get("model_group") for row in answer.body["data"]}
        assert names == {"chat-one"}
        assert "sk-" not in json.dumps(answer.body)
        assert "api_key" not in json.dumps(answer.body)


TRICKS = (
    "/key/generate",
    "//key/generate",
    "///key//generate",
    "/key/generate/",
    "/key/generate//",
    "/./key/./generate",
    "/key/x/../generate",
    "/v1/../key/generate",
    "/v1/chat/completions/../../../key/generate",
    "/health/../key/generate",
    "/%2e%2e/key/generate",
    "/v1/%2e%2e/key/generate",
    "/v1/..%2fkey/generate",
    "/%6bey/generate",
    "/%6Bey/%67enerate",
    "/key%2fgenerate",
    "/key%2Fgenerate",
    "/%2fkey/generate",
    "/%252e%252e/key/generate",
    "/%256bey/generate",
    "/key/generate?path=/v1/models",
    "/key/generate;x=1",
    "/key;x=1/generate",
    "/key/generate%3fx",
    "/key/generate%23x",
    "/key/generate#x",
    "/key/generate%20",
    "/key\\generate",
    "/\\key\\generate",
    "/key%5cgenerate",
    "http://gateway/key/generate",
    "http://user:pass@elsewhere:1/key/generate",
    "https://elsewhere//key/generate",
    "/v2/key/info",
    "/ui/../key/generate",
)
# Answered by the server before any route, and no spelling of a management path for anybody.
ODD = (
    *("key/generate", "*", "/key/generate%00", "/key/generate%09", "/key/gen\terate"),
    *("/KEY/GENERATE", "/%zz"),
)


@pytest.mark.parametrize("name", ["worker", "admin-without-admin", "worker-without-llm"])
async def test_path_tricks(calls: Calls, instances: dict[str, Instance], name: str) -> None:
    """However a management path is spelled, an instance without the management API refuses it with
    403, with the master key too, and nothing is made."""
    before = await calls.sql("select count(*) from virtual_key")
    for target in TRICKS:
        answer = await raw(instances[name].member, target, calls.fleet.master_key)
        assert answer.status == 403, (target, answer)
        assert list(answer.json) == ["detail"], target
    for target in ODD:
        answer = await raw(instances[name].member, target, calls.fleet.master_key)
        assert answer.status in (400, 403, 404), (target, answer)
    assert await calls.sql("select count(*) from virtual_key") == before


async def test_path_tricks_on_the_admin(calls: Calls, instances: dict[str, Instance]) -> None:
    """On the admin no spelling gets past the key: without one, every answer is a refusal."""
    before = await calls.sql("select count(*) from virtual_key")
    for target in (*TRICKS, *ODD):
        answer = await raw(instances["admin"].member, target, None)
        assert answer.status in (400, 401, 404, 405, 501), (target, answer)
    assert await calls.sql("select count(*) from virtual_key") == before


FORWARDING = (
    ("Host", "admin.internal"),
    ("Host", "localhost/key/generate"),
    ("X-Forwarded-Host", "admin.internal"),
    ("X-Forwarded-Prefix", "/key"),
    ("X-Forwarded-Path", "/key/generate"),
    ("X-Forwarded-For", "127.0.0.1"),
    ("X-Forwarded-Proto", "https"),
    ("Forwarded", "for=127.0.0.1;host=admin.internal"),
    ("X-Original-URL", "/key/generate"),
    ("X-Rewrite-URL", "/key/generate"),
    ("X-HTTP-Method-Override", "GET"),
    ("X-Script-Name", "/key"),
)


@pytest.mark.parametrize("header", FORWARDING, ids=lambda header: f"{header[0]}={header[1]}")
async def test_headers_move_no_path(
    calls: Calls, instances: dict[str, Instance], header: tuple[str, str]
) -> None:
    """No header of a proxy changes what a path is: management stays closed, chat stays chat."""
    member = instances["worker"].member
    master = calls.fleet.master_key
    answer = await raw(member, "/key/generate", master, header)
    assert answer.status == 403, answer
    body = json.dumps({"model": "up/any", "messages": []}).encode()
    answer = await raw(member, "/v1/chat/completions", master, header, body)
    assert answer.status == 200, answer


@pytest.mark.parametrize("target", ["//v1/chat/completions", "/v1/../v1/chat/completions/"])
async def test_llm_tricks(calls: Calls, instances: dict[str, Instance], target: str) -> None:
    """An odd spelling of an LLM path goes past neither the key nor the switch."""
    body = json.dumps({"model": "up/any", "messages": []}).encode()
    for name, statuses in (("worker", (401, 404, 501)), ("worker-without-llm", (403,))):
        answer = await raw(instances[name].member, target, None, body=body)
        assert answer.status in statuses, (name, answer)
    assert (await calls.stats())["requests"] == 0


async def test_admin_parts_are_not_in_memory(instances: dict[str, Instance]) -> None:
    """A worker process never imports the admin's handlers or templates, from its start on."""
    imported = re.findall(
        r"import time:.*\| +(\S+)", instances["worker-without-llm"].member.log.read_text()
    )
    assert "shared.gateway.pipeline" in imported
    banned = ("services.admin", "jinja2", "aiohttp_jinja2")
    assert [name for name in imported if name.startswith(banned)] == []
    control = instances["admin-without-admin"].member.log.read_text()
    assert "services.admin.app" in control


async def raw(
    member: Member,
    target: str,
    key: str | None,
    header: tuple[str, str] | None = None,
    body: bytes = b"{}",
) -> RawAnswer:
    """A POST with the target as it is."""
    headers = {"Content-Type": "application/json", "Connection": "close"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    data = request("POST", target, headers, body)
    if header is not None and header[0] == "Host":
        data = data.replace(b"Host: gateway", f"Host: {header[1]}".encode())
    elif header is not None:
        data = data.replace(b"Host: gateway", f"Host: gateway\r\n{header[0]}: {header[1]}".encode())
    async with RawClient(member.port) as client:
        await client.send_anyway(data)
        return await client.answer()
