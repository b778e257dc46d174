"""Reading, numbering and announcing the change feed (migration 0002 says how it is written)."""

from __future__ import annotations

import msgspec
from attrs import frozen

from shared.db.rows import Queryable

FEED_CHANNEL = "meridian_feed"

# Rows of a page; the version that the last row belongs to is always whole.
PAGE_ROWS = 500

# $1 is the version the reader stands at. One row of one column, so that every caller, pooled or
# not, pays one statement; while nothing has changed all of it is three index look-ups.
_PAGE = """
with rows as materialized (
    select f.version, f.nonce, f.kind, f.ids from change_feed f
    where f.version > $1::bigint and f.version <= coalesce(
        (select l.version from change_feed l where l.version > $1::bigint
         order by l.version offset $2::bigint - 1 limit 1),
        9223372036854775807)
)
select jsonb_build_object(
    'head', h.version, 'head_nonce', h.nonce, 'min_version', h.min_version,
    'ack_wanted', a.wanted,
    'after_nonce', (select nonce from change_feed where version = $1::bigint limit 1),
    'changes', (
        select coalesce(jsonb_agg(jsonb_build_object(
            'version', version, 'nonce', nonce, 'kind', kind, 'ids', ids
        ) order by version), '[]') from rows
    )
)
from change_head h, change_ack a
"""
_NUMBER = "set constraints all immediate"
_HEAD = "select version from change_head"
_CLUSTER = "select id::text from cluster"
_NOTIFY = "select pg_notify($1::text, '')"
_WANT_ACK = """
with raised as (
    update change_ack set wanted = $1::bigint where wanted < $1::bigint
)
select set_config('synchronous_commit', 'off', true), pg_notify($2::text, '')
"""
_TRIM = "select trim_change_feed(make_interval(secs => $1::float8), $2::bigint)"


@frozen
class Change:
    """Objects of a kind that changed; `ids` is `None` when all of the kind are to be reloaded."""

    version: int
    nonce: int
    kind: str
    ids: tuple[str, ...] | None


@frozen
class FeedPage:
    """Changes after a version, in order, and where the feed stands in the same snapshot.

    `after_nonce` is the nonce now stored for the version read after, `None` if that is no longer
    kept. `ack_wanted` is a version whose application somebody waits to see confirmed.
    """

    head: int
    head_nonce: int
    min_version: int
    ack_wanted: int
    after_nonce: int | None
    changes: tuple[Change, ...]

    @property
    def through(self) -> int | None:
        """The version a reader stands at after this page; `None` if nothing changed."""
        return self.changes[-1].version if self.changes else None


async def read_page(link: Queryable, after_version: int, rows: int = PAGE_ROWS) -> FeedPage:
    """The next changes after a version; never a part of a version."""
    data: bytes = await link.fetchval(_PAGE, after_version, rows)
    return msgspec.json.decode(data, type=FeedPage)


async def transaction_version(connection: Queryable) -> int:
    """The version under which the changes of this transaction will be visible.

    To be called last in a transaction: from here to the commit no other change can commit. In one
    that has changed nothing it is the newest version.
    """
    await connection.execute(_NUMBER)
    version: int = await connection.fetchval(_HEAD)
    return version


async def cluster_id(link: Queryable) -> str:
    """The database's name for itself: the same for all who work with it, and for its copies."""
    return str(await link.fetchval(_CLUSTER))


async def head_version(link: Queryable) -> int:
    """The newest version."""
    version: int = await link.fetchval(_HEAD)
    return version


async def notify(link: Queryable) -> None:
    """Wakes all followers. Sent after the commit, and not for every change (see `Notifier`)."""
    await link.execute(_NOTIFY, FEED_CHANNEL)


async def want_ack(link: Queryable, version: int) -> None:
    """Asks every instance to confirm a version at once, and wakes them."""
    await link.execute(_WANT_ACK, version, FEED_CHANNEL)


async def trim(link: Queryable, keep_s: float = 3600.0, keep_versions: int = 10_000) -> int:
    """Drops changes that are both too old and too far back; returns how many rows went."""
    rows: int = await link.fetchval(_TRIM, keep_s, keep_versions)
    return rows
