"""What the journal's records hold, and how a call's two records become one ledger row.

Payloads are JSON objects of the fields of `JournalHeader`, `CallOpened` and `CallClosed`, those
of calls behind the 16 bytes of the call's id. A neighbouring release can adopt them: unknown
fields are carried along, missing ones are filled by the database function. They hold no message
content and no plain key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from attrs import frozen

from shared.domain.ledger import BudgetCharge, CallClosed, CallOpened, CallStatus
from shared.spend.segments import CLOSED, OPENED, PREFIX_BYTES, Frame

FORMAT = 1
CLOSE_RESERVE = 2048
"""Bytes that a close takes at most, frame included; kept free for each open call."""

_OPEN_SOFT_LIMIT = 2048
_TEXT_LIMIT = 256
_TAGS_LIMIT = 32
_INTEGER_LIMIT = 2**31 - 1
_NUL = "\x00"
_ESCAPED_NUL = b"\\u0000"

_ID_BYTES = 16

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode

_Record = TypeVar("_Record", CallOpened, CallClosed)


@frozen
class JournalHeader:
    """The first record of each segment: whose calls these are.

    `boot` tells lives of one instance apart. `store` names the database that they belong to.
    """

    journal: UUID
    segment: int
    instance: str
    boot: int
    store: str = ""
    format: int = FORMAT


@frozen
class Row:
    """A ledger row as JSON: the array of a call's two payloads. `end` is the journal position
    behind its close."""

    end: int
    body: bytes


def encode_header(header: JournalHeader) -> bytes:
    """The payload of a segment's first record."""
    return _encode(header)


def decode_header(payload: bytes) -> JournalHeader:
    """The reverse of `encode_header`."""
    return msgspec.json.decode(payload, type=JournalHeader)


def encode_open(record: CallOpened) -> bytes:
    """A payload. Texts of a record that is too long or not Unicode are cut and repaired."""
    try:
        payload = _encode(record)
    except UnicodeEncodeError:
        payload = _encode(_bounded(record))
    if len(payload) > _OPEN_SOFT_LIMIT or _ESCAPED_NUL in payload:
        payload = _encode(_bounded(record))
    return record.id.bytes + payload


def encode_close(record: CallClosed) -> bytes:
    """A payload that fits into `CLOSE_RESERVE` whatever the upstream has answered."""
    try:
        payload = _encode(record)
    except UnicodeEncodeError:
        payload = _encode(_bounded(record))
    most = CLOSE_RESERVE - PREFIX_BYTES - _ID_BYTES
    if len(payload) > most or _ESCAPED_NUL in payload:
        payload = _encode(_bounded(record))
    return record.id.bytes + payload


class Joiner:
    """Joins closes to their opens, over the frames of a journal from its first segment on.

    Closes that lie before their segment's cursor have been posted: they only end their call.
    Not shared between tasks.
    """

    __slots__ = ("_closed", "_cursors", "_opened", "_waiting", "orphans")

    def __init__(self, cursors: Mapping[int, int]) -> None:
        self._cursors = cursors
        self._waiting: dict[bytes, tuple[int, bytes]] = {}
        self._opened = b""
        self._closed = b""
        self.orphans = 0

    def feed(self, segment: int, frame: Frame) -> Row | None:
        """The row that this frame completes, if it does."""
        if frame.kind == OPENED:
            self._opened = frame.payload
            # A second open of a call is its next attempt and stands for the first.
            self._waiting[frame.payload[:_ID_BYTES]] = (segment, frame.payload)
        elif frame.kind == CLOSED:
            self._closed = frame.payload
            waiting = self._waiting.pop(frame.payload[:_ID_BYTES], None)
            if frame.end <= self._cursors.get(segment, 0):
                return None
            if waiting is None:
                self.orphans += 1
                return None
            return Row(frame.end, _pair(waiting[1], frame.payload[_ID_BYTES:]))
        return None

    def oldest_segment(self) -> int | None:
        """The lowest segment with an open whose close has not been seen."""
        return min((segment for segment, _ in self._waiting.values()), default=None)

    def interrupted(self) -> list[Row]:
        """Rows of the calls that were open when their process died, in order.

        Their end is the last instant that the process is known to have lived, their cost the
        estimate. `end` counts them from 1, the same at each reading of the same files.
        """
        return [
            Row(number, _pair(payload, _interrupted(payload, self._last_s())))
            for number, (_, payload) in enumerate(self._waiting.values(), 1)
        ]

    def _last_s(self) -> float:
        """When the process is last known to have lived."""
        told = (
            _decode(payload[_ID_BYTES:]).get(name, 0.0)
            for payload, name in ((self._opened, "started_s"), (self._closed, "ended_s"))
            if payload
        )
        return float(max(told, default=0.0))


def _pair(opened: bytes, closed: bytes) -> bytes:
    return b"[%b,%b]" % (opened[_ID_BYTES:], closed)


def _interrupted(payload: bytes, last_s: float) -> bytes:
    opened = _decode(payload[_ID_BYTES:])
    return _encode(
        {
            "id": opened["id"],
            "ended_s": max(opened["started_s"], last_s),
            "status": CallStatus.INTERRUPTED,
            "http_status": 0,
            "cost": opened["estimate"],
            "estimated": True,
            "error_type": "interrupted",
        }
    )


def _bounded(record: _Record) -> _Record:
    changes = {
        name: _bounded_value(value) for name, value in msgspec.structs.asdict(record).items()
    }
    return msgspec.structs.replace(record, **changes)


def _bounded_value(value: Any) -> Any:
    if isinstance(value, CallStatus | bool):
        return value
    if isinstance(value, str):
        # The database's texts cannot hold NUL.
        whole = value.replace(_NUL, "\ufffd").encode("utf-8", "replace")
        return whole[:_TEXT_LIMIT].decode("utf-8", "ignore")
    if isinstance(value, int):
        return max(-_INTEGER_LIMIT, min(value, _INTEGER_LIMIT))
    if isinstance(value, BudgetCharge):
        return msgspec.structs.replace(value, scope=_bounded_value(value.scope))
    if isinstance(value, tuple):
        texts = [member for member in value if isinstance(member, str)]
        kept = texts[:_TAGS_LIMIT] if texts else value
        return tuple(_bounded_value(member) for member in kept)
    return value
