"""Classification of request paths: coverage, tricks, refusals, speed."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.capabilities import Binary, RouteClass, decide
from shared.gateway.route_classes import classify, families, known_paths, plain_segments, refusal
from shared.gateway.route_specs import RouteSpec, sample

WORKER = decide(Binary.WORKER, {})
ADMIN = decide(Binary.ADMIN, {})
BARE_ADMIN = decide(
    Binary.ADMIN,
    {"DISABLE_ADMIN_ENDPOINTS": True, "DISABLE_ADMIN_UI": True, "DISABLE_LLM_ENDPOINTS": True},
)
KNOWN = [(sample(path), route_class) for path, route_class in known_paths()]
MANAGED = [path for path, route_class in KNOWN if route_class is RouteClass.MANAGEMENT]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/chat/completions", "llm"),
        ("/chat/completions", "llm"),
        ("/openai/deployments/gpt/chat/completions", "llm"),
        ("/engines/a/b/completions", "llm"),
        ("/v1beta/models/a/b:streamGenerateContent", "llm"),
        ("/models/gemini:generateContent", "llm"),
        ("/bedrock/model/x/converse", "llm"),
        ("/bedrock", "llm"),
        ("/someserver/mcp", "llm"),
        ("/anyone/v1/files/f", "llm"),
        ("/v1/rerank", "llm"),
        ("/v2/rerank", "llm"),
        ("/v1/unheard-of", "llm"),
        ("/key/generate", "management"),
        ("/key/abc/regenerate", "management"),
        ("/key/mcp", "management"),
        ("/team/t/v1/files", "management"),
        ("/organization/new", "management"),
        ("/budget/new", "management"),
        ("/customer/x", "management"),
        ("/end_user/x", "management"),
        ("/tag/new", "management"),
        ("/credentials", "management"),
        ("/config/update", "management"),
        ("/guardrails/list", "management"),
        ("/audit", "management"),
        ("/global/spend", "management"),
        ("/spend/logs", "management"),
        ("/model/new", "management"),
        ("/v1/model/deprecations", "management"),
        ("/invitation/new", "management"),
        ("/sso/key/generate", "management"),
        ("/login", "management"),
        ("/v2/login", "management"),
        ("/scim/v2/Users/1", "management"),
        ("/cache/flushall", "management"),
        ("/policies/x/status", "management"),
        ("/prompts/list", "management"),
        ("/v1/agents/a/kill_switch", "management"),
        ("/v1/mcp/server/anything/at/all", "management"),
        ("/v1/mcp/tools", "llm"),
        ("/ui", "ui"),
        ("/ui/", "ui"),
        ("/ui/assets/a.js", "ui"),
        ("/health", "health"),
        ("/health/liveliness", "health"),
        ("/health/anything", "health"),
        ("/metrics", "health"),
        ("/v1/models", "public"),
        ("/models", "public"),
        ("/v1/models/openai/gpt", "public"),
        ("/claude_code_gateway/v1/models", "public"),
        ("/model/info", "public"),
        ("/v1/model/info", "public"),
        ("/model_group/info", "public"),
        ("/", "public"),
        ("/routes", "public"),
        ("/openapi.json", "management"),
        ("/public/model_hub", "public"),
        ("/robots.txt", "public"),
        ("/nobody/knows", None),
        ("/KEY/generate", None),
        ("/keys", None),
        ("/keygenerate", None),
    ],
)
def test_class_of_path(path: str, expected: str | None) -> None:
    """Named paths and families have the class that the design gives them."""
    found = classify(path)
    assert (found.value if found else None) == expected


def test_every_entry_has_its_own_class() -> None:
    """Each path of the tables is classified as its table says: no template hides another."""
    assert [(path, classify(path)) for path, _ in KNOWN] == KNOWN
    assert len(KNOWN) > 850


def test_nothing_below_a_management_prefix_is_open() -> None:
    """Unheard-of paths below a management prefix are refused on a worker."""
    for prefix, route_class in families():
        if route_class is RouteClass.MANAGEMENT:
            for path in (f"{prefix}/new-thing", f"{prefix}/a/mcp", f"{prefix}/a/b/c/d"):
                assert refusal(path, WORKER)[0] == 403, path


def _escaped(path: str, picks: list[int], depth: int) -> str:
    out = []
    for place, char in enumerate(path):
        text = char
        if place and picks[place % len(picks)] % 3 == 0:
            for _ in range(depth):
                text = "".join(f"%{ord(sign):02x}" for sign in text)
        out.append(text)
    return "".join(out)


@st.composite
def tricks(draw: st.DrawFn) -> tuple[str, str]:
    """A management path and another way to spell it."""
    plain = draw(st.sampled_from(MANAGED))
    path = plain
    for _ in range(draw(st.integers(1, 3))):
        match draw(st.integers(0, 7)):
            case 0:
                path = path.replace("/", "/" * draw(st.integers(1, 4)))
            case 1:
                path += draw(st.sampled_from(["/", "//", "/.", "/x/..", "/;a=b", "/%2e", "/%00"]))
            case 2:
                up = draw(st.sampled_from(["..", "%2e%2e", ".%2E", "..;x", "%252e."]))
                path = f"/v1/chat/completions/{up}/{up}/{up}{path}"
            case 3:
                path = path.replace("/", draw(st.sampled_from(["/./", "\\", "/%2f", "%5C", "/"])))
                path = path if path.startswith("/") else "/" + path
            case 4:
                path += draw(st.sampled_from([";v=1", ";jsessionid=1", "%3bx", "?a=/v1/models"]))
                break
            case 5:
                picks = draw(st.lists(st.integers(0, 9), min_size=1, max_size=9))
                path = _escaped(path, picks, draw(st.integers(1, 3)))
            case 6:
                host = draw(st.sampled_from(["http://worker", "https://a:1", "HTTP://u@h"]))
                path = host + path if path.startswith("/") else path
                break
            case _:
                path += draw(st.sampled_from(["#frag", "?", "%23x", "%20"]))
                break
    return plain, path


@settings(max_examples=400, deadline=None)
@given(tricks())
def test_tricks_change_nothing(case: tuple[str, str]) -> None:
    """However a management path is spelled, its class and its refusal on a worker stay."""
    plain, spelled = case
    assert classify(spelled) is RouteClass.MANAGEMENT, spelled
    assert refusal(spelled, WORKER) == refusal(plain, WORKER)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="/.%25eE;\\?#kK2f5c0x", max_size=60))
def test_any_text_is_classified(path: str) -> None:
    """Classification never fails, and the plain form is its own plain form."""
    classify(path)
    segments = plain_segments(path)
    if not any(sign in "".join(segments) for sign in "%"):
        assert plain_segments("/" + "/".join(segments)) == segments


def test_root_path_is_taken_off() -> None:
    """SERVER_ROOT_PATH goes once from the front, whole segments only."""
    assert classify("/gw/key/generate", "/gw") is RouteClass.MANAGEMENT
    assert classify("/gw//%6bey/generate/", "/gw/") is RouteClass.MANAGEMENT
    assert classify("/key/generate", "/gw") is RouteClass.MANAGEMENT
    assert classify("/gwx/key/generate", "/gw") is None


@pytest.mark.parametrize(
    "flags", [{}, {"DISABLE_ADMIN_ENDPOINTS": True}, {"DISABLE_LLM_ENDPOINTS": True}]
)
def test_worker_refuses_management_whatever_the_flags(flags: dict[str, bool]) -> None:
    """On a worker a management path is 403 with a reason, and no flag opens it."""
    status, body = refusal("/key/generate", decide(Binary.WORKER, flags))
    assert status == 403
    assert list(body) == ["detail"]
    assert "worker" in body["detail"]


def test_refusals_name_the_flag() -> None:
    """An admin without a capability says which variable took it away; the UI is just absent."""
    status, body = refusal("/key/generate", BARE_ADMIN)
    assert (status, "DISABLE_ADMIN_ENDPOINTS" in body["detail"]) == (403, True)
    status, body = refusal("/v1/chat/completions", BARE_ADMIN)
    assert (status, "DISABLE_LLM_ENDPOINTS" in body["detail"]) == (403, True)
    assert refusal("/ui/", BARE_ADMIN) == (404, {"detail": "Not Found"})
    assert refusal("/ui", WORKER) == (404, {"detail": "Not Found"})
    assert refusal("/v1/models", BARE_ADMIN)[0] == 501


def test_refusals_of_what_is_not_implemented() -> None:
    """A known path without a handler is 501 in the shape of its API, an unknown one 404."""
    status, body = refusal("/team/new", ADMIN)
    assert status == 501
    assert body["error"]["type"] == "not_supported"
    assert body["error"]["code"] == "501"
    assert refusal("/v1/images/edits", ADMIN)[1]["error"]["code"] == "501"
    assert refusal("/v1/messages", WORKER)[1]["type"] == "error"
    google = refusal("/v1beta/models/gemini:countTokens", WORKER)[1]["error"]
    assert (google["code"], google["status"]) == (501, "UNIMPLEMENTED")
    assert list(refusal("/health/history", WORKER)[1]) == ["detail"]
    for path in ("/key/nothing", "/v1/nothing", "/health/nothing", "/public/nothing", "/nothing"):
        assert refusal(path, ADMIN) == (404, {"detail": "Not Found"}), path


def test_classification_is_quick() -> None:
    """A typical path costs a few microseconds, and a hostile one is linear in its length."""
    classify("/")
    started = time.perf_counter()
    for _ in range(200):
        classify("/v1/vector_stores/a/files/b/content")
    assert (time.perf_counter() - started) / 200 < 200e-6
    hostile = "/" + "%" * 2700 + "25" * 2700
    started = time.perf_counter()
    classify(hostile)
    assert time.perf_counter() - started < 0.1


def test_route_spec_is_a_value() -> None:
    """A route compares by what it is, so that tables of routes can be compared."""
    spec = RouteSpec("POST", "/key/generate", RouteClass.MANAGEMENT, "generate")
    assert spec == RouteSpec("POST", "/key/generate", RouteClass.MANAGEMENT, "generate")
