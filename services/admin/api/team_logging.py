"""Callbacks of a team, which stand in its metadata, and the secrets among their variables.

`metadata.logging` holds entries of `callback_name`, `callback_type` and `callback_vars`; an older
form, `metadata.callback_settings`, counts where there is no such list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from shared.secrets.sealing import Place, Sealer, is_sealed
from shared.telemetry.redact import MASK, is_secret

_SECRET_ENDS = ("service_account", "connection_string", "headers")
_TYPES = ("success", "failure")
_REFERENCE = "os.environ/"

Metadata: TypeAlias = Mapping[str, Any]
_Change: TypeAlias = Callable[[Metadata, Metadata], "dict[str, Any]"]


def masked(metadata: Metadata) -> dict[str, Any]:
    """Metadata as it may be shown."""
    return _mapped(metadata, lambda _, variables: _masked(variables))


def sealed(metadata: Metadata, team_id: str, sealer: Callable[[], Sealer]) -> dict[str, Any]:
    """Metadata as it is stored: secrets as envelopes. `sealer` is asked for only if there is one,
    and raises what it raises."""

    def seal(entry: Metadata, variables: Metadata) -> dict[str, Any]:
        return {
            name: sealer().seal(value, Place("team", team_id, _path(entry, name)))
            if isinstance(value, str) and _is_credential(name) and not _is_kept(value)
            else value
            for name, value in variables.items()
        }

    return _mapped(metadata, seal)


def unmasked(sent: Metadata, stored: Metadata) -> dict[str, Any]:
    """Metadata that a client sends back: what it was shown masked is what is stored."""
    known = {_name(entry): _variables(entry) for entry in _entries(stored)}

    def restore(entry: Metadata, variables: Metadata) -> dict[str, Any]:
        before = known.get(_name(entry), {})
        return {
            name: before.get(name, value) if value == MASK else value
            for name, value in variables.items()
        }

    return _mapped(sent, restore)


def in_effect(metadata: Metadata) -> dict[str, Any]:
    """The callbacks that count, by event, and their variables without secrets."""
    entries = metadata.get("logging")
    if not isinstance(entries, list):
        old = metadata.get("callback_settings")
        old = old if isinstance(old, dict) else {}
        return {
            "success_callbacks": old.get("success_callback") or [],
            "failure_callbacks": old.get("failure_callback") or [],
            "callback_vars": _masked(_variables(old)),
        }
    names: dict[str, list[str]] = {kind: [] for kind in _TYPES}
    variables: dict[str, Any] = {}
    for entry in entries:
        if isinstance(entry, dict):
            for kind in _TYPES:
                if kind in _kinds(entry) and entry.get("callback_name") not in names[kind]:
                    names[kind].append(str(entry.get("callback_name")))
            variables |= _masked(_variables(entry))
    return {
        "success_callbacks": names["success"],
        "failure_callbacks": names["failure"],
        "callback_vars": variables,
    }


def _kinds(entry: Metadata) -> tuple[str, ...]:
    kind = entry.get("callback_type")
    return (kind,) if kind in _TYPES else _TYPES


def _entries(metadata: Metadata) -> list[Metadata]:
    """Every place of variables; the older form is an entry without a name."""
    listed, old = metadata.get("logging"), metadata.get("callback_settings")
    entries = [*(listed if isinstance(listed, list) else ()), old]
    return [entry for entry in entries if isinstance(entry, dict)]


def _mapped(metadata: Metadata, change: _Change) -> dict[str, Any]:
    shown = dict(metadata)
    listed, old = shown.get("logging"), shown.get("callback_settings")
    if isinstance(listed, list):
        shown["logging"] = [_changed(entry, change) for entry in listed]
    if isinstance(old, dict):
        shown["callback_settings"] = _changed(old, change)
    return shown


def _changed(entry: Any, change: _Change) -> Any:
    if not isinstance(entry, dict) or not isinstance(entry.get("callback_vars"), dict):
        return entry
    return {**entry, "callback_vars": change(entry, entry["callback_vars"])}


def _name(entry: Metadata) -> tuple[str, str]:
    return str(entry.get("callback_name")), str(entry.get("callback_type"))


def _variables(entry: Metadata) -> dict[str, Any]:
    variables = entry.get("callback_vars")
    return variables if isinstance(variables, dict) else {}


def _masked(variables: Metadata) -> dict[str, Any]:
    return {
        name: MASK if value is not None and _is_hidden(name, value) else value
        for name, value in variables.items()
    }


def _path(entry: Metadata, variable: str) -> str:
    return ".".join(("metadata.callback_vars", *_name(entry), variable))


def _is_hidden(name: str, value: Any) -> bool:
    return _is_credential(name) or (isinstance(value, str) and is_sealed(value))


def _is_kept(value: str) -> bool:
    """Whether a value is no secret to be sealed: one that is already, or the name of a variable."""
    return is_sealed(value) or value.startswith(_REFERENCE)


def _is_credential(name: str) -> bool:
    return is_secret(name) or name.lower().endswith(_SECRET_ENDS)
