"""`os.environ/NAME` anywhere in a text of the configuration file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attrs import define

from shared.config.config_source import Located
from shared.config.reports import Report, did_you_mean

_REFERENCE = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")
_LIKE_A_REFERENCE = re.compile(r"os\.environ[.\[(:]|os\.environ/(?![A-Za-z_])")


def missing_variables(value: Any, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The variables that a value refers to and that are not set."""
    if isinstance(value, str):
        return tuple(name for name in _REFERENCE.findall(value) if not environ.get(name))
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return tuple(dict.fromkeys(n for each in inner for n in missing_variables(each, environ)))


@define(slots=True)
class References:
    """Replaces references by the variables of one environment; missing ones are problems."""

    environ: Mapping[str, str]
    report: Report

    def resolve(self, located: Located, *, optional: bool = False) -> Located:
        """The value with every reference in it replaced.

        With `optional`, a value that is one reference to a variable that is not set becomes
        `None`.
        """
        value = located.value
        if isinstance(value, str):
            text = self._text(value, located, located.path, optional=optional)
            return located.replace(text, lax=text is not value)
        return located.replace(self._deep(value, located, located.path))

    def _deep(self, value: Any, located: Located, path: str) -> Any:
        if isinstance(value, str):
            return self._text(value, located, path)
        if isinstance(value, dict):
            return {
                name: self._deep(inner, located, f"{path}.{name}") for name, inner in value.items()
            }
        if isinstance(value, list):
            return [
                self._deep(inner, located, f"{path}[{index}]") for index, inner in enumerate(value)
            ]
        return value

    def _text(
        self, text: str, located: Located, path: str, *, optional: bool = False
    ) -> str | None:
        if "os.environ" not in text:
            return text
        if _LIKE_A_REFERENCE.search(text):
            self.report.problem(
                located.source_of(path), path, "is no reference; write `os.environ/NAME`"
            )
            return None
        whole = _REFERENCE.fullmatch(text)
        missing = [name for name in _REFERENCE.findall(text) if not self.environ.get(name)]
        if not missing:
            return _REFERENCE.sub(lambda match: self.environ[match[1]], text)
        if not (optional and whole):
            for name in missing:
                hint = did_you_mean(name, self.environ, cutoff=0.85)
                self.report.problem(
                    located.source_of(path),
                    path,
                    f"refers to the variable `{name}`, which is not set{hint}",
                )
        return None
