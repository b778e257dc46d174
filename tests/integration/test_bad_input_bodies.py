"""Request bodies that are not what they should be, sent to a real worker on bare sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.one_worker import CHAT, Subject, chat, chat_bytes, one_worker
from tests.support.postgres import Postgres
from tests.support.raw_http import RawAnswer, chunked, request

pytestmark = pytest.mark.xdist_group("bad_input")

LIMIT = 256 * 1024
OK = chat_bytes()
DEEP = 100_000


@pytest.fixture(scope="module")
def worker(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """A worker that takes bodies up to `LIMIT` bytes and waits a second for more of one; whatever
    the tests send, it must be as good as before."""
    database = postgres.create()
    folder = tmp_path_factory.mktemp("bodies")
    limits = {
        "MERIDIAN_MAX_REQUEST_SIZE_MB": str(LIMIT / 1024 / 1024),
        "MERIDIAN_CLIENT_TIMEOUT_S": "1",
    }
    with one_worker(folder, database, **limits) as started:
        yield started
        asyncio.run(started.check_unharmed())
    postgres.drop(database)


async def post(worker: Subject, body: bytes, **headers: str) -> RawAnswer:
    """The answer, after which the connection must serve a good request."""
    async with worker.client() as client:
        await client.send(request("POST", CHAT, {**worker.master, **headers}, body))
        answer = await client.answer()
        await client.send(request("POST", CHAT, worker.master, OK))
        assert (await client.answer()).status == 200
        return answer


def refused(answer: RawAnswer, status: int = 400, param: str | None = None) -> dict[str, Any]:
    """The error, checked against the contract's shape."""
    assert answer.status == status, answer
    error = answer.error
    assert (error["type"], error["param"], error["code"]) == (
        "invalid_request_error",
        param,
        str(status),
    ), error
    return error


def with_members(text: str) -> bytes:
    """The good body with further members, as they stand."""
    return OK[:-1] + b"," + text.encode() + b"}"


NOT_JSON = {
    "empty": b"",
    "blank": b" \r\n\t ",
    "cut-short": OK[:-5],
    "cut-in-string": OK[: OK.index(b"canary") + 3],
    "trailing-brace": OK + b"}",
    "two-objects": OK + OK,
    "trailing-nul": OK + b"\0",
    "nul-inside": OK.replace(b"canary", b"can\0ry"),
    "control-inside": OK.replace(b"canary", b"can\nry"),
    "byte-order-mark": b"\xef\xbb\xbf" + OK,
    "utf-16": OK.decode().encode("utf-16"),
    "utf-32": OK.decode().encode("utf-32"),
    "not-utf-8": OK.replace(b"canary", b"\xff\xfe"),
    "overlong-utf-8": OK.replace(b"canary", b"\xc0\xaf"),
    "encoded-surrogate": OK.replace(b"canary", b"\xed\xa0\x80"),
    "lone-surrogate": OK.replace(b"canary", b"\\ud800"),
    "reversed-surrogates": OK.replace(b"canary", b"\\udc00\\ud800"),
    "lone-surrogate-model": OK.replace(b"echo", b"\\ud800"),
    "bad-escape": OK.replace(b"canary", b"\\x41"),
    "single-quotes": OK.replace(b'"', b"'"),
    "comment": OK[:-1] + b"/* */}",
    "trailing-comma": OK[:-1] + b",}",
    "nan": with_members('"temperature": NaN'),
    "infinity": with_members('"temperature": -Infinity'),
    "leading-zero": with_members('"temperature": 01'),
    "form": b"model=echo&messages=hi",
    "xml": b"<?xml version='1.0'?><chat/>",
    "arrays-for-ever": b"[" * DEEP,
    "brackets-inside": with_members('"x": ' + "[" * DEEP + "]" * DEEP),
    "objects-inside": with_members('"x": ' + '{"a":' * 40_000 + "1" + "}" * 40_000),
    "brackets-in-messages": b'{"model":"echo","messages":[' + b"[" * DEEP + b"]" * DEEP + b"]}",
    "brackets-in-metadata": with_members('"metadata": {"tags": ' + "[" * DEEP + "]" * DEEP + "}"),
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
async def test_not_json(worker: Subject, body: bytes) -> None:
    """A body that is not JSON, or nested beyond reason, is a 400 that says so; the connection
    stays."""
    refused(await post(worker, body))


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"null", b"true", b"12", b"1e400", b'["a"]'])
async def test_not_an_object(worker: Subject, body: bytes) -> None:
    """JSON that is no object is a 400."""
    refused(await post(worker, body))


WRONG_MEMBERS: list[tuple[str, Any, str]] = [
    *(("model", value, "model") for value in (1, 1.5, True, [], {}, ["echo"], None, "", "x" * 513)),
    *(("messages", value, "messages") for value in (None, {}, "hi", 1, False)),
    *(("stream", value, "stream") for value in ("yes", 1, 0, [], {}, "true")),
    *(("stream_options", value, "stream_options") for value in (1, "x", [], True)),
    ("stream_options", {"include_usage": "yes"}, "stream_options.include_usage"),
    *(("user", value, "user") for value in (1, [], {}, True)),
    *(("safety_identifier", value, "safety_identifier") for value in (1, [])),
    *(
        (name, value, name)
        for name in ("max_tokens", "max_completion_tokens", "n", "num_retries")
        for value in ("5", 1.5, True, [], {}, -1, 2**31, 2**63, 2**70, 10**400)
    ),
    *(
        (name, value, name)
        for name in ("timeout", "stream_timeout")
        for value in ("1", [], True, 0, -1, 86_401)
    ),
    *((name, value, name) for name in ("metadata", "litellm_metadata") for value in (1, "x", [])),
    *(("tags", value, "tags") for value in ("x", {}, 1)),
    ("tags", [1], "tags[0]"),
    ("tags", ["a", None], "tags[1]"),
    *(("guardrails", value, "guardrails") for value in (["pii"], {"pii": True}, 1, "pii")),
    ("api_key", "sk-own", "api_key"),
    ("api_base", "http://169.254.169.254/", "api_base"),
    ("base_url", "http://127.0.0.1/", "base_url"),
    ("model_list", [], "model_list"),
    ("user_config", {}, "user_config"),
    ("mock_testing_fallbacks", True, "mock_testing_fallbacks"),
]


@pytest.mark.parametrize(("name", "value", "param"), WRONG_MEMBERS, ids=lambda v: str(v)[:24])
async def test_wrong_member(worker: Subject, name: str, value: Any, param: str) -> None:
    """A steering member of the wrong type or out of range is a 400 naming it."""
    error = refused(await post(worker, json.dumps(chat(**{name: value})).encode()), param=param)
    assert f"`{param}`" in error["message"]


@pytest.mark.parametrize("value", ["1e400", "-1e400", "1" + "0" * 5000, "1e99999999999"])
async def test_numbers_beyond_all_types(worker: Subject, value: str) -> None:
    """Numbers that no type holds are a 400 for a steering member, and pass in others untouched."""
    refused(await post(worker, with_members(f'"timeout": {value}')), param="timeout")
    assert (await post(worker, with_members(f'"temperature": {value}'))).status == 200


@pytest.mark.parametrize(
    ("path", "missing", "body"),
    [
        (CHAT, "messages", {"model": "echo"}),
        (CHAT, "model", {"messages": []}),
        ("/v1/completions", "prompt", {"model": "echo"}),
        ("/v1/embeddings", "input", {"model": "echo"}),
    ],
)
async def test_missing_member(
    worker: Subject, path: str, missing: str, body: dict[str, Any]
) -> None:
    """A required member that is not there is named."""
    refused(await worker.ask(body, path=path), param=missing)


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("/v1/completions", "prompt", 1),
        ("/v1/completions", "prompt", None),
        ("/v1/completions", "prompt", {}),
        ("/v1/embeddings", "input", 5),
        ("/v1/embeddings", "input", None),
        ("/v1/embeddings", "input", {}),
    ],
)
async def test_wrong_member_elsewhere(worker: Subject, path: str, name: str, value: Any) -> None:
    """The other endpoints name their own members."""
    refused(await worker.ask({"model": "echo", name: value}, path=path), param=name)


@pytest.mark.parametrize(
    "name", ["nope", "\0", "a\r\nX-Injected: 1", "é" * 200, "../../etc/passwd", "%00", "*", " echo"]
)
async def test_unknown_model(worker: Subject, name: str) -> None:
    """A model that nobody knows is a 400 naming `model`, whatever its characters."""
    answer = await post(worker, chat_bytes(name))
    refused(answer, param="model")
    assert "x-injected" not in answer.headers


@pytest.mark.parametrize(
    "members",
    [
        {"metadata": None},
        {"metadata": {"tags": "x", "user_id": 5, "session_id": ["a"]}},
        {"metadata": {"tags": [1, None, {}], "spend_logs_metadata": 7}},
        {"litellm_metadata": {"tags": {"a": 1}, "user_id": {}}},
        {"tags": None, "user": None, "n": None, "stream": None, "stream_options": None},
        {"max_tokens": None, "timeout": None, "num_retries": None, "guardrails": None},
        {"guardrails": []},
        {"unknown": {"any": ["thing", 1e300, True]}},
        {"user": "a\0b", "tags": ["a\0b"], "metadata": {"session_id": "a\0b"}},
        {"user": "\U0010ffff" * 1000, "tags": ["t" * 10_000] * 20},
        {"temperature": "hot", "top_p": [], "seed": "x"},
    ],
    ids=lambda members: next(iter(members)),
)
async def test_tolerated(worker: Subject, members: dict[str, Any]) -> None:
    """Metadata of any inner type, explicit nulls and members that mean nothing here are no
    faults, and the call has its ledger row."""
    key = await worker.new_key()
    assert (await worker.ask(chat(**members), key)).status == 200
    await worker.rows(1, key=key)


async def test_duplicate_members(worker: Subject) -> None:
    """Of a member that stands twice the last one counts, for us as for any parser."""
    assert (await post(worker, b'{"model":"nope",' + OK[1:])).status == 200
    refused(await post(worker, with_members('"model": "nope"')), param="model")
    refused(await post(worker, with_members('"stream": 1, "stream": "x"')), param="stream")


async def test_limit_is_exact(worker: Subject) -> None:
    """A body of exactly the limit is taken, one byte more is a 413."""
    assert (await post(worker, OK + b" " * (LIMIT - len(OK)))).status == 200
    answer = await worker.ask(OK + b" " * (LIMIT - len(OK) + 1))
    refused(answer, 413)


async def test_too_large_as_declared(worker: Subject) -> None:
    """A length over the limit is refused before any of the body is sent."""
    async with worker.client() as client:
        await client.send(request("POST", CHAT, {**worker.master, "Content-Length": "100000000"}))
        refused(await client.answer(timeout_s=2), 413)


async def test_too_large_in_chunks(worker: Subject) -> None:
    """A body without a length is refused when it has grown over the limit, and the connection is
    closed though the client goes on sending."""
    async with worker.client() as client:
        await client.send(request("POST", CHAT, {**worker.master, "Transfer-Encoding": "chunked"}))
        await client.send_anyway(chunked(*[b" " * 65_536] * 6, end=False))
        refused(await client.answer(timeout_s=2), 413)


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", gzip.compress(OK, mtime=0)),
        ("GZIP", gzip.compress(OK, mtime=0)),
        ("gzip", gzip.compress(OK[:20], mtime=0) + gzip.compress(OK[20:], mtime=0)),
        ("deflate", zlib.compress(OK)),
        ("deflate", zlib.compress(OK)[2:-4]),
        ("identity", OK),
        ("", OK),
    ],
)
async def test_codings_that_are_understood(worker: Subject, coding: str, packed: bytes) -> None:
    """Compressed bodies are taken, plain and in chunks."""
    assert (await post(worker, packed, **{"Content-Encoding": coding})).status == 200
    async with worker.client() as client:
        more = {"Content-Encoding": coding, "Transfer-Encoding": "chunked"}
        head = request("POST", CHAT, {**worker.master, **more})
        await client.send(head + chunked(packed[:7], packed[7:]))
        assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    "coding", ["x-unknown", "gzip, gzip", "x-gzip", "base64", "br", "zstd", "gzip\xff"]
)
async def test_codings_that_are_not(worker: Subject, coding: str) -> None:
    """A coding that is not understood is a 415 that says which ones are; nothing is guessed."""
    answer = await worker.ask_with({"Content-Encoding": coding}, OK)
    error = refused(answer, 415)
    assert "gzip" in error["message"]


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", gzip.compress(OK, mtime=0)[:-30]),
        ("gzip", gzip.compress(OK, mtime=0)[:-1]),
        ("gzip", gzip.compress(OK, mtime=0)[:5]),
        ("gzip", OK),
        ("gzip", b"\x1f\x8b" + b"\xff" * 40),
        ("gzip", gzip.compress(OK, mtime=0) + b"trailing"),
        ("gzip", b""),
        ("deflate", zlib.compress(OK)[:-8]),
        ("deflate", zlib.compress(OK)[:-1]),
        ("deflate", OK),
    ],
)
async def test_broken_compression(worker: Subject, coding: str, packed: bytes) -> None:
    """Compressed bytes that are cut short, followed by others or none at all are a 400."""
    refused(await worker.ask_with({"Content-Encoding": coding}, packed))


BOMB = gzip.compress(b" " * 300_000_000, 9, mtime=0)


@pytest.mark.parametrize(
    ("path", "known", "status"),
    [(CHAT, True, 413), (CHAT, False, 401), ("/nope", False, 404), ("/key/info", False, 403)],
)
async def test_bomb(worker: Subject, path: str, known: bool, status: int) -> None:
    """Ten requests that would decompress to 300 MB each are refused, whoever sends them and
    wherever to, at a cost of neither memory nor time."""
    before, cpu_s = worker.rss_kib(), worker.cpu_s()

    async def send() -> RawAnswer:
        async with worker.client() as client:
            headers = worker.master if known else {}
            packed = {**headers, "Content-Encoding": "gzip"}
            await client.send_anyway(request("POST", path, packed, BOMB))
            return await client.answer()

    answers = await asyncio.gather(*(send() for _ in range(10)))
    assert [answer.status for answer in answers] == [status] * 10
    await worker.until_idle()
    assert worker.rss_kib() - before < 24 * 1024
    assert worker.cpu_s() - cpu_s < 0.5


async def test_half_closed_client(worker: Subject) -> None:
    """A client that ends its side counts as gone, whether its request was complete or not: it is
    cut off at once and leaves nothing behind."""
    length = {**worker.master, "Content-Length": str(len(OK))}
    for body in (OK[:10], OK, chat_bytes(stream=True)):
        async with worker.client() as client:
            whole = request("POST", CHAT, worker.master, body)
            await client.send(request("POST", CHAT, length) + body if body == OK[:10] else whole)
            client.half_close()
            await client.rest(timeout_s=2)
    await worker.until_idle()


async def test_slow_body(worker: Subject) -> None:
    """A body in single bytes arrives, one that stops is answered 408 and the connection closed."""
    async with worker.client() as client:
        await client.send(request("POST", CHAT, {**worker.master, "Content-Length": str(len(OK))}))
        for number in range(0, len(OK), 4):
            await client.send(OK[number : number + 4])
            await asyncio.sleep(0)
        assert (await client.answer()).status == 200
    async with worker.client() as client:
        await client.send(request("POST", CHAT, {**worker.master, "Content-Length": "50"}))
        await client.send(b'{"model"')
        answer = await client.answer(timeout_s=5)
        refused(answer, 408)
        assert answer.headers["connection"] == "close"
