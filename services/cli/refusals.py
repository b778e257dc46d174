"""What a proxy's error answers say, as one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_LONGEST = 2000


def refusal_text(status: int, data: bytes) -> str:
    """The message, then what names the field, the kind of error and the status."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    message, marks = _read(body)
    if not message:
        message = "the answer says no more"
    if len(message) > _LONGEST:
        message = message[:_LONGEST] + "…"
    shown = ", ".join([*marks, f"status {status}"])
    return f"{' '.join(message.split())} ({shown})"


def _read(body: Any) -> tuple[str, list[str]]:
    """The message and its marks, of any of the shapes that proxies answer."""
    if isinstance(body, str):
        return body, []
    if isinstance(body, list):
        return "; ".join(filter(None, map(_issue, body))), []
    if not isinstance(body, Mapping):
        return "", []
    for name in ("error", "detail"):
        inner = body.get(name)
        # A problem document has its own words in `title`.
        if inner and not (name == "detail" and "title" in body):
            text, marks = _read(inner)
            return text, marks or _marks(body)
    for name in ("message", "detail", "title"):
        if isinstance(body.get(name), str) and body[name]:
            return body[name], _marks(body)
    return "", _marks(body)


def _marks(body: Mapping[str, Any]) -> list[str]:
    marks = []
    if isinstance(body.get("param"), str) and body["param"]:
        marks.append(f"field {body['param']}")
    if isinstance(body.get("type"), str) and body["type"]:
        marks.append(body["type"])
    return marks


def _issue(issue: Any) -> str:
    """One issue of a 422."""
    if not isinstance(issue, Mapping):
        return str(issue)
    where = issue.get("loc")
    path = ".".join(map(str, where)) if isinstance(where, list) else ""
    message = str(issue.get("msg") or issue.get("message") or "")
    return f"{path}: {message}" if path else message
