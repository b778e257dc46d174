"""Reading a row of the source: clean values, and notes on what had to be changed.

What limits its holder is never lost silently: a limit that cannot be read, or a list that would
become empty and so allow everything, refuses the row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

from attrs import define, field

from services.admin.api import values
from services.admin.api.values import MAX_COUNT, MAX_MONEY, Loc, Wrong
from shared.db.import_spend import Amount
from shared.domain.errors import InvalidRequest
from shared.limits.windows import parse_budget_duration, parse_duration

_PLACES = Decimal("1e-10")
_TEXT: Loc = ("row",)
_NEVER = ("infinity", None)


class Refused(Exception):
    """A row that is not taken over because something in it is wrong."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(what)
        self.name = name
        self.what = what


class LeftOut(Exception):
    """A row that is not meant to be taken over, but for what was spent."""

    def __init__(self, why: str, amounts: tuple[Amount, ...] = ()) -> None:
        super().__init__(why)
        self.why = why
        self.amounts = amounts


@define
class Fields:
    """One row. `notes` are pairs of a field and what became of it."""

    row: Mapping[str, Any]
    notes: list[tuple[str, str]] = field(factory=list)

    def note(self, name: str, what: str) -> None:
        """Something that is not as it is in the source."""
        self.notes.append((name, what))

    def id(self, name: str) -> str:
        """A text that must be there."""
        found = self.row.get(name)
        if found is None or found == "":
            raise Refused(name, "is empty")
        return self._text(name, found)

    def link(self, name: str) -> str | None:
        """The id of another object, if any."""
        found = self.row.get(name)
        return None if found is None or found == "" else self._text(name, found)

    def words(self, name: str) -> str | None:
        """Text for people; one that cannot be stored is left out."""
        found = self.row.get(name)
        try:
            return None if found is None else values.text(found, _TEXT)
        except (Wrong, InvalidRequest):
            self.note(name, "cannot be stored (too long, or no text): left empty")
            return None

    def flag(self, name: str, absent: bool | None = False) -> bool | None:
        """A boolean."""
        found = self.row.get(name)
        if found is None:
            return absent
        try:
            return values.flag(found, _TEXT)
        except Wrong:
            raise Refused(name, "is no boolean") from None

    def money(self, name: str) -> Decimal | None:
        """A budget in USD."""
        amount = self._number(name)
        if amount is None:
            return None
        if not amount.is_finite():
            self.note(name, "is no finite number and so limits nothing: left empty")
            return None
        if amount < 0:
            self.note(name, "is negative: 0, which lets nothing through either")
            return Decimal(0)
        if amount > MAX_MONEY:
            self.note(name, f"is above {MAX_MONEY}: that much")
            return MAX_MONEY
        return amount.quantize(_PLACES, ROUND_HALF_UP)

    def spend(self, name: str) -> Decimal:
        """An amount that was spent (USD); what is no amount counts as 0."""
        amount = self._number(name)
        if amount is None:
            return Decimal(0)
        if not amount.is_finite() or amount < 0:
            self.note(name, "is no amount: counts as 0")
            return Decimal(0)
        return amount.quantize(_PLACES, ROUND_HALF_UP)

    def count(self, name: str, most: int = MAX_COUNT) -> int | None:
        """A limit on a number of things."""
        number = self._number(name)
        if number is None:
            return None
        if not number.is_finite():
            self.note(name, "is no finite number and so limits nothing: left empty")
            return None
        if number < 0:
            self.note(name, "is negative: 0, which lets nothing through either")
            return 0
        if number > most:
            self.note(name, f"is above {most}: that much")
            return most
        return int(number)

    def tally(self, name: str) -> int:
        """A number of things that were counted."""
        number = self._number(name)
        if number is None or not number.is_finite() or number < 0:
            return 0
        return min(int(number), MAX_COUNT)

    def texts(self, name: str, *, guards: bool = True) -> list[str]:
        """A list of texts. One that `guards` something may be empty only where it was."""
        found = self._decoded(name)
        if found is None or found == {}:
            return []
        if not isinstance(found, list):
            if guards:
                raise Refused(name, "is no list")
            self.note(name, "is no list: left empty")
            return []
        kept = [item for item in found if _is_text(item)]
        if len(kept) < len(found):
            if guards and not kept:
                raise Refused(name, "holds nothing that can be stored; empty it would allow all")
            self.note(name, "holds what is no text (null, for one): left out of the list")
        return kept

    def document(self, name: str, *, limits: bool = False) -> dict[str, Any]:
        """A JSON object. One that `limits` something must be readable."""
        found = self._decoded(name)
        if found is None or found == []:
            return {}
        try:
            return values.document(found, _TEXT)
        except (Wrong, InvalidRequest):
            if limits:
                raise Refused(name, "is no JSON object that can be stored") from None
            self.note(name, "is no JSON object that can be stored: left empty")
            return {}

    def entries(self, name: str, read: Callable[[Any, Loc], Any]) -> dict[str, Any]:
        """A JSON object whose values limit something, each of the form that the API takes."""
        found = self.document(name, limits=True)
        try:
            return {each: read(value, (name, each)) for each, value in found.items()}
        except (Wrong, InvalidRequest):
            raise Refused(name, "holds an entry that cannot be read") from None

    def listing(self, name: str, read: Callable[[Any, Loc], Any]) -> list[Any] | None:
        """A JSON list whose entries limit something, likewise; empty is none."""
        found = self._decoded(name)
        if found is None or found in ([], {}):
            return None
        if not isinstance(found, list):
            raise Refused(name, "is no list")
        try:
            return [read(value, (name, place)) for place, value in enumerate(found)]
        except (Wrong, InvalidRequest):
            raise Refused(name, "holds an entry that cannot be read") from None

    def objects(self, name: str) -> list[dict[str, Any]]:
        """A JSON list of objects; what is none is left out."""
        found = self._decoded(name)
        if found is None or found == {}:
            return []
        listed = found if isinstance(found, list) else [found]
        kept = [item for item in listed if isinstance(item, dict)]
        if len(kept) < len(listed):
            self.note(name, "holds what is no object: left out")
        return kept

    def names(self, name: str) -> dict[str, str]:
        """A JSON object of texts, such as aliases of models."""
        found = self.document(name)
        kept = {key: value for key, value in found.items() if isinstance(value, str)}
        if len(kept) < len(found):
            self.note(name, "holds what is no text: left out")
        return kept

    def moment(self, name: str) -> datetime | None:
        """A time; the source's are UTC."""
        found = self.row.get(name)
        if found in _NEVER:
            return None
        try:
            return values.instant(found, _TEXT)
        except Wrong:
            raise Refused(name, "is no time that can be stored") from None

    def at(self, name: str, absent: datetime) -> datetime:
        """When something was noted down; of one that cannot be read, another time."""
        try:
            return self.moment(name) or absent
        except Refused:
            return absent

    def duration(self, name: str) -> str | None:
        """A budget's period."""
        found = self.row.get(name)
        if found is None or found == "":
            return None
        try:
            parse_budget_duration(found)
        except (InvalidRequest, TypeError):
            self.note(name, "is no period of a budget: left empty, so the budget is for good")
            return None
        return str(found)

    def interval(self, name: str) -> str | None:
        """A length of time."""
        found = self.row.get(name)
        if found is None or found == "":
            return None
        try:
            parse_duration(found)
        except (InvalidRequest, TypeError):
            self.note(name, "is no length of time: left empty")
            return None
        return str(found)

    def _text(self, name: str, found: Any) -> str:
        try:
            return values.text(found, _TEXT)
        except (Wrong, InvalidRequest):
            raise Refused(name, "cannot be stored (too long, or no text)") from None

    def _number(self, name: str) -> Decimal | None:
        found = self.row.get(name)
        if found is None:
            return None
        try:
            if isinstance(found, bool):
                raise InvalidOperation
            return Decimal(str(found))
        except InvalidOperation:
            raise Refused(name, "is no number") from None

    def _decoded(self, name: str) -> Any:
        """A JSON value; some releases store it as a text that holds it."""
        found = self.row.get(name)
        if not isinstance(found, str):
            return found
        try:
            return json.loads(found) if found else None
        except (ValueError, RecursionError):
            return found


def decode(text: str) -> dict[str, Any]:
    """A row of the source. Raises `Refused`."""
    try:
        row: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError):
        raise Refused("row", "holds JSON that cannot be read") from None
    return row


def after(instant: datetime, now: datetime) -> bool:
    """Whether an instant is still to come."""
    return instant.astimezone(UTC) > now


def _is_text(item: Any) -> bool:
    try:
        return bool(values.text(item, _TEXT)) or item == ""
    except (Wrong, InvalidRequest):
        return False
