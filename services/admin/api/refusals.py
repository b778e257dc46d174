"""Error shapes of the management API that are not the common one (management contract §3.0)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import frozen

from shared.domain.errors import RequestError


@frozen
class Issue:
    """One thing wrong with a request. `loc` leads to it, from `body` or `query` inwards."""

    type: str
    loc: tuple[str | int, ...]
    msg: str

    def body(self) -> dict[str, Any]:
        """The wire form."""
        return {"type": self.type, "loc": list(self.loc), "msg": self.msg}


class Unprocessable(RequestError):
    """A body or query of the wrong form: 422 with every issue found."""

    status = 422

    def __init__(self, issues: Sequence[Issue]) -> None:
        super().__init__("; ".join(issue.msg for issue in issues))
        self.issues = tuple(issues)

    def body(self) -> dict[str, Any]:
        return {"detail": [issue.body() for issue in self.issues]}


class Detail(RequestError):
    """An error whose body is `{"detail": …}`: refusals after authentication, and D rows."""

    def __init__(self, status: int, detail: str | dict[str, Any]) -> None:
        super().__init__(detail if isinstance(detail, str) else str(detail), status=status)
        self.detail = detail

    def body(self) -> dict[str, Any]:
        return {"detail": self.detail}
