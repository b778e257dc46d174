"""Follows the change feed and tells each cache which of its objects are no longer good.

Rules (DESIGN §4): the head is polled every half second and on every notification, so a lost
notification costs at most that. A follower whose place in the feed is no longer kept, is ahead of
the head, or bears another nonce looks at a database that has moved on or was restored: everything
is reloaded. The first reading is such a case too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from shared.db.feed import Change, FeedPage, read_page
from shared.db.link import Link
from shared.domain.clock import Clock
from shared.domain.errors import StoreUnavailable
from shared.fleet.reload import Reload

Subscriber = Callable[[tuple[str, ...] | None], None]

POLL_S = 0.5
# Prompt acknowledgements come at most this often; the heartbeat carries the rest.
ACK_SPACING_S = 0.2

_log = structlog.get_logger(__name__)


class Follower:
    """Owns this process's place in the feed.

    `subscribers` maps a kind to a plain call that gets the changed ids, or `None` for all of the
    kind; when it returns, the old objects are out of service. One that raises is called again
    with `None`, and counted in `subscriber_faults`. `reloads` are read anew in the background when
    one of their kinds has changed. `ack` reports the version in force when somebody waits for it.
    `on_contact` is called with the monotonic time at which the feed
    was last known to be applied to its head.
    """

    def __init__(
        self,
        link: Link,
        clock: Clock,
        subscribers: Mapping[str, Subscriber],
        *,
        reloads: Sequence[Reload] = (),
        ack: Callable[[int], Awaitable[None]] | None = None,
        on_contact: Callable[[float], None] | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        self.applied = 0
        self.head = 0
        self.resyncs = 0
        self.subscriber_faults = 0
        self.last_applied_mono: float | None = None
        self._link = link
        self._clock = clock
        self._subscribers = dict(subscribers)
        self._reloads = tuple(reloads)
        for reload in self._reloads:
            self._subscribers |= dict.fromkeys(reload.kinds, reload.mark)
        self._ack = ack
        self._on_contact = on_contact
        self._poll_s = poll_s
        self._nonce: int | None = None
        self._acked = 0
        self._acked_mono = float("-inf")
        self._ack_wanted = 0
        self._wake = asyncio.Event()
        self._progress = asyncio.Condition()
        link.on_notify(lambda _channel, _payload: self._wake.set())
        link.on_change(lambda up: self._wake.set() if up else None)

    @property
    def staleness_s(self) -> float:
        """Seconds since the feed was known to be applied to its head; infinite before the first
        time."""
        if self.last_applied_mono is None:
            return float("inf")
        return self._clock.mono() - self.last_applied_mono

    @property
    def in_force(self) -> int:
        """The version whose changes all hold in this process: the applied one, unless something is
        still being read anew."""
        return min((self.applied, *(each.through for each in self._reloads if each.behind)))

    def wake(self) -> None:
        """More is in force than a moment ago: somebody may wait to hear of it."""
        self._wake.set()

    async def run(self) -> None:
        """Follows until cancelled. No error ends it; each is logged when it starts."""
        failing = False
        while True:
            try:
                await self.catch_up()
                failing = False
            except StoreUnavailable:
                failing = True
            except Exception:  # noqa: BLE001 - supervisor: revocations must go on being obeyed
                if not failing:
                    _log.exception("feed_unreadable", applied=self.applied)
                failing = True
            await self._pause(failing=failing)

    async def catch_up(self) -> None:
        """Applies all there is to apply, and confirms it if somebody waits."""
        while True:
            sent_mono = self._clock.mono()
            page = await read_page(self._link, self.applied)
            self.head, self._ack_wanted = page.head, page.ack_wanted
            if not self._continues(page):
                self._start_anew(page)
            else:
                self._apply(page)
            if self.applied >= page.head:
                break
        self.last_applied_mono = sent_mono
        if self._on_contact is not None:
            self._on_contact(sent_mono)
        async with self._progress:
            self._progress.notify_all()
        await self._confirm()

    async def wait_version(self, version: int, timeout_s: float) -> bool:
        """Waits until a version is applied in this process; false if it took too long."""
        self._wake.set()
        try:
            async with asyncio.timeout(timeout_s), self._progress:
                await self._progress.wait_for(lambda: self.applied >= version)
        except TimeoutError:
            return False
        return True

    def _continues(self, page: FeedPage) -> bool:
        now_there = page.head_nonce if self.applied == page.head else page.after_nonce
        return page.min_version <= self.applied <= page.head and now_there == self._nonce

    def _start_anew(self, page: FeedPage) -> None:
        _log.info("feed_resync", applied=self.applied, head=page.head)
        self.resyncs += 1
        for kind in self._subscribers:
            self._tell(kind, None)
        self.applied, self._nonce = page.head, page.head_nonce
        self._acked = min(self._acked, self.applied)

    def _apply(self, page: FeedPage) -> None:
        if not page.changes:
            return
        for kind, ids in merged(page.changes).items():
            self._tell(kind, ids)
        last = page.changes[-1]
        self.applied, self._nonce = last.version, last.nonce

    def _tell(self, kind: str, ids: tuple[str, ...] | None) -> None:
        subscriber = self._subscribers.get(kind)
        if subscriber is None:
            return
        try:
            subscriber(ids)
        except Exception:  # noqa: BLE001 - supervisor: the other caches must hear of their changes
            _log.exception("feed_subscriber_failed", kind=kind)
            self.subscriber_faults += 1
            if ids is not None:
                self._tell(kind, None)

    async def _confirm(self) -> None:
        if self._ack is None or not self._ack_due():
            return
        if self._clock.mono() - self._acked_mono < ACK_SPACING_S:
            return
        version = self.in_force
        self._acked_mono = self._clock.mono()
        await self._ack(version)
        self._acked = version

    def _ack_due(self) -> bool:
        return self._acked < self._ack_wanted <= self.in_force

    async def _pause(self, *, failing: bool) -> None:
        timeout_s = self._poll_s
        if self._ack_due() and not failing:
            timeout_s = min(timeout_s, ACK_SPACING_S)
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()


def merged(changes: tuple[Change, ...]) -> dict[str, tuple[str, ...] | None]:
    """Kind → ids of all changes together; `None` where one of them means everything."""
    found: dict[str, dict[str, None] | None] = {}
    for change in changes:
        known = found.setdefault(change.kind, {})
        if change.ids is None or known is None:
            found[change.kind] = None
        else:
            known.update(dict.fromkeys(change.ids))
    return {kind: None if ids is None else tuple(ids) for kind, ids in found.items()}
