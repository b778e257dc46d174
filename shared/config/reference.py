"""The tables of `docs/configuration.md`, made from the tables that the code reads.

`python -P -m shared.config.reference docs/configuration.md` writes them anew between their marks.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from shared.config.config_effects import Effect, effect_of
from shared.config.config_pending import (
    PENDING_GENERAL,
    PENDING_LITELLM,
    PENDING_MODEL_INFO,
    PENDING_PARAMS,
    PENDING_ROUTER,
    PENDING_TOP_LEVEL,
    Pending,
)
from shared.config.config_schema import (
    CREDENTIAL,
    GENERAL_SETTINGS,
    LITELLM_PARAMS,
    LITELLM_SETTINGS,
    MODEL_ENTRY,
    MODEL_INFO,
    ROUTER_SETTINGS,
    SECTIONS,
    TOP_LEVEL,
    Key,
)
from shared.config.jwt_schema import JWT_AUTH, PENDING_JWT
from shared.config.variables import VARIABLES
from shared.config.variables_pending import PENDING_VARIABLES

_BLOCK = re.compile(r"<!-- table: (?P<name>[a-z-]+) -->\n.*?<!-- end of table -->", re.DOTALL)


def fill_tables(text: str) -> str:
    """A page with every marked table made anew; `KeyError` for a mark of no table."""

    def table(match: re.Match[str]) -> str:
        rows = "\n".join(_TABLES[match["name"]]())
        return f"<!-- table: {match['name']} -->\n{rows}\n<!-- end of table -->"

    return _BLOCK.sub(table, text)


def table_names() -> tuple[str, ...]:
    """The tables that a complete page has."""
    return tuple(_TABLES)


def _variables() -> Iterable[str]:
    yield from _head("Variable", "Type", "Default", "Meaning")
    for row in VARIABLES:
        default = row.shown_default or _shown(row.default)
        help_ = (
            f"{row.help} Not in force in this release: {row.pending}." if row.pending else row.help
        )
        yield _row(f"`{row.name}`", row.kind.label, _with_unit(default, row.unit), help_)


def _pending_variables() -> Iterable[str]:
    yield from _head("Variable", "What holds instead")
    for row in PENDING_VARIABLES:
        yield _row(f"`{row.name}`", f"{row.text[0].upper()}{row.text[1:]}.")


def _keys(keys: tuple[Key, ...]) -> Callable[[], Iterable[str]]:
    def rows() -> Iterable[str]:
        yield from _head("Name", "Type", "Default", "Meaning")
        for key in keys:
            label = f"{key.type.label}, {key.unit}" if key.unit else key.type.label
            yield _row(f"`{key.name}`", label, key.default, key.help)

    return rows


def _pending(rows: tuple[Pending, ...]) -> Callable[[], Iterable[str]]:
    def lines() -> Iterable[str]:
        yield from _head("Name", "Would", "Restricts")
        for row in rows:
            yield _row(f"`{row.name}`", row.effect, "yes" if row.weakens else "")

    return lines


def _effects() -> Iterable[str]:
    yield from _head("Setting", "What the database says of it is in force")
    for section, keys in SECTIONS.items():
        for key in keys:
            effect = effect_of(section, key.name)
            if effect is not Effect.AT_ONCE:
                yield _row(f"`{section}.{key.name}`", effect.value)


def _head(*cells: str) -> Iterable[str]:
    yield _row(*cells)
    yield _row(*("---" for _ in cells))


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _shown(value: object) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _with_unit(text: str, unit: str) -> str:
    return f"{text} {unit}" if text and unit and text[0].isdigit() else text


_TABLES: Mapping[str, Callable[[], Iterable[str]]] = {
    "variables": _variables,
    "variables-not-in-force": _pending_variables,
    "top-level": _keys(TOP_LEVEL),
    "top-level-not-in-force": _pending(PENDING_TOP_LEVEL),
    "model-entry": _keys(MODEL_ENTRY),
    "litellm-params": _keys(LITELLM_PARAMS),
    "litellm-params-not-in-force": _pending(PENDING_PARAMS),
    "model-info": _keys(MODEL_INFO),
    "model-info-not-in-force": _pending(PENDING_MODEL_INFO),
    "credential": _keys(CREDENTIAL),
    "general-settings": _keys(GENERAL_SETTINGS),
    "general-settings-not-in-force": _pending(PENDING_GENERAL),
    "jwt-auth": _keys(JWT_AUTH),
    "jwt-auth-not-in-force": _pending(PENDING_JWT),
    "litellm-settings": _keys(LITELLM_SETTINGS),
    "litellm-settings-not-in-force": _pending(PENDING_LITELLM),
    "router-settings": _keys(ROUTER_SETTINGS),
    "router-settings-not-in-force": _pending(PENDING_ROUTER),
    "stored-settings": _effects,
}


def main() -> None:
    """Write the tables of the pages named on the command line."""
    for name in sys.argv[1:]:
        page = Path(name)
        page.write_text(fill_tables(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
