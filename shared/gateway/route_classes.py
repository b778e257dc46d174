"""The one class of every path, and the answer where nothing is registered for it.

Handlers are matched by the server on the paths they were registered with. What is decided here is
only how a request that no handler took is refused, so nothing here can open a path. The decision
is made on the plain form of a path: however it is spelled (escapes, doubled slashes, dots, path
parameters, absolute form), it has the class of what it spells.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from attrs import frozen

from shared.domain.capabilities import Capabilities, RouteClass
from shared.domain.errors import NotSupported
from shared.gateway import route_table
from shared.gateway.unserved import reason_for

_NOT_FOUND = "Not Found"

_BLANK = "".join(map(chr, range(0x21))) + "\x7f"
_HEX = frozenset("0123456789abcdefABCDEF")
_TITLES = {RouteClass.LLM: "LLM API", RouteClass.MANAGEMENT: "management API"}


@frozen
class Template:
    """A path with parameters: `None` stands for one segment.

    With `tail`, at least one segment stands between head and tail, and the last of these ends
    in `suffix`.
    """

    route_class: RouteClass
    head: tuple[str | None, ...]
    tail: tuple[str | None, ...] | None
    suffix: str
    literals: int

    def fits(self, segments: tuple[str, ...]) -> bool:
        """Whether the path is of this form."""
        head, tail = self.head, self.tail
        if tail is None:
            return len(segments) == len(head) and _equal(head, segments)
        end = len(segments) - len(tail)
        return (
            end > len(head)
            and _equal(head, segments)
            and _equal(tail, segments[end:])
            and segments[end - 1].endswith(self.suffix)
        )


@frozen
class Match:
    """`known` is false for a path that only its family gives a class to."""

    route_class: RouteClass
    known: bool


@frozen
class _Index:
    """Templates and families stand under their first one or two literal segments."""

    exact: dict[tuple[str, ...], RouteClass]
    templates: dict[tuple[str, ...], tuple[Template, ...]]
    families: dict[tuple[str, ...], RouteClass]


def classify(raw_path: str, root_path: str = "") -> RouteClass | None:
    """The class of a request target, `None` for a path that nobody knows.

    `root_path` is SERVER_ROOT_PATH, taken off when the path starts with it.
    """
    match = find(plain_segments(raw_path, root_path))
    return None if match is None else match.route_class


def refusal(
    raw_path: str, capabilities: Capabilities, root_path: str = ""
) -> tuple[int, dict[str, Any]]:
    """Status and JSON body for a request that no registered handler took.

    The same for any and no credential: a capability that is missing is no secret.
    """
    segments = plain_segments(raw_path, root_path)
    match = find(segments)
    if match is None:
        return 404, {"detail": _NOT_FOUND}
    route_class = match.route_class
    if not capabilities.serves(route_class):
        if route_class is RouteClass.UI:
            return 404, {"detail": _NOT_FOUND}
        reason = capabilities.reasons.get(route_class.value, "not among its capabilities")
        return 403, {"detail": f"The {_TITLES[route_class]} is off on this instance: {reason}"}
    if not match.known or route_class is RouteClass.UI:
        return 404, {"detail": _NOT_FOUND}
    return _not_supported(segments, route_class)


def plain_segments(raw_path: str, root_path: str = "") -> tuple[str, ...]:
    """The segments of the path that a request target spells. Linear in its length."""
    path = raw_path
    if not path.startswith("/"):
        _, scheme, rest = path.partition("://")
        path = "/" + rest.partition("/")[2] if scheme else path
    path = path.partition("?")[0].partition("#")[0]
    if "%" in path:
        path = _unescape(path)
    segments: list[str] = []
    for part in path.replace("\\", "/").split("/"):
        segment = part
        for sign in ";?#":
            segment = segment.partition(sign)[0]
        segment = segment.strip(_BLANK)
        if segment == "..":
            del segments[-1:]
        elif segment not in {"", "."}:
            segments.append(segment)
    root = [segment for segment in root_path.split("/") if segment]
    if root and segments[: len(root)] == root:
        del segments[: len(root)]
    return tuple(segments)


def find(segments: tuple[str, ...]) -> Match | None:
    """Exact paths first, then templates, then families, then templates that start open."""
    index = _index()
    exact = index.exact.get(segments)
    if exact is not None:
        return Match(exact, known=True)
    prefixes = (segments[:2], segments[:1])
    for prefix in prefixes:
        for template in index.templates.get(prefix, ()):
            if template.fits(segments):
                return Match(template.route_class, known=True)
    for length in (3, 2, 1):
        family = index.families.get(segments[:length])
        if family is not None:
            return Match(family, known=False)
    for template in index.templates.get((), ()):
        if template.fits(segments):
            return Match(template.route_class, known=True)
    return None


def known_paths() -> tuple[tuple[str, RouteClass], ...]:
    """Every path of the tables with its class, in the tables' notation."""
    return tuple(sorted(set(_entries())))


def families() -> tuple[tuple[str, RouteClass], ...]:
    """Every prefix that gives a class to what is below it."""
    return tuple(sorted(set(_family_entries())))


def _entries() -> Iterator[tuple[str, RouteClass]]:
    for prefix in route_table.FORWARDED.split():
        yield prefix, RouteClass.LLM
        yield prefix + "/{endpoint*}", RouteClass.LLM
    for text, route_class in (
        (route_table.LLM, RouteClass.LLM),
        (route_table.MANAGEMENT, RouteClass.MANAGEMENT),
        (route_table.UI, RouteClass.UI),
        (route_table.HEALTH, RouteClass.HEALTH),
        (route_table.PUBLIC, RouteClass.PUBLIC),
    ):
        for line in text.replace("\n    ", " ").split("\n"):
            for path in _line_paths(line):
                yield path, route_class


def _line_paths(line: str) -> Iterator[str]:
    prefix, *rests = line.split() or [""]
    for rest in rests:
        path = rest if prefix == "." else prefix if rest == "." else f"{prefix}/{rest}"
        if path.startswith("[/v1]"):
            yield path.replace("[/v1]", "/v1")
            yield path.removeprefix("[/v1]")
        else:
            yield path


def _family_entries() -> Iterator[tuple[str, RouteClass]]:
    for text, route_class in (
        (route_table.LLM_FAMILIES, RouteClass.LLM),
        (route_table.MANAGEMENT_FAMILIES, RouteClass.MANAGEMENT),
        (route_table.HEALTH_FAMILIES, RouteClass.HEALTH),
        (route_table.PUBLIC_FAMILIES, RouteClass.PUBLIC),
    ):
        for prefix in text.split():
            yield prefix, route_class


@cache
def _index() -> _Index:
    exact: dict[tuple[str, ...], RouteClass] = {}
    templates: dict[tuple[str, ...], list[Template]] = {}
    for path, route_class in known_paths():
        segments = plain_segments(path)
        if "{" not in path:
            assert segments not in exact, f"{path} stands in two tables"
            exact[segments] = route_class
            continue
        template = _template(path, route_class)
        literal = tuple(part for part in template.head[:2] if part is not None)
        key = literal if literal == template.head[: len(literal)] else ()
        templates.setdefault(key, []).append(template)
    return _Index(
        exact=exact,
        templates={
            key: tuple(sorted(found, key=lambda template: -template.literals))
            for key, found in templates.items()
        },
        families={plain_segments(prefix): found for prefix, found in families()},
    )


def _template(path: str, route_class: RouteClass) -> Template:
    head: list[str | None] = []
    tail: list[str | None] | None = None
    suffix = ""
    for part in path.strip("/").split("/"):
        if "*}" in part:
            tail, suffix = [], part.partition("*}")[2]
            continue
        (head if tail is None else tail).append(None if part.startswith("{") else part)
    literals = sum(map(len, filter(None, (*head, *(tail or ()), suffix))))
    # One open segment is nearer than any number of them.
    return Template(
        route_class=route_class,
        head=tuple(head),
        tail=None if tail is None else tuple(tail),
        suffix=suffix,
        literals=2 * literals + (tail is None),
    )


def _equal(pattern: tuple[str | None, ...], segments: tuple[str, ...]) -> bool:
    return all(want is None or want == have for want, have in zip(pattern, segments, strict=False))


def _unescape(path: str) -> str:
    """Percent-decoding until nothing is left to decode, in one pass.

    A decoded character may complete an escape, so each is looked at in the place where it lands;
    decoding round by round would give the same, at a cost that a client chooses.
    """
    out: list[str] = []
    for char in path:
        out.append(char)
        while len(out) > 2 and out[-3] == "%" and out[-2] in _HEX and out[-1] in _HEX:
            out[-3:] = chr(int(out[-2] + out[-1], 16))
    return "".join(out)


def _not_supported(
    segments: tuple[str, ...], route_class: RouteClass
) -> tuple[int, dict[str, Any]]:
    path = f"/{'/'.join(segments)}"
    reason = reason_for(path) if route_class is RouteClass.MANAGEMENT else None
    error = NotSupported(
        f"{path} is not supported in this release" + (f": {reason}" if reason else "")
    )
    body: dict[str, Any] = error.body()
    if route_class in {RouteClass.HEALTH, RouteClass.PUBLIC}:
        body = {"detail": error.message}
    elif route_class is RouteClass.LLM:
        speaks = _dialect(segments)
        if speaks == "anthropic":
            kind = {"type": error.type, "message": error.message}
            body = {"type": "error", "error": kind}
        elif speaks == "google":
            status = {"code": error.status, "message": error.message, "status": "UNIMPLEMENTED"}
            body = {"error": status}
    return error.status, body


def _dialect(segments: tuple[str, ...]) -> str:
    """Whose error shape the clients of an LLM path parse."""
    path = "/".join(segments).removeprefix("claude_code_gateway/")
    if path.startswith(("v1/messages", "v1/skills", "anthropic/")):
        return "anthropic"
    verb = path.startswith("models/") and ":" in path
    return "google" if verb or path.startswith(("v1beta/", "gemini/")) else "openai"
