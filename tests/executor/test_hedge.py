"""Second attempts for stragglers: the first answer counts, the other attempt is ended and accounted for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.errors import RequestRejected, ServerError
from dspex.executor.admission import Limit
from dspex.executor.attempt import upper_bound
from dspex.executor.budget import BudgetAccount
from dspex.executor.call import Called, complete
from dspex.executor.hedge import Stragglers, hedged
from dspex.executor.models import Gate
from dspex.executor.retry import RetryPolicy
from dspex.lm.model import Hedge
from dspex.lm.spend import Budget, Spend
from dspex.lm.types import LMRequest, LMResponse, Message
from dspex.program.context import Context
from tests.executor.models import ANSWER, MemoryJournal, Step, StepsLM

REQUEST = LMRequest(messages=(Message("user", "hello"),), max_tokens=10)


def at_once(ratio: float = 0.5) -> Stragglers:
    """Every call is late as soon as it waits."""
    stragglers = Stragglers(Hedge(0.95, ratio))
    stragglers.late = 0.0
    return stragglers


def gate(lm: StepsLM, **options: Any) -> Gate:
    options.setdefault("retry", RetryPolicy(0, rng=random.Random(0)))
    options.setdefault("stragglers", at_once())
    return Gate(lm, **options)


def account() -> BudgetAccount:
    return BudgetAccount(Budget(calls=10))


def run(work: Coroutine[Any, Any, None]) -> None:
    async def checked() -> None:
        await work
        assert asyncio.all_tasks() == {asyncio.current_task()}
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    asyncio.run(checked())


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


class SecondLM(StepsLM):
    """The first attempt, and every step "hold", hangs until its event in `waiting` is set; the others do as told."""

    running: int

    def __init__(self, *others: Step) -> None:
        super().__init__("hold", *others)
        self.waiting: list[asyncio.Event] = []

    async def complete(self, request: LMRequest, /) -> LMResponse:
        step = self.steps[min(len(self.requests), len(self.steps) - 1)]
        if step != "hold":
            return await super().complete(request)
        self.requests.append(request)
        mine = asyncio.Event()
        self.waiting.append(mine)
        self.running += 1
        self.entered.set()
        try:
            await mine.wait()
            if self.then is not None:
                raise self.then
            return ANSWER
        finally:
            self.running -= 1


def test_the_second_attempts_answer_counts_when_the_first_hangs() -> None:
    async def scenario() -> None:
        lm, caps, slots, journal = SecondLM(ANSWER), account(), Limit(2), MemoryJournal()
        through = gate(lm, limit=slots)
        called = await complete(through, REQUEST, Context(account=caps, journal=journal))
        assert called.response == ANSWER
        assert (called.attempts, called.ambiguous, called.spent) == (2, 1, Spend(2, 10, 2, 0.0))
        assert (caps.settled, caps.uncertain) == (Spend(1, 10, 2, 0.0), upper_bound(gate(lm), REQUEST))
        assert (caps.reserved, slots.active, slots.waiting, lm.running) == (Spend(), 0, 0, 0)
        assert [kind for kind, _ in journal.events] == ["started", "started", "committed"]
        assert through.stragglers is not None
        assert through.stragglers.overtaken == 1

    run(scenario())


class DefectLM(SecondLM):
    """Its second attempt raises what no provider should, at once or when it is cancelled."""

    def __init__(self, *, late: bool = False) -> None:
        super().__init__()
        self.late = late
        self.defect = ZeroDivisionError("a defect")

    async def complete(self, request: LMRequest, /) -> LMResponse:
        if not self.requests:
            return await super().complete(request)
        self.requests.append(request)
        if not self.late:
            raise self.defect
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise self.defect from None
        return ANSWER


def test_a_defect_of_the_second_attempt_ends_the_call_and_is_raised() -> None:
    async def scenario() -> None:
        lm, caps, slots = DefectLM(), account(), Limit(2)
        with pytest.raises(ZeroDivisionError) as raised:
            await complete(gate(lm, limit=slots), REQUEST, Context(account=caps))
        assert raised.value is lm.defect
        assert (caps.uncertain.calls, caps.reserved.calls, slots.active, lm.running) == (2, 0, 0, 0)

    run(scenario())


def test_a_defect_of_the_second_attempt_while_it_is_ended_is_raised() -> None:
    async def scenario() -> None:
        lm = DefectLM(late=True)
        call = asyncio.ensure_future(complete(gate(lm), REQUEST, Context()))
        await until(lambda: len(lm.requests) == 2)
        lm.waiting[0].set()
        with pytest.raises(ZeroDivisionError):
            await call

    run(scenario())


def test_a_defect_that_a_cancellation_goes_before_is_told() -> None:
    async def scenario() -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, about: told.append(about))
        lm = DefectLM(late=True)
        call = asyncio.ensure_future(complete(gate(lm), REQUEST, Context()))
        await until(lambda: len(lm.requests) == 2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert [about["exception"] for about in told] == [lm.defect]

    run(scenario())


def test_the_first_attempt_may_still_win() -> None:
    async def scenario() -> None:
        lm = SecondLM("hold")
        caps = account()
        call = asyncio.ensure_future(complete(gate(lm), REQUEST, Context(account=caps)))
        await until(lambda: lm.running == 2)
        first, second = lm.waiting
        first.set()
        called = await call
        assert (called.response, called.attempts, called.ambiguous) == (ANSWER, 2, 1)
        assert (caps.settled.calls, caps.uncertain.calls, caps.reserved.calls) == (1, 1, 0)
        assert lm.running == 0
        assert not second.is_set()

    run(scenario())


@pytest.mark.parametrize("which", [0, 1])
def test_a_failure_of_one_waits_for_the_other(which: int) -> None:
    async def scenario() -> None:
        lm = SecondLM("hold")
        caps = account()
        lm.then = ServerError("DX4208", "500", retryable=True, sent="yes")
        call = asyncio.ensure_future(complete(gate(lm), REQUEST, Context(account=caps)))
        await until(lambda: lm.running == 2)
        lm.waiting[which].set()
        await until(lambda: lm.running == 1)
        assert not call.done()
        lm.then = None
        lm.waiting[1 - which].set()
        called = await call
        assert (called.response, called.attempts, called.ambiguous) == (ANSWER, 2, 0)
        assert (caps.settled.calls, caps.uncertain.calls) == (2, 0)

    run(scenario())


def test_when_both_fail_the_first_error_is_raised() -> None:
    async def scenario() -> None:
        lm = SecondLM(RequestRejected("DX4205", "the second", sent="yes"))
        lm.then = RequestRejected("DX4205", "the first", sent="yes")
        call = asyncio.ensure_future(complete(gate(lm), REQUEST, Context()))
        await until(lambda: len(lm.requests) == 2)
        lm.waiting[0].set()
        with pytest.raises(RequestRejected, match="the first") as caught:
            await call
        assert caught.value.attempts == 2

    run(scenario())


def test_no_second_attempt_is_sent_without_a_slot_an_allowance_and_a_budget() -> None:
    async def scenario() -> None:
        spent = at_once()
        while spent.allowance.take():
            pass
        poor = BudgetAccount(Budget(calls=1))
        for options, caps in [
            ({"limit": Limit(1)}, None),
            ({"stragglers": spent}, None),
            ({}, poor),
            ({"stragglers": None}, None),
        ]:
            lm = SecondLM(ANSWER)
            through = gate(lm, **options)
            if options.get("stragglers") is spent:
                spent.allowance.ratio = 0.0
            call = asyncio.ensure_future(complete(through, REQUEST, Context(account=caps)))
            await lm.entered.wait()
            for _ in range(20):
                await asyncio.sleep(0)
            lm.waiting[0].set()
            assert (await call).attempts == 1
            assert len(lm.requests) == 1

    run(scenario())


def test_a_cancelled_caller_ends_both_attempts() -> None:
    async def scenario() -> None:
        lm = SecondLM("hold")
        caps, slots = account(), Limit(2)
        call = asyncio.ensure_future(complete(gate(lm, limit=slots), REQUEST, Context(account=caps)))
        await until(lambda: lm.running == 2)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert call.cancelled()
        assert (lm.running, slots.active, caps.reserved.calls, caps.uncertain.calls) == (0, 0, 0, 2)

    run(scenario())


@given(
    fails=st.tuples(st.booleans(), st.booleans()),
    ticks=st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(1, 8)),
    cancelled=st.booleans(),
)
def test_whatever_meets_in_one_instant_one_outcome_comes_of_it(
    fails: tuple[bool, bool], ticks: tuple[int, int, int], cancelled: bool
) -> None:
    async def scenario() -> None:
        ended: list[str] = []

        async def work(name: str, wait: int, fails: bool) -> str:
            try:
                for _ in range(wait):
                    await asyncio.sleep(0)
                if fails:
                    raise ServerError("DX4208", name, sent="yes")
                return name
            finally:
                ended.append(name)

        call = asyncio.ensure_future(
            hedged(work("first", ticks[0], fails[0]), lambda: work("second", ticks[1], fails[1]), 0.0)
        )
        for _ in range(ticks[2]):
            await asyncio.sleep(0)
        in_time = cancelled and call.cancel()
        done = (await asyncio.gather(call, return_exceptions=True))[0]
        assert isinstance(done, asyncio.CancelledError) == in_time
        if isinstance(done, asyncio.CancelledError):
            pass
        elif isinstance(done, ServerError):
            assert done.message == "first"
            assert fails[0]
        else:
            assert done in ("first", "second")
            assert not fails[["first", "second"].index(str(done))]
        assert ended.count("first") == 1

    run(scenario())


def test_a_cancellation_that_is_answered_with_a_failure_is_taken_back() -> None:
    async def scenario() -> None:
        async def stubborn() -> str:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ServerError("DX4208", "cancelled", sent="maybe") from None
            raise AssertionError

        async def second() -> str:
            return "second"

        assert await hedged(stubborn(), second, 0.0) == "second"

    run(scenario())


def test_a_cancellation_in_the_instant_of_the_second_answer_is_not_lost() -> None:
    async def scenario() -> None:
        async def first() -> str:
            await asyncio.Event().wait()
            raise AssertionError

        async def second() -> str:
            asyncio.get_running_loop().call_soon(call.cancel)
            return "second"

        call = asyncio.ensure_future(hedged(first(), second, 0.0))
        with pytest.raises(asyncio.CancelledError):
            await call

    run(scenario())


def test_what_is_late_is_learned_from_all_calls() -> None:
    async def scenario() -> None:
        lm = StepsLM(ANSWER)
        through = gate(lm, stragglers=Stragglers(Hedge()))
        assert through.stragglers is not None
        for _ in range(32):
            assert through.stragglers.late is None
            await complete(through, REQUEST, Context())
        assert through.stragglers.late is not None
        # Of a call that was overtaken both attempts count: the straggler with the time that it took at least.
        lm, through = SecondLM(ANSWER), gate(SecondLM(ANSWER), stragglers=Stragglers(Hedge()))
        assert through.stragglers is not None
        for _ in range(30):
            through.stragglers.saw(1000.0)
        through.stragglers.late = 0.0
        await complete(through, REQUEST, Context())
        assert through.stragglers.late == 1000.0

    run(scenario())


def test_a_second_attempt_gets_the_next_slot() -> None:
    async def scenario() -> None:
        lm, slots = SecondLM("hold", ANSWER), Limit(2)
        through = gate(lm, limit=slots)
        straggler = asyncio.ensure_future(complete(through, REQUEST, Context()))
        await until(lambda: lm.running == 1)
        assert through.stragglers is not None
        through.stragglers.late = None
        other = LMRequest(messages=(Message("user", "another"),))
        others = [asyncio.ensure_future(complete(through, other, Context(priority=9))) for _ in range(3)]
        await until(lambda: slots.waiting == 3)
        lm.waiting[1].set()
        assert (await straggler).attempts == 2
        await asyncio.gather(*others)
        assert lm.requests == [REQUEST, other, REQUEST, other, other]
        assert slots.active == 0

    run(scenario())


@given(st.lists(st.floats(0.0, 100.0), min_size=32, max_size=600), st.floats(0.5, 0.99))
def test_late_is_the_quantile_of_the_latest_calls(seconds: list[float], quantile: float) -> None:
    stragglers = Stragglers(Hedge(quantile, 0.05))
    for number, one in enumerate(seconds, 1):
        stragglers.saw(one)
        if number < 32:
            assert stragglers.late is None
    seen = len(seconds) // 32 * 32
    latest = seconds[:seen][-256:]
    assert stragglers.late is not None
    assert sum(one <= stragglers.late for one in latest) >= quantile * len(latest)
    assert sum(one < stragglers.late for one in latest) <= quantile * len(latest)


def test_hedges_are_a_bounded_part_of_the_calls() -> None:
    async def scenario() -> None:
        class Straggling(StepsLM):
            async def complete(self, request: LMRequest, /) -> Any:
                self.requests.append(request)
                for _ in range(5):
                    await asyncio.sleep(0)
                return ANSWER

        lm = Straggling()
        through = gate(lm, stragglers=at_once(0.05))

        async def one() -> Called:
            assert through.stragglers is not None
            through.stragglers.late = 0.0
            return await complete(through, REQUEST, Context())

        for _ in range(400):
            await one()
        assert 0.05 * 400 - 1 <= len(lm.requests) - 400 <= 0.05 * 400 + 1
        assert through.stragglers is not None
        assert through.stragglers.allowance.calls == 400
        assert through.stragglers.allowance.taken >= len(lm.requests) - 400

    run(scenario())
