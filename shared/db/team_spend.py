"""What users have spent in teams, and the counters of members."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal

from shared.db.rows import Connection
from shared.db.table import Row

# Roll-ups are by key, and a key is its last payer's.
_BY_USER = """
with payer as (
    select distinct on (team_id, key) team_id, key, user_id
    from call_payer where team_id = any($1::text[])
    order by team_id, key, id desc
), spent as (
    select d.id as team_id, coalesce(p.user_id, '') as user_id, sum(d.spend) as spend,
        sum(d.prompt_tokens)::bigint as prompt_tokens,
        sum(d.completion_tokens)::bigint as completion_tokens,
        sum(d.prompt_tokens + d.completion_tokens)::bigint as total_tokens,
        sum(d.calls)::bigint as api_requests,
        sum(d.successes)::bigint as successful_requests,
        sum(d.failures)::bigint as failed_requests
    from daily_spend d left join payer p on p.team_id = d.id and p.key = d.key
    where d.kind = 'team' and d.id = any($1::text[]) and d.day between $2 and $3
    group by 1, 2
)
select s.team_id, t.team_alias, s.user_id, u.user_email, u.user_alias, s.spend, s.prompt_tokens,
    s.completion_tokens, s.total_tokens, s.api_requests, s.successful_requests, s.failed_requests
from spent s
left join team t on t.team_id = s.team_id
left join app_user u on u.user_id = s.user_id
where $4::text is null or s.team_id = any($5::text[]) or s.user_id = $4
order by s.spend desc, s.team_id, s.user_id
"""
_LOCK_MEMBER = """
select spend from spend_counter
where kind = 'team_member' and id = $1 and window_start_s = $2 order by shard for update
"""


async def spend_by_user(
    connection: Connection,
    team_ids: Sequence[str],
    first: date,
    last: date,
    *,
    only_user: str | None = None,
    but_all_of: Sequence[str] = (),
) -> list[Row]:
    """USD, tokens and calls of each user in each team from the first to the last day (UTC), both
    included; the biggest spender first. `only_user` narrows it to one user, `but_all_of` are teams
    where it does not."""
    rows = await connection.fetch(
        _BY_USER, list(team_ids), first, last, only_user, list(but_all_of)
    )
    return [dict(row) for row in rows]


async def lock_member_spend(connection: Connection, owner: str, window_start_s: int) -> Decimal:
    """What a member's counter (`user:team`) says; nothing is added to it until the transaction
    ends."""
    rows = await connection.fetch(_LOCK_MEMBER, owner, window_start_s)
    return sum((row["spend"] for row in rows), Decimal(0))
