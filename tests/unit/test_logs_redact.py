"""Secrets never come out of the redactor, wherever they are planted."""

from __future__ import annotations

import json
import string
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.telemetry.redact import MASK, Redactor, is_secret

REDACTOR = Redactor(("the-master-key-value", "p@ss/word:1", "tiny"))

WORD = string.ascii_letters + string.digits
TOKEN = st.text(WORD, min_size=20, max_size=48)
# Strings that are keys by their shape alone.
SHAPED = st.one_of(
    st.builds("sk-{}".format, TOKEN),
    st.builds("sk-ant-api03-{}".format, TOKEN),
    st.builds("sk-proj-{}_{}".format, TOKEN, TOKEN),
    st.builds("AIza{}".format, st.text(WORD + "-_", min_size=30, max_size=36)),
    st.builds("xai-{}".format, TOKEN),
    st.builds("gsk_{}".format, TOKEN),
    st.builds("hf_{}".format, TOKEN),
    st.builds(
        "AKIA{}".format, st.text(string.ascii_uppercase + string.digits, min_size=16, max_size=16)
    ),
    st.builds("eyJ{}.eyJ{}.{}".format, TOKEN, TOKEN, TOKEN),
    st.just("the-master-key-value"),
    st.just("p@ss/word:1"),
)
SECRET_NAMES = [
    "api_key",
    "apiKey",
    "x-api-key",
    "Authorization",
    "password",
    "PGPASSWORD",
    "client_secret",
    "access_token",
    "database_url",
    "dsn",
    "LITELLM_MASTER_KEY",
    "LITELLM_SALT_KEY",
    "aws_secret_access_key",
    "cookie",
    "Set-Cookie",
    "private_key",
    "credentials",
    "token",
    "key",
]
# Any value, however plain, that stands under a secret's name.
PLAIN = st.text(string.ascii_letters + string.digits + "+/=_-!$%", min_size=4, max_size=40)
BORDER = st.sampled_from(["", " ", '"', "'", "\n", ",", ";", "(", "[", "{", "=", ": ", "<", "/"])
NOISE = st.text(max_size=20)


@given(secret=SHAPED, before=NOISE, left=BORDER, right=BORDER, after=NOISE)
def test_shapes_are_masked_in_any_text(
    secret: str, before: str, left: str, right: str, after: str
) -> None:
    """A key is masked for its shape or because it is known, whatever stands around it."""
    left = left or " "
    assert secret not in REDACTOR.text(f"{before}{left}{secret}{right}{after}")


# Bindings of a name to a value in texts, as JSON, Python, shells and headers write them.
GLUES = ["=", ": ", '": "', "='", "' => '", '\\": \\"', "': b'"]
# An address is masked for its password, and `key` alone only when a long token follows.
TEXT_NAMES = sorted({*SECRET_NAMES} - {"key", "database_url"})


@given(name=st.sampled_from(TEXT_NAMES), value=PLAIN, glue=st.sampled_from(GLUES))
def test_named_values_are_masked_in_text(name: str, value: str, glue: str) -> None:
    """In a text like `password=…` the value goes, whatever its shape."""
    text = REDACTOR.text(f'before <{name}{glue}{value}" after')
    assert value not in text.removeprefix(f"before <{name}{glue}")
    assert text.startswith(f"before <{name}")


@given(value=TOKEN, glue=st.sampled_from(GLUES))
def test_long_values_of_key_are_masked_in_text(value: str, glue: str) -> None:
    """After the bare word `key` a long token goes."""
    assert value not in REDACTOR.text(f"the key{glue}{value} of nobody")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


class Opaque:
    """An object of ours whose text shows what it holds."""

    def __init__(self, secret: str) -> None:
        self.secret = secret

    def __repr__(self) -> str:
        return f"Opaque(Bearer {self.secret})"


@st.composite
def planted(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A secret, and fields that hold it somewhere."""
    secret = draw(SHAPED)
    kind = draw(st.integers(0, 6))
    place: Any = [
        secret,
        f"call failed: {secret}!",
        secret.encode(),
        ValueError(f"bad key {secret}"),
        Opaque(secret),
        {draw(st.sampled_from(SECRET_NAMES)): {"deep": [secret]}},
        {f"name {secret}": 1},
    ][kind]
    for _ in range(draw(st.integers(0, 12))):
        wrap = draw(st.integers(0, 3))
        place = [[place, draw(VALUES)], {"inner": place}, (place,), {"headers": [("k", place)]}][
            wrap
        ]
    return secret, {"event": "x", "field": place, "more": draw(VALUES)}


@given(planted())
def test_nested_values_are_masked(case: tuple[str, dict[str, Any]]) -> None:
    """Through lists, mappings, bytes, exceptions and objects, at any depth, no secret is left."""
    secret, fields = case
    clean = REDACTOR.fields(fields)
    assert secret not in repr(clean)
    assert secret not in json.dumps(clean, ensure_ascii=False)


@given(name=st.sampled_from(SECRET_NAMES), value=PLAIN)
def test_fields_are_masked_by_name(name: str, value: str) -> None:
    """A field with a secret's name shows nothing, also inside other fields."""
    clean = REDACTOR.fields({name: value, "request": {"headers": {name: [value]}}})
    assert clean == {name: MASK, "request": {"headers": {name: MASK}}}


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("postgres://u:hunter2@db:5432/x", f"postgres://u:{MASK}@db:5432/x"),
        ("postgresql://u:p@ss:w/rd@db/x?sslmode=off", f"postgresql://u:{MASK}@db/x?sslmode=off"),
        ("redis://:secret@cache", f"redis://:{MASK}@cache"),
        ("host=db user=u password=a,b dbname=x", f"host=db user=u password={MASK} dbname=x"),
        ("GET /v1/models?key=AIzaSyA1234567890123456789&x=1", f"GET /v1/models?key={MASK}&x=1"),
        ("https://h/x?api-key=abc&alt=sse", f"https://h/x?api-key={MASK}&alt=sse"),
        ("Authorization: Bearer abc.def", f"Authorization: {MASK}"),
        ("{'api_key': 'abc', 'n': 1}", f"{{'api_key': '{MASK}', 'n': 1}}"),
        ('{"password":"x y"}', f'{{"password":"{MASK}"}}'),
        ("b'\\r\\nAuthorization: Basic dXNlcjpw\\r\\n'", f"b'\\r\\nAuthorization: {MASK}'"),
    ],
)
def test_examples(text: str, clean: str) -> None:
    """Addresses, headers and parameters keep everything but their secret."""
    assert REDACTOR.text(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "the risk-management plan, task-force and disk-full",
        "12 tokens in, 5 tokens out; max_tokens 100",
        "unexpected token, no bearer token given, Bearer authentication",
        "the key sk-...abcd is blocked",
        "basic settings",
        "key cache: 12 entries",
        "https://api.openai.com/v1/chat/completions",
        "postgres://db:5432/x",
        "user a@b.example wrote to http://x.example/a:b",
        "model gpt-4o-2024-08-06 of deployment 8f14e45fceea167a5a36dedd4bea2543",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    """What only resembles a secret's surroundings is not touched."""
    assert REDACTOR.text(text) == text


def test_counts_stay_readable() -> None:
    """Numbers under names such as `tokens` are counts; flags and nothing stay too."""
    fields = {"prompt_tokens": 12, "max_tokens": None, "key_cache": "warm", "has_api_key": True}
    assert REDACTOR.fields(fields) == fields


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("key_hash", False),
        ("key_alias", False),
        ("keyboard", False),
        ("monkey", False),
        ("tokenizer", False),
        ("team", False),
        ("virtual_key", True),
        ("providerApiKey", True),
        ("azure.client-secret", True),
    ],
)
def test_names(name: str, secret: bool) -> None:
    """Which names hold secrets."""
    assert is_secret(name) is secret


def test_texts_and_structures_are_bounded() -> None:
    """Huge texts, lists and depths are cut, so that a log line cannot take the process down."""
    deep: Any = "x"
    for _ in range(10_000):
        deep = [deep]
    clean = REDACTOR.fields({"text": "a" * 10**6, "list": list(range(10**5)), "deep": deep})
    assert len(clean["text"]) < 40_000
    assert len(clean["list"]) == 500
    assert len(repr(clean["deep"])) < 100


def test_a_secret_is_not_cut_in_half() -> None:
    """A secret that lies over the cut is masked before the text is shortened."""
    text = "a" * 32_760 + " the-master-key-value"
    assert "the-master" not in REDACTOR.text(text)


def test_short_known_values_are_not_looked_for() -> None:
    """A known value of a few letters would mask words, so it is left out."""
    assert REDACTOR.text("tiny house") == "tiny house"


def test_output_is_always_json() -> None:
    """Lone surrogates, huge numbers and odd keys come out as something JSON can hold."""
    clean = REDACTOR.fields({1: 2**80, "s": "\ud800", None: {b"k": {1, 2}}})
    json.dumps(clean).encode()
    assert clean["1"] == str(2**80)
    assert clean["s"] == "\\ud800"


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "a",
            "a.",
            "a://:",
            "sk",
            "sk-",
            "eyJ",
            "eyJa.",
            "password",
            "password=",
            "token: ",
            "a@b:",
        ),
        *(
            "bearer ",
            "key=",
            "key",
            "-----BEGIN PRIVATE KEY-----",
            "-----BEGIN A ",
            '"',
            "\\",
            "://",
            "=",
        ),
        *("password='", 'api_key\\"', "basic ", "AIza", "gsk_", "xai-", " ", "\n", "@", "://a:b@"),
    ],
)
def test_time_is_linear(piece: str) -> None:
    """No repeated text makes masking slow: the longest text takes well under a second."""
    started = time.process_time()
    REDACTOR.text(piece * (40_000 // len(piece)))
    assert time.process_time() - started < 0.7
