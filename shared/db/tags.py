"""Tags: the stored ones with their rules, and those that only calls have named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from types import MappingProxyType

from attrs import frozen

from shared.db.rows import Connection
from shared.db.table import Row, Table

TAGS = Table(
    name="tag",
    key=("name",),
    refusals=MappingProxyType(
        {
            "tag_pkey": ("name", "is in use by another tag"),
            "tag_budget_id_fkey": ("budget_id", "names no budget"),
        }
    ),
    signed=False,
)

MOST_SEEN = 10_000
"""How many tags of calls a list shows at most; callers may name any number."""

_ALL = "select * from tag order by created_at desc, name"
_FIND = "select * from tag where name = any($1::text[]) order by name"
_MODELS = "select model_id, model_name from model where model_id = any($1::text[])"
_SEEN_EVER = """
select id as name, null::date as first_day, null::date as last_day from spend_counter c
where c.kind = 'tag' and c.window_start_s = 0
  and not exists (select from tag t where t.name = c.id)
group by id order by id limit $1
"""
_SEEN = """
select id as name, min(day) as first_day, max(day) as last_day from daily_spend d
where d.kind = 'tag'
  and ($2::date is null or d.day >= $2) and ($3::date is null or d.day <= $3)
  and ($4::text is null or d.key = $4
       or d.key in (select k.token from virtual_key k where k.user_id = $5))
  and not exists (select from tag t where t.name = d.id)
group by id order by id limit $1
"""


@frozen
class SeenTag:
    """A tag that calls have named. The days (UTC) are not known for all that was ever seen."""

    name: str
    first_day: date | None
    last_day: date | None


async def all_tags(connection: Connection) -> list[Row]:
    """Every stored tag, newest first."""
    return [TAGS.read(row) for row in await connection.fetch(_ALL)]


async def find_tags(connection: Connection, names: Sequence[str]) -> dict[str, Row]:
    """Stored tags by name; those that there are."""
    rows = await connection.fetch(_FIND, list(names))
    return {row["name"]: TAGS.read(row) for row in rows}


async def seen_tags(
    connection: Connection,
    start: date | None,
    end: date | None,
    *,
    token: str | None = None,
    user_id: str | None = None,
) -> list[SeenTag]:
    """Tags that calls of some days (UTC, both included) have named and that are not stored; of one
    key and of the keys of its user if a key is named."""
    if start is None and end is None and token is None:
        rows = await connection.fetch(_SEEN_EVER, MOST_SEEN)
    else:
        rows = await connection.fetch(_SEEN, MOST_SEEN, start, end, token, user_id)
    return [SeenTag(row["name"], row["first_day"], row["last_day"]) for row in rows]


async def model_names(connection: Connection, model_ids: Iterable[str]) -> dict[str, str]:
    """What the models of the model table are called, by id."""
    rows = await connection.fetch(_MODELS, sorted(set(model_ids)))
    return {row["model_id"]: row["model_name"] for row in rows}
