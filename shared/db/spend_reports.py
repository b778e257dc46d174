"""Reports of spend by day, owner, model and key, out of the roll-ups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from attrs import frozen

from shared.db.pool import Store
from shared.db.spend_reading import reading
from shared.db.spend_totals import Days
from shared.db.table import Row

# Over everybody the rows of single keys, and of such owners those of models, would be more than
# anybody reads.
_MANY = frozenset({"user", "end_user"})
_KEYS: Mapping[bool, str] = MappingProxyType({True: "key", False: "''"})
_REPORT = """
select day, id, model, {key} as key, sum(spend) as spend,
    sum(prompt_tokens)::bigint as prompt_tokens,
    sum(completion_tokens)::bigint as completion_tokens
from daily_spend
where kind = $1 and day between $2 and $3 and ($4::text[] is null or id = any($4))
  and ($5::text is null or key = $5)
group by 1, 2, 3, 4 order by 1, 2, 3, 4
"""
_TOTALS = """
select day, id, '' as model, '' as key, spend, prompt_tokens, completion_tokens
from daily_owner_spend
where kind = $1 and day between $2 and $3 and ($4::text[] is null or id = any($4))
  and $5::text is null
order by 1, 2
"""
_BY_MODEL = """
select id, model, sum(spend) as spend, sum(prompt_tokens)::bigint as prompt_tokens,
    sum(completion_tokens)::bigint as completion_tokens
from daily_spend
where kind = $1 and day between $2 and $3 and ($4::text[] is null or id = any($4))
  and ($5::text is null or key = $5)
group by 1, 2 order by 1, 2
"""


@frozen(kw_only=True)
class ReportFilter:
    """Whose spend: owners of a kind of daily_spend, all of them if `ids` is `None`; calls with one
    key only, if `token` is set."""

    kind: str
    days: Days
    ids: Sequence[str] | None = None
    token: str | None = None


async def by_day(store: Store, asked: ReportFilter) -> list[Row]:
    """`day`, `id`, `model`, `key`, `spend`, `prompt_tokens`, `completion_tokens`; `key` is '' if
    neither owners nor a key are named, for users and end users `model` too."""
    narrow = asked.ids is not None or asked.token is not None
    if not narrow and asked.kind in _MANY:
        return await _rows(store, _TOTALS, asked)
    return await _rows(store, _REPORT.format(key=_KEYS[narrow]), asked)


async def by_model(store: Store, asked: ReportFilter) -> list[Row]:
    """`id`, `model`, `spend`, `prompt_tokens`, `completion_tokens` of all days together."""
    return await _rows(store, _BY_MODEL, asked)


async def _rows(store: Store, statement: str, asked: ReportFilter) -> list[Row]:
    days = asked.days
    async with reading(store) as connection:
        rows = await connection.fetch(
            statement, asked.kind, days.first, days.last, asked.ids, asked.token
        )
    return [dict(row) for row in rows]
