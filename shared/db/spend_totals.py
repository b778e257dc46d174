"""Sums of spend over days and owners, out of the roll-ups.

Days are UTC days. Money is USD as `Decimal`; rows are mappings with the names of the statements'
columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from attrs import frozen

from shared.db.pool import Store
from shared.db.spend_reading import reading
from shared.db.table import Row


@frozen
class Days:
    """From the first to the last day, both included."""

    first: date
    last: date


@frozen
class Owner:
    """Somebody with roll-ups of their own: `kind` is one of daily_spend's."""

    kind: str
    id: str


# Everybody's calls have a roll-up of their own; an owner's are among its rows of one key and model.
_ALL = "daily_model_spend where kind = 'key' and day between $1 and $2"
_OWN = "daily_spend where kind = $3 and id = $4 and day between $1 and $2"

_TOTAL = "select sum(spend) from spend_counter where kind = 'global' and window_start_s = 0"
_BY_DAY = """
select day, sum(spend) as spend, sum(calls)::bigint as calls,
    sum(prompt_tokens + completion_tokens)::bigint as tokens
from {source} group by day order by day
"""
_BY_MODEL_AND_DAY = """
select model_group, day, sum(calls)::bigint as calls,
    sum(prompt_tokens + completion_tokens)::bigint as tokens
from {source} group by model_group, day order by model_group, day
"""
_BY_KEY_AND_MODEL = """
select key, route, model, sum(calls)::bigint as calls,
    sum(completion_tokens)::bigint as completion_tokens
from {source} group by key, route, model order by key, route, model
"""
_KEYS_AND_MODELS = "daily_spend where kind = 'key' and day between $1 and $2"
_EVERY_KEY = "daily_owner_spend where kind = 'key' and day between $1 and $2"
_BY_MODEL = f"""
select model, sum(spend) as spend from {_ALL} group by model order by 2 desc, 1 limit $3
"""  # noqa: S608 - only constants of this module
_BY_PROVIDER = f"""
select provider, sum(spend) as spend from {_ALL} group by provider order by 2 desc, 1
"""  # noqa: S608 - only constants of this module
_TOP_KEYS = f"""
select s.id as key, coalesce(k.key_alias, d.key_alias) as key_alias,
    coalesce(k.key_name, d.key_name) as key_name, s.spend
from (
    select id, sum(spend) as spend from {_EVERY_KEY} group by id order by 2 desc, 1 limit $3
) s
left join virtual_key k on k.token = s.id
left join lateral (
    select a.key_alias, a.key_name from deleted_virtual_key a
    where a.token = s.id order by a.deletion_id desc limit 1
) d on true
order by s.spend desc, s.id
"""  # noqa: S608 - only constants of this module
_TEAMS_BY_DAY = """
select o.day, coalesce(t.team_alias, o.id) as name, sum(o.spend) as spend
from daily_owner_spend o left join team t on t.team_id = o.id
where o.kind = 'team' and o.day between $1 and $2 group by 1, 2 order by 1, 2
"""
_TOP_OWNERS = """
select id, sum(spend) as spend, sum(calls)::bigint as calls
from {source}
where kind = $3 and day between $1 and $2 and ($4::text[] is null or id = any($4))
  and ($5::text[] is null or {key} = any($5))
group by id order by 2 desc, 1 limit $6
"""
_DAY_SUMS = """
select day, 'models' as what, sum(spend) as spend, array_agg(name) as names,
    array_agg(spend::float8) as spends
from (select day, model as name, sum(spend) as spend from {models} group by 1, 2) m group by day
union all
select day, 'users', sum(spend), array_agg(name), array_agg(spend::float8)
from (select day, id as name, sum(spend) as spend from {users} group by 1, 2) u group by day
union all
select day, 'keys', sum(spend), array_agg(name), array_agg(spend::float8)
from (select day, {key} as name, sum(spend) as spend from {keys} group by 1, 2) k group by day
order by 1, 2
"""
_EVERY_USER = "daily_owner_spend where kind = 'user' and day between $1 and $2"
_USERS_OF_KEY = """
daily_spend where kind = 'user' and key = $4 and day between $1 and $2
    and id = any(array(select user_id from call_payer where key = $4))
"""
_FAULTS = """
select p.model_group, p.api_base, (l.started_at at time zone 'UTC')::date as day,
    count(*) as faults
from spend_log l join call_path p on p.id = l.path_id
where l.status <> 'success' and l.status = 'failure' and l.http_status = $3::smallint
  and l.id >= spend_log_floor($1::date::timestamp at time zone 'UTC')
  and l.id < spend_log_floor(($2::date + 1)::timestamp at time zone 'UTC')
  and ($4::text is null or p.model_group = $4)
group by 1, 2, 3 order by 1, 2, 3
"""


async def total_spend(store: Store) -> Decimal:
    """All that was ever spent."""
    return await store.fetchval(_TOTAL) or Decimal(0)


async def by_day(store: Store, days: Days, owner: Owner | None = None) -> list[Row]:
    """`day`, `spend`, `calls`, `tokens` of everybody or of one owner."""
    return await _of(store, _BY_DAY, _ALL, days, owner)


async def by_model_and_day(store: Store, days: Days, owner: Owner | None = None) -> list[Row]:
    """`model_group`, `day`, `calls`, `tokens`."""
    return await _of(store, _BY_MODEL_AND_DAY, _ALL, days, owner)


async def by_key_and_model(store: Store, days: Days, owner: Owner | None = None) -> list[Row]:
    """`key`, `route`, `model`, `calls`, `completion_tokens`."""
    return await _of(store, _BY_KEY_AND_MODEL, _KEYS_AND_MODELS, days, owner)


async def top_models(store: Store, days: Days, limit: int) -> list[Row]:
    """`model`, `spend`."""
    return await _rows(store, _BY_MODEL, days, limit)


async def by_provider(store: Store, days: Days) -> list[Row]:
    """`provider`, `spend`."""
    return await _rows(store, _BY_PROVIDER, days)


async def top_keys(store: Store, days: Days, limit: int) -> list[Row]:
    """`key`, `key_alias`, `key_name`, `spend`; deleted keys too."""
    return await _rows(store, _TOP_KEYS, days, limit)


async def teams_by_day(store: Store, days: Days) -> list[Row]:
    """`day`, `name` (alias, else id), `spend`."""
    return await _rows(store, _TEAMS_BY_DAY, days)


async def top_owners(
    store: Store,
    kind: str,
    days: Days,
    limit: int,
    *,
    ids: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
) -> list[Row]:
    """`id`, `spend`, `calls`; of the calls with some keys only, if they are given."""
    statement = _TOP_OWNERS.format(
        source="daily_owner_spend" if keys is None else "daily_spend",
        key="null" if keys is None else "key",
    )
    return await _rows(store, statement, days, kind, ids, keys, limit)


async def sums_of_days(
    store: Store, days: Days, *, token: str | None, user_id: str | None
) -> list[Row]:
    """`day`, `what` (`models`, `users` or `keys`), `spend`, and parallel `names` and `spends` (USD
    as floats) by day; of everybody, or of a key, a user or both."""
    if user_id is not None:
        source = _OWN if token is None else _OWN + " and key = $5"
        statement = _DAY_SUMS.format(models=source, users=source, keys=source, key="key")
        args = ("user", user_id) if token is None else ("user", user_id, token)
        return await _rows(store, statement, days, *args)
    if token is not None:
        statement = _DAY_SUMS.format(models=_OWN, users=_USERS_OF_KEY, keys=_OWN, key="key")
        return await _rows(store, statement, days, "key", token)
    statement = _DAY_SUMS.format(models=_ALL, users=_EVERY_USER, keys=_EVERY_KEY, key="id")
    return await _rows(store, statement, days)


async def faults(store: Store, days: Days, http_status: int, model_group: str | None) -> list[Row]:
    """`model_group`, `api_base`, `day`, `faults`: calls that failed with a status."""
    return await _rows(store, _FAULTS, days, http_status, model_group)


async def _of(
    store: Store, statement: str, everybody: str, days: Days, owner: Owner | None
) -> list[Row]:
    if owner is None:
        return await _rows(store, statement.format(source=everybody), days)
    return await _rows(store, statement.format(source=_OWN), days, owner.kind, owner.id)


async def _rows(store: Store, statement: str, days: Days, *args: Any) -> list[Row]:
    async with reading(store) as connection:
        rows = await connection.fetch(statement, days.first, days.last, *args)
    return [dict(row) for row in rows]
