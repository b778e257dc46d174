"""What a command over the API is: one row of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, TypeAlias

from attrs import field, frozen

from services.cli.kinds import TEXT, Kind

Given: TypeAlias = Mapping[str, Any]
Shape: TypeAlias = Callable[[Any, Given], Any]

_NONE: Mapping[str, Any] = MappingProxyType({})


def _unchanging(members: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(members))


class Place(Enum):
    """Where a value goes."""

    BODY = "body"
    QUERY = "query"
    PATH = "path"


@frozen
class Option:
    """A flag such as `--max-budget`, or a positional word such as `KEY`.

    `field` is a member of the body, with dots for members of members, a parameter of the query or
    a part of the path. `default` is read as if it had been written.
    """

    name: str
    field: str
    help: str
    kind: Kind = TEXT
    place: Place = Place.BODY
    required: bool = False
    # A positional word that may be repeated.
    several: bool = False
    choices: tuple[str, ...] = ()
    default: str | None = None
    # A flag without a value, and what it says.
    says: Any = None

    @property
    def positional(self) -> bool:
        """Whether it is a word, not a flag."""
        return not self.name.startswith("-")

    @property
    def slot(self) -> str:
        """Its name among what was given."""
        return f"{self.place.value}:{self.field}"


@frozen
class Pages:
    """How a list is asked for page by page. `items` is the member that holds a page's rows, none
    where the answer is the list itself. `always` follows all pages without being asked to."""

    items: str | None
    size: str = "page_size"
    largest: int = 100
    always: bool = False


@frozen
class View:
    """How an answer is shown: a table if there are columns, else the members one below the other.

    `shape` makes rows, or a mapping, of the answer. A column is a path, or `heading:path`.
    `label` says what a plain number in an answer counts.
    """

    columns: tuple[str, ...] = ()
    shape: Shape | None = None
    label: str = "done"

    def shaped(self, body: Any, given: Given) -> Any:
        """What of the answer is shown."""
        return body if self.shape is None else self.shape(body, given)


@frozen(kw_only=True)
class Command:
    """One command: `meridian` and its words. `fixed` are members that its body always has; `sound`
    judges the answer of a check."""

    words: tuple[str, ...]
    help: str
    method: str
    path: str
    options: tuple[Option, ...] = ()
    fixed: Mapping[str, Any] = field(default=_NONE, converter=_unchanging)
    view: View = View()
    pages: Pages | None = None
    also: tuple[str, ...] = ()
    fields: bool = False
    sound: Callable[[Any], bool] | None = None

    @property
    def writes(self) -> bool:
        """Whether it changes something, so that one can wait for it to be in force."""
        return self.method != "GET" and not self.path.startswith("/spend/")


@frozen(kw_only=True)
class BulkImport:
    """A command that makes an object of each line of a file.

    `known_by` are the fields of which each line needs one, so that what a broken run has made is
    found again: a line counts as there already if `lookup` lists an object with the same value.
    """

    words: tuple[str, ...]
    help: str
    create: Command
    known_by: tuple[str, ...]
    lookup: Callable[[str, str], tuple[str, dict[str, str]]]
    found: str
    # What of the answer is told of each object.
    told: tuple[str, ...]
    also: tuple[str, ...] = ()
