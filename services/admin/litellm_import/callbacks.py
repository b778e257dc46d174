"""Secrets of logging callbacks, which stand in the metadata of teams and keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from services.admin.litellm_import.ciphers import Opener, Undecipherable
from services.admin.litellm_import.cleaning import Fields


def open_callbacks(
    metadata: Mapping[str, Any], opener: Opener, fields: Fields
) -> tuple[dict[str, Any], bool]:
    """Metadata with the variables of its callbacks opened, and whether any was encrypted. Those
    that do not open are left out."""
    found: list[str] = []

    def opened(variables: Mapping[str, Any]) -> dict[str, Any]:
        kept = {}
        for name, value in variables.items():
            try:
                encrypted = isinstance(value, str) and opener.opens(value)
            except Undecipherable:
                fields.note("metadata.callback_vars", "do not open with this salt key: left out")
                continue
            if encrypted:
                found.append(name)
            kept[name] = opener.open(value) if encrypted else value
        return kept

    return _mapped(metadata, opened), bool(found)


def without_callbacks(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata with callbacks that have no variables."""
    return _mapped(metadata, lambda _: {})


def _mapped(
    metadata: Mapping[str, Any], change: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    shown = dict(metadata)
    if isinstance(shown.get("logging"), list):
        shown["logging"] = [_entry(each, change) for each in shown["logging"]]
    if "callback_settings" in shown:
        shown["callback_settings"] = _entry(shown["callback_settings"], change)
    return shown


def _entry(entry: Any, change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Any:
    if not isinstance(entry, dict) or not isinstance(entry.get("callback_vars"), dict):
        return entry
    return {**entry, "callback_vars": change(entry["callback_vars"])}
