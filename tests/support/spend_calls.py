"""Calls of any day, posted to a database by the ledger's own function, and remembered."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from attrs import frozen

from shared.db import ledger
from shared.db.link import Link
from shared.domain.ledger import CallClosed, CallOpened, CallStatus
from shared.spend.records import Joiner, encode_close, encode_open
from shared.spend.segments import CLOSED, OPENED, Frame
from tests.support.ledger_calls import Calls

FAILED = (CallStatus.FAILURE, CallStatus.INTERRUPTED)


@frozen
class Posted:
    """A call as it was posted."""

    opened: CallOpened
    closed: CallClosed

    @property
    def at(self) -> datetime:
        """When it started."""
        return datetime.fromtimestamp(self.opened.started_s, UTC)

    @property
    def day(self) -> date:
        """The UTC day of its start."""
        return self.at.date()

    @property
    def request_id(self) -> str:
        """Its id on the wire."""
        return str(self.opened.id)

    @property
    def cost(self) -> Decimal:
        """USD."""
        return self.closed.cost

    @property
    def tokens(self) -> int:
        """Prompt and completion."""
        return self.closed.prompt_tokens + self.closed.completion_tokens

    @property
    def failed(self) -> bool:
        """Whether it counts as a failure."""
        return self.closed.status in FAILED


class Book:
    """Posts calls and keeps them for the test's own arithmetic."""

    def __init__(self, link: Link) -> None:
        self.calls: list[Posted] = []
        self._link = link
        self._maker = Calls()
        self._journal = uuid4()
        self._position = 0
        self._numbers = itertools.count(1)

    def call(self, at: datetime, **fields: Any) -> Posted:
        """A call that started then; fields of both its records."""
        number = next(self._numbers)
        call_id = UUID(int=int(at.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62 | number)
        ending = {name: fields.pop(name) for name in _ENDING if name in fields}
        opened = self._maker.opened(id=call_id, started_s=at.timestamp(), **fields)
        return Posted(opened, self._maker.closed(opened, **ending))

    async def post(self, calls: Iterable[Posted]) -> list[Posted]:
        """Posts calls in one batch."""
        made = list(calls)
        for day in sorted({each.day for each in made}):
            await self._link.fetchval("select spend_log_ensure_partitions(1, $1)", _noon(day))
        joiner, bodies = Joiner({}), []
        for each in made:
            joiner.feed(0, Frame(OPENED, encode_open(each.opened), 1))
            row = joiner.feed(0, Frame(CLOSED, encode_close(each.closed), 2))
            assert row is not None
            bodies.append(row.body)
        end = self._position + 1
        stretch = ledger.Stretch(self._journal, 0, self._position, end, "i1", 7)
        applied = await ledger.apply(self._link, stretch, b"[" + b",".join(bodies) + b"]")
        assert applied.inserted == len(made)
        self._position = end
        self.calls += made
        return made

    async def add(self, at: datetime, **fields: Any) -> Posted:
        """Posts one call."""
        [made] = await self.post([self.call(at, **fields)])
        return made

    def sums(
        self, by: Callable[[Posted], Any], of: Callable[[Posted], Any] = lambda call: call.cost
    ) -> dict[Any, Any]:
        """What the calls add up to by something; calls of which it is `None` are left out."""
        found: dict[Any, Any] = defaultdict(int)
        for call in self.calls:
            if by(call) is not None:
                found[by(call)] += of(call)
        return dict(found)


_ENDING = (
    "ended_s", "status", "http_status", "cost", "prompt_tokens", "completion_tokens",
    "cached_tokens", "cache_write_tokens", "reasoning_tokens", "ttft_s", "error_type",
    "upstream_id", "attempts", "estimated",
)  # fmt: skip


def _noon(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


@asynccontextmanager
async def opened_book(database: str) -> AsyncIterator[Book]:
    """A book over a database."""
    link = Link("bulk", database, application_name="test", statement_timeout_s=30.0)
    await link.open()
    try:
        yield Book(link)
    finally:
        await link.close()


def traffic(book: Book, first: datetime, days: int, count: int, seed: int = 1) -> list[Posted]:
    """Calls of several owners and models over some days, in no order; the same for a seed."""
    rnd = random.Random(seed)
    made = []
    for number in range(count):
        who = rnd.randrange(6)
        failed = rnd.random() < 0.2
        made.append(
            book.call(
                first + timedelta(seconds=rnd.random() * days * 86400),
                key=f"{who:02x}" * 32,
                key_alias=f"key-{who}",
                user_id=None if who == 5 else f"user-{who % 3}",
                team_id=None if who == 4 else f"team-{who % 2}",
                organization_id=None if who == 4 else "org-0",
                end_user=rnd.choice((None, "cust-a", "cust-b")),
                model=rnd.choice(("gpt-a", "gpt-b", "claude")),
                model_group=rnd.choice(("fast", "slow")),
                provider=rnd.choice(("openai", "anthropic")),
                deployment_id=rnd.choice(("d1", "d2")),
                route=rnd.choice(("/v1/chat/completions", "/v1/embeddings")),
                tags=rnd.choice(((), ("a",), ("a", "b"))),
                session_id=f"s{number % 7}" if number % 3 == 0 else None,
                cost=Decimal(0) if failed else Decimal(rnd.randrange(1, 10**8)).scaleb(-10),
                prompt_tokens=rnd.randrange(100),
                completion_tokens=rnd.randrange(50),
                cached_tokens=rnd.randrange(10),
                cache_write_tokens=rnd.randrange(5),
                status=rnd.choice(FAILED) if failed
                else rnd.choice((CallStatus.SUCCESS, CallStatus.CLIENT_CLOSED)),
                http_status=rnd.choice((429, 500)) if failed else 200,
                error_type="UpstreamRejected" if failed else None,
                ttft_s=0.1,
            )
        )  # fmt: skip
    return made
