"""Writes what documents and tests say of the management API's routes, or checks that it is right.

    .venv/bin/python deploy/local/route_pages.py [--check]

From the route tables come the rows of the management API and the families that are not served in
docs/compatibility.md, and tests/contract/management_routes.txt, so that a route, or who may call
it, changes only in a diff that somebody reads.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from services.admin.api.access import Access, Relation, Role  # noqa: E402 - after the path is set
from services.admin.api.routes import OPEN_ROUTES, ROUTES  # noqa: E402
from services.admin.openapi.routes import DOCUMENT_ROUTES  # noqa: E402
from shared.gateway.unserved import table  # noqa: E402

PAGE = ROOT / "docs" / "compatibility.md"
LIST = ROOT / "tests" / "contract" / "management_routes.txt"

_RELATIONS = {
    Relation.OWNER: "owner",
    Relation.TEAM_ADMIN: "team admin",
    Relation.TEAM_MEMBER: "team member",
    Relation.ORG_ADMIN: "org admin",
}


def main() -> int:
    """The exit status: 1 when `--check` finds a difference."""
    parser = argparse.ArgumentParser(description="Write or check the pages about routes.")
    parser.add_argument("--check", action="store_true", help="only say whether they are right")
    options = parser.parse_args()
    page = PAGE.read_text("utf-8")
    wanted = {
        PAGE: _filled(_filled(page, "management", _rows()), "not served", table()),
        LIST: "".join(f"{line}\n" for line in _lines()),
    }
    stale = [file for file, text in wanted.items() if not file.exists() or file.read_text() != text]
    for file in stale:
        if options.check:
            print(f"{file.relative_to(ROOT)} is not what the route tables say: make routes")
        else:
            file.write_text(wanted[file], "utf-8")
    return 1 if options.check and stale else 0


def plain(path: str) -> str:
    """A path template without the patterns of its parameters; `{name*}` takes slashes."""
    return re.sub(r"\{(\w+):\.\+\}", r"{\1*}", path)


def _lines() -> Iterator[str]:
    known = [
        (plain(route.path), route.method, route.errors.name, _who(route.access))
        for route in (*ROUTES, *DOCUMENT_ROUTES)
    ]
    known += [
        (plain(route.path), route.method, route.errors.name, "nobody is asked")
        for route in OPEN_ROUTES
    ]
    for path, method, errors, who in sorted(known):
        yield f"{method} {path} {errors} {who}"


def _rows() -> Iterator[str]:
    """One row for each area, method and access."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for line in _lines():
        method, path, _, who = line.split(" ", 3)
        rows.setdefault((path.split("/")[1], method, who), []).append(path)
    for (_, method, who), paths in rows.items():
        listed = ", ".join(f"`{path}`" for path in paths)
        yield f"| {method} {listed} | admin | {who} |"


def _who(allowed: Access) -> str:
    if allowed.master_only:
        return "master key"
    if allowed.roles == frozenset(Role):
        return "any key"
    names = ["proxy admin"]
    names += [role.replace("_", " ") for role in Role if role in allowed.roles - {Role.PROXY_ADMIN}]
    names += [name for relation, name in _RELATIONS.items() if relation in allowed.relations]
    text = ", ".join(names)
    named = [
        _RELATIONS[each] if isinstance(each, Relation) else each.replace("_", " ")
        for each in sorted(allowed.named)
    ]
    return f"{text}; named by its key: {', '.join(named)}" if named else text


def _filled(page: str, name: str, rows: Iterator[str]) -> str:
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, found, rest = page.partition(start)
    assert found, f"{PAGE.name} has no section {name}"
    head = "".join(line + "\n" for line in rest.splitlines()[:2])
    after = rest[rest.index(end) :]
    return before + start + head + "".join(f"{row}\n" for row in rows) + after


if __name__ == "__main__":
    sys.exit(main())
