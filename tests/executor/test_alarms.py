"""Time limits that share one timer, on simulated time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.executor.alarms import Alarms

from .virtual import VirtualLoop, simulate


class Overdue(Exception):
    """What `Alarms` are given to raise."""


async def ended(alarms: Alarms, seconds: float, limit: float) -> tuple[str, float]:
    """How work of `seconds` under `limit` ends, and when."""
    loop = asyncio.get_running_loop()
    try:
        await alarms.bound(asyncio.sleep(seconds), limit)
    except Overdue:
        return "overdue", loop.time()
    return "done", loop.time()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=12))
def test_each_limit_holds_for_its_own_work(plan: list[tuple[int, int, int]]) -> None:
    # Odd halves, so that no work ends in the moment in which its time does.
    async def one(alarms: Alarms, start: int, seconds: int, limit: int) -> tuple[str, float]:
        await asyncio.sleep(start)
        return await ended(alarms, seconds + 0.5, float(limit))

    async def all_of_them() -> list[tuple[str, float]]:
        alarms = Alarms(60.0, Overdue)
        return await asyncio.gather(*[one(alarms, *entry) for entry in plan])

    for (start, seconds, limit), (how, when) in zip(plan, simulate(all_of_them()), strict=True):
        assert how == ("done" if seconds + 0.5 < limit else "overdue")
        assert when == pytest.approx(start + min(seconds + 0.5, limit), abs=2e-3)


def test_work_in_time_sets_one_timer_for_all() -> None:
    made: list[float] = []

    class Counting(VirtualLoop):
        def call_at(self, when: float, *args: object, **kwargs: object) -> asyncio.TimerHandle:
            made.append(when)
            return super().call_at(when, *args, **kwargs)  # type: ignore[arg-type]

    async def call() -> str:
        return "answer"

    async def many() -> None:
        alarms = Alarms(60.0, Overdue)
        for _ in range(100):
            assert await alarms.bound(call()) == "answer"

    with asyncio.Runner(loop_factory=Counting) as runner:
        runner.run(many())
    assert made == [60.0]


def test_a_cancellation_from_elsewhere_goes_on() -> None:
    async def cancelled() -> None:
        alarms = Alarms(60.0, Overdue)
        task = asyncio.ensure_future(ended(alarms, 100.0, 5.0))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        both = asyncio.ensure_future(ended(alarms, 100.0, 5.0))
        loop = asyncio.get_running_loop()
        loop.call_at(loop.time() + 5.0, both.cancel)
        with pytest.raises(asyncio.CancelledError):
            await both

    simulate(cancelled())


def test_the_task_goes_on_after_a_limit_has_passed() -> None:
    async def twice() -> int:
        alarms = Alarms(60.0, Overdue)
        assert (await ended(alarms, 9.0, 1.0))[0] == "overdue"
        assert (await ended(alarms, 1.0, 9.0))[0] == "done"
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert simulate(twice()) == 0


def test_a_limit_within_a_limit_is_told_from_it() -> None:
    async def nested(inner: float, outer: float) -> str:
        alarms = Alarms(60.0, Overdue)

        async def within() -> str:
            return (await ended(alarms, 100.0, inner))[0]

        try:
            return f"inner {await alarms.bound(within(), outer)}"
        except Overdue:
            return "outer"

    assert simulate(nested(1.0, 2.0)) == "inner overdue"
    assert simulate(nested(2.0, 1.0)) == "outer"


def test_another_loop_begins_anew() -> None:
    alarms = Alarms(60.0, Overdue)
    for _ in range(2):
        assert simulate(ended(alarms, 9.0, 1.0))[0] == "overdue"
