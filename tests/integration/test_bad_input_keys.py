"""Keys in every place and form that a client may think of, sent to a real worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.one_worker import CHAT, Subject, chat_bytes, one_worker
from tests.support.postgres import Postgres
from tests.support.raw_http import RawAnswer, request

pytestmark = pytest.mark.xdist_group("bad_input")

OK = chat_bytes()
JSON = ("Content-Type", "application/json")
PLACES = (
    "x-litellm-api-key",
    "Authorization",
    "API-Key",
    "x-api-key",
    "x-goog-api-key",
    "Ocp-Apim-Subscription-Key",
)


@pytest.fixture(scope="module")
def worker(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """A worker that must be as good as before, whatever the tests send."""
    database = postgres.create()
    with one_worker(tmp_path_factory.mktemp("keys"), database) as started:
        yield started
        asyncio.run(started.check_unharmed())
    postgres.drop(database)


async def call(worker: Subject, *fields: tuple[str, str]) -> RawAnswer:
    """The answer to a chat with these header fields, after which the connection must go on."""
    async with worker.client() as client:
        await client.send(request("POST", CHAT, [*fields, JSON], OK))
        answer = await client.answer()
        await client.send(request("POST", CHAT, worker.master, OK))
        assert (await client.answer()).status == 200
        return answer


def unauthorized(answer: RawAnswer, kind: str = "auth_error") -> None:
    """A 401 in the contract's shape."""
    assert answer.status == 401, answer
    assert (answer.error["type"], answer.error["code"]) == (kind, "401")


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("form", ["{}", "Bearer {}", "bearer {}", "BEARER   {}", "Basic {}"])
async def test_places_and_forms(worker: Subject, name: str, form: str) -> None:
    """A key is found in every header of the contract, with and without a scheme."""
    key = await worker.new_key()
    assert (await call(worker, (name, form.format(key)))).status == 200
    assert (await call(worker, (name.upper(), form.format(key) + "\t "))).status == 200


@pytest.mark.parametrize("first", range(len(PLACES)))
async def test_precedence(worker: Subject, first: int) -> None:
    """Of several places the first of the contract's order counts, even if its key is wrong and
    another's is right, wherever it stands in the head."""
    key = await worker.new_key()
    fields = [(name, f"Bearer {key}") for name in PLACES[first + 1 :]]
    bad = (PLACES[first], "Bearer sk-unknown")
    unauthorized(await call(worker, *fields, bad), "token_not_found_in_db")
    unauthorized(await call(worker, bad, *fields), "token_not_found_in_db")


async def test_same_place_twice(worker: Subject) -> None:
    """Of one header sent twice the first counts."""
    key = await worker.new_key()
    good, bad = ("x-api-key", key), ("x-api-key", "sk-unknown")
    assert (await call(worker, good, bad)).status == 200
    unauthorized(await call(worker, bad, good), "token_not_found_in_db")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer\t",
        "Basic",
        "Digest username=x",
        "Negotiate abc=",
        "Bearer nope",
        "Bearer Bearer sk-x",
        "Bearer \xff\xfe",
        "Bearer sk-\xff\xfe",
        "Bearer sk-\xe9",
        "Bearer sk-" + "x" * 3000,
        "AWS4-HMAC-SHA256 Credential=nope/20260101/us-east-1/bedrock/aws4_request",
        "null",
        "undefined",
    ],
)
async def test_no_key_in_it(worker: Subject, value: str) -> None:
    """What cannot be a key is a 401, not a fault, and not looked up."""
    unauthorized(await call(worker, ("Authorization", value)))


async def test_none_at_all(worker: Subject) -> None:
    """A request without a key is a 401 that says how to send one, also when its body is bad: who
    is not known is told nothing of it."""
    unauthorized(await call(worker))
    async with worker.client() as client:
        await client.send(request("POST", CHAT, [JSON], b"{" * 10_000))
        unauthorized(await client.answer())


@pytest.mark.parametrize(
    "key",
    ["sk-unknown", "sk-", "sk-a b c", "sk-'; drop table virtual_key; --", "sk-%00", "sk-" * 99],
)
async def test_unknown(worker: Subject, key: str) -> None:
    """A key that was never made is a 401 of its own type, at the first and the second try."""
    for _ in range(2):
        answer = await call(worker, ("Authorization", f"Bearer {key}"))
        unauthorized(answer, "token_not_found_in_db")


async def test_a_megabyte(worker: Subject) -> None:
    """A key of a megabyte is refused by the size of its header, at once."""
    async with worker.client() as client:
        key = ("Authorization", "Bearer sk-" + "x" * 1_000_000)
        await client.send_anyway(request("POST", CHAT, [key, JSON], OK))
        assert (await client.answer(timeout_s=2)).status == 400


async def test_nearly_the_master_key(worker: Subject) -> None:
    """Prefixes, extensions and other cases of the master key are not it."""
    master = worker.fleet.master_key
    for key in (master[:-1], master + "0", master.upper(), master[:3] + master[4:]):
        assert (await call(worker, ("Authorization", f"Bearer {key}"))).status == 401


async def test_body_is_not_read_for_strangers(worker: Subject) -> None:
    """A caller without a key gets its 401 before it has sent the body that it announces."""
    async with worker.client() as client:
        await client.send(request("POST", CHAT, [JSON, ("Content-Length", "90000000")]))
        unauthorized(await client.answer(timeout_s=2))
