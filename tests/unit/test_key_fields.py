"""Fields of keys: what is read, refused, filled in and stored."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.admin.api.body import read_fields
from services.admin.api.key_fields import GENERATE_FIELDS, UPDATE_FIELDS
from services.admin.api.key_policy import (
    KeyRules,
    MakerRule,
    key_change,
    new_key,
    read_caps,
    read_maker_rules,
    read_settings,
    service_account,
)
from services.admin.api.query import Query
from services.admin.api.refusals import Detail, Unprocessable
from shared.domain.errors import ConfigError, InvalidRequest
from shared.domain.keys import hash_key
from shared.keys.generate import check_custom_key, generate_key, stored_form

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


def made(body: dict[str, Any], rules: KeyRules | None = None) -> dict[str, Any]:
    """The columns that a body comes to."""
    return dict(new_key(body, rules or KeyRules(), NOW, "tester").columns)


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("max_budget", -1, "max_budget"),
        ("max_budget", 1e300, "max_budget"),
        ("max_budget", "Infinity", "max_budget"),
        ("max_budget", "NaN", "max_budget"),
        ("max_budget", "1e999999999", "max_budget"),
        ("max_budget", "sNaN", "max_budget"),
        ("rpm_limit", "-Infinity", "rpm_limit"),
        ("soft_budget", -0.01, "soft_budget"),
        ("rpm_limit", -1, "rpm_limit"),
        ("tpm_limit", 2**63, "tpm_limit"),
        ("max_parallel_requests", 2**31, "max_parallel_requests"),
        ("model_rpm_limit", {"m": -1}, "model_rpm_limit.m"),
        ("budget_duration", "soon", "budget_duration"),
        ("budget_duration", "0d", "budget_duration"),
        ("budget_duration", "30", "budget_duration"),
        ("budget_duration", "-5d", "budget_duration"),
        ("budget_duration", "2mo", "budget_duration"),
        ("duration", "later", "duration"),
        ("duration", "9999999d", "duration"),
        ("spend", -1, "spend"),
        ("key_alias", "a\nb", "key_alias"),
        ("key_alias", "a\u2028b", "key_alias"),
        ("key_alias", "a/../b", "key_alias"),
        ("key_alias", "..", "key_alias"),
        ("key_alias", "x" * 600, "key_alias"),
        ("user_id", "a\x00b", "user_id"),
        ("metadata", {"a": ["b\x00"]}, "metadata.a.0"),
        ("metadata", {"a\x00": 1}, "metadata"),
        ("metadata", {"n": 10**400}, "metadata.n"),
        (
            "budget_limits",
            [{"budget_duration": "1x", "max_budget": 1}],
            "budget_limits.0.budget_duration",
        ),
        ("model_max_budget", {"m": {"max_budget": -1}}, "model_max_budget.m.max_budget"),
    ],
)
def test_values_out_of_range(field: str, value: Any, param: str) -> None:
    """A value that is of the right type and cannot be is 400, naming the field."""
    with pytest.raises(InvalidRequest) as caught:
        made({field: value})
    assert (caught.value.status, caught.value.param) == (400, param)
    assert caught.value.message.startswith(param.partition(".")[0])


@pytest.mark.parametrize(
    ("body", "issues"),
    [
        ({"models": "gpt"}, [("list_type", ["body", "models"])]),
        ({"models": ["a", 1]}, [("string_type", ["body", "models", 1])]),
        ({"key_alias": 5}, [("string_type", ["body", "key_alias"])]),
        ({"max_budget": "much"}, [("float_type", ["body", "max_budget"])]),
        ({"max_budget": True}, [("float_type", ["body", "max_budget"])]),
        ({"rpm_limit": 1.5}, [("int_from_float", ["body", "rpm_limit"])]),
        ({"rpm_limit": "1e-999999999"}, [("int_from_float", ["body", "rpm_limit"])]),
        ({"rpm_limit": []}, [("int_type", ["body", "rpm_limit"])]),
        ({"metadata": []}, [("dict_type", ["body", "metadata"])]),
        ({"blocked": "perhaps"}, [("bool_type", ["body", "blocked"])]),
        ({"blocked": 1}, [("bool_type", ["body", "blocked"])]),
        ({"key_type": "root"}, [("literal_error", ["body", "key_type"])]),
        ({"key_type": ["default"]}, [("literal_error", ["body", "key_type"])]),
        ({"aliases": {"a": 1}}, [("string_type", ["body", "aliases", "a"])]),
        (
            {"budget_limits": [{"max_budget": 1}]},
            [("missing", ["body", "budget_limits", 0, "budget_duration"])],
        ),
        (
            {"models": 1, "rpm_limit": "x", "max_budget": -1},
            [("list_type", ["body", "models"]), ("int_type", ["body", "rpm_limit"])],
        ),
    ],
)
def test_values_of_the_wrong_type(body: dict[str, Any], issues: list[Any]) -> None:
    """Wrong types are 422 with every issue and where it is; ranges are looked at after."""
    with pytest.raises(Unprocessable) as caught:
        made(body)
    detail = caught.value.body()["detail"]
    assert caught.value.status == 422
    assert [(issue["type"], issue["loc"]) for issue in detail] == issues


def test_lenient_numbers() -> None:
    """Numbers in strings are numbers and whole floats integers; money is exact."""
    columns = made({"max_budget": "0.1", "rpm_limit": "7", "tpm_limit": 8.0, "blocked": "TRUE"})
    assert columns["max_budget"] == Decimal("0.1")
    assert (columns["rpm_limit"], columns["tpm_limit"], columns["blocked"]) == (7, 8, True)
    assert made({"max_budget": 0.1})["max_budget"] == Decimal("0.1")


def test_nulls_are_as_if_not_sent_for_a_new_key() -> None:
    """Every field may be null on generate."""
    assert made({field.name: None for field in GENERATE_FIELDS}) | {
        "token": "",
        "key_name": "",
    } == (made({}) | {"token": "", "key_name": ""})


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        ("90s", NOW + timedelta(seconds=90)),
        ("5m", NOW + timedelta(minutes=5)),
        ("2h", NOW + timedelta(hours=2)),
        ("30days", NOW + timedelta(days=30)),
        ("1w", NOW + timedelta(days=7)),
        ("1mo", datetime(2026, 2, 28, 12, 0, tzinfo=UTC)),
        ("daily", NOW + timedelta(days=1)),
        ("-1", None),
        (None, None),
    ],
)
def test_expiry_is_exact(duration: str | None, expected: datetime | None) -> None:
    """A key expires exactly its duration from now; months end with the month."""
    assert made({"duration": duration})["expires"] == expected


def test_metadata_backed_fields_are_merged() -> None:
    """Typed fields go into metadata beside what was sent there."""
    columns = made({"metadata": {"a": 1}, "tags": ["t"], "model_rpm_limit": {"m": 2}})
    assert columns["metadata"] == {"a": 1, "tags": ["t"], "model_rpm_limit": {"m": 2}}
    assert "tags" not in columns


def test_generated_keys() -> None:
    """32 random bytes behind `sk-`; only hash and mask are kept, and no repr shows the key."""
    key = new_key({}, KeyRules(), NOW, "tester")
    assert re.fullmatch(r"sk-[A-Za-z0-9_-]{43}", key.plain)
    assert key.token == hash_key(key.plain) == key.columns["token"]
    assert key.columns["key_name"] == f"sk-...{key.plain[-4:]}"
    assert key.plain not in repr(key)
    assert len({generate_key() for _ in range(1000)}) == 1000
    assert len(generate_key(16)) == 25


@pytest.mark.parametrize(
    "key", ["my-own-key-00000001", "sk-short", "sk-with blank-0000001", "sk-schlüssel-00001", ""]
)
def test_bad_custom_keys(key: str) -> None:
    """A key that could not serve is refused, without being repeated."""
    with pytest.raises(InvalidRequest) as caught:
        made({"key": key})
    assert caught.value.param == "key"
    assert not key or key not in caught.value.message
    assert check_custom_key("sk-my-own-key-0001") == "sk-my-own-key-0001"


def test_stored_form() -> None:
    """Plain keys are hashed, hashes stay, anything else is no key."""
    assert stored_form("sk-a") == hash_key("sk-a")
    assert stored_form("ab" * 32) == "ab" * 32
    for other in ("AB" * 32, "ab" * 31, "", "nonsense", "ab" * 32 + "\n"):
        assert stored_form(other) is None


RULES = KeyRules(
    defaults=read_settings(
        "default_key_generate_params", {"models": ["m1"], "max_budget": 5, "duration": "7d"}
    ),
    caps=read_caps({"max_budget": 8, "rpm_limit": 10, "duration": "30d"}),
)


def test_defaults_and_caps_of_a_new_key() -> None:
    """Defaults fill first, then caps; what was sent stays."""
    columns = made({}, RULES)
    assert (columns["models"], columns["max_budget"], columns["rpm_limit"]) == (["m1"], 5, 10)
    assert columns["expires"] == NOW + timedelta(days=7)
    assert made({"max_budget": 8, "models": ["x"]}, RULES)["max_budget"] == 8
    for body in ({"max_budget": 8.01}, {"rpm_limit": 11}, {"duration": "31d"}):
        with pytest.raises(InvalidRequest) as caught:
            made(body, RULES)
        assert caught.value.param == next(iter(body))
    assert made({"duration": "-1"}, RULES)["expires"] == NOW + timedelta(days=30)


def test_caps_hold_on_update() -> None:
    """An update can neither exceed a cap nor lift it with null; other fields are left alone."""
    with pytest.raises(InvalidRequest):
        key_change({"key": "sk-x", "max_budget": 9}, RULES, NOW)
    _, change = key_change({"key": "sk-x", "max_budget": None}, RULES, NOW)
    assert change.columns == {"max_budget": 8}
    _, change = key_change({"key": "sk-x", "duration": None}, RULES, NOW)
    assert change.columns == {"expires": NOW + timedelta(days=30)}


@pytest.mark.parametrize(
    "setting",
    [{"max_budget": -1}, {"models": "x"}, {"no_such": 1}, {"key": "sk-0123456789abcdef"}],
)
def test_wrong_settings_stop_the_start(setting: dict[str, Any]) -> None:
    """Settings that no request could have are told at the start, with their path."""
    with pytest.raises(ConfigError, match="default_key_generate_params"):
        read_settings("default_key_generate_params", setting)
    with pytest.raises(ConfigError, match="upperbound"):
        read_caps({"models": ["x"]})


def test_update_keeps_apart_what_is_sent() -> None:
    """Columns, metadata and steering fields go their ways; null clears columns only."""
    values, change = key_change(
        {
            "key": "sk-x",
            "models": None,
            "max_budget": None,
            "tags": None,
            "guardrails": ["g"],
            "key_type": "read_only",
            "spend": "0.5",
        },
        KeyRules(),
        NOW,
    )
    assert values["key"] == "sk-x"
    assert change.columns == {
        "models": (),
        "max_budget": None,
        "key_type": "read_only",
        "allowed_routes": ("info_routes",),
    }
    assert change.metadata == {"guardrails": ["g"]}
    assert change.spend == Decimal("0.5")


def test_temporary_budget_needs_both_parts() -> None:
    """One of the two alone is 422; with time zone or without, the expiry is UTC."""
    for half in ({"temp_budget_increase": 1}, {"temp_budget_expiry": "2030-01-01"}):
        with pytest.raises(Unprocessable):
            key_change({"key": "sk-x", **half}, KeyRules(), NOW)
    both = {"temp_budget_increase": 1, "temp_budget_expiry": "2030-01-01T01:00:00+01:00"}
    _, change = key_change({"key": "sk-x", **both}, KeyRules(), NOW)
    assert change.metadata["temp_budget_expiry"] == "2030-01-01T00:00:00+00:00"


def test_bodies_of_refusals() -> None:
    """The two shapes of their own are exactly those of the contract."""
    assert Detail(403, "no").body() == {"detail": "no"}
    with pytest.raises(Unprocessable) as caught:
        Query({"page": "x"}).whole("page", default=1, low=1, high=9)
    assert caught.value.body()["detail"][0]["loc"] == ["query", "page"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["30d", "-1", "1e400", "-0", "٣", "1_0", " 5 ", "0x1", "\x00", "nan", "sNaN"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([field.name for field in UPDATE_FIELDS]), JSON))
def test_reading_never_fails_otherwise(body: dict[str, Any]) -> None:
    """Whatever is sent is read or refused as a request's fault."""
    with contextlib.suppress(Unprocessable, InvalidRequest):
        read_fields(body, UPDATE_FIELDS)


def test_rules_for_makers_of_keys() -> None:
    """`key_generation_settings` gives one rule for keys of one's own and one for teams'."""
    assert read_maker_rules({}) == (MakerRule(), MakerRule())
    settings = {
        "personal_key_generation": {"allowed_user_roles": ["proxy_admin"]},
        "team_key_generation": {"allowed_team_member_roles": [], "required_params": ["tags"]},
    }
    assert read_maker_rules(settings) == (
        MakerRule(frozenset({"proxy_admin"})),
        MakerRule(frozenset(), ("tags",)),
    )
    for wrong in ({"team_key_generation": 1}, {"personal_key_generation": {"required_params": 1}}):
        with pytest.raises(ConfigError, match="key_generation_settings"):
            read_maker_rules(wrong)


def test_a_key_that_rotates_says_when() -> None:
    """An interval makes the first rotation due then; without one there is nothing to wait for."""
    columns = made({"auto_rotate": True, "rotation_interval": "1mo"})
    assert columns["key_rotation_at"] == datetime(2026, 2, 28, 12, 0, tzinfo=UTC)
    assert made({"rotation_interval": "1mo"})["key_rotation_at"] is None
    for interval in (None, "-1"):
        with pytest.raises(InvalidRequest) as caught:
            made({"auto_rotate": True, "rotation_interval": interval})
        assert caught.value.param == "rotation_interval"


def test_service_accounts_are_named() -> None:
    """By their alias, or by an id of their own; they belong to nobody."""
    for alias in ("robot", None):
        body = {"team_id": "t", "user_id": "u", "key_alias": alias, "metadata": {"a": 1}}
        key = service_account(new_key(body, KeyRules(), NOW, "tester"))
        assert key.columns["user_id"] is None
        name = key.columns["metadata"].pop("service_account_id")
        assert name == alias or len(name) == 36
        assert key.columns["metadata"] == {"a": 1}
    with pytest.raises(InvalidRequest) as caught:
        service_account(new_key({}, KeyRules(), NOW, "tester"))
    assert caught.value.param == "team_id"
