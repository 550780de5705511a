"""The concurrency limit: never above capacity, first come first served, nothing leaks on cancellation."""

from __future__ import annotations

import asyncio
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.executor.limits import Limit, borrowing


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from(["enter", "leave", "cancel"]), st.integers(0, 9)), max_size=40),
)
def test_slots_are_conserved_in_any_order_of_events(capacity: int, steps: list[tuple[str, int]]) -> None:
    async def scenario() -> None:
        limit = Limit(capacity)
        inside: list[int] = []
        doors: dict[int, asyncio.Event] = {}
        tasks: dict[int, asyncio.Task[None]] = {}
        entered: list[int] = []

        async def hold(number: int) -> None:
            await limit.acquire()
            try:
                inside.append(number)
                entered.append(number)
                assert len(inside) <= capacity
                await doors[number].wait()
            finally:
                inside.remove(number)
                limit.release()

        for step, (what, which) in enumerate(steps):
            if what == "enter":
                doors[step] = asyncio.Event()
                tasks[step] = asyncio.ensure_future(hold(step))
            elif tasks:
                number = sorted(tasks)[which % len(tasks)]
                if what == "leave":
                    doors[number].set()
                else:
                    tasks[number].cancel()
            if which % 2:
                await settle()
        await settle()
        assert limit.active == len(inside)
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        await settle()
        assert (limit.active, limit.waiting) == (0, 0)
        if capacity == 1:
            # With more slots a free one may be taken at once while another is on its way to the one who waited.
            assert entered == sorted(entered)

    asyncio.run(scenario())


def test_two_loops_share_one_limit() -> None:
    limit = Limit(2)
    most = 0
    now = 0
    lock = threading.Lock()

    async def hold() -> None:
        nonlocal most, now
        await limit.acquire()
        with lock:
            now += 1
            most = max(most, now)
        await asyncio.sleep(0)
        with lock:
            now -= 1
        limit.release()

    async def many() -> None:
        await asyncio.gather(*[hold() for _ in range(30)])

    threads = [threading.Thread(target=lambda: asyncio.run(many())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert most <= 2
    assert (limit.active, limit.waiting) == (0, 0)


def test_a_slot_passes_over_a_loop_that_was_closed() -> None:
    limit = Limit(1)
    assert limit.try_acquire()
    stale = asyncio.new_event_loop()
    task = stale.create_task(limit.acquire())
    stale.run_until_complete(asyncio.sleep(0))
    assert limit.waiting == 1
    stale.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # pyright: ignore
    limit.release()
    assert limit.try_acquire()


def test_a_nested_run_does_not_wait_for_its_own_blocked_loop() -> None:
    limit = Limit(1)
    assert limit.try_acquire()
    token = borrowing.set(True)
    try:
        asyncio.run(limit.acquire())
    finally:
        borrowing.reset(token)
    assert limit.active == 2
    limit.release()
    limit.release()
    assert limit.active == 0
    assert limit.try_acquire()
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(limit.acquire(), 0.01))
