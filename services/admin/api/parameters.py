"""Parameters of query strings as data, for the document of the API; `Query` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from attrs import frozen

from services.admin.api.values import Reader

_MOST_PAGES = 10_000_000


@frozen
class Parameter:
    """A parameter of a query string. `required` ones are refused when they are not there."""

    name: str
    schema: Mapping[str, Any]
    required: bool = False


def parameter(name: str, *, required: bool = False, **schema: Any) -> Parameter:
    """A parameter whose values a JSON schema describes."""
    return Parameter(name, MappingProxyType(schema), required)


def text_parameters(*names: str, required: bool = False) -> tuple[Parameter, ...]:
    """Parameters that take any text."""
    return tuple(parameter(name, required=required, type="string") for name in names)


def flag_parameters(*names: str) -> tuple[Parameter, ...]:
    """Parameters that are true or false."""
    return tuple(parameter(name, type="boolean") for name in names)


def day_parameters(*names: str, required: bool = False) -> tuple[Parameter, ...]:
    """Parameters that are days, YYYY-MM-DD."""
    return tuple(parameter(name, required=required, type="string", format="date") for name in names)


def read_parameters(read: Reader, *names: str) -> tuple[Parameter, ...]:
    """Parameters that a reader of body values takes too."""
    return tuple(parameter(name, **read.schema) for name in names)


def choice_parameter(name: str, *allowed: str) -> Parameter:
    """A parameter that is one of some words."""
    return parameter(name, type="string", enum=tuple(map(str, allowed)))


def whole_parameter(name: str, *, default: int | None, low: int, high: int) -> Parameter:
    """A parameter that is a whole number within bounds."""
    said: dict[str, Any] = {} if default is None else {"default": default}
    return parameter(name, type="integer", minimum=low, maximum=high, **said)


def page_parameters(
    default: int, largest: int, *, size: str = "page_size"
) -> tuple[Parameter, ...]:
    """The number of a page, from 1, and how many objects a page holds."""
    return (
        whole_parameter("page", default=1, low=1, high=_MOST_PAGES),
        whole_parameter(size, default=default, low=1, high=largest),
    )


def order_parameters(
    *columns: str, by: str = "sort_by", order: str = "sort_order"
) -> tuple[Parameter, ...]:
    """By which column to sort, and in which direction."""
    return choice_parameter(by, *sorted(columns)), choice_parameter(order, "asc", "desc")
