"""Rotating one key, for requests and for the job that rotates keys by themselves."""

from __future__ import annotations

from datetime import datetime

from attrs import frozen

from services.admin.api.key_policy import KeyRules, rotation_time
from shared.db.key_admin import KeyRow
from shared.db.key_rotation import Rotation, rotate_key
from shared.db.rows import Connection
from shared.domain.keys import hash_key, masked_name
from shared.limits.windows import parse_duration

_AT_ONCE = frozenset({"", "0", "0s"})


@frozen(kw_only=True)
class Rotator:
    """Who rotates keys, when, and by which rules."""

    rules: KeyRules
    now: datetime
    actor: str
    api_key: str | None = None
    changed_by: str | None = None

    async def rotate(
        self, connection: Connection, row: KeyRow, plain: str, grace: str | None = None
    ) -> KeyRow:
        """Makes `plain` the value of a key whose row is locked, and answers the new row.

        The old value works for the `grace` period, or as long as the rules say; an empty one ends
        it at once.
        """
        period = self.rules.rotation_grace if grace is None else grace
        revoke_at = None
        if period not in _AT_ONCE:
            revoke_at = parse_duration(period, param="grace_period").after(self.now)
        rotation = Rotation(
            token=hash_key(plain),
            key_name=masked_name(plain) if self.rules.store_names else None,
            revoke_at=revoke_at,
            next_at=rotation_time(row, self.now),
            actor=self.actor,
            api_key=self.api_key,
            changed_by=self.changed_by,
        )
        return await rotate_key(connection, row, rotation)
