"""The configuration routes of the management API (management contract §3.11)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from services.admin.api.body import Field, Place, read_fields
from services.admin.api.calls import AdminCall, AdminRoute, OpenCall, OpenRoute, Shape
from services.admin.api.config_fields import Value, editable, is_known, type_name, value_of
from services.admin.api.config_store import Changed, Edit, Members, change_settings, setting
from services.admin.api.parameters import text_parameters
from services.admin.api.refusals import Issue, Unprocessable
from services.admin.api.respond import answer
from services.admin.api.returns import LIST
from services.admin.api.values import Loc, choice, document, reader, text
from shared.config.config_pending import PENDING_GENERAL
from shared.config.config_schema import GENERAL_SETTINGS, SECTIONS, TOP_LEVEL
from shared.config.stored_settings import ENVIRONMENT_VARIABLES, STORED_SECTIONS
from shared.db.config import read_section
from shared.domain.errors import InvalidRequest

CONFIG_READS = frozenset({"admin_viewer_routes"})
NO_GROUP: frozenset[str] = frozenset()

_GENERAL = "general_settings"
_CALLBACKS = "success_callback"


@reader()
def _anything(value: Any, loc: Loc) -> Any:
    """Any value that can be stored."""
    return document({"value": value}, loc)["value"]


_UPDATE = tuple(Field(section, document, Place.CONTROL) for section in STORED_SECTIONS)
_FIELD_NAME = Field("field_name", text, Place.CONTROL, required=True)
_CONFIG_TYPE = Field("config_type", choice(_GENERAL), Place.CONTROL, required=True)
_FIELD_UPDATE = (_FIELD_NAME, Field("field_value", _anything, Place.CONTROL), _CONFIG_TYPE)
_FIELD_DELETE = (_FIELD_NAME, _CONFIG_TYPE)


async def update(call: AdminCall) -> web.Response:
    """POST /config/update: changes settings that the database holds."""
    body = await call.body()
    strangers = sorted(set(body) - set(STORED_SECTIONS))
    if strangers:
        raise InvalidRequest(
            f"{strangers[0]}: no such section; there are {', '.join(STORED_SECTIONS)}",
            param=strangers[0],
        )
    sections = {name: each for name, each in read_fields(body, _UPDATE).items() if each}
    edits = {section: _edit(section, members) for section, members in sections.items()}

    def reply(changed: Changed) -> dict[str, Any]:
        return {"message": "The settings were changed", **changed.remarks()}

    return await change_settings(call, edits, reply)


async def list_fields(call: AdminCall) -> web.Response:
    """GET /config/list: every general setting, its value and where that stands."""
    call.query.choice("config_type", (_GENERAL,))
    file, stored = call.services.models.wholes.file, await stored_section(call, _GENERAL)
    fields = []
    for key in GENERAL_SETTINGS:
        value = value_of(file, _GENERAL, key.name, stored)
        default = key.default or None
        fields.append(_field(key.name, type_name(key.type), key.help, default, value))
    for row in PENDING_GENERAL:
        value = value_of(file, _GENERAL, row.name, stored)
        if value.source != "unset":
            effect = f"Not in force in this release; it would {row.effect}."
            fields.append(_field(row.name, _type_of(value.value), effect, None, value))
    return answer(fields)


async def field_info(call: AdminCall) -> web.Response:
    """GET /config/field/info: a general setting."""
    name = call.query.text("field_name")
    if name is None:
        raise Unprocessable([Issue("missing", ("query", "field_name"), "Field required")])
    _known(name)
    file, stored = call.services.models.wholes.file, await stored_section(call, _GENERAL)
    value = value_of(file, _GENERAL, name, stored)
    if value.source == "unset":
        raise InvalidRequest(f"{name} is not set", param="field_name")
    return answer(
        {
            "field_name": name,
            "field_value": value.value,
            "source": value.source,
            "editable": editable(_GENERAL, name, value),
        }
    )


async def field_update(call: AdminCall) -> web.Response:
    """POST /config/field/update: sets a general setting."""
    fields = read_fields(await call.body(), _FIELD_UPDATE)
    name = _known(fields["field_name"])
    if fields.get("field_value") is None:
        raise InvalidRequest("field_value is needed", param="field_value")
    return await change_settings(call, {_GENERAL: setting({name: fields["field_value"]})}, _row)


async def field_delete(call: AdminCall) -> web.Response:
    """POST /config/field/delete: takes a general setting out of the database."""
    name = _known(read_fields(await call.body(), _FIELD_DELETE)["field_name"])

    def edit(stored: Members) -> Members:
        if name not in stored:
            raise InvalidRequest(f"{name} is not set in the database", param="field_name")
        return {each: value for each, value in stored.items() if each != name}

    return await change_settings(call, {_GENERAL: edit}, _row)


async def describe(call: OpenCall) -> web.Response:
    """GET /config/yaml: every setting that there is and what it does."""
    del call
    body: dict[str, Any] = {key.name: key.help for key in TOP_LEVEL}
    for section, keys in SECTIONS.items():
        body[section] = {key.name: key.help for key in keys}
    return answer(body)


async def stored_section(call: AdminCall, section: str) -> dict[str, Any]:
    """The stored members of a section, secrets sealed."""
    async with call.services.store.connection() as connection:
        return await read_section(connection, section)


CONFIG_ROUTES = (
    AdminRoute("POST", "/config/update", update, groups=NO_GROUP, body=_UPDATE),
    AdminRoute(
        "GET",
        "/config/list",
        list_fields,
        groups=CONFIG_READS,
        errors=Shape.DETAIL,
        query=text_parameters("config_type"),
        returns=LIST,
    ),
    AdminRoute(
        "GET",
        "/config/field/info",
        field_info,
        groups=CONFIG_READS,
        errors=Shape.DETAIL,
        query=text_parameters("field_name", required=True),
    ),
    AdminRoute(
        "POST",
        "/config/field/update",
        field_update,
        groups=NO_GROUP,
        errors=Shape.DETAIL,
        body=_FIELD_UPDATE,
    ),
    AdminRoute(
        "POST",
        "/config/field/delete",
        field_delete,
        groups=NO_GROUP,
        errors=Shape.DETAIL,
        body=_FIELD_DELETE,
    ),
)
CONFIG_OPEN_ROUTES = (OpenRoute("GET", "/config/yaml", describe),)


def _edit(section: str, members: Mapping[str, Any]) -> Edit:
    """Members over those stored; callbacks are added to those that there are."""
    if section == ENVIRONMENT_VARIABLES:
        return setting({name: _as_text(value) for name, value in members.items()})
    if section != "litellm_settings" or members.get(_CALLBACKS) is None:
        return setting(members)
    added = _callbacks(members[_CALLBACKS])

    def edit(stored: Members) -> Members:
        before = stored.get(_CALLBACKS) or []
        union = [*dict.fromkeys([*before, *added])]
        return setting({**members, _CALLBACKS: union})(stored)

    return edit


def _callbacks(value: Any) -> list[str]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(each, str) and each for each in given):
        path = f"litellm_settings.{_CALLBACKS}"
        raise InvalidRequest(f"{path}: expected a list of texts", param=path)
    return [each.lower() for each in given]


def _as_text(value: Any) -> Any:
    """A variable's value, which is text."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def _known(name: str) -> str:
    if not is_known(_GENERAL, name):
        raise InvalidRequest(f"{name}: no such name in `{_GENERAL}`", param="field_name")
    return name


def _field(
    name: str, kind: str, description: str, default: str | None, value: Value
) -> dict[str, Any]:
    return {
        "field_name": name,
        "field_type": kind,
        "field_description": description,
        "field_value": value.value,
        "stored_in_db": value.stored,
        "field_default_value": default,
        "premium_field": False,
        "nested_fields": None,
        "field_options": None,
        "field_tab": None,
        "source": "default" if value.source == "unset" else value.source,
        "editable": editable(_GENERAL, name, value),
    }


def _type_of(value: Any) -> str:
    kinds = {bool: "Boolean", int: "Integer", float: "Float", list: "List", dict: "Dictionary"}
    return kinds.get(type(value), "String")


def _row(changed: Changed) -> dict[str, Any]:
    ((section, members),) = changed.sections.items()
    return {"param_name": section, "param_value": members, **changed.remarks()}
