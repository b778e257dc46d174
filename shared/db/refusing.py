"""What the store refuses to store, as answers that name the field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import asyncpg

from shared.domain.errors import InvalidRequest, StoreUnavailable


class Contended(StoreUnavailable):
    """Another change was in the way (a deadlock); the whole transaction may be tried again."""

    def __init__(self) -> None:
        super().__init__("Another change was in the way; try again")


@contextmanager
def contending() -> Iterator[None]:
    """Turns what ends a transaction for another one's sake into `Contended`."""
    try:
        yield
    except asyncpg.TransactionRollbackError:
        raise Contended from None


@contextmanager
def refusing(fields: Mapping[str, tuple[str, str]]) -> Iterator[None]:
    """Turns refusals of values into `InvalidRequest`. `fields` maps the name of a constraint to
    the field that it is about and to what is wrong with it, as the end of a sentence."""
    try:
        yield
    except asyncpg.IntegrityConstraintViolationError as error:
        name = str(getattr(error, "constraint_name", ""))
        param, what = fields.get(name, (None, "cannot be stored"))
        raise InvalidRequest(
            f"{param or 'A value'} {what}", param=param, type="bad_request_error"
        ) from None
    except (asyncpg.DataError, asyncpg.ProgramLimitExceededError):
        raise InvalidRequest("A value cannot be stored", type="bad_request_error") from None
    except asyncpg.TransactionRollbackError:
        raise Contended from None
