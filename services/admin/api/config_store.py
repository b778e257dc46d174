"""Changing stored settings: merged, checked as a whole, noted, and put in force.

All or nothing: what is stored together with the configuration file has to be a configuration that
every instance can take over, or nothing of a change is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web
from attrs import frozen

from services.admin.api.calls import AdminCall
from services.admin.api.config_secrets import audited, masked, masks, sealed
from shared.config.config_effects import Effect, effect_of
from shared.config.config_pending import PENDING_SECTIONS
from shared.config.config_schema import SECTIONS, names
from shared.config.gateway_config import GatewayConfig
from shared.config.reports import Notice, did_you_mean
from shared.config.stored import DATABASE
from shared.config.stored_settings import ENVIRONMENT_VARIABLES
from shared.db.audit import Action
from shared.db.config import read_section, write_section
from shared.db.models import load_stored, lock_models
from shared.db.rows import Connection
from shared.domain.errors import ConfigError, GatewayError, InvalidRequest
from shared.gateway.rules import limit_policy
from shared.routing.whole import WholeReport
from shared.secrets.members import unmasked

CONFIG_TABLE = "LiteLLM_Config"

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_MOST_BYTES = 1024 * 1024

Members = Mapping[str, Any]
# From the stored members of a section, secrets sealed, to those that shall be stored.
Edit = Callable[[Members], Members]


@frozen
class Changed:
    """What became of a change. `sections` are as answers may show them; `restart_required` are
    the settings that an instance takes over at its next start."""

    sections: Mapping[str, Members]
    notices: tuple[str, ...] = ()
    restart_required: tuple[str, ...] = ()

    def remarks(self) -> dict[str, Any]:
        """What every answer says of a change."""
        return {
            "notices": list(self.notices),
            "restart_required": list(self.restart_required),
        }


async def change_settings(
    call: AdminCall, edits: Mapping[str, Edit], reply: Callable[[Changed], dict[str, Any]]
) -> web.Response:
    """Changes sections in one transaction; the answer is what `reply` makes of it."""
    require_stored(call)

    async def work(connection: Connection) -> dict[str, Any]:
        return reply(await _changed(call, connection, edits))

    response = await call.write(work)
    await call.services.models.refresh()
    return response


def require_stored(call: AdminCall) -> None:
    """Raises where settings are not kept in the database (contract §1.2)."""
    if not call.services.models.stored:
        raise GatewayError(
            "Settings are not kept in the database here; set STORE_MODEL_IN_DB to true"
        )


def setting(members: Members) -> Edit:
    """Puts members over those of a section; null takes one away."""

    def edit(stored: Members) -> Members:
        after = {**stored}
        for name, value in members.items():
            if value is None:
                after.pop(name, None)
            else:
                after[name] = unmasked(value, stored.get(name))
        return after

    return edit


async def _changed(call: AdminCall, connection: Connection, edits: Mapping[str, Edit]) -> Changed:
    await lock_models(connection)
    before: dict[str, Members] = {}
    after: dict[str, Members] = {}
    for section, edit in edits.items():
        before[section] = await read_section(connection, section)
        after[section] = _stored_form(call, section, before[section], edit(before[section]))
        if after[section] != before[section]:
            await write_section(connection, section, after[section], call.caller.actor)
    touched = {
        (section, name)
        for section in edits
        for name in {*before[section], *after[section]}
        if before[section].get(name) != after[section].get(name)
    }
    notices = await _check(call, connection, touched)
    for section in edits:
        if before[section] != after[section]:
            await call.note(
                connection,
                Action.UPDATED,
                CONFIG_TABLE,
                section,
                before=audited(section, before[section]),
                after=audited(section, after[section], before[section]),
            )
    return Changed(
        {section: masked(section, members) for section, members in after.items()},
        tuple(map(str, notices)),
        tuple(
            sorted(
                f"{section}.{name}"
                for section, name in touched
                if effect_of(section, name) is Effect.AT_START
            )
        ),
    )


def _stored_form(
    call: AdminCall, section: str, before: Members, members: Members
) -> dict[str, Any]:
    """Members as they are to be stored; refuses what nobody may store."""
    for name, value in members.items():
        if name not in before or value != before[name]:
            _check_name(call.services.models.wholes.file, section, name, value)
    hidden = masks(members, section)
    if hidden:
        raise InvalidRequest(f"{hidden[0]} is a mask, and no secret is stored there", param=section)
    stored = sealed(section, members, call.services.models.sealer)
    if len(msgspec.json.encode(stored)) > _MOST_BYTES:
        raise InvalidRequest(f"{section} must not be larger than 1 MiB", param=section)
    return stored


def _check_name(file: GatewayConfig, section: str, name: str, value: Any) -> None:
    path = f"{section}.{name}"
    own = file.sections.get(section, {}).get(name)
    if own is not None and own.value is not None:
        raise InvalidRequest(
            f"{path} is set by {own.source} ({own.path}) and is changed there; the row "
            f"`{section}` of the database cannot set it too",
            param=path,
        )
    if effect_of(section, name) is Effect.NEVER:
        raise InvalidRequest(
            f"{path} is needed before the database can be read, or decides who may read it; set it "
            "in the environment or in the configuration file",
            param=path,
        )
    if section == ENVIRONMENT_VARIABLES:
        if not _VARIABLE.fullmatch(name):
            raise InvalidRequest(f"{path} cannot be the name of a variable", param=path)
        if isinstance(value, str) and "os.environ/" in value:
            raise InvalidRequest(f"{path} must be the value itself, no reference", param=path)
        return
    known = [*names(SECTIONS[section]), *(row.name for row in PENDING_SECTIONS[section])]
    if name not in known:
        hint = did_you_mean(name, known)
        raise InvalidRequest(f"{path}: no such name in `{section}`{hint}", param=path)


async def _check(
    call: AdminCall, connection: Connection, touched: set[tuple[str, str]]
) -> list[Notice]:
    """Raises unless what is stored now can be in force; gives what the readers noticed of the
    settings that are touched."""
    models = call.services.models
    report = WholeReport()
    try:
        stored = await load_stored(connection)
        whole = models.wholes.make(stored, report, models.live.whole if models.live else None)
    except ConfigError as error:
        raise GatewayError(str(error)) from None
    if report.found:
        first = report.found[0]
        path = first.path if first.source == DATABASE else None
        raise InvalidRequest(f"{first.path}: {first.text}", param=path)
    notices = [notice for notice in report.notices if _about(notice, touched)]
    for notice in notices:
        if notice.weakens:
            raise InvalidRequest(
                f"{notice.path}: {notice.text}, and without it more is let through than it says",
                param=notice.path,
            )
    try:
        limit_policy(whole.config)
        call.services.book.prepare(whole.config)
    except ConfigError as error:
        raise InvalidRequest(str(error)) from None
    return notices


def _about(notice: Notice, touched: set[tuple[str, str]]) -> bool:
    section, _, rest = notice.path.partition(".")
    return notice.source == DATABASE and any(
        section == each and (rest == name or rest.startswith((f"{name}.", f"{name}[")))
        for each, name in touched
    )
