"""Reading the configuration file: the reference proxy's `config.yaml` (LLM contract §4)."""

from __future__ import annotations

import zoneinfo
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from shared.config.config_check import Checker
from shared.config.config_models import ModelReader
from shared.config.config_pending import PENDING_SECTIONS, PENDING_TOP_LEVEL
from shared.config.config_references import References
from shared.config.config_schema import LIST_SECTIONS, SECTIONS, TOP_LEVEL, names
from shared.config.config_source import Located, Sections, read_sections
from shared.config.cost_settings import discounts, margins
from shared.config.gateway_config import (
    AliasTarget,
    GatewayConfig,
    GeneralSettings,
    LitellmSettings,
    ModelEntry,
    RouterSettings,
)
from shared.config.jwt_schema import JWT_AUTH, PENDING_JWT, JwtSettings
from shared.config.reports import ENVIRONMENT, Report, did_you_mean, nearest

OTHER_STRATEGIES = (
    "least-busy",
    "usage-based-routing",
    "usage-based-routing-v2",
    "latency-based-routing",
    "cost-based-routing",
    "provider-budget-routing",
)
_SIMPLE_SHUFFLE = "simple-shuffle"
_ENVIRONMENT_VARIABLES = "environment_variables"

Mappings = Mapping[str, Mapping[str, Located]]


def load(path: Path, environ: Mapping[str, str]) -> GatewayConfig:
    """Read, merge and check a configuration file and its includes.

    Raises one `ConfigError` that lists everything wrong, each with file, line, dotted path, what
    was expected and a suggestion. What is valid and not in force is in `notices`.
    """
    report = Report()
    sections = read_sections(path, report)
    _check_top_level(sections, report)
    environment = _environment(sections, environ, report)
    checker = Checker(report, References(environment, report))
    values = read_settings(sections.mappings, checker)
    reader = ModelReader(checker, environment.get("LITELLM_ENVIRONMENT") or None)
    models = _models(sections, reader)
    report.raise_problems()
    return GatewayConfig(
        source=str(path),
        models=models,
        credentials=MappingProxyType(reader.credentials),
        general=GeneralSettings(**values["general_settings"]),
        litellm=LitellmSettings(**values["litellm_settings"]),
        router=RouterSettings(**values["router_settings"]),
        environment=MappingProxyType(environment),
        sections=MappingProxyType(sections.mappings),
        notices=tuple(report.notices),
    )


def read_settings(mappings: Mappings, checker: Checker) -> dict[str, dict[str, Any]]:
    """The checked values of the settings, by section; what is wrong goes to the report."""
    values = {
        name: checker.section(
            mappings.get(name, {}), SECTIONS[name], PENDING_SECTIONS[name], f"`{name}`"
        )
        for name in SECTIONS
    }
    _router(values["router_settings"], mappings, checker.report)
    _general(values["general_settings"], mappings, checker)
    _litellm(values["litellm_settings"], mappings, checker.report)
    return values


def _check_top_level(sections: Sections, report: Report) -> None:
    pending = {row.name: row for row in PENDING_TOP_LEVEL}
    known = names(TOP_LEVEL)
    checker = Checker(report, References({}, report))
    for name, located in sections.places:
        wanted: type = list if name in LIST_SECTIONS else dict
        if row := pending.get(name):
            checker.pending(located, row)
        elif name not in known:
            hint = did_you_mean(name, [*known, *pending])
            report.problem(located.source, name, f"no such section{hint}")
        elif not isinstance(located.value, wanted):
            expected = "a list" if wanted is list else "a mapping"
            report.problem(located.source, name, f"expected {expected}")


def _environment(sections: Sections, environ: Mapping[str, str], report: Report) -> dict[str, str]:
    """The process environment with the file's variables over it, as the reference sets them."""
    environment = dict(environ)
    references = References(environ, report)
    for name, located in sections.mappings.get(_ENVIRONMENT_VARIABLES, {}).items():
        value = references.resolve(located).value
        if value is None:
            continue
        if isinstance(value, bool):
            value = str(value).lower()
        elif isinstance(value, (int, float)):
            value = str(value)
        if not isinstance(value, str) or "\0" in value:
            report.problem(located.source, located.path, "expected text or a number")
            continue
        if environ.get(name) and environ[name] != value:
            report.notice(
                ENVIRONMENT, name, f"not in force: {located.source} sets it to something else"
            )
        environment[name] = value
    return environment


def _models(sections: Sections, reader: ModelReader) -> tuple[ModelEntry, ...]:
    for located in sections.lists.get("credential_list", ()):
        reader.credential(located)
    entries = [reader.entry(located) for located in sections.lists.get("model_list", ())]
    return tuple(entry for entry in entries if entry is not None)


def _general(values: dict[str, Any], mappings: Mappings, checker: Checker) -> None:
    given = values.pop("litellm_jwtauth", None)
    if given is None:
        return
    located = mappings["general_settings"]["litellm_jwtauth"]
    members = {name: located.member(name, value) for name, value in given.items()}
    known = checker.section(members, JWT_AUTH, PENDING_JWT, "litellm_jwtauth")
    try:
        values["litellm_jwtauth"] = JwtSettings.of(known)
    except KeyError as missing:
        path = f"{located.path}.jwt_litellm_role_map"
        text = f"every entry needs {missing.args[0]}"
        checker.report.problem(located.source_of(path), path, text)


def _litellm(values: dict[str, Any], mappings: Mappings, report: Report) -> None:
    for name, read in (("cost_discount_config", discounts), ("cost_margin_config", margins)):
        if name in values:
            values[name] = read(mappings["litellm_settings"][name], values[name], report)
    zone = values.get("timezone")
    if zone is not None:
        try:
            zoneinfo.ZoneInfo(zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            located = mappings["litellm_settings"]["timezone"]
            hint = nearest(zone, zoneinfo.available_timezones())
            report.problem(
                located.source,
                located.path,
                "expected an IANA time zone such as `Europe/Oslo`"
                + (f"; did you mean `{hint}`?" if hint else ""),
            )
            del values["timezone"]


def _router(values: dict[str, Any], mappings: Mappings, report: Report) -> None:
    members = mappings.get("router_settings", {})
    strategy = values.get("routing_strategy", _SIMPLE_SHUFFLE)
    if strategy != _SIMPLE_SHUFFLE:
        located = members["routing_strategy"]
        if strategy in OTHER_STRATEGIES:
            report.notice(
                located.source,
                located.path,
                f"`{strategy}` is not in force in this release; `{_SIMPLE_SHUFFLE}` is used",
            )
        else:
            hint = did_you_mean(strategy, [_SIMPLE_SHUFFLE, *OTHER_STRATEGIES])
            report.problem(located.source, located.path, f"no such strategy{hint}")
        values["routing_strategy"] = _SIMPLE_SHUFFLE
    aliases: dict[str, AliasTarget] = {}
    for alias, target in values.get("model_group_alias", {}).items():
        located = members["model_group_alias"].member(alias, target)
        if isinstance(target, str):
            aliases[alias] = AliasTarget(model=target)
            continue
        try:
            aliases[alias] = msgspec.convert(target, AliasTarget)
        except msgspec.ValidationError:
            report.problem(
                located.source, located.path, "expected a group's name or `{model, hidden}`"
            )
    if "model_group_alias" in values:
        values["model_group_alias"] = aliases
