"""The settings that a LiteLLM proxy keeps in its database.

What is stored has to be a configuration that every instance can take over: a setting that could not
be is left out, and named.
"""

from __future__ import annotations

from typing import Any

import msgspec
from attrs import evolve

from services.admin.api.config_secrets import sealed
from services.admin.litellm_import.ciphers import Undecipherable
from services.admin.litellm_import.cleaning import Fields, LeftOut, Refused
from services.admin.litellm_import.kinds import Circumstances, Item, Kind, Taken
from services.admin.litellm_import.models import new_problems, said
from shared.config.config_effects import Effect, effect_of
from shared.config.config_pending import PENDING_SECTIONS
from shared.config.config_schema import SECTIONS, names
from shared.config.reports import Report
from shared.config.stored_settings import ENVIRONMENT_VARIABLES, STORED_SECTIONS, overlaid
from shared.db.imports import ImportTable
from shared.db.litellm_source import SourceTable
from shared.db.models import load_stored, lock_models
from shared.db.rows import Connection


def _section(fields: Fields, at: Circumstances) -> Taken:
    section = fields.id("param_name")
    if section not in STORED_SECTIONS:
        raise LeftOut("state of the other gateway, or a section that there is not here")
    members = fields.document("param_value", limits=True)
    try:
        opened = at.opener.members(members)
    except Undecipherable as error:
        raise Refused(str(error), "does not open with this salt key") from None
    kept = {}
    for name, value in opened.items():
        why = None if value is None else _obstacle(section, name, value, at)
        if why is not None:
            fields.note(name, f"{why}: left out")
        elif value is not None:
            kept[name] = value
    return Taken(
        {
            "param_name": section,
            "value": sealed(section, kept, at.sealer),
            "updated_at": at.now,
            "updated_by": "meridian import",
        }
    )


def _obstacle(section: str, name: str, value: Any, at: Circumstances) -> str | None:
    """Why a setting cannot be stored, if it cannot."""
    own = at.gateway.sections.get(section, {}).get(name)
    if own is not None and own.value is not None:
        return "is set by the configuration file"
    if effect_of(section, name) is Effect.NEVER:
        return "is set in the environment or in the configuration file"
    if section != ENVIRONMENT_VARIABLES:
        pending = {row.name for row in PENDING_SECTIONS[section]}
        if name not in pending | {*names(SECTIONS[section])}:
            return "is not known to this release"
    report = Report()
    overlaid(at.gateway, {section: {name: value}}, report)
    if report.problems:
        return "could not be in force"
    if any(notice.weakens for notice in report.notices):
        return "has no effect in this release, and without it more is let through"
    return None


async def _screen(
    connection: Connection, at: Circumstances, items: list[Item]
) -> dict[str, tuple[str, str]]:
    await lock_models(connection)
    stored = await load_stored(connection)
    wrong = {}
    for item in items:
        value = msgspec.json.encode(item.taken.columns["value"])
        together = evolve(stored, settings={**stored.settings, item.id: value})
        problems = new_problems(at, stored, together)
        if problems:
            wrong[item.id] = ("row", f"could not be in force: {said(problems[0])}")
        else:
            stored = together
    return wrong


SETTINGS = Kind(
    name="settings",
    kind="config",
    source=SourceTable("Config", ("param_name",), ("param_value",)),
    target=ImportTable(
        "config", ("param_name",), ("param_name", "value", "updated_at", "updated_by")
    ),
    read=_section,
    screen=_screen,
)
