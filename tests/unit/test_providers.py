"""Providers: what a model string means, and the heads of upstream requests."""

from __future__ import annotations

import attrs
import pytest

from shared.domain.deployments import Deployment
from shared.domain.errors import NotSupported
from shared.domain.requests import EndpointKind, Origin
from shared.providers.heads import check_header, parse_base, request_head
from shared.providers.openai_compatible import param_rules
from shared.providers.registry import OTHER_PROVIDERS, PROVIDERS, Target, find_target, suggest

DEPLOYMENT = Deployment(
    id="d1",
    model_group="m",
    provider="openai",
    upstream_model="gpt-4o",
    api_base="https://api.openai.com/v1",
    api_key="sk-upstream",
)


def head_of(kind: EndpointKind = EndpointKind.CHAT, **changes) -> tuple[Origin, list[str]]:
    origin, head = request_head(attrs.evolve(DEPLOYMENT, **changes), kind)
    assert head.endswith(b"\r\n")
    return origin, head.decode("latin-1").split("\r\n")[:-1]


def test_every_row_makes_a_head():
    """Each provider's own base URL is valid and gives a head for every endpoint it offers."""
    for name, provider in PROVIDERS.items():
        assert name == provider.name or name in provider.aliases
        assert name not in OTHER_PROVIDERS
        if provider.api_base is None:
            continue
        for kind in provider.paths:
            _, lines = head_of(kind, provider=provider.name, api_base=provider.api_base)
            assert lines[0].startswith("POST /")
            assert "//" not in lines[0]


def test_a_head_is_whole():
    """Request line, host, credential and codings, and nothing of the body's framing."""
    origin, lines = head_of()
    assert origin == Origin("https", "api.openai.com", 443)
    assert lines[0] == "POST /v1/chat/completions HTTP/1.1"
    fields = dict(line.split(": ", 1) for line in lines[1:])
    assert fields["host"] == "api.openai.com"
    assert fields["authorization"] == "Bearer sk-upstream"
    assert fields["accept-encoding"] == "identity"
    assert fields["content-type"] == "application/json"
    assert fields["user-agent"].startswith("meridian/")
    assert "content-length" not in fields


@pytest.mark.parametrize(
    ("provider", "base", "kind", "line", "origin"),
    [
        ("openai", "http://h:8000/v1/", "embedding", "/v1/embeddings", ("http", "h", 8000)),
        ("openai", "https://h", "completion", "/completions", ("https", "h", 443)),
        ("openai", "https://h:443/a?v=1", "chat", "/a/chat/completions?v=1", ("https", "h", 443)),
        ("ollama", "http://h:1", "chat", "/v1/chat/completions", ("http", "h", 1)),
        ("ollama", "http://h:1/v1", "chat", "/v1/chat/completions", ("http", "h", 1)),
        ("openai", "http://[::1]:9/v1", "chat", "/v1/chat/completions", ("http", "::1", 9)),
        ("demo", "demo://local/v1", "chat", "/v1/chat/completions", ("demo", "local", 0)),
    ],
)
def test_paths_and_origins(provider, base, kind, line, origin):
    """A base URL with or without slash, port, query or version gives the right target."""
    found, lines = head_of(EndpointKind(kind), provider=provider, api_base=base)
    assert lines[0] == f"POST {line} HTTP/1.1"
    assert found == Origin(*origin)


def test_host_header_has_the_port_that_is_not_usual():
    """Ports and IPv6 addresses are written as HTTP wants them."""
    assert "host: [::1]:9" in head_of(api_base="http://[::1]:9/v1")[1]
    assert "host: h" in head_of(api_base="http://h:80/v1")[1]


def test_own_headers_win_and_no_key_means_no_header():
    """The deployment's headers replace ours; without a key there is no authorization."""
    _, lines = head_of(extra_headers=(("Authorization", "Basic x"), ("x-a", "b")))
    assert "authorization: Basic x" in lines
    assert "x-a: b" in lines
    assert sum(line.lower().startswith("authorization") for line in lines) == 1
    assert not any(line.startswith("authorization") for line in head_of(api_key=None)[1])
    assert "openai-organization: org" in head_of(organization="org")[1]


def test_the_demo_gets_no_credential():
    """A provider without authentication is never sent a key."""
    _, lines = head_of(provider="demo", api_base="demo://local/v1")
    assert not any("sk-upstream" in line for line in lines)


def test_endpoints_not_offered():
    """An endpoint that the provider does not have is refused as not supported."""
    with pytest.raises(NotSupported):
        head_of(EndpointKind.CHAT, provider="voyage", api_base="https://h/v1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-a", "b\r\nx-evil: 1"),
        ("x-a", "b\nc"),
        ("x-a", "b\0c"),
        ("x-a", ""),
        ("x-a", " b"),
        ("x-a", "\u2603"),
        ("x a", "b"),
        ("x-a:", "b"),
        ("", "b"),
        ("Content-Length", "5"),
        ("transfer-encoding", "chunked"),
        ("Host", "evil"),
        ("Connection", "close"),
    ],
)
def test_headers_that_could_break_a_request(name, value):
    """Injection, framing and routing headers are refused."""
    with pytest.raises(ValueError, match=r".+"):
        check_header(name, value)
    with pytest.raises(ValueError, match=r".+"):
        head_of(extra_headers=((name, value),))


def test_a_key_cannot_inject():
    """A credential with a line break makes no head, and its text is in no message."""
    with pytest.raises(ValueError, match="credential") as caught:
        head_of(api_key="hidden\r\nx-evil: 1")
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "base",
    [
        "api.openai.com/v1",
        "ftp://h/v1",
        "https://",
        "https://user:hidden@h/v1",
        "https://h:99999/v1",
        "https://h/v 1",
        "https://h/v1\r\nx: y",
        "https://h/v1#part",
        "https://bücher.example/v1",
        "https://h/v1?a=b c",
    ],
)
def test_bad_bases(base):
    """What is no plain URL is refused, without repeating it."""
    with pytest.raises(ValueError, match="URL") as caught:
        parse_base(base)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "custom", "base", "target"),
    [
        ("openai/gpt-4o", None, None, ("openai", "gpt-4o")),
        ("gpt-4o", None, None, ("openai", "gpt-4o")),
        ("text-embedding-3-small", None, None, ("openai", "text-embedding-3-small")),
        ("openrouter/openai/gpt-4o", None, None, ("openrouter", "openai/gpt-4o")),
        ("my-model", None, "http://h/v1", ("openai", "my-model")),
        ("claude-x", None, "http://h/v1", ("openai", "claude-x")),
        ("claude-x", None, None, ("anthropic", "claude-x")),
        ("llama", None, "https://api.groq.com/openai/v1", ("groq", "llama")),
        ("org/llama", None, "https://api.groq.com/openai/v1", ("groq", "org/llama")),
        ("org/llama", "hosted_vllm", None, ("hosted_vllm", "org/llama")),
        ("groq/llama", "groq", None, ("groq", "llama")),
        ("openai/llama", "groq", None, ("groq", "openai/llama")),
        ("anthropic/claude-x", None, None, ("anthropic", "claude-x")),
        ("ollama_chat/llama", None, None, ("ollama", "llama")),
        ("demo/echo", None, None, ("demo", "echo")),
        ("openai/*", None, None, ("openai", "*")),
    ],
)
def test_model_strings(model, custom, base, target):
    """Explicit provider, prefix, host and family decide in this order."""
    assert find_target(model, custom, base) == Target(*target)


@pytest.mark.parametrize(
    ("model", "custom", "base"),
    [
        ("my-model", None, None),
        ("opnai/gpt-4o", None, None),
        ("opnai/gpt-4o", None, "http://h/v1"),
        ("gpt-4o", "opnai", None),
        ("openai/", None, None),
    ],
)
def test_model_strings_that_say_nothing(model, custom, base):
    """An unknown provider is not guessed at."""
    assert find_target(model, custom, base) is None


def test_suggestions_and_support():
    """A mistyped provider gets a suggestion; one of another dialect is known, not supported."""
    assert suggest("opnai") == "openai"
    assert not Target("anthropic", "x").supported
    assert Target("openai", "x").supported


def test_reasoning_models_rename_the_other_way():
    """OpenAI's reasoning models want the newer name of the token limit, small hosts the older."""
    openai = PROVIDERS["openai"]
    assert param_rules(openai, "o3-mini").renamed == (("max_tokens", "max_completion_tokens"),)
    assert param_rules(openai, "gpt-4o").renamed == ()
    deepseek = PROVIDERS["deepseek"]
    assert param_rules(deepseek, "x").renamed == (("max_completion_tokens", "max_tokens"),)
