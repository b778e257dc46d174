"""`meridian audit …`"""

from __future__ import annotations

from typing import Any

from services.cli.command import Command, Pages, Place, View
from services.cli.kinds import SINCE, UNTIL
from services.cli.options import SORTED, wanted, word
from services.cli.shapes import at


def _intact(body: Any) -> bool:
    return at(body, "intact") is True


AUDIT: tuple[Command, ...] = (
    Command(
        words=("audit", "list"),
        help="list changes, newest first",
        method="GET",
        path="/audit",
        options=(
            wanted("--changed-by", "changed_by", "by somebody"),
            wanted("--action", "action", "such as created, updated or deleted"),
            wanted("--table", "table_name", "such as LiteLLM_TeamTable"),
            wanted("--object-id", "object_id", "of one object"),
            wanted("--start-date", "start_date", "from (UTC)", SINCE),
            wanted("--end-date", "end_date", "to (UTC)", UNTIL),
            wanted("--search", "search", "by a part of what they say"),
            *SORTED,
        ),
        view=View(
            (
                "time:updated_at",
                "action",
                "table:table_name",
                "object:object_id",
                "by:changed_by",
                "route",
                "id",
            )
        ),
        pages=Pages("audit_logs"),
    ),
    Command(
        words=("audit", "info"),
        also=("get",),
        help="show a change",
        method="GET",
        path="/audit/{id}",
        options=(word("ID", "id", "the entry", Place.PATH),),
    ),
    Command(
        words=("audit", "verify"),
        help="check that nobody has changed the log",
        method="GET",
        path="/audit/verify",
        sound=_intact,
    ),
)
