"""The driver: turns, stale resumes, the client going, and tasks for what is slow; on both loops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from shared.domain.errors import ClientGone
from shared.gateway.drive import Drive, slow, suspend

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Any:
    """Runs a coroutine function on one of the two loops and checks that no task is left over."""

    def runner(main: Callable[[], Awaitable[None]]) -> None:
        async def checked() -> None:
            await main()
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as loop_runner:
            loop_runner.run(checked())

    return runner


class Waits:
    """Collects the arms that a pipeline suspended on."""

    def __init__(self) -> None:
        self.turns: list[tuple[Drive, int]] = []

    def arm(self, drive: Drive, turn: int) -> None:
        self.turns.append((drive, turn))


def drive(pipeline: Any) -> tuple[Drive, list[str]]:
    ended: list[str] = []
    driver = Drive(pipeline, lambda: ended.append("ended"), asyncio.get_running_loop())
    driver.start()
    return driver, ended


def test_a_stale_turn_is_dropped(run: Any) -> None:
    """The first attempt's late answer does not wake the second attempt's wait."""

    async def main() -> None:
        waits, got = Waits(), []

        async def pipeline() -> None:
            try:
                await suspend(waits.arm)
            except TimeoutError:
                got.append("time-out")
            got.append(await suspend(waits.arm))

        driver, ended = drive(pipeline())
        first, second = waits.turns[0][1], None
        driver.throw(first, TimeoutError())
        second = waits.turns[1][1]
        driver.resume(first, "late")
        assert got == ["time-out"]
        driver.resume(second, "answer")
        assert got == ["time-out", "answer"]
        assert ended == ["ended"]
        driver.resume(second, "again")
        driver.gone()
        assert ended == ["ended"]

    run(main)


def test_resume_at_once(run: Any) -> None:
    """An arm may resume its turn before it returns."""

    async def main() -> None:
        got = []

        async def pipeline() -> None:
            for value in range(3):

                def arm(driver: Drive, turn: int, value: int = value) -> None:
                    driver.resume(turn, value)

                got.append(await suspend(arm))

        _, ended = drive(pipeline())
        assert got == [0, 1, 2]
        assert ended == ["ended"]

    run(main)


def test_gone_is_thrown_at_the_suspension(run: Any) -> None:
    """A client that goes ends the wait with `ClientGone`."""

    async def main() -> None:
        waits, got = Waits(), []

        async def pipeline() -> None:
            try:
                await suspend(waits.arm)
            except ClientGone:
                got.append("gone")

        driver, ended = drive(pipeline())
        driver.gone()
        assert (got, ended) == (["gone"], ["ended"])

    run(main)


def test_gone_during_a_step_waits_for_its_end(run: Any) -> None:
    """A client that goes while a step runs is noticed at the next suspension."""

    async def main() -> None:
        waits, got = Waits(), []
        holder: list[Drive] = []

        async def pipeline() -> None:
            await suspend(waits.arm)
            holder[0].gone()
            got.append("step went on")
            try:
                await suspend(waits.arm)
            except ClientGone:
                got.append("gone")

        driver, ended = drive(pipeline())
        holder.append(driver)
        driver.resume(waits.turns[0][1], None)
        assert got == ["step went on"]
        await asyncio.sleep(0)
        assert got == ["step went on", "gone"]
        assert ended == ["ended"]

    run(main)


def test_slow_gives_result_and_exception(run: Any) -> None:
    """What a task returns or raises arrives in the pipeline."""

    async def main() -> None:
        got: list[object] = []
        finished = asyncio.Event()

        async def work(value: int) -> int:
            await asyncio.sleep(0)
            if value < 0:
                raise ValueError("negative")
            return value

        async def pipeline() -> None:
            got.append(await slow(work(7)))
            try:
                await slow(work(-1))
            except ValueError as error:
                got.append(str(error))

        Drive(pipeline(), finished.set, asyncio.get_running_loop()).start()
        await finished.wait()
        assert got == [7, "negative"]

    run(main)


def test_gone_cancels_the_task_of_slow(run: Any) -> None:
    """A client that goes inside `slow` cancels its task."""

    async def main() -> None:
        cancelled = asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        async def pipeline() -> None:
            with pytest.raises(ClientGone):
                await slow(work())

        driver, ended = drive(pipeline())
        await asyncio.sleep(0)
        driver.gone()
        await cancelled.wait()
        assert ended == ["ended"]

    run(main)


def test_a_bug_reaches_the_loop_and_not_the_caller(run: Any) -> None:
    """An exception out of the pipeline is reported, and the exchange still ends."""

    async def main() -> None:
        reports: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))

        async def pipeline() -> None:
            raise KeyError("bug")

        _, ended = drive(pipeline())
        assert ended == ["ended"]
        assert isinstance(reports[0]["exception"], KeyError)

    run(main)


def test_every_interleaving_of_gone_and_a_finished_task(run: Any) -> None:
    """Whenever the client goes, a result is taken or undone, never both and never lost."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for delay in range(6):
            taken: list[str] = []
            undone: list[str] = []
            started: list[str] = []

            async def work(started: list[str] = started) -> str:
                started.append("slot")
                return started[0]

            async def pipeline(
                taken: list[str] = taken,
                undone: list[str] = undone,
                work: Callable[[], Any] = work,
            ) -> None:
                taken.append(await slow(work(), undone.append))

            def later(step: int, driver: Drive) -> None:
                if step:
                    loop.call_soon(later, step - 1, driver)
                else:
                    driver.gone()

            driver = Drive(pipeline(), lambda: None, loop)
            loop.set_exception_handler(lambda *_: None)
            driver.start()
            later(delay, driver)
            for _ in range(8):
                await asyncio.sleep(0)
            assert len(taken) + len(undone) == len(started)

    run(main)
