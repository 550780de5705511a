"""Admission: never above a limit, in the right order, nothing lost, on any number of loops and threads."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections import Counter
from collections.abc import Hashable, Sequence
from contextlib import closing
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dspex.errors import (
    BudgetExceeded,
    CallTimeout,
    ConnectError,
    DspexError,
    RateLimited,
    RequestRejected,
    ResponseError,
    ServerError,
    UsageError,
)
from dspex.executor.adaptive import Adaptive
from dspex.executor.admission import Limit, Outcome, Permit, borrowing, outcome_of
from dspex.executor.queueing import PASSED, Line, Turn
from dspex.executor.rates import Bucket, Rates
from dspex.lm.types import RateLimits
from tests.executor.virtual import VirtualLoop, simulate

OUTCOMES: tuple[Outcome, ...] = ("ok", "rejected", "failed", "unknown", "unsent")


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class NaiveLine:
    """Waiting calls as plain lists, looked through from the start each time."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, str, int]] = []
        self.turns: dict[int, list[str]] = {}
        self.credit: dict[tuple[int, str], int] = {}
        self.weight: dict[tuple[int, str], int] = {}
        self.passed: dict[int, int] = {}

    def push(self, priority: int, tenant: str, weight: int, number: int) -> None:
        self.calls.append((priority, tenant, number))
        self.weight[priority, tenant] = weight
        if tenant not in self.turns.setdefault(priority, []):
            self.turns[priority].append(tenant)
            self.credit[priority, tenant] = weight

    def pop(self) -> int:
        waiting = sorted({call[0] for call in self.calls}, reverse=True)
        priority = waiting[0]
        starved = [other for other in waiting if self.passed.get(other, 0) >= PASSED]
        if starved:
            priority = max(starved, key=lambda other: (self.passed[other], other))
        for other in waiting:
            if other < priority:
                self.passed[other] = self.passed.get(other, 0) + 1
        self.passed[priority] = 0
        tenant = self.turns[priority][0]
        mine = next(call for call in self.calls if call[:2] == (priority, tenant))
        self.credit[priority, tenant] -= 1
        if self.credit[priority, tenant] <= 0:
            self.credit[priority, tenant] = self.weight[priority, tenant]
            self.turns[priority].append(self.turns[priority].pop(0))
        self.remove(mine)
        return mine[2]

    def remove(self, call: tuple[int, str, int]) -> None:
        self.calls.remove(call)
        if not any(other[:2] == call[:2] for other in self.calls):
            self.turns[call[0]].remove(call[1])
        if not any(other[0] == call[0] for other in self.calls):
            self.passed[call[0]] = 0


class LimitMachine(RuleBasedStateMachine):
    """Calls come, wait, are cancelled and end in any order; the model says exactly who is admitted when."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.limit = Limit(3, clock=self.loop.time)
        self.line = NaiveLine()
        self.number = 0
        self.inside: dict[int, Permit] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.expected: list[int] = []
        self.entered: list[int] = []

    def settle(self) -> None:
        self.loop.run_until_complete(settle())

    @rule()
    def attempt(self) -> None:
        permit = self.limit.try_acquire()
        assert (permit is not None) == (len(self.inside) < 3 and not self.line.calls)
        if permit is not None:
            self.number += 1
            self.inside[self.number] = permit

    @rule(priority=st.integers(0, 1), tenant=st.sampled_from("abc"), weight=st.sampled_from([1, 1, 2]))
    def wait(self, priority: int, tenant: str, weight: int) -> None:
        self.number += 1
        number = self.number

        async def call() -> None:
            self.inside[number] = await self.limit.acquire(priority=priority, tenant=tenant, weight=weight)
            self.entered.append(number)

        if len(self.inside) < 3 and not self.line.calls:
            self.expected.append(number)
        else:
            self.line.push(priority, tenant, weight, number)
        self.tasks[number] = self.loop.create_task(call())
        self.settle()

    @precondition(lambda self: bool(cast(LimitMachine, self).inside))
    @rule(which=st.integers(0, 99), outcome=st.sampled_from(OUTCOMES))
    def end(self, which: int, outcome: Outcome) -> None:
        number = sorted(self.inside)[which % len(self.inside)]
        permit = self.inside.pop(number)
        if self.line.calls:
            self.expected.append(self.line.pop())
        permit.release(outcome)
        with pytest.raises(DspexError, match="DX4732"):
            permit.release()
        self.settle()

    @precondition(lambda self: bool(cast(LimitMachine, self).line.calls))
    @rule(which=st.integers(0, 99))
    def cancel(self, which: int) -> None:
        call = sorted(self.line.calls, key=lambda call: call[2])[which % len(self.line.calls)]
        self.line.remove(call)
        self.tasks[call[2]].cancel()
        self.settle()

    @precondition(lambda self: bool(cast(LimitMachine, self).line.calls and cast(LimitMachine, self).inside))
    @rule(which=st.integers(0, 99))
    def cancel_what_was_just_granted(self, which: int) -> None:
        number = sorted(self.inside)[which % len(self.inside)]
        self.inside.pop(number).release()
        granted = self.line.pop()
        self.tasks[granted].cancel()
        if self.line.calls:
            self.expected.append(self.line.pop())
        self.settle()

    @invariant()
    def the_right_calls_are_inside(self) -> None:
        assert self.entered == self.expected
        assert self.limit.active == len(self.inside) <= 3
        assert self.limit.waiting == len(self.line.calls)

    def teardown(self) -> None:
        async def finish() -> None:
            for task in self.tasks.values():
                task.cancel()
            await asyncio.gather(*self.tasks.values(), return_exceptions=True)
            for permit in self.inside.values():
                permit.release()

        with closing(self.loop):
            self.loop.run_until_complete(finish())
        assert (self.limit.active, self.limit.waiting) == (0, 0)


TestLimitMachine = cast(Any, LimitMachine).TestCase


class MeteredMachine(RuleBasedStateMachine):
    """With rates and adaptive concurrency: the limits hold at every moment, and all who wait are served in time."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.limit = Limit(Adaptive(8, start=4), Rates(requests=600.0, tokens=60_000.0), clock=self.loop.time)
        self.inside: list[Permit] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.sent: list[tuple[float, int]] = []

    @rule(tokens=st.integers(0, 9000), priority=st.integers(0, 2))
    def come(self, tokens: int, priority: int) -> None:
        async def call() -> None:
            self.inside.append(await self.limit.acquire(tokens, priority=priority))
            self.sent.append((self.loop.time(), tokens))

        self.tasks.append(self.loop.create_task(call()))
        self.loop.run_until_complete(settle())

    @precondition(lambda self: bool(cast(MeteredMachine, self).inside))
    @rule(
        which=st.integers(0, 99),
        outcome=st.sampled_from(("ok", "limited", "overloaded", "rejected", "failed", "unknown")),
        left=st.one_of(st.none(), st.integers(0, 20)),
        retry_after=st.one_of(st.none(), st.floats(0.0, 5.0)),
    )
    def end(self, which: int, outcome: Outcome, left: int | None, retry_after: float | None) -> None:
        permit = self.inside.pop(which % len(self.inside))
        limits = None if left is None else RateLimits(requests=600, requests_left=left, requests_reset=60.0)
        permit.release(outcome, limits=limits, retry_after=retry_after)
        self.loop.run_until_complete(settle())

    @rule(seconds=st.floats(0.0, 20.0))
    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @precondition(lambda self: bool(cast(MeteredMachine, self).tasks))
    @rule(which=st.integers(0, 99))
    def cancel(self, which: int) -> None:
        self.tasks.pop(which % len(self.tasks)).cancel()
        self.loop.run_until_complete(settle())

    @invariant()
    def limits_hold(self) -> None:
        assert 1 <= self.limit.limit <= 8
        assert self.limit.active <= 8
        for first, (begin, _) in enumerate(self.sent):
            for count, (time, _) in enumerate(self.sent[first:], start=1):
                assert count <= 60 + 10 * (time - begin) + 1

    def teardown(self) -> None:
        async def finish() -> None:
            # Each pause is at most a minute, and each debt of tokens is paid within ten seconds.
            for _ in range(100 + 2 * len(self.tasks)):
                for permit in self.inside:
                    permit.release()
                self.inside.clear()
                await asyncio.sleep(60.0)

        with closing(self.loop):
            self.loop.run_until_complete(finish())
        assert all(task.done() for task in self.tasks)
        assert (self.limit.active, self.limit.waiting) == (0, 0)


TestMeteredMachine = cast(Any, MeteredMachine).TestCase


async def served(limit: Limit, calls: Sequence[tuple[int, Hashable, int]], slots: int = 1) -> list[Hashable]:
    """The tenants in the order in which their calls, all waiting at once, are admitted one by one."""
    held = [limit.try_acquire() for _ in range(slots)]
    order: list[Hashable] = []

    async def call(priority: int, tenant: Hashable, weight: int) -> None:
        permit = await limit.acquire(priority=priority, tenant=tenant, weight=weight)
        order.append(tenant)
        await asyncio.sleep(0)
        permit.release()

    tasks = [asyncio.ensure_future(call(*each)) for each in calls]
    await settle()
    for permit in held:
        assert permit is not None
        permit.release()
    await asyncio.gather(*tasks)
    return order


def test_a_tenant_with_few_calls_does_not_wait_for_one_with_many() -> None:
    calls = [(0, "study", 1)] * 1000 + [(0, "agent", 1)] * 5
    order = asyncio.run(served(Limit(1), calls))
    assert max(i for i, tenant in enumerate(order) if tenant == "agent") <= 10


def test_tenants_share_by_weight() -> None:
    calls = [(0, "large", 3)] * 300 + [(0, "small", 1)] * 300
    order = asyncio.run(served(Limit(1), calls))
    assert [order[:n].count("small") for n in (40, 200, 400)] == [10, 50, 100]


def test_a_higher_priority_goes_first_and_the_same_tenant_first_come_first_served() -> None:
    calls = [(i % 3, (i % 3, i), 1) for i in range(3 * PASSED // 2)]
    order = asyncio.run(served(Limit(1), calls))
    assert order == sorted(order, key=lambda tenant: -cast(tuple[int, int], tenant)[0])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("ab"), st.sampled_from([1, 2])), max_size=150))
def test_waiting_calls_are_served_in_the_order_of_the_model(calls: list[tuple[int, str, int]]) -> None:
    naive = NaiveLine()
    for number, (priority, tenant, weight) in enumerate(calls):
        naive.push(priority, tenant, weight, number)
    numbered = [(priority, tenant, weight) for priority, tenant, weight in calls]
    wanted = [calls[naive.pop()] for _ in calls]
    assert asyncio.run(served(Limit(1), numbered)) == [tenant for _, tenant, _ in wanted]


@settings(deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=6, unique=True))
def test_no_priority_starves_however_many_urgent_calls_come(priorities: list[int]) -> None:
    async def scenario() -> None:
        loop, line = asyncio.get_running_loop(), Line()
        served = Counter[int]()
        since = dict.fromkeys(priorities, 0)
        for _ in range(20 * PASSED):
            for priority in priorities:
                line.push(Turn(loop, 0, priority, ""), 1)
            turn = line.head()
            assert turn is not None
            line.pop()
            served[turn.priority] += 1
            since = {priority: 0 if priority == turn.priority else past + 1 for priority, past in since.items()}
            assert max(since.values()) < PASSED + len(priorities)
        # The highest keeps what the others are not owed.
        assert served[max(priorities)] >= 20 * PASSED - (len(priorities) - 1) * 20

    asyncio.run(scenario())


def test_a_turn_that_is_advanced_is_served_as_the_last_of_its_new_priority() -> None:
    async def scenario() -> None:
        limit = Limit(1)
        held = limit.try_acquire()
        assert held is not None
        low, other, high = (limit.queue(priority=priority) for priority in (0, 0, 1))
        limit.advance(low, 1)
        limit.advance(high, 0)
        order: list[Turn] = []
        for turn in (low, other, high):
            turn.add_done_callback(lambda turn: order.append(turn))
        for permit in (held, high, low, other):
            (permit if isinstance(permit, Permit) else limit.granted(permit)).release()
            await settle()
        assert order == [high, low, other]
        assert (limit.active, limit.waiting) == (0, 0)
        limit.advance(low, 2)
        assert limit.waiting == 0

    asyncio.run(scenario())


def test_waiting_calls_that_left_are_forgotten() -> None:
    async def scenario() -> None:
        limit = Limit(1)
        held = limit.try_acquire()
        last = asyncio.ensure_future(limit.acquire(tenant="last"))
        tasks = [asyncio.ensure_future(limit.acquire(tenant=i % 7, priority=i % 3)) for i in range(2000)]
        await settle()
        assert limit.waiting == 2001
        gone = [weakref.ref(task) for task in tasks]
        while tasks:
            tasks.pop().cancel()
        await settle()
        gc.collect()
        assert limit.waiting == 1
        assert not any(ref() for ref in gone)
        assert held is not None
        held.release()
        (await last).release()
        assert (limit.active, limit.waiting) == (0, 0)

    asyncio.run(scenario())


def test_a_waiting_call_is_admitted_at_the_very_time_that_the_rate_allows() -> None:
    async def scenario() -> list[float]:
        loop = asyncio.get_running_loop()
        limit = Limit(100, Rates(requests=60.0, burst=1.0), clock=loop.time)
        times: list[float] = []

        async def call() -> None:
            permit = await limit.acquire()
            times.append(loop.time())
            permit.release()

        await asyncio.gather(*[call() for _ in range(5)])
        return times

    assert simulate(scenario()) == pytest.approx([0.0, 1.0, 2.0, 3.0, 4.0], abs=1e-4)


def test_a_cancelled_large_call_lets_a_small_one_behind_it_pass_at_once() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        limit = Limit(100, Rates(tokens=600.0), clock=loop.time)
        first = limit.try_acquire(50)
        large = asyncio.ensure_future(limit.acquire(60))
        small = asyncio.ensure_future(limit.acquire(5))
        await settle()
        assert limit.waiting == 2
        large.cancel()
        await settle()
        assert loop.time() < 0.001
        for permit in (first, small.result()):
            assert permit is not None
            permit.release()

    simulate(scenario())


def test_a_server_that_takes_nothing_is_asked_by_one_call_at_a_time() -> None:
    async def scenario() -> list[float]:
        loop = asyncio.get_running_loop()
        limit = Limit(4, clock=loop.time)
        asked: list[float] = []

        async def call() -> None:
            while True:
                permit = await limit.acquire()
                asked.append(loop.time())
                await asyncio.sleep(0.01)
                mended = loop.time() > 3.0
                permit.release("ok" if mended else "overloaded")
                if mended:
                    return

        await asyncio.gather(*[call() for _ in range(20)])
        return asked

    asked = simulate(scenario())
    early = [time for time in asked if time <= 3.0]
    # Refusals in a row, as many as the limit; then one call after each pause. The pauses double.
    assert early == pytest.approx([0.0] * 4 + [0.01] * 3 + [0.11, 0.32, 0.73, 1.54], abs=0.005)
    assert len(asked) == len(early) + 20


def test_retry_after_is_kept_when_the_server_takes_nothing() -> None:
    async def scenario() -> float:
        loop = asyncio.get_running_loop()
        limit = Limit(4, clock=loop.time)
        (await limit.acquire()).release("limited", retry_after=2.5)
        (await limit.acquire()).release()
        return loop.time()

    assert simulate(scenario()) == pytest.approx(2.5, abs=0.01)


def test_a_refusal_for_the_rate_leaves_the_concurrency_as_it_is() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        limit = Limit(Adaptive(32, start=32), clock=loop.time)
        permits = [await limit.acquire() for _ in range(20)]
        told = RateLimits(requests=20, requests_left=0, requests_reset=20.0)
        for permit in permits:
            permit.release("limited", limits=told, retry_after=1.0)
        assert limit.limit == 32
        assert limit.try_acquire() is None
        (await limit.acquire()).release()
        assert loop.time() == pytest.approx(1.0, abs=0.01)

    simulate(scenario())


@pytest.mark.parametrize("tells", ["headers", "retry-after", "nothing"])
def test_an_unknown_rate_is_kept_to_and_used_whatever_the_server_tells(tells: str) -> None:
    answered = refused = 0

    async def scenario() -> None:
        nonlocal answered, refused
        loop = asyncio.get_running_loop()
        limit = Limit(Adaptive(64), clock=loop.time)
        bucket = Bucket(20.0, 20.0, 20.0, 0.0)

        async def work() -> None:
            nonlocal answered, refused
            while loop.time() < 120.0:
                permit = await limit.acquire()
                wait = bucket.wait(1.0, loop.time())
                fits = wait <= 0.0
                bucket.level -= fits
                left = max(0, int(bucket.level))
                told = RateLimits(requests=20, requests_left=left, requests_reset=(20.0 - bucket.level) / 20.0)
                await asyncio.sleep(0.05 if fits else 0.005)
                answered += fits
                refused += not fits
                permit.release(
                    "ok" if fits else "limited",
                    limits=told if tells == "headers" else None,
                    retry_after=wait if tells != "nothing" and not fits else None,
                )

        await asyncio.gather(*[work() for _ in range(100)])

    simulate(scenario())
    assert answered >= 0.95 * 20.0 * 120.0
    assert refused <= (0.02 if tells == "headers" else 0.15) * answered


def test_two_loops_share_one_limit() -> None:
    limit = Limit(2)
    most = now = 0
    lock = threading.Lock()

    async def hold(number: int) -> None:
        nonlocal most, now
        permit = await limit.acquire(tenant=number % 3)
        with lock:
            now += 1
            most = max(most, now)
        await asyncio.sleep(0)
        with lock:
            now -= 1
        permit.release()

    async def many() -> None:
        await asyncio.gather(*[hold(i) for i in range(50)])

    threads = [threading.Thread(target=lambda: asyncio.run(many())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert most <= 2
    assert (limit.active, limit.waiting, limit.admitted) == (0, 0, 200)


def test_loops_that_end_while_the_rate_closes_the_limit_leave_the_others_served() -> None:
    limit = Limit(10, Rates(requests=6000.0, burst=0.01))

    async def brief() -> None:
        task = asyncio.ensure_future(limit.acquire())
        await settle()
        task.cancel()
        for ended in await asyncio.gather(task, return_exceptions=True):
            if isinstance(ended, Permit):
                ended.release()

    async def lasting() -> None:
        for _ in range(10):
            (await limit.acquire()).release()

    threads = [threading.Thread(target=lambda: asyncio.run(brief())) for _ in range(5)]
    for thread in threads:
        thread.start()
    asyncio.run(lasting())
    for thread in threads:
        thread.join(60)
    assert (limit.active, limit.waiting) == (0, 0)


def test_a_slot_passes_over_a_loop_that_was_closed() -> None:
    limit = Limit(1)
    held = limit.try_acquire()
    stale = asyncio.new_event_loop()
    task = stale.create_task(limit.acquire())
    stale.run_until_complete(asyncio.sleep(0))
    assert limit.waiting == 1
    stale.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # pyright: ignore
    assert held is not None
    held.release()
    assert (limit.active, limit.waiting) == (0, 0)
    assert limit.try_acquire() is not None


def test_a_call_of_a_closed_loop_gives_back_nothing_when_it_is_thrown_away() -> None:
    limit = Limit(1)
    held = limit.try_acquire()
    assert held is not None
    stale = asyncio.new_event_loop()
    waiting = limit.acquire()

    async def wait() -> None:
        waiting.send(None)

    stale.run_until_complete(wait())
    stale.close()
    held.release()
    waiting.close()
    assert (limit.active, limit.waiting) == (0, 0)
    assert limit.try_acquire() is not None
    assert limit.try_acquire() is None


def test_a_nested_run_does_not_wait_for_its_own_blocked_loop() -> None:
    limit = Limit(1)
    first = limit.try_acquire()
    token = borrowing.set(True)
    try:
        second = asyncio.run(limit.acquire())
    finally:
        borrowing.reset(token)
    assert limit.active == 2
    assert first is not None
    first.release()
    assert limit.try_acquire() is None
    second.release()
    assert limit.active == 0


def test_a_permit_that_ends_inside_the_lock_is_counted_by_its_holder() -> None:
    # As when the garbage collector ends an abandoned call on the thread that is inside: the clock is read there.
    inside: list[Permit] = []

    def clock() -> float:
        while inside:
            inside.pop().release()
        return 0.0

    limit = Limit(2, clock=clock)
    first, second = limit.try_acquire(), limit.try_acquire()
    assert first is not None
    assert second is not None
    inside.append(first)
    second.release()
    assert limit.active == 0
    third = limit.try_acquire()
    assert third is not None
    inside.append(third)
    assert limit.try_acquire() is not None
    assert limit.active == 1


def test_a_waiting_call_that_is_thrown_away_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        limit = Limit(1)
        held = await limit.acquire()
        queued, granted = limit.acquire(), limit.acquire()
        queued.send(None)
        granted.send(None)
        assert limit.waiting == 2
        queued.close()
        assert limit.waiting == 1
        held.release()
        assert (limit.active, limit.waiting) == (1, 0)
        granted.close()
        assert limit.active == 0

    asyncio.run(scenario())


def test_a_limit_that_admits_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="DX4733"):
        Limit(0)
    with pytest.raises(UsageError, match="DX4733"):
        Adaptive(0)
    with pytest.raises(UsageError, match="DX4733"):
        asyncio.run(Limit(1).acquire(weight=0))


def overloaded() -> ServerError:
    error = ServerError("DX4208", "529: overloaded", retryable=True, sent="yes")
    error.overloaded = True
    return error


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RateLimited("DX4207", "429", retryable=True, sent="yes"), "limited"),
        (RateLimited("DX4207", "429: no credit", retryable=False, sent="yes"), "rejected"),
        (overloaded(), "overloaded"),
        (ServerError("DX4208", "500", retryable=True, sent="yes"), "failed"),
        (ServerError("DX4106", "reset", retryable=True, sent="maybe"), "failed"),
        (CallTimeout("DX4701", "too long", retryable=True, sent="maybe"), "overloaded"),
        (CallTimeout("DX4103", "no connection", retryable=True, sent="no"), "failed"),
        (ConnectError("DX4101", "refused", retryable=True), "failed"),
        (ResponseError("DX4107", "broke off", retryable=True, sent="yes"), "failed"),
        (RequestRejected("DX4202", "401", sent="yes"), "rejected"),
        (BudgetExceeded("DX4502", "cap"), "unsent"),
        (asyncio.CancelledError(), "unknown"),
        (ValueError("a defect"), "unknown"),
    ],
)
def test_each_error_means_an_outcome(error: BaseException, outcome: Outcome) -> None:
    assert outcome_of(error) == outcome
