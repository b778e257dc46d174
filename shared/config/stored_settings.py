"""Settings that the database holds, over those of the configuration file.

They are read by the same tables as the file's. A name that the file has is the file's; a name
that a newer release has stored is left alone. Both are noticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from attrs import evolve

from shared.config.config_check import Checker
from shared.config.config_effects import Effect, at_start, effect_of
from shared.config.config_file import read_settings
from shared.config.config_pending import PENDING_SECTIONS
from shared.config.config_references import References, missing_variables
from shared.config.config_schema import SECTIONS, names
from shared.config.config_source import Located
from shared.config.gateway_config import GatewayConfig
from shared.config.reports import Report
from shared.config.stored import DATABASE
from shared.config.variables_pending import PENDING_VARIABLES

ENVIRONMENT_VARIABLES = "environment_variables"
STORED_SECTIONS = (*SECTIONS, ENVIRONMENT_VARIABLES)

_FIELDS: Mapping[str, str] = MappingProxyType(
    {"general_settings": "general", "litellm_settings": "litellm", "router_settings": "router"}
)

Settings = Mapping[str, Mapping[str, Any]]


def overlaid(file: GatewayConfig, settings: Settings, report: Report) -> GatewayConfig:
    """The configuration of file and database together. `settings` are the members of the stored
    sections, opened; what is wrong with them goes to the report."""
    stored = {section: _members(file, section, settings, report) for section in STORED_SECTIONS}
    if not any(stored.values()):
        return file
    environment = {**file.environment, **_variables(stored[ENVIRONMENT_VARIABLES], report)}
    # Settings are the same everywhere, so references in them would find nothing.
    values = read_settings(stored, Checker(report, References({}, report)))
    changed = {
        _FIELDS[section]: evolve(getattr(file, _FIELDS[section]), **values[section])
        for section in SECTIONS
    }
    return evolve(
        file,
        environment=MappingProxyType(environment),
        stored=MappingProxyType(stored),
        **changed,
    )


def kept_from_start(config: GatewayConfig, started: GatewayConfig) -> GatewayConfig:
    """What is in force of a configuration in a process that has started with another."""
    changed: dict[str, dict[str, Any]] = {}
    for path in at_start():
        section, _, name = path.partition(".")
        old = getattr(getattr(started, _FIELDS[section]), name)
        if getattr(getattr(config, _FIELDS[section]), name) != old:
            changed.setdefault(_FIELDS[section], {})[name] = old
    return evolve(
        config,
        **{field: evolve(getattr(config, field), **values) for field, values in changed.items()},
    )


def _members(
    file: GatewayConfig, section: str, settings: Settings, report: Report
) -> dict[str, Located]:
    """The members of a section that count."""
    members: dict[str, Located] = {}
    known = {*names(SECTIONS.get(section, ()))}
    pending = {row.name for row in PENDING_SECTIONS.get(section, ())}
    for name, value in settings.get(section, {}).items():
        located = Located(value, DATABASE, f"{section}.{name}")
        own = file.sections.get(section, {}).get(name)
        if own is not None and own.value is not None:
            report.notice(DATABASE, located.path, f"not in force: {own.source} sets it")
        elif effect_of(section, name) is Effect.NEVER:
            report.notice(DATABASE, located.path, "not in force: it is not read from there")
        elif section != ENVIRONMENT_VARIABLES and name not in known | pending:
            report.notice(DATABASE, located.path, "not in force: this release does not know it")
        elif name in known and missing_variables(value, {}):
            text = "must not refer to a variable: it is the same on every instance"
            report.problem(DATABASE, located.path, text)
        else:
            members[name] = located
    return members


def _variables(members: Mapping[str, Located], report: Report) -> dict[str, str]:
    pending = {row.name: row for row in PENDING_VARIABLES}
    variables: dict[str, str] = {}
    for name, located in members.items():
        value = located.value
        if not isinstance(value, str) or "\0" in value:
            report.problem(DATABASE, located.path, "expected text")
            continue
        row = pending.get(name)
        if row is not None and value.strip().lower() not in row.harmless:
            text = f"not in force: {row.text}"
            report.notice(DATABASE, located.path, text, weakens=row.weakens)
        variables[name] = value
    return variables
