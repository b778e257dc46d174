"""The timer wheel: never early, a tick late at most, and silent when nothing waits."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise
from time import monotonic

from shared.upstream.timers import TimerWheel
from tests.support.upstream_kit import on_both_loops

TICK_S = 0.02
# The loop's own lag on a busy machine.
LAG_S = 0.25


@on_both_loops
async def test_never_early_and_hardly_late() -> None:
    """Timers of many delays fire in the order of their ticks, none early, all within bounds."""
    loop = asyncio.get_running_loop()
    wheel = TimerWheel(loop, TICK_S)
    fired: list[tuple[float, float]] = []
    done = asyncio.Event()
    delays = [random.Random(7).uniform(0.0, 0.3) for _ in range(300)] + [0.0, 0.3, TICK_S]

    def start(delay_s: float) -> None:
        begun = monotonic()

        def fire() -> None:
            fired.append((delay_s, monotonic() - begun))
            if len(fired) == len(delays):
                done.set()

        wheel.start(delay_s, fire)

    for delay_s in delays:
        start(delay_s)
    await asyncio.wait_for(done.wait(), 5)
    assert all(took >= delay_s for delay_s, took in fired)
    assert all(took <= delay_s + TICK_S + LAG_S for delay_s, took in fired)
    order = [delay_s for delay_s, _ in fired]
    assert all(later >= sooner - TICK_S for sooner, later in pairwise(order))
    assert not wheel.armed


@on_both_loops
async def test_cancelled_timers_never_fire() -> None:
    """A cancelled timer does not call back, also when cancelled by one due in the same tick."""
    wheel = TimerWheel(asyncio.get_running_loop(), TICK_S)
    fired: list[str] = []
    wheel.start(0.01, lambda: fired.append("never")).cancel()
    pair = [
        wheel.start(0.05, lambda: (fired.append("one"), pair[1].cancel())),
        wheel.start(0.05, lambda: (fired.append("one"), pair[0].cancel())),
    ]
    last = asyncio.Event()
    wheel.start(0.1, last.set)
    await asyncio.wait_for(last.wait(), 5)
    assert fired == ["one"]
    pair[0].cancel()
    assert wheel.pending == 0


@on_both_loops
async def test_idle_wheel_does_not_wake() -> None:
    """Once the last timer is gone the loop holds no timer of the wheel, cancelled or not."""
    wheel = TimerWheel(asyncio.get_running_loop(), TICK_S)
    assert not wheel.armed
    wheel.start(0.01, lambda: None).cancel()
    assert wheel.pending == 0
    async with asyncio.timeout(5):
        while wheel.armed:  # noqa: ASYNC110 - the wheel tells nobody that it sleeps
            await asyncio.sleep(TICK_S)
    fired = asyncio.Event()
    wheel.start(0.0, fired.set)
    await asyncio.wait_for(fired.wait(), 5)
    assert not wheel.armed


@on_both_loops
async def test_earlier_timer_moves_the_alarm() -> None:
    """A short timer started after one of hours fires in time, and the long one stays."""
    wheel = TimerWheel(asyncio.get_running_loop(), TICK_S)
    long = wheel.start(7200.0, lambda: None)
    fired = asyncio.Event()
    begun = monotonic()
    wheel.start(0.05, fired.set)
    await asyncio.wait_for(fired.wait(), 5)
    assert 0.05 <= monotonic() - begun <= 0.05 + TICK_S + LAG_S
    assert wheel.pending == 1
    long.cancel()
    assert wheel.pending == 0
    wheel.close()


@on_both_loops
async def test_callbacks_may_start_timers() -> None:
    """A callback that starts a timer of no delay gets it in a later tick, again and again."""
    wheel = TimerWheel(asyncio.get_running_loop(), 0.005)
    done = asyncio.Event()
    count = 0

    def again() -> None:
        nonlocal count
        count += 1
        if count < 20:
            wheel.start(0.0, again)
        else:
            done.set()

    wheel.start(0.0, again)
    await asyncio.wait_for(done.wait(), 5)
    assert not wheel.armed


@on_both_loops
async def test_broken_callback_spares_the_others() -> None:
    """An exception goes to the loop's handler; timers of the same and later ticks still fire."""
    loop = asyncio.get_running_loop()
    reported: list[object] = []
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    wheel = TimerWheel(loop, TICK_S)
    fired: list[int] = []
    done = asyncio.Event()

    def broken() -> None:
        raise ValueError("broken")

    for number in range(3):
        wheel.start(0.01, broken)
        wheel.start(0.01, lambda number=number: fired.append(number))  # type: ignore[misc]
    wheel.start(0.1, done.set)
    await asyncio.wait_for(done.wait(), 5)
    assert sorted(fired) == [0, 1, 2]
    assert len(reported) == 3


@on_both_loops
async def test_close_drops_everything() -> None:
    """After `close` nothing fires, nothing is armed, and new timers are inert."""
    loop = asyncio.get_running_loop()
    wheel = TimerWheel(loop, TICK_S)
    fired: list[int] = []
    wheel.start(0.0, lambda: fired.append(1))
    wheel.close()
    wheel.start(0.0, lambda: fired.append(2)).cancel()
    assert wheel.pending == 0
    assert not wheel.armed
    await asyncio.sleep(3 * TICK_S)
    assert fired == []


@on_both_loops
async def test_many_cancelled_timers_leave_nothing() -> None:
    """A hundred thousand timers, started and cancelled, leave no slot behind."""
    wheel = TimerWheel(asyncio.get_running_loop())
    for _ in range(1000):
        batch = [wheel.start(600.0, lambda: None) for _ in range(100)]
        assert wheel.pending == 100
        for timer in batch:
            timer.cancel()
    assert wheel.pending == 0
    wheel.close()
