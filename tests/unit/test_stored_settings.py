"""Settings of the database over those of the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.config.config_effects import Effect, at_start, effect_of
from shared.config.config_file import load
from shared.config.config_schema import SECTIONS, names
from shared.config.gateway_config import GatewayConfig
from shared.config.reports import Report
from shared.config.startup import FILE_SETTINGS
from shared.config.stored_settings import kept_from_start, overlaid

Read = Callable[..., tuple[GatewayConfig, Report]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """A file and stored settings, read together."""

    def read(file: str, settings: dict[str, Any]) -> tuple[GatewayConfig, Report]:
        path = tmp_path / "config.yaml"
        path.write_text(file)
        report = Report()
        return overlaid(load(path, {"HOME": "/x", "A": "process"}), settings, report), report

    return read


def test_effects_are_of_settings_that_there_are() -> None:
    """Every exception names a setting in force."""
    known = {f"{section}.{name}" for section, keys in SECTIONS.items() for name in names(keys)}
    assert at_start() <= known
    assert set(FILE_SETTINGS) <= known
    assert effect_of("router_settings", "num_retries") is Effect.AT_ONCE
    assert effect_of("environment_variables", "DATABASE_URL") is Effect.NEVER
    assert effect_of("environment_variables", "OPENAI_API_KEY") is Effect.AT_ONCE


def test_nothing_stored_is_the_file(read: Read) -> None:
    """Without stored settings the file's configuration is the very same."""
    config, report = read("router_settings: {num_retries: 5}", {})
    assert config.num_retries == 5
    assert config.stored == {}
    assert report.notices == []
    same, _ = read("", {"router_settings": {}, "of_another_release": {"x": 1}})
    assert same.stored == {}


def test_members_of_both(read: Read) -> None:
    """Members are merged; the file's win, and what is not taken from the database is noticed."""
    config, report = read(
        "router_settings: {num_retries: 5}\nlitellm_settings: {drop_params: null}\n",
        {
            "router_settings": {"num_retries": 1, "timeout": 7, "of_a_newer_release": 1},
            "litellm_settings": {"drop_params": True},
            "general_settings": {"database_url": "postgresql://x"},
            "environment_variables": {"A": "stored", "DISABLE_ADMIN_UI": "true"},
        },
    )
    assert (config.num_retries, config.router.timeout, config.litellm.drop_params) == (5, 7, True)
    assert config.general.database_url is None
    assert (config.environment["A"], config.environment["HOME"]) == ("stored", "/x")
    assert "DISABLE_ADMIN_UI" not in config.environment
    assert report.problems == []
    assert sorted(notice.path for notice in report.notices) == [
        "environment_variables.DISABLE_ADMIN_UI",
        "general_settings.database_url",
        "router_settings.num_retries",
        "router_settings.of_a_newer_release",
    ]
    timeout = config.member("router_settings", "timeout")
    assert timeout is not None
    assert timeout.source == "database"


def test_problems_have_their_places(read: Read) -> None:
    """What is wrong is a problem of the database, by its dotted path."""
    _, report = read(
        "",
        {
            "router_settings": {"timeout": "x", "retry_after": "os.environ/A"},
            "environment_variables": {"B": ["x"]},
        },
    )
    assert [problem.split(": ")[:2] for problem in report.problems] == [
        ["database", "router_settings.retry_after"],
        ["database", "environment_variables.B"],
        ["database", "router_settings.timeout"],
    ]


def test_what_is_kept_from_the_start(read: Read) -> None:
    """A process keeps what it was built around, and takes over the rest."""
    started, _ = read("", {"litellm_settings": {"timezone": "Europe/Oslo", "drop_params": True}})
    later, _ = read("", {"litellm_settings": {"budget_reset_time": "12:00"}})
    kept = kept_from_start(later, started)
    assert (kept.litellm.timezone, kept.litellm.budget_reset_time) == ("Europe/Oslo", "00:00:00")
    assert not kept.litellm.drop_params
