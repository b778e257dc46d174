"""Settings as forms show them: name, type, value, and where the value is from."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from attrs import frozen

from services.admin.api.config_secrets import of_file, shown
from shared.config.config_effects import Effect, effect_of
from shared.config.config_pending import PENDING_SECTIONS
from shared.config.config_schema import SECTIONS, SecretKind, Type, names
from shared.config.gateway_config import GatewayConfig
from shared.config.secret import MASK
from shared.config.startup import FILE_SETTINGS

_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "true/false": "Boolean",
        "whole number": "Integer",
        "HTTP status": "Integer",
        "number": "Float",
        "list of text": "List",
        "list of mappings": "List",
        "mapping": "Dictionary",
        "mapping of text": "Dictionary",
    }
)


@frozen
class Value:
    """A setting's value, secrets masked, and where it is from: `config` (the file), `db`, `env` or
    `unset`."""

    value: Any
    source: str

    @property
    def stored(self) -> bool | None:
        """`true` for the database, `false` for the file, `null` for neither."""
        return {"db": True, "config": False}.get(self.source)


def value_of(file: GatewayConfig, section: str, name: str, stored: Mapping[str, Any]) -> Value:
    """What a setting is. `stored` are the stored members of its section, secrets sealed."""
    located = file.sections.get(section, {}).get(name)
    if located is not None and located.value is not None:
        return Value(of_file(section, name, located), "config")
    if name in stored and effect_of(section, name) is not Effect.NEVER:
        return Value(shown(section, name, stored[name]), "db")
    variable = FILE_SETTINGS.get(f"{section}.{name}")
    if variable is not None and file.environment.get(variable):
        kind = next(key.type for key in SECTIONS[section] if key.name == name)
        secret = kind.wire is SecretKind
        return Value(MASK if secret else file.environment[variable], "env")
    return Value(None, "unset")


def editable(section: str, name: str, value: Value) -> bool:
    """Whether the management API can change it."""
    return value.source != "config" and effect_of(section, name) is not Effect.NEVER


def is_known(section: str, name: str) -> bool:
    """Whether a section has such a setting, in force or not."""
    pending = (row.name for row in PENDING_SECTIONS[section])
    return name in names(SECTIONS[section]) or name in pending


def type_name(kind: Type) -> str:
    """The type as forms name it."""
    return _TYPES.get(kind.label, "String")
