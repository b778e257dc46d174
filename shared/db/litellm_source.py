"""A LiteLLM proxy's database, read only and in one snapshot.

Which tables and columns there are depends on the release that made it; what is missing reads as
absent. Rows come as JSON, so that columns of unexpected types are the reader's matter.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from types import MappingProxyType
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg
from attrs import field, frozen

from shared.db.rows import DRIVER_ERRORS, RawConnection, is_fault
from shared.domain.errors import ConfigError, StoreUnavailable

_CONNECT_TIMEOUT_S = 10.0
_BATCH = 1000
# Of the many parameters that other clients put into a URL, those that mean the same to us.
_KNOWN_PARAMETERS = frozenset(
    {"host", "port", "user", "password", "database", "dbname", "passfile", "sslmode"}
    | {"sslrootcert", "sslcrl", "target_session_attrs"}
)
_SETTINGS = MappingProxyType(
    {
        "application_name": "meridian-import",
        "default_transaction_read_only": "on",
        "statement_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        "timezone": "UTC",
        "extra_float_digits": "1",
    }
)
_COLUMNS = """
select c.relname as name, array_agg(a.attname::text) as columns
from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relkind in ('r', 'p', 'v', 'm', 'f') and c.relname like 'LiteLLM\\_%'
  and pg_table_is_visible(c.oid)
group by 1
"""
# By way of text: a direct cast keeps 15 digits only.
_AMOUNT = (
    """case when {0}::text !~ '^-|^(NaN|Infinity)$' then round({0}::text::numeric, 10) else 0 end"""
)

_MEMBER_BUDGETS = """
select jsonb_object_agg(m."user_id", m."budget_id") from "LiteLLM_TeamMembership" m
where m."team_id" = t."team_id" and m."budget_id" is not null
"""
_MEMBER_IDS = """
select jsonb_object_agg(lower(u."user_email"), u."user_id") from "LiteLLM_UserTable" u
where lower(u."user_email") in (
    select lower(e ->> 'user_email')
    from jsonb_array_elements(
        case jsonb_typeof(to_jsonb(t."members_with_roles"))
            when 'array' then to_jsonb(t."members_with_roles") else '[]' end) e
    where jsonb_typeof(e) = 'object' and e ->> 'user_id' is null)
"""


@frozen
class SourceTable:
    """A table, without its prefix, and the columns that are read of it.

    `key` are the columns that order the rows. `hot` ones change with traffic: they are read and
    do not count as a change of the row. `linked` are scalar subqueries over `t`, by name, each with
    the columns of other tables that it needs; these are hot where `hot` names them.
    """

    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...] = ()
    hot: tuple[str, ...] = ()
    linked: Mapping[str, Linked] = field(factory=dict)

    @property
    def full_name(self) -> str:
        """As the database knows it."""
        return f"LiteLLM_{self.name}"


@frozen
class Linked:
    """A scalar subquery, and the columns by table (without prefix) that must be there for it."""

    sql: str
    needs: Mapping[str, tuple[str, ...]]


def linked_budget(column: str = "budget_id") -> Mapping[str, Linked]:
    """The period and the next reset of the budget that a row links to, under names of their own."""
    return MappingProxyType(
        {
            f"linked_{name}": Linked(
                f'select b."{name}" from "LiteLLM_BudgetTable" b '  # noqa: S608 - names of the code
                f'where b."budget_id" = t."{column}"',
                _needs(BudgetTable=("budget_id", name)),
            )
            for name in ("budget_duration", "budget_reset_at")
        }
    )


def model_aliases(table: str) -> Mapping[str, Linked]:
    """The aliases of models that a team has, by the table of teams."""
    sql = 'select m."aliases" from "LiteLLM_ModelTable" m where m."id" = t."model_id"'
    needs = _needs(ModelTable=("id", "aliases"), **{table: ("model_id",)})
    return MappingProxyType({"model_aliases": Linked(sql, needs)})


def member_facts() -> Mapping[str, Linked]:
    """Of the members of a team: their budgets by id, and by their address the ids of those that
    the list knows by it alone."""
    return MappingProxyType(
        {
            "budgets": Linked(
                _MEMBER_BUDGETS, _needs(TeamMembership=("team_id", "user_id", "budget_id"))
            ),
            "ids": Linked(
                _MEMBER_IDS,
                _needs(UserTable=("user_id", "user_email"), TeamTable=("members_with_roles",)),
            ),
        }
    )


def _needs(**columns: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
    return MappingProxyType(columns)


@frozen
class SourceRow:
    """A row as JSON text. `steady` is what a change of counts, `hot` the rest."""

    steady: str
    hot: str


class Source:
    """An open source: a transaction that sees one state throughout."""

    def __init__(self, connection: RawConnection, columns: Mapping[str, frozenset[str]]) -> None:
        self._connection = connection
        self._columns = columns

    def has(self, table: str) -> bool:
        """Whether there is a table (name without prefix)."""
        return f"LiteLLM_{table}" in self._columns

    def missing(self, table: SourceTable) -> tuple[str, ...]:
        """The wanted columns that this release's table has not."""
        there = self._columns.get(table.full_name, frozenset())
        return tuple(
            name
            for name in (*table.key, *table.columns, *table.hot)
            if name not in there and name not in table.linked
        )

    async def batches(self, table: SourceTable) -> AsyncIterator[list[SourceRow]]:
        """All rows in the order of their key, some at a time. Nothing where a table is missing."""
        there = self._columns.get(table.full_name)
        if there is None or not set(table.key) <= there:
            return
        expressions = {name: f't."{name}"' for name in (*table.key, *table.columns, *table.hot)
                       if name in there}  # fmt: skip
        for name, link in table.linked.items():
            if self._can(link):
                expressions[name] = f"({link.sql})"
        steady = {n: e for n, e in expressions.items() if n not in table.hot}
        hot = {n: e for n, e in expressions.items() if n in table.hot}
        order = ", ".join(f't."{name}"' for name in table.key)
        query = (
            f"select {_document(steady)} as steady, {_document(hot)} as hot "  # noqa: S608 - names
            f'from "{table.full_name}" t order by {order}'  # of the code that the catalog has too
        )
        with _reading():
            async for records in _cursor(self._connection, query):
                yield [SourceRow(each["steady"], each["hot"]) for each in records]

    async def count(self, table: str) -> int:
        """How many rows a table (name without prefix) has; 0 for one that is missing."""
        if not self.has(table):
            return 0
        with _reading():
            found = await self._connection.fetchval(
                f'select count(*) from "LiteLLM_{table}"'  # noqa: S608 - a name of the code
            )
        return int(found)

    async def total(self, table: str, *columns: str) -> Decimal:
        """The sum over all rows of the greatest of some amounts, in USD to ten places. What is no
        amount counts as 0."""
        there = self._columns.get(f"LiteLLM_{table}", frozenset())
        amounts = ", ".join(_AMOUNT.format(f't."{name}"') for name in columns if name in there)
        if not amounts:
            return Decimal(0)
        with _reading():
            found = await self._connection.fetchval(
                f"select coalesce(sum(greatest({amounts})), 0) "  # noqa: S608 - names of the code
                f'from "LiteLLM_{table}" t'
            )
        return Decimal(found)

    def _can(self, link: Linked) -> bool:
        return all(
            set(columns) <= self._columns.get(f"LiteLLM_{table}", frozenset())
            for table, columns in link.needs.items()
        )


@asynccontextmanager
async def open_source(dsn: str) -> AsyncIterator[Source]:
    """Connects, so that nothing can be written there. Raises `StoreUnavailable` or `ConfigError`,
    which repeat nothing of the address."""
    address, schema = _address(dsn)
    settings = dict(_SETTINGS) | ({"search_path": schema} if schema else {})
    try:
        connection = await asyncpg.connect(
            address,
            timeout=_CONNECT_TIMEOUT_S,
            statement_cache_size=0,
            server_settings=settings,
        )
    except (ValueError, asyncpg.ClientConfigurationError):
        # The cause may quote a part of the password.
        raise ConfigError("--from: is not a valid PostgreSQL URL") from None
    except (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError) as error:
        what = type(error).__name__
        raise StoreUnavailable(f"--from: the database cannot be reached ({what})") from None
    except asyncpg.PostgresError as error:
        raise ConfigError(
            f"--from: the database refuses the connection ({type(error).__name__}). Name the "
            "database itself, not a pooler in front of it."
        ) from None
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            with _reading():
                rows = await connection.fetch(_COLUMNS)
            yield Source(connection, {row["name"]: frozenset(row["columns"]) for row in rows})
    finally:
        await connection.close(timeout=_CONNECT_TIMEOUT_S)


@contextmanager
def _reading() -> Iterator[None]:
    """Faults of the source by their kind; texts of the driver may quote rows."""
    try:
        yield
    except DRIVER_ERRORS as error:
        what = type(error).__name__
        if is_fault(error):
            raise StoreUnavailable(f"--from: the connection was lost ({what})") from None
        raise ConfigError(f"--from: the database refuses to be read ({what})") from None


async def _cursor(connection: RawConnection, query: str) -> AsyncIterator[list[asyncpg.Record]]:
    cursor = await connection.cursor(query)
    while records := await cursor.fetch(_BATCH):
        yield records


def _document(expressions: Mapping[str, str]) -> str:
    if not expressions:
        return "'{}'"
    selected = ", ".join(f'{value} as "{name}"' for name, value in expressions.items())
    return f"(select to_jsonb(x)::text from (select {selected}) x)"  # noqa: S608 - as above


def _address(dsn: str) -> tuple[str, str | None]:
    """The address without what only other clients understand, and the schema that it names."""
    try:
        parts = urlsplit(dsn)
    except ValueError:
        raise ConfigError("--from: is not a valid PostgreSQL URL") from None
    given = parse_qsl(parts.query, keep_blank_values=True)
    schema = next((value for name, value in given if name == "schema" and value), None)
    kept = urlencode([(name, value) for name, value in given if name in _KNOWN_PARAMETERS])
    quoted = None if schema is None else '"' + schema.replace('"', '""') + '"'
    return urlunsplit(parts._replace(query=kept)), quoted
