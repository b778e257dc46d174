"""What reading the configuration found: problems that refuse to start, and notices."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from attrs import define, field, frozen

from shared.domain.errors import ConfigError

ENVIRONMENT = "environment"


@frozen
class Notice:
    """A setting that is not in force, or not in the way that its author may expect.

    `source` is a file or `environment`, `path` a dotted path or a variable's name. `weakens`
    marks those whose absence lets through what the author meant to keep out.
    """

    source: str
    path: str
    text: str
    weakens: bool = False

    def __str__(self) -> str:
        return f"{self.source}: {self.path}: {self.text}"


@define(slots=True)
class Report:
    """Collects while reading, so that all problems are shown at once."""

    problems: list[str] = field(factory=list)
    notices: list[Notice] = field(factory=list)

    def problem(self, source: str, path: str, text: str) -> None:
        """Something that must be put right before the start."""
        line = f"{source}: {path}: {text}" if path else f"{source}: {text}"
        if line not in self.problems:
            self.problems.append(line)

    def notice(self, source: str, path: str, text: str, *, weakens: bool = False) -> None:
        """Something worth knowing that does not stop the start."""
        notice = Notice(source, path, text, weakens)
        if notice not in self.notices:
            self.notices.append(notice)

    def raise_problems(self) -> None:
        """Raise one `ConfigError` that lists every problem; nothing when there is none."""
        if not self.problems:
            return
        count = len(self.problems)
        heading = f"{count} problem{'s' if count > 1 else ''} in the configuration:"
        raise ConfigError("\n".join([heading, *(f"  {line}" for line in self.problems)]))


def nearest(name: str, known: Iterable[str], cutoff: float = 0.75) -> str | None:
    """The known name most like a mistyped one."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return matches[0] if matches else None


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """`; did you mean …?`, or nothing when no known name is near."""
    match = nearest(name, known, cutoff)
    return f"; did you mean `{match}`?" if match else ""
