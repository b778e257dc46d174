"""Runs a pipeline in its caller's stack: no task, no loop turn, one suspension at a time.

A pipeline coroutine awaits nothing but `suspend`, `slow` and coroutines made of them. `suspend`
hands an *arm* to the driver: it is called with the driver and the number of the turn, and later,
or at once, somebody calls `resume` or `throw` with that number. A stale number is dropped, so a
first attempt's late answer cannot wake the wait of the second.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from shared.domain.errors import ClientGone

T = TypeVar("T")
Arm = Callable[["Drive", int], None]


@types.coroutine
def suspend(arm: Arm) -> Generator[Arm, Any, Any]:
    """Wait until what `arm` set up resumes this turn; the value it is resumed with."""
    return (yield arm)


class Drive:
    """One pipeline on its way. `ended` is called once, when the coroutine has returned.

    An exception that leaves the coroutine is a bug: it goes to the loop's exception handler,
    never into the protocol that happened to call us.
    """

    __slots__ = ("_busy", "_coro", "_ended", "loop", "turn")

    def __init__(
        self,
        coro: Coroutine[Arm, Any, None],
        ended: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._coro = coro
        self._ended = ended
        self.loop = loop
        self.turn = 0
        self._busy = False

    def start(self) -> None:
        """Run to the first suspension."""
        self._step(self._coro.send, None)

    def resume(self, turn: int, value: object) -> None:
        """Continue the given turn with a value."""
        if turn == self.turn:
            self._step(self._coro.send, value)

    def throw(self, turn: int, error: BaseException) -> None:
        """Continue the given turn with an exception."""
        if turn == self.turn:
            self._step(self._coro.throw, error)

    def gone(self) -> None:
        """Throw `ClientGone` at whatever turn it is."""
        self.stop(ClientGone())

    def stop(self, error: Exception) -> None:
        """Throw at whatever turn it is; nothing when the pipeline is over."""
        if self._busy:
            self.loop.call_soon(self.stop, error)
        elif self.turn >= 0:
            self._step(self._coro.throw, error)

    def _step(self, go: Callable[[Any], Arm], value: object) -> None:
        self.turn = turn = self.turn + 1
        self._busy = True
        try:
            arm = go(value)
        except StopIteration:
            self.turn = -1
        except BaseException as bug:  # noqa: BLE001 - boundary: our caller is a foreign protocol
            self.turn = -1
            self.loop.call_exception_handler(
                {
                    "message": "A request pipeline failed outside its error handling",
                    "exception": bug,
                }
            )
        else:
            self._busy = False
            arm(self, turn)
            return
        self._busy = False
        self._ended()


async def slow(work: Coroutine[Any, Any, T], undo: Callable[[T], None] | None = None) -> T:
    """Run what needs a task (database calls, body reads) in one; its result or exception.

    When the client goes meanwhile, the task is cancelled; if it had just finished, `undo` gets
    the result that nobody takes.
    """
    task: asyncio.Task[T] | None = None

    def arm(drive: Drive, turn: int) -> None:
        nonlocal task
        task = drive.loop.create_task(work)

        def deliver(done: asyncio.Task[T]) -> None:
            stale = drive.turn != turn
            if done.cancelled():
                error: BaseException | None = asyncio.CancelledError()
            else:
                error = done.exception()
            if error is not None:
                drive.throw(turn, error)
            elif not stale:
                drive.resume(turn, done.result())
            elif undo is not None:
                undo(done.result())

        task.add_done_callback(deliver)

    try:
        return await suspend(arm)  # type: ignore[no-any-return]
    finally:
        if task is not None and not task.done():
            task.cancel()
