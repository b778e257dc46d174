"""Where the sums of daily activity come from: which roll-up, and with which conditions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from attrs import frozen

KEYLESS = frozenset({"tag", "end_user"})
"""Kinds with about as many rows as calls: over all of such owners keys are not told apart."""

_MODEL = "(model = {} or model_group = {})"
_SEARCH = """{key} = any(array(
    select token from virtual_key
    where strpos(lower(key_alias), lower({})) > 0 or starts_with(token, {}) or team_id = {}
    union
    select token from deleted_virtual_key
    where strpos(lower(key_alias), lower({})) > 0 or starts_with(token, {}) or team_id = {}))
"""


@frozen(kw_only=True)
class ActivityFilter:
    """Whose calls from `first` to `last`, both included; `ids` of `None` means everybody.

    `keys` narrows it to calls with some keys, `model` to a model or a group of that name. Over
    all users without exception are all calls, also those of keys without a user.
    """

    kind: str
    first: date
    last: date
    ids: tuple[str, ...] | None = None
    excluded: tuple[str, ...] = ()
    keys: tuple[str, ...] | None = None
    model: str | None = None

    @property
    def all_calls(self) -> bool:
        """Whether the calls need not have an owner of the kind."""
        return self.kind == "user" and self.ids is None and not self.excluded

    @property
    def everybody(self) -> bool:
        """Whether the compact roll-ups have the sums."""
        return self.ids is None and not self.excluded and self.keys is None


class Source:
    """A table with conditions, put together from constants of this module; values are parameters.

    `owned` says whether `id` is an owner of the kind that was asked for, `key` which column has
    the key.
    """

    def __init__(
        self,
        table: str,
        kind: str,
        chosen: ActivityFilter,
        *,
        owned: bool = True,
        key: str = "key",
    ) -> None:
        self.args: list[Any] = []
        self.owned = owned
        self.key = key
        self._table = table
        self._parts: list[str] = []
        self.add("kind = {}", kind)
        self.add("day >= {}", chosen.first)
        self.add("day <= {}", chosen.last)

    @property
    def text(self) -> str:
        """Behind `from`."""
        return f"{self._table} where {' and '.join(self._parts)}"

    def add(self, condition: str, value: Any) -> None:
        """One more condition, unless its value is `None`; `{}` stands for the parameter."""
        if value is not None:
            self._parts.append(condition.replace("{}", self.next(value)))

    def next(self, value: Any) -> str:
        """One more parameter, by its number."""
        self.args.append(value)
        return f"${len(self.args)}"

    def search(self, text: str | None) -> None:
        """Narrows it to keys whose alias or team fits, or whose token begins so."""
        self.add(_SEARCH.replace("{key}", self.key), text)


def by_models(chosen: ActivityFilter) -> Source:
    """All calls by model."""
    kind = "key" if chosen.all_calls else chosen.kind
    source = Source("daily_model_spend", kind, chosen, owned=False)
    source.add(_MODEL, chosen.model)
    return source


def details(chosen: ActivityFilter) -> Source:
    """The calls that are meant, by key and model, and by owner where they have one."""
    if not chosen.all_calls:
        return _owned(chosen)
    source = Source("daily_spend", "key", chosen, owned=False)
    # A key's own rows are found by its token; they do not say which user it had.
    source.add("id = any({}::text[])", chosen.keys)
    source.add(_MODEL, chosen.model)
    return source


def _owned(chosen: ActivityFilter) -> Source:
    source = Source("daily_spend", chosen.kind, chosen)
    _name(source, chosen)
    source.add("key = any({}::text[])", chosen.keys)
    source.add(_MODEL, chosen.model)
    return source


def owners(chosen: ActivityFilter, days: Sequence[date] | None = None) -> Source:
    """The calls that are meant, by owner; on some days only, if there are any named, which finds
    few owners among many."""
    if chosen.model is not None or chosen.keys is not None:
        return _owned(chosen)
    source = Source("daily_owner_spend", chosen.kind, chosen)
    source.add("day = any({}::date[])", days)
    _name(source, chosen)
    return source


def ranked(chosen: ActivityFilter) -> Source:
    """The calls that are meant, by key."""
    if not chosen.all_calls or chosen.model is not None:
        return details(chosen)
    source = Source("daily_owner_spend", "key", chosen, owned=False, key="id")
    source.add("id = any({}::text[])", chosen.keys)
    return source


def _name(source: Source, chosen: ActivityFilter) -> None:
    source.add("id = any({}::text[])", chosen.ids)
    source.add("id <> all({}::text[])", chosen.excluded or None)
