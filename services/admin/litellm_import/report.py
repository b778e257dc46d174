"""What an import has found: counts and totals side by side, and all that differs, with the reason.

Values never stand in it, only ids, names of fields and numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from attrs import define, field, frozen

_EXAMPLES = 20


@frozen
class Line:
    """A count or a total (USD) of something. `left_out` is what is not meant to be here."""

    name: str
    source: Decimal
    left_out: Decimal
    here: Decimal

    @property
    def equal(self) -> bool:
        """Whether all is here that should be."""
        return self.source - self.left_out == self.here


@define
class Group:
    """The same remark on many objects; the first of them are named."""

    count: int = 0
    examples: list[str] = field(factory=list)

    def add(self, name: str | None, count: int = 1) -> None:
        """One more, or several that have no name."""
        self.count += count
        if name is not None and len(self.examples) < _EXAMPLES:
            self.examples.append(name)


@define
class Report:
    """Collected while importing. `wrong` are objects that are not here and should be, `changed`
    what is here in another form, `left_out` what is not meant to be here."""

    dry_run: bool = False
    lines: list[Line] = field(factory=list)
    wrong: dict[str, Group] = field(factory=dict)
    changed: dict[str, Group] = field(factory=dict)
    left_out: dict[str, Group] = field(factory=dict)
    remarks: list[str] = field(factory=list)
    added: int = 0
    updated: int = 0
    removed: int = 0
    windows: int = 0
    daily: int = 0

    @property
    def equal(self) -> bool:
        """Whether everything is here that should be."""
        return not self.wrong and all(line.equal for line in self.lines)

    @property
    def writes(self) -> int:
        """How many rows were written; 0 is a run that changed nothing."""
        return self.added + self.updated + self.removed + self.windows + self.daily

    def count(self, name: str, source: int, left_out: int, here: int) -> None:
        """A count of objects."""
        self.lines.append(Line(name, Decimal(source), Decimal(left_out), Decimal(here)))

    def total(self, name: str, source: Decimal, left_out: Decimal, here: Decimal) -> None:
        """A total of money (USD)."""
        self.lines.append(Line(name, source, left_out, here))

    def refuse(self, kind: str, label: str, name: str, what: str) -> None:
        """An object that is not taken over because something is wrong."""
        self.wrong.setdefault(f"{kind}: {name} {what}", Group()).add(f"{kind}[{label}].{name}")

    def change(self, kind: str, label: str, name: str, what: str) -> None:
        """A field that is not as it is in the source."""
        self.changed.setdefault(f"{kind}: {name} {what}", Group()).add(f"{kind}[{label}].{name}")

    def leave(self, kind: str, why: str, label: str | None = None, count: int = 1) -> None:
        """Objects that are not meant to be here."""
        name = None if label is None else f"{kind}[{label}]"
        self.left_out.setdefault(f"{kind}: {why}", Group()).add(name, count)

    def text(self) -> Iterator[str]:
        """For people."""
        yield "dry run: nothing was written" if self.dry_run else "imported"
        widths = [max((len(row[i]) for row in self._table()), default=0) for i in range(4)]
        for row in self._table():
            cells = [row[0].ljust(widths[0])]
            cells += [row[i].rjust(widths[i]) for i in range(1, 4)]
            yield "  ".join((*cells, row[4])).rstrip()
        for title, groups in (
            ("not taken over because something is wrong:", self.wrong),
            ("changed:", self.changed),
            ("left out on purpose:", self.left_out),
        ):
            if groups:
                yield title
            for what, group in groups.items():
                yield f"  {what} ({group.count})"
                yield from (f"    {_shown(name)}" for name in group.examples)
                if group.count > len(group.examples) > 0:
                    yield f"    and {group.count - len(group.examples)} more"
        yield from self.remarks
        done = f"{self.added} added, {self.updated} updated, {self.removed} removed, "
        done += f"{self.windows} amounts and {self.daily} daily figures changed"
        yield done if self.writes else "nothing to change"
        yield "everything is equal" if self.equal else "not everything is equal"

    def document(self) -> dict[str, Any]:
        """For programs; totals are exact, as text."""

        def groups(found: dict[str, Group]) -> list[dict[str, Any]]:
            return [
                {"what": what, "count": each.count, "examples": list(map(_shown, each.examples))}
                for what, each in found.items()
            ]

        return {
            "dry_run": self.dry_run,
            "equal": self.equal,
            "added": self.added,
            "updated": self.updated,
            "removed": self.removed,
            "amounts": self.windows,
            "daily_figures": self.daily,
            "lines": [
                {
                    "name": line.name,
                    "source": decimal(line.source),
                    "left_out": decimal(line.left_out),
                    "here": decimal(line.here),
                    "equal": line.equal,
                }
                for line in self.lines
            ],
            "wrong": groups(self.wrong),
            "changed": groups(self.changed),
            "left_out": groups(self.left_out),
            "remarks": list(self.remarks),
        }

    def _table(self) -> list[tuple[str, str, str, str, str]]:
        head = ("", "source", "left out", "here", "")
        return [
            head,
            *(
                (
                    line.name,
                    decimal(line.source),
                    decimal(line.left_out),
                    decimal(line.here),
                    "equal" if line.equal else "DIFFERS",
                )
                for line in self.lines
            ),
        ]


def decimal(value: Decimal) -> str:
    """A number with no more digits than it needs."""
    text = f"{value:f}"
    return (text.rstrip("0").rstrip(".") or "0") if "." in text else text


def _shown(name: str) -> str:
    """Names come from the source: what would move a terminal's cursor is spelt out."""
    plain = name if len(name) <= 200 else f"{name[:200]}…"
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in plain)
