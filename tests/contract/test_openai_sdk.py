"""What a user of the official `openai` package meets: replies, streams and errors."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, OpenAI
from openai.types.chat import ChatCompletionChunk

from tests.support.fleet import UPSTREAM_KEY, Calls, Fleet, Member

pytestmark = pytest.mark.xdist_group("fleet")

Client = Callable[..., AsyncOpenAI]
ASK: Any = [{"role": "user", "content": "hi"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "find",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
    },
}


@pytest.fixture(params=["worker-1", "worker-2"])
def worker(request: pytest.FixtureRequest, fleet: Fleet) -> Member:
    """Each of the two workers."""
    return fleet.members[request.param]


@pytest.fixture(scope="module")
def tls() -> ssl.SSLContext:
    """For the package's clients, each of which would else read the machine's authorities."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.fixture
async def client(tls: ssl.SSLContext) -> AsyncIterator[Client]:
    """Makes clients that do not try again by themselves."""
    async with AsyncExitStack() as stack:

        def make(member: Member, key: str, **more: Any) -> AsyncOpenAI:
            made = AsyncOpenAI(
                base_url=f"{member.url}/v1",
                api_key=key,
                http_client=DefaultAsyncHttpxClient(verify=tls),
                **{"max_retries": 0} | more,
            )
            stack.push_async_callback(made.close)
            return made

        yield make


@pytest.fixture
def blocking(fleet: Fleet) -> Iterator[Callable[[str], OpenAI]]:
    """Makes the blocking client, on the first worker."""
    made: list[OpenAI] = []

    def make(key: str) -> OpenAI:
        made.append(OpenAI(base_url=f"{fleet.workers[0].url}/v1", api_key=key, max_retries=0))
        return made[-1]

    yield make
    for each in made:
        each.close()


async def test_chat(calls: Calls, worker: Member, client: Client) -> None:
    """A key made on the admin chats through each worker, and the answer is the upstream's."""
    ai = client(worker, await calls.new_key())
    reply = await ai.chat.completions.create(model="chat-one", messages=ASK)
    assert reply.choices[0].message.content == "A gateway stands between clients"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.model == "chat-one"
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (10, 5)


async def test_chat_streamed(calls: Calls, worker: Member, client: Client) -> None:
    """A stream has the same text, one finish reason, the asked model's name, and no usage that
    nobody asked for."""
    ai = client(worker, await calls.new_key())
    stream = await ai.chat.completions.create(model="chat-one", messages=ASK, stream=True)
    chunks = [chunk async for chunk in stream]
    assert _text(chunks) == "A gateway stands between clients"
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["stop"]
    assert {chunk.model for chunk in chunks} == {"chat-one"}
    assert all(chunk.usage is None for chunk in chunks)


async def test_usage_on_request(calls: Calls, worker: Member, client: Client) -> None:
    """Asked for, usage comes in a last chunk without choices."""
    ai = client(worker, await calls.new_key())
    stream = await ai.chat.completions.create(
        model="chat-one", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert [chunk.usage is not None for chunk in chunks].count(True) == 1
    last = chunks[-1]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 15


async def test_tool_calls(calls: Calls, worker: Member, client: Client) -> None:
    """A tool call comes whole, and streamed in pieces that add up to the same arguments."""
    ai = client(worker, await calls.new_key())
    asked: Any = {"model": "up/toolcall", "messages": ASK, "tools": [TOOL]}
    whole = await ai.chat.completions.create(**asked)
    assert whole.choices[0].finish_reason == "tool_calls"
    calls_made = whole.choices[0].message.tool_calls
    assert calls_made is not None
    assert [call.function.name for call in calls_made] == ["find"]
    assert json.loads(calls_made[0].function.arguments) == {"query": "scripted"}

    deltas = [
        call
        async for chunk in await ai.chat.completions.create(**asked, stream=True)
        for call in chunk.choices[0].delta.tool_calls or ()
    ]
    assert [d.function.name for d in deltas if d.function and d.function.name] == ["find"]
    arguments = "".join(d.function.arguments or "" for d in deltas if d.function)
    assert json.loads(arguments) == {"query": "scripted"}


async def test_stream_helper(calls: Calls, worker: Member, client: Client) -> None:
    """The package's stream helper puts the final completion together."""
    ai = client(worker, await calls.new_key())
    async with ai.chat.completions.stream(
        model="up/toolcall", messages=ASK, tools=[TOOL]
    ) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.tool_calls is not None
    assert final.choices[0].message.tool_calls[0].function.arguments == '{"query":"scripted"}'


async def test_several_choices(calls: Calls, worker: Member, client: Client) -> None:
    """`n` choices come whole and streamed, each complete."""
    ai = client(worker, await calls.new_key())
    whole = await ai.chat.completions.create(model="chat-one", messages=ASK, n=3)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    stream = await ai.chat.completions.create(model="chat-one", messages=ASK, n=3, stream=True)
    chunks = [chunk async for chunk in stream]
    for index in range(3):
        assert _text(chunks, index) == "A gateway stands between clients"


async def test_completions(calls: Calls, worker: Member, client: Client) -> None:
    """Text completions, whole and streamed."""
    ai = client(worker, await calls.new_key())
    whole = await ai.completions.create(model="text-one", prompt="Once")
    assert whole.choices[0].text == "A gateway stands between clients"
    assert whole.model == "text-one"
    stream = await ai.completions.create(model="text-one", prompt="Once", stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert {chunk.model for chunk in chunks} == {"text-one"}


async def test_embeddings(calls: Calls, worker: Member, client: Client) -> None:
    """Embeddings of several texts, as the package asks for them and as plain numbers."""
    ai = client(worker, await calls.new_key())
    for encoding in ({}, {"encoding_format": "float"}):
        made = await ai.embeddings.create(model="embed-one", input=["a", "b"], **encoding)  # type: ignore[arg-type]
        assert [row.embedding for row in made.data] == [[0.5, -0.25, 0.0], [0.5, -0.25, 1.0]]
        assert made.model == "embed-one"
        assert made.usage.total_tokens == 8


async def test_models_of_the_key(calls: Calls, worker: Member, client: Client) -> None:
    """The model list holds what the key may use, and nothing else can be looked at."""
    everything = client(worker, await calls.new_key())
    listed = [model.id async for model in everything.models.list()]
    assert listed == ["chat-one", "chat-other", "text-one", "embed-one", "two"]
    ai = client(worker, await calls.new_key(models=["chat-one", "up/mine"]))
    assert [model.id async for model in ai.models.list()] == ["chat-one", "up/mine"]
    assert (await ai.models.retrieve("up/mine")).id == "up/mine"
    with pytest.raises(openai.NotFoundError):
        await ai.models.retrieve("chat-other")


def test_blocking_client(fleet: Fleet, blocking: Callable[[str], OpenAI]) -> None:
    """The blocking client works alike, also with the master key."""
    ai = blocking(fleet.master_key)
    reply = ai.chat.completions.create(model="chat-one", messages=ASK)
    assert reply.choices[0].message.content == "A gateway stands between clients"
    with ai.chat.completions.create(model="chat-one", messages=ASK, stream=True) as stream:
        assert _text(list(stream)) == "A gateway stands between clients"


async def test_unknown_key(worker: Member, client: Client) -> None:
    """A key that was never made: AuthenticationError with the contract's type."""
    with pytest.raises(openai.AuthenticationError) as caught:
        await client(worker, "sk-never-made").chat.completions.create(
            model="chat-one", messages=ASK
        )
    assert _error(caught.value) == ("token_not_found_in_db", "key", "401")


async def test_blocked_key(calls: Calls, worker: Member, client: Client) -> None:
    """A blocked key: AuthenticationError."""
    key = await calls.new_key(blocked=True)
    with pytest.raises(openai.AuthenticationError) as caught:
        await client(worker, key).chat.completions.create(model="chat-one", messages=ASK)
    assert _error(caught.value) == ("auth_error", None, "401")


async def test_unknown_model(calls: Calls, worker: Member, client: Client) -> None:
    """A model that nothing answers to: BadRequestError that names the parameter."""
    ai = client(worker, await calls.new_key())
    with pytest.raises(openai.BadRequestError) as caught:
        await ai.chat.completions.create(model="no-such-model", messages=ASK)
    assert _error(caught.value) == ("invalid_request_error", "model", "400")
    assert "no-such-model" in caught.value.message


async def test_model_not_allowed(calls: Calls, worker: Member, client: Client) -> None:
    """A model that the key may not use: PermissionDeniedError, and the upstream is not called."""
    ai = client(worker, await calls.new_key(models=["chat-one"]))
    with pytest.raises(openai.PermissionDeniedError) as caught:
        await ai.chat.completions.create(model="chat-other", messages=ASK)
    assert _error(caught.value) == ("key_model_access_denied", "model", "403")
    assert (await calls.stats())["requests"] == 0


async def test_malformed_request(calls: Calls, worker: Member, client: Client) -> None:
    """A member of the wrong type: BadRequestError that names it."""
    ai = client(worker, await calls.new_key())
    wrong: Any = "hi"
    with pytest.raises(openai.BadRequestError) as caught:
        await ai.chat.completions.create(model="chat-one", messages=wrong)
    assert _error(caught.value) == ("invalid_request_error", "messages", "400")


async def test_rate_limit(calls: Calls, worker: Member, client: Client) -> None:
    """Over the rate limit: RateLimitError that says which limit, and when to come back."""
    ai = client(worker, await calls.new_key(rpm_limit=1))
    await ai.chat.completions.create(model="chat-one", messages=ASK)
    with pytest.raises(openai.RateLimitError) as caught:
        await ai.chat.completions.create(model="chat-one", messages=ASK)
    assert _error(caught.value) == ("throttling_error", None, "429")
    headers = caught.value.response.headers
    assert headers["retry-after"] in ("1", "2")
    assert headers["rate_limit_type"] == "requests"
    assert headers["reset_at"].endswith("Z")


async def test_rate_limit_waited_out(calls: Calls, client: Client) -> None:
    """The package's own retry, told by retry-after, gets through in the next window."""
    ai = client(calls.fleet.workers[0], await calls.new_key(rpm_limit=1), max_retries=2)
    for _ in range(2):
        await ai.chat.completions.create(model="chat-one", messages=ASK)
    assert (await calls.stats())["requests"] == 2


async def test_budget(calls: Calls, worker: Member, client: Client) -> None:
    """Over the budget: UnprocessableEntityError, which the package does not try again."""
    ai = client(worker, await calls.new_key(max_budget=0.00002), max_retries=3)
    await ai.chat.completions.create(model="chat-one", messages=ASK)
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        await ai.chat.completions.create(model="chat-one", messages=ASK)
    assert _error(caught.value) == ("budget_exceeded", None, "422")
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert (await calls.stats())["requests"] == 1


# Upstream's answer -> the package's exception, then type, code and what the message says.
UPSTREAM_ERRORS = {
    "status:500": (openai.InternalServerError, "internal_server_error", "500", "scripted 500"),
    "status:503": (openai.InternalServerError, "upstream_error", "503", "scripted 503"),
    "status:504": (openai.InternalServerError, "timeout_error", "504", "scripted 504"),
    "status:429": (openai.RateLimitError, "rate_limit_error", "429", "scripted 429"),
    "status:400": (openai.BadRequestError, "invalid_request_error", "400", "scripted 400"),
    "status:404": (openai.NotFoundError, "invalid_request_error", "404", "scripted 404"),
    "status:422": (openai.BadRequestError, "invalid_request_error", "422", "scripted 422"),
    "status:401": (openai.InternalServerError, "upstream_error", "502", "gateway's credential"),
    "status:403": (openai.InternalServerError, "upstream_error", "502", "gateway's credential"),
    "html:502": (openai.InternalServerError, "upstream_error", "502", "502 (text/html)"),
    "html:500": (openai.InternalServerError, "upstream_error", "502", "500 (text/html)"),
    "html:200": (openai.InternalServerError, "upstream_error", "502", "The upstream"),
    "badjson": (openai.InternalServerError, "upstream_error", "502", "The upstream"),
    "garbage": (openai.InternalServerError, "upstream_error", "502", "upstream"),
    "cut": (openai.InternalServerError, "upstream_error", "502", "upstream"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("knob", UPSTREAM_ERRORS)
async def test_upstream_errors(calls: Calls, client: Client, knob: str, stream: bool) -> None:
    """An upstream's failure before its first event is an error answer in OpenAI's shape, the same
    for a stream; an upstream that doubts the gateway's key never looks like a wrong client key."""
    ai = client(calls.fleet.workers[0], calls.fleet.master_key)
    kind, error_type, code, text = UPSTREAM_ERRORS[knob]
    with pytest.raises(kind) as caught:
        await ai.chat.completions.create(model=f"up/{knob}", messages=ASK, stream=stream)
    body: Any = caught.value.body
    assert (body["type"], body["code"]) == (error_type, code)
    assert text in body["message"]
    assert UPSTREAM_KEY not in caught.value.response.text
    assert caught.value.response.headers["x-litellm-call-id"]


async def test_upstream_retry_after(calls: Calls, client: Client) -> None:
    """The wait that an upstream asks for reaches the client."""
    ai = client(calls.fleet.workers[0], calls.fleet.master_key)
    with pytest.raises(openai.RateLimitError) as caught:
        await ai.chat.completions.create(model="up/status:429+retryafter:7", messages=ASK)
    assert caught.value.response.headers["retry-after"] == "7"


@pytest.mark.parametrize("knob", ["cut:2", "reset:2", "midjson", "badsse"])
async def test_stream_cut_off(calls: Calls, client: Client, knob: str) -> None:
    """A stream that breaks after it began ends in an APIError after what had arrived, not in
    silence."""
    ai = client(calls.fleet.workers[0], calls.fleet.master_key)
    stream = await ai.chat.completions.create(model=f"up/{knob}", messages=ASK, stream=True)
    chunks: list[ChatCompletionChunk] = []

    async def read() -> None:
        async for chunk in stream:
            chunks.append(chunk)  # noqa: PERF401 - what came before the error is asserted

    with pytest.raises(openai.APIError) as caught:
        await read()
    assert "A gateway stands between clients".startswith(_text(chunks))
    body: Any = caught.value.body
    assert (body["type"], body["code"]) == ("upstream_error", "502")


async def test_retried_upstream(calls: Calls, client: Client) -> None:
    """With retries asked for, a failure that passes is not seen by the client."""
    ai = client(calls.fleet.workers[0], calls.fleet.master_key)
    await calls.upstream("/_script", ["status:500", ""])
    answer = await ai.chat.completions.with_raw_response.create(model="two", messages=ASK)
    assert answer.headers["x-litellm-attempted-retries"] == "1"
    assert answer.parse().choices[0].finish_reason == "stop"
    assert (await calls.stats())["requests"] == 2


def _text(chunks: list[ChatCompletionChunk], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk.choices]
    return "".join(c.delta.content or "" for c in choices if c.index == index)


def _error(error: openai.APIStatusError) -> tuple[str, str | None, str]:
    body: Any = error.body
    assert sorted(body) == ["code", "message", "param", "type"]
    assert int(body["code"]) == error.status_code
    return body["type"], body["param"], body["code"]
