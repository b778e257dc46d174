"""Calls through real processes: paths, keys, headers, and what the upstream and the client get."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from tests.support.fleet import INPUT_PRICE, OUTPUT_PRICE, UPSTREAM_KEY, Calls, chat_body

pytestmark = pytest.mark.xdist_group("fleet")

CHAT_PATHS = (
    "/v1/chat/completions",
    "/chat/completions",
    "/queue/chat/completions",
    "/engines/up/{model}/chat/completions",
    "/openai/deployments/up/{model}/chat/completions",
    "/openai/deployments/up/{model}/chat/completions?api-version=2024-06-01",
)
TEXT_PATHS = (
    "/v1/completions",
    "/completions",
    "/engines/up/{model}/completions",
    "/openai/deployments/up/{model}/completions",
)
EMBEDDING_PATHS = (
    "/v1/embeddings",
    "/embeddings",
    "/engines/up/{model}/embeddings",
    "/openai/deployments/up/{model}/embeddings",
)
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("paths", "asked", "upstream_path", "kind"),
    [
        (CHAT_PATHS, {"messages": MESSAGES}, "/v1/chat/completions", "chat.completion"),
        (TEXT_PATHS, {"prompt": "hi"}, "/v1/completions", "text_completion"),
        (EMBEDDING_PATHS, {"input": ["hi"]}, "/v1/embeddings", "list"),
    ],
    ids=["chat", "completions", "embeddings"],
)
async def test_every_path(
    calls: Calls, paths: tuple[str, ...], asked: dict[str, Any], upstream_path: str, kind: str
) -> None:
    """Every alias of an endpoint answers on every instance, and a model in the path counts."""
    key = await calls.new_key()
    for member in calls.fleet.members.values():
        for number, template in enumerate(paths):
            path = template.format(model=f"in-path-{number}")
            body = {"model": f"up/in-body-{number}", **asked}
            answer = await calls.request("POST", member.url + path, key, body)
            assert answer.status == 200, (path, answer)
            assert answer.body["object"] == kind
            expected = "path" if "{model}" in template else "body"
            assert answer.body["model"] == f"up/in-{expected}-{number}"
    received = await calls.received()
    assert {row["path"] for row in received} == {upstream_path}
    assert len(received) == len(paths) * len(calls.fleet.members)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("authorization", "Bearer "),
        ("authorization", "bearer "),
        ("x-litellm-api-key", ""),
        ("x-litellm-api-key", "Bearer "),
        ("api-key", ""),
        ("x-api-key", ""),
    ],
)
async def test_where_a_key_may_stand(calls: Calls, name: str, prefix: str) -> None:
    """A key is taken from every place of the contract, and from none of them goes upstream."""
    key = await calls.new_key()
    url = f"{calls.fleet.workers[0].url}/v1/chat/completions"
    headers = {name: f"{prefix}{key}"}
    answer = await calls.request("POST", url, None, chat_body("up/keyed"), headers=headers)
    assert answer.status == 200, answer
    (received,) = await calls.received("keyed")
    assert received["headers"]["authorization"] == f"Bearer {UPSTREAM_KEY}"
    assert key not in json.dumps(received)


async def test_response_headers(calls: Calls) -> None:
    """A whole reply carries the headers of the contract, with the right values."""
    key = await calls.new_key(rpm_limit=50, tpm_limit=100_000, max_budget=3.5)
    model = "for-headers"
    answer = await calls.chat(calls.fleet.workers[0], key, f"up/{model}")
    headers = answer.headers
    cost = 10 * Decimal(INPUT_PRICE) + 5 * Decimal(OUTPUT_PRICE)
    assert Decimal(headers["x-litellm-response-cost"]) == cost
    expected = {
        "x-litellm-model-id": "deployment-any",
        "x-litellm-model-name": f"openai/{model}",
        "x-litellm-model-group": f"up/{model}",
        "x-litellm-model-api-base": f"{calls.fleet.upstream_url}/v1",
        "x-litellm-model-region": "upstream-north",
        "x-litellm-key-rpm-limit": "50",
        "x-litellm-key-tpm-limit": "100000",
        "x-litellm-key-max-budget": "3.5",
        "x-litellm-attempted-retries": "0",
        "x-litellm-max-retries": "0",
        "x-litellm-attempted-fallbacks": "0",
        "x-ratelimit-api_key-limit-requests": "50",
        "x-ratelimit-api_key-remaining-requests": "49",
        "x-ratelimit-api_key-limit-tokens": "100000",
        "x-ratelimit-remaining-requests": "99",
        "llm_provider-x-request-id": "req_scripted",
        "llm_provider-x-ratelimit-remaining-requests": "99",
    }
    assert {name: headers.get(name) for name in expected} == expected
    assert headers["x-litellm-version"]
    duration = float(headers["x-litellm-response-duration-ms"])
    assert 0 <= float(headers["x-litellm-overhead-duration-ms"]) <= duration
    (row,) = await calls.ledger(1, model)
    assert str(row["id"]) == headers["x-litellm-call-id"]


async def test_stream_headers(calls: Calls) -> None:
    """A stream carries them too, but for the cost that nobody knows yet; it is not buffered."""
    key = await calls.new_key(max_parallel_requests=3)
    answer = await calls.chat(calls.fleet.workers[0], key, "chat-one", stream=True)
    headers = answer.headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-litellm-model-group"] == "chat-one"
    assert headers["x-litellm-call-id"]
    assert headers["x-ratelimit-api_key-limit-max_parallel_requests"] == "3"
    assert "x-litellm-response-cost" not in headers


# Members whose bytes a decoder that is not careful would change.
EXACT = {
    "model": '"up/exact"',
    "messages": '[{"role":"user","content":"caf\\u00e9 \\ud83d\\ude00 \\/ \\u2028","name":null}]',
    "temperature": "1.0",
    "seed": "123456789012345678901234567890",
    "top_p": "0.1000000000000000055511151231257827",
    "x_unknown": '{"b" : 1 , "a":[ 1e400,-0.0, 1E5 ], "b":2}',
    "logit_bias": '{"50256":-100}',
    "metadata": '{"tags":["blue"],"note":"mine"}',
    "tags": '["red"]',
    "num_retries": "0",
    "litellm_session_id": '"s"',
    "response_format": '{"type":"json_schema","json_schema":{"name":"n","schema":{"$ref":"#/x"}}}',
    "user": '"end-user-1"',
    "max_tokens": "7",
}
FOR_THE_GATEWAY = ("metadata", "tags", "num_retries", "litellm_session_id")


async def test_body_as_sent(calls: Calls) -> None:
    """The upstream gets every value byte for byte and in order; only the model name is replaced
    and what steers the gateway is taken out."""
    body = "{" + ", ".join(f'"{name}" : {raw}' for name, raw in EXACT.items()) + "}"
    url = f"{calls.fleet.workers[0].url}/v1/chat/completions"
    answer = await calls.request("POST", url, calls.fleet.master_key, body.encode())
    assert answer.status == 200, answer
    (received,) = await calls.received("exact")
    kept = {name: raw for name, raw in EXACT.items() if name not in FOR_THE_GATEWAY}
    kept["model"] = '"exact"'
    wanted = "{" + ",".join(f'"{name}":{raw}' for name, raw in kept.items()) + "}"
    assert received["raw"] == wanted
    assert received["headers"]["content-type"] == "application/json"
    assert int(received["headers"]["content-length"]) == len(wanted)


async def test_utf8_as_sent(calls: Calls) -> None:
    """Text outside ASCII arrives unescaped, as it was sent."""
    body = '{"model":"up/utf8","messages":[{"role":"user","content":"Grüße 😀 日本"}]}'.encode()
    url = f"{calls.fleet.workers[0].url}/v1/chat/completions"
    assert (await calls.request("POST", url, calls.fleet.master_key, body)).status == 200
    (received,) = await calls.received("utf8")
    assert received["raw"].encode("latin-1") == body.replace(b"up/utf8", b"utf8")


@pytest.mark.parametrize(
    ("options", "upstream_options", "shown"),
    [
        (None, {"include_usage": True}, False),
        ({}, {"include_usage": True}, False),
        ({"include_usage": False, "x": 1}, {"include_usage": True, "x": 1}, False),
        ({"include_usage": True, "y": 2}, {"include_usage": True, "y": 2}, True),
    ],
    ids=["none", "empty", "false", "true"],
)
async def test_usage_in_streams(
    calls: Calls, options: Any, upstream_options: Any, shown: bool
) -> None:
    """Usage is always asked for upstream, and shown only to a client that asked for it; either
    way the ledger has it."""
    key = await calls.new_key()
    model = f"usage-{options}".replace(" ", "").translate(str.maketrans("", "", "{}':,"))
    fields = {} if options is None else {"stream_options": options}
    text = "[[usage:31,17]]"
    answer = await calls.chat(
        calls.fleet.workers[1], key, f"up/{model}", text, stream=True, **fields
    )
    (received,) = await calls.received(model)
    assert received["body"]["stream_options"] == upstream_options
    events = [line.removeprefix("data: ") for line in answer.body.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert {chunk["model"] for chunk in chunks} == {f"up/{model}"}
    assert [chunk["usage"] for chunk in chunks if "usage" in chunk] == (
        [{"prompt_tokens": 31, "completion_tokens": 17, "total_tokens": 48}] if shown else []
    )
    (row,) = await calls.ledger(1, model)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (31, 17)


async def test_no_usage_from_upstream(calls: Calls) -> None:
    """An upstream that reports no usage: the ledger has an estimate and says so."""
    key = await calls.new_key()
    for stream in (False, True):
        await calls.chat(calls.fleet.workers[0], key, "up/nousage", stream=stream)
    rows = await calls.ledger(2, "nousage")
    assert [row["estimated"] for row in rows] == [True, True]
    assert all(row["prompt_tokens"] > 0 and row["completion_tokens"] > 0 for row in rows)


@pytest.mark.parametrize("member", ["api_key", "api_base", "base_url", "mock_testing_fallbacks"])
async def test_refused_members(calls: Calls, member: str) -> None:
    """Members by which a caller would choose the upstream or fake a failure are refused."""
    key = await calls.new_key()
    answer = await calls.chat(calls.fleet.workers[0], key, "up/x", **{member: "http://elsewhere"})
    assert answer.status == 400
    assert answer.body["error"]["param"] == member
    assert (await calls.stats())["requests"] == 0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b'{"model":"up/x","messages":"hi"}', "messages"),
        (b'{"model":5,"messages":[]}', "model"),
        (b'{"messages":[]}', "model"),
        (b'{"model":"up/x"}', "messages"),
        (b'{"model":"up/x","messages":[],"stream":"yes"}', "stream"),
        (b'{"model":"up/x","messages":["\xff\xfe"]}', None),
        (b"[" * 100_000, None),
        (b'{"model":"up/x","messages":[' + b"[" * 100_000, None),
    ],
)
async def test_bad_bodies(calls: Calls, body: bytes, param: str | None) -> None:
    """A body that is no request is a 400 in OpenAI's shape that names the member, and costs no
    upstream call."""
    url = f"{calls.fleet.workers[0].url}/v1/chat/completions"
    answer = await calls.request("POST", url, calls.fleet.master_key, body)
    assert answer.status == 400, answer
    assert answer.body["error"]["type"] == "invalid_request_error"
    assert answer.body["error"]["param"] == param
    assert (await calls.stats())["requests"] == 0
