"""Calls to put into a journal, and how to get them out again without a database."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from shared.domain.clock import Clock
from shared.domain.errors import Overloaded
from shared.domain.ids import CallIds
from shared.domain.ledger import CallClosed, CallOpened, CallStatus
from shared.spend.batches import BatchReader, FlushStats
from shared.spend.journal import Journal
from shared.spend.segments import found_segments

KEY = "9f" * 32


class Calls:
    """Makes records; any field can be given."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.ids = CallIds(self.clock)

    def opened(self, **fields: Any) -> CallOpened:
        """A call about to go upstream."""
        values: dict[str, Any] = {
            "id": self.ids.next(),
            "started_s": self.clock.now(),
            "route": "acompletion",
            "model": "gpt-4o",
            "model_group": "gpt-4o",
            "deployment_id": "8d1f0b9c2a7e4d5f",
            "provider": "openai",
            "region": "eu-west-1",
            "key": KEY,
            "key_alias": "ci-bot",
            "user_id": "u1",
            "team_id": "t1",
            "organization_id": "o1",
            "end_user": None,
            "api_base": "https://api.openai.com/v1",
            "stream": False,
            "estimate": Decimal("0.05"),
        }
        return CallOpened(**(values | fields))

    def closed(self, opened: CallOpened, **fields: Any) -> CallClosed:
        """The same call's end."""
        values: dict[str, Any] = {
            "id": opened.id,
            "ended_s": opened.started_s + 0.25,
            "status": CallStatus.SUCCESS,
            "http_status": 200,
            "cost": Decimal("0.0012345678"),
            "prompt_tokens": 20,
            "completion_tokens": 10,
            "upstream_id": "chatcmpl-1",
        }
        return CallClosed(**(values | fields))


def open_soon(journal: Journal, record: CallOpened, deadline_s: float = 10.0) -> None:
    """Opens a call, waiting for a segment where the test is faster than the preallocation."""
    until = time.monotonic() + deadline_s
    while True:
        try:
            journal.open(record)
        except Overloaded:
            if time.monotonic() > until:
                raise
            time.sleep(0.001)
        else:
            return


def joined(pair: list[dict[str, Any]]) -> dict[str, Any]:
    """A call's two records as one: what the second says stands for what the first said."""
    opened, closed = pair
    return opened | {name: value for name, value in closed.items() if value is not None}


async def recovered(directory: Path, limit: int = 100) -> tuple[list[dict[str, Any]], FlushStats]:
    """The rows that a dead journal's directory yields, interrupted ones last."""
    stats = FlushStats()
    segments = found_segments(directory)
    reader = BatchReader(lambda: segments, {}, stats)
    rows: list[dict[str, Any]] = []
    while (batch := await reader.next_batch(limit)) is not None:
        rows += [joined(pair) for pair in json.loads(batch.body())]
        reader.posted(batch)
    rows += [joined(json.loads(row.body)) for row in reader.interrupted()]
    reader.close()
    return rows, stats
