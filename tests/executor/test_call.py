"""The call path: its order, its accounting, and what is left after failures and cancellations."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from dspex.errors import (
    BudgetExceeded,
    CallTimeout,
    ConnectError,
    LMError,
    RateLimited,
    RequestRejected,
    ResponseError,
    ServerError,
    StudyError,
)
from dspex.executor.admission import Limit, Permit
from dspex.executor.attempt import Attempt, upper_bound
from dspex.executor.budget import BudgetAccount
from dspex.executor.caching import MemoryCache, TieredCache, call_key
from dspex.executor.call import Call, Called, complete, store
from dspex.executor.flight import Flight
from dspex.executor.models import Gate, here
from dspex.executor.recovery import Recovery
from dspex.executor.retry import RetryPolicy
from dspex.lm.model import CacheMode
from dspex.lm.spend import Budget, Spend
from dspex.lm.types import LMRequest, LMResponse, Message, Price, Usage
from dspex.program.context import Context
from dspex.stores.cache import ResponseCache
from tests.executor.models import ANSWER, MemoryJournal, StepsLM

REQUEST = LMRequest(messages=(Message("user", "hello"),), max_tokens=10)
OTHER = LMRequest(messages=(Message("user", "good bye"),), max_tokens=10)
PRICE = Price(1.0, 2.0)


def run(work: Coroutine[Any, Any, None]) -> None:
    async def checked() -> None:
        await work
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
        assert len(here().flights) == 0

    asyncio.run(checked())


def gate(model: StepsLM, naps: list[float] | None = None, **options: Any) -> Gate:
    async def sleep(seconds: float) -> None:
        if naps is not None:
            naps.append(seconds)
        await asyncio.sleep(0)

    options.setdefault("retry", RetryPolicy(rng=random.Random(0)))
    return Gate(model, sleep=sleep, **options)


def account(**caps: Any) -> BudgetAccount:
    return BudgetAccount(Budget(**caps))


def server_error(code: str = "DX4208") -> ServerError:
    return ServerError(code, "500", retryable=True, sent="yes")


async def ticks(n: int = 5) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


def test_a_call_costs_nothing_extra_when_nothing_is_asked_for() -> None:
    async def scenario() -> None:
        lm = StepsLM(ANSWER)
        called = await complete(gate(lm), REQUEST, Context())
        assert called.response is ANSWER
        assert (called.key, called.cached, called.attempts, called.spent) == (None, False, 1, Spend(1, 10, 2, 0.0))

    run(scenario())


def test_the_stages_run_in_their_order() -> None:
    async def scenario() -> None:
        log: list[str] = []

        class Cache(TieredCache):
            def get(self, key: str) -> LMResponse | None:
                log.append("cache")
                return None

        class Slots(Limit):
            def try_acquire(self, tokens: int = 0) -> Permit | None:
                log.append("limit")
                return super().try_acquire(tokens)

        class Caps(BudgetAccount):
            def reserve(self, upper: Spend) -> Any:
                log.append("reserve")
                return super().reserve(upper)

        class Model(StepsLM):
            async def complete(self, request: LMRequest, /) -> LMResponse:
                log.append("attempt")
                return await super().complete(request)

        class Naps(RetryPolicy):
            def delay(self, error: LMError, failures: int, waited: float = 0.0) -> float | None:
                log.append("retry")
                return 0.0

        lm = Model(server_error(), ANSWER)
        context = Context(account=Caps(Budget(calls=5)), journal=MemoryJournal(log=log.append))
        await complete(gate(lm, cache=Cache(), mode="on", limit=Slots(1), retry=Naps()), REQUEST, context)
        tried = ["reserve", "started", "limit", "attempt"]
        assert log == ["cache", "settled?", *tried, "failed", "retry", *tried, "committed"]

    run(scenario())


def test_retries_wait_as_the_server_asks() -> None:
    async def scenario() -> None:
        limited = RateLimited("DX4207", "429", retryable=True, sent="yes")
        limited.retry_after = 7.0
        naps: list[float] = []
        lm = StepsLM(limited, server_error(), ANSWER)
        caps = account(calls=10)
        called = await complete(gate(lm, naps), REQUEST, Context(account=caps))
        assert called.attempts == 3
        assert 7.0 <= naps[0] <= 7.7
        assert 0.0 <= naps[1] <= 1.0
        assert called.spent == Spend(3, 10, 2, 0.0)
        assert (caps.settled, caps.uncertain, caps.reserved) == (Spend(3, 10, 2, 0.0), Spend(), Spend())

    run(scenario())


def test_an_error_carries_what_the_whole_call_did() -> None:
    async def scenario() -> None:
        reset = ServerError("DX4106", "reset", retryable=True, sent="maybe")
        refused = ConnectError("DX4102", "refused", retryable=True, sent="no")
        lm = StepsLM(reset, refused, refused, price=PRICE)
        caps = account(calls=10, usd=1.0)
        with pytest.raises(ConnectError) as caught:
            await complete(gate(lm, retry=RetryPolicy(2)), REQUEST, Context(account=caps))
        assert (caught.value.attempts, caught.value.sent, caught.value.spent) == (3, "maybe", 0.0)
        upper = upper_bound(gate(lm), REQUEST)
        assert (caps.settled, caps.uncertain, caps.reserved) == (Spend(), upper, Spend())

    run(scenario())


@pytest.mark.parametrize(
    ("error", "settled", "uncertain"),
    [
        (ConnectError("DX4102", "x"), 0, 0),
        (RequestRejected("DX4202", "401", sent="yes"), 1, 0),
        (ServerError("DX4208", "500", sent="yes"), 1, 0),
        (ServerError("DX4106", "reset", sent="maybe"), 0, 1),
        (ResponseError("DX4301", "not JSON", sent="yes"), 0, 1),
        (CallTimeout("DX4105", "slow", sent="maybe"), 0, 1),
        (KeyError("a defect in the model"), 0, 1),
    ],
)
def test_a_reservation_ends_as_the_failure_says(error: Exception, settled: int, uncertain: int) -> None:
    async def scenario() -> None:
        caps = account(calls=10)
        with pytest.raises(type(error)):
            await complete(gate(StepsLM(error)), REQUEST, Context(account=caps))
        assert (caps.settled.calls, caps.uncertain.calls, caps.reserved.calls) == (settled, uncertain, 0)

    run(scenario())


def test_a_call_over_budget_is_never_sent() -> None:
    async def scenario() -> None:
        lm = StepsLM(ANSWER)
        context = Context(account=account(calls=1))
        await complete(gate(lm), REQUEST, context)
        with pytest.raises(BudgetExceeded) as caught:
            await complete(gate(lm), REQUEST, context)
        assert (caught.value.code, caught.value.sent, caught.value.attempts) == ("DX4502", "no", 0)
        assert len(lm.requests) == 1

    run(scenario())


def test_the_budget_also_binds_retries() -> None:
    async def scenario() -> None:
        lm = StepsLM(server_error())
        with pytest.raises(BudgetExceeded) as caught:
            await complete(gate(lm), REQUEST, Context(account=account(calls=2)))
        assert (caught.value.attempts, caught.value.sent) == (2, "yes")
        assert len(lm.requests) == 2

    run(scenario())


def test_an_unpriced_model_is_refused_at_the_first_call_when_dollars_are_capped() -> None:
    async def scenario() -> None:
        lm = StepsLM(ANSWER, price=None)
        with pytest.raises(BudgetExceeded, match="DX4503"):
            await complete(gate(lm), REQUEST, Context(account=account(usd=1.0)))
        assert not lm.requests
        called = await complete(gate(lm), REQUEST, Context(account=account(calls=1)))
        assert called.spent.usd is None

    run(scenario())


def test_missing_usage_counts_as_its_upper_bound() -> None:
    async def scenario() -> None:
        lm = StepsLM(LMResponse("x"), price=PRICE)
        caps = account(tokens=1000)
        called = await complete(gate(lm), REQUEST, Context(account=caps))
        assert called.spent == Spend(1, 0, 0, None)
        assert caps.uncertain == upper_bound(gate(lm), REQUEST)

    run(scenario())


def test_the_upper_bound_is_above_any_count_of_tokens() -> None:
    request = LMRequest(messages=(Message("user", "ü" * 100),), max_tokens=7, json_schema="{}")
    upper = upper_bound(gate(StepsLM(price=PRICE)), request)
    assert upper.calls == 1
    assert upper.input_tokens >= 202
    assert upper.output_tokens == 7
    assert upper.usd == PRICE.cost(Usage(upper.input_tokens, 7))


def test_an_attempt_ends_at_its_timeout_and_is_retried() -> None:
    async def scenario() -> None:
        lm = StepsLM("hold", ANSWER)
        caps = account(calls=5)
        called = await complete(gate(lm, timeout=0.02), REQUEST, Context(account=caps))
        assert called.attempts == 2
        assert (caps.settled.calls, caps.uncertain.calls) == (1, 1)
        lm = StepsLM("hold")
        with pytest.raises(CallTimeout) as caught:
            await complete(gate(lm, timeout=0.01, retry=RetryPolicy(0)), REQUEST, Context())
        assert (caught.value.code, caught.value.sent) == ("DX4701", "maybe")
        assert lm.running == 0

    run(scenario())


def test_a_timeout_error_of_the_model_itself_is_not_ours() -> None:
    async def scenario() -> None:
        with pytest.raises(TimeoutError, match="its own"):
            await complete(
                gate(StepsLM(TimeoutError("its own")), timeout=5.0), REQUEST, Context(deadline=time.monotonic() + 5)
            )

    run(scenario())


def test_the_deadline_ends_a_call_wherever_it_is() -> None:
    async def scenario() -> None:
        lm = StepsLM("hold")
        caps = account(calls=5)
        with pytest.raises(CallTimeout) as caught:
            await complete(gate(lm), REQUEST, Context(account=caps, deadline=time.monotonic() + 0.02))
        assert (caught.value.code, caught.value.sent, caught.value.attempts) == ("DX4702", "maybe", 1)
        assert caps.uncertain.calls == 1
        full = Limit(1)
        assert full.try_acquire()
        with pytest.raises(CallTimeout) as caught:
            await complete(gate(lm, limit=full), REQUEST, Context(account=caps, deadline=time.monotonic() + 0.02))
        assert (caught.value.sent, caught.value.attempts) == ("no", 0)
        assert (full.active, full.waiting, caps.reserved.calls) == (1, 0, 0)
        with pytest.raises(CallTimeout):
            await complete(gate(lm), REQUEST, Context(deadline=time.monotonic() - 1))
        assert len(lm.requests) == 1

    run(scenario())


def test_no_retry_is_begun_that_cannot_end_before_the_deadline() -> None:
    async def scenario() -> None:
        limited = RateLimited("DX4207", "429", retryable=True, sent="yes")
        limited.retry_after = 60.0
        naps: list[float] = []
        with pytest.raises(RateLimited):
            await complete(gate(StepsLM(limited), naps), REQUEST, Context(deadline=time.monotonic() + 30))
        assert naps == []

    run(scenario())


def test_a_cancelled_call_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        lm = StepsLM("hold")
        caps, slots, journal = account(calls=5), Limit(1), MemoryJournal()
        context = Context(account=caps, journal=journal)
        task = asyncio.ensure_future(complete(gate(lm, limit=slots), REQUEST, context))
        await lm.entered.wait()
        waiting = asyncio.ensure_future(complete(gate(lm, limit=slots), OTHER, context))
        await ticks()
        assert slots.waiting == 1
        waiting.cancel()
        task.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)
        assert task.cancelled()
        assert waiting.cancelled()
        assert (slots.active, slots.waiting, lm.running) == (0, 0, 0)
        # The one in the air may have been paid; the one that waited was never sent.
        assert (caps.uncertain.calls, caps.reserved.calls, caps.settled.calls) == (1, 0, 0)
        assert journal.events == [("started", 1), ("started", 2), ("unsent", 2)]

    run(scenario())


def test_nothing_is_sent_when_the_log_cannot_be_written() -> None:
    async def scenario() -> None:
        lm, caps, journal = StepsLM(), account(calls=5), MemoryJournal()
        journal.fail = StudyError("DX6101", "disk full")
        with pytest.raises(StudyError, match="disk full"):
            await complete(gate(lm), REQUEST, Context(account=caps, journal=journal))
        assert not lm.requests
        assert (caps.settled.calls, caps.reserved.calls) == (0, 0)

    run(scenario())


def test_a_settled_call_is_never_sent_again() -> None:
    async def scenario() -> None:
        lm, caps = StepsLM(), account(calls=1)
        journal = MemoryJournal()
        context = Context(account=caps, journal=journal)
        first = await complete(gate(lm), REQUEST, context)
        again = await complete(gate(lm), REQUEST, context)
        assert (again.response, again.cached, again.attempts, again.spent) == (first.response, True, 0, Spend())
        assert len(lm.requests) == 1

    run(scenario())


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("end", ["answered", "retried", "failed", "cancelled", "cancelled in the queue", "too late"])
def test_calls_are_freed_at_once_however_they_end(end: str, shared: bool) -> None:
    def calls() -> list[object]:
        return [one for one in gc.get_objects() if isinstance(one, (Call, Attempt, Flight, Recovery))]

    async def scenario() -> None:
        class Failing(StepsLM):
            async def complete(self, request: LMRequest, /) -> LMResponse:
                if end == "failed" or (end == "retried" and not self.requests):
                    self.requests.append(request)
                    raise RequestRejected("DX4201", "400", sent="yes") if end == "failed" else server_error()
                return await super().complete(request)

        lm, slots = Failing("hold" if end == "cancelled" else ANSWER), Limit(1)
        held = slots.try_acquire() if end in ("cancelled in the queue", "too late") else None
        context = Context(deadline=time.monotonic() + 0.01 if end == "too late" else None)
        through = gate(lm, limit=slots)
        tasks = [asyncio.ensure_future(complete(through, REQUEST, context, shared=shared)) for _ in range(3)]
        await ticks()
        if end.startswith("cancelled"):
            for task in tasks:
                task.cancel()
        outcomes = [type(one) for one in await asyncio.gather(*tasks, return_exceptions=True)]
        wanted = {"failed": RequestRejected, "too late": CallTimeout, "answered": Called, "retried": Called}
        assert outcomes == [wanted.get(end, asyncio.CancelledError)] * 3
        if held is not None:
            held.release()

    gc.collect()
    before = {id(one) for one in calls()}
    gc.disable()
    try:
        run(scenario())
        after = [type(one) for one in calls() if id(one) not in before]
    finally:
        gc.enable()
    assert after == []


# Single-flight


async def joined(lm: StepsLM, n: int, contexts: list[Context] | None = None) -> list[asyncio.Task[Called]]:
    through = gate(lm)
    made = contexts or [Context()] * n
    tasks = [asyncio.ensure_future(complete(through, REQUEST, context, shared=True)) for context in made]
    await ticks()
    return tasks


def test_equal_calls_in_the_air_are_sent_once() -> None:
    async def scenario() -> None:
        lm = StepsLM("hold")
        tasks = await joined(lm, 5)
        lm.gate.set()
        done = await asyncio.gather(*tasks)
        assert len(lm.requests) == 1
        assert [called.cached for called in done] == [False, True, True, True, True]
        assert sum(called.spent.calls for called in done) == 1

    run(scenario())


@pytest.mark.parametrize("given_up", [False, True])
def test_a_call_waits_at_the_highest_priority_of_the_calls_that_joined_it(given_up: bool) -> None:
    async def scenario() -> None:
        lm, slots = StepsLM(), Limit(1)
        through = gate(lm, limit=slots)
        held = slots.try_acquire()
        assert held is not None

        def call(text: str, priority: int) -> asyncio.Task[Called]:
            request = LMRequest((Message("user", text),))
            return asyncio.ensure_future(complete(through, request, Context(priority=priority), shared=True))

        tasks = [call("late", -1), call("late", -1), call("plain", 0), call("late", 1), call("late", 0)]
        await ticks()
        assert slots.waiting == 2
        if given_up:
            tasks[0].cancel()
            await ticks()
        held.release()
        await asyncio.gather(*tasks, return_exceptions=True)
        sent = [request.messages[0].content for request in lm.requests]
        assert sent == ["late", "plain"]
        assert (slots.active, slots.waiting) == (0, 0)

    run(scenario())


def test_followers_survive_when_the_leader_is_cancelled() -> None:
    async def scenario() -> None:
        lm = StepsLM("hold")
        tasks = await joined(lm, 4)
        tasks[0].cancel()
        await ticks()
        tasks[1].cancel()
        tasks[2].cancel()
        await ticks()
        lm.gate.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(one, asyncio.CancelledError) for one in done] == [True, True, True, False]
        assert isinstance(done[3], Called)
        assert lm.running == 0

    run(scenario())


@pytest.mark.parametrize("seed", range(40))
def test_no_follower_is_lost_under_any_cancellations(seed: int) -> None:
    async def scenario() -> None:
        rng = random.Random(seed)
        lm = StepsLM("hold")
        tasks = await joined(lm, 6)
        killed: set[int] = set()
        for _ in range(rng.randrange(1, 6)):
            # Several at once, the leader and the one that would take over among them.
            for victim in rng.sample(range(6), rng.randrange(1, 4)):
                killed.add(victim)
                tasks[victim].cancel()
            await ticks(rng.randrange(0, 3))
        lm.gate.set()
        done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        for number, one in enumerate(done):
            assert isinstance(one, asyncio.CancelledError if number in killed else Called)
        assert lm.running == 0

    run(scenario())


def test_a_failure_is_shared_but_each_caller_gets_its_own_error() -> None:
    async def scenario() -> None:
        lm = StepsLM("hold")
        lm.then = RequestRejected("DX4202", "401", sent="yes")
        tasks = await joined(lm, 3)
        lm.gate.set()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(error, RequestRejected) for error in errors)
        assert len({id(error) for error in errors}) == 3
        assert len(lm.requests) == 1
        # What was sent and paid is counted once over all callers.
        assert sorted(error.attempts for error in errors if isinstance(error, LMError)) == [0, 0, 1]
        for number, error in enumerate(errors):
            assert isinstance(error, LMError)
            error.add_note(str(number))
        assert [error.__notes__ for error in errors if isinstance(error, LMError)] == [["0"], ["1"], ["2"]]

    run(scenario())


def test_a_follower_does_not_fail_for_want_of_the_leaders_time() -> None:
    async def scenario() -> None:
        limited = RateLimited("DX4207", "429", retryable=True, sent="yes")
        limited.retry_after = 50.0
        lm = StepsLM("hold", ANSWER)
        lm.then = limited
        tasks = await joined(lm, 2, [Context(deadline=time.monotonic() + 20.0), Context()])
        lm.gate.set()
        with pytest.raises(RateLimited):
            await tasks[0]
        assert (await tasks[1]).response == ANSWER

    run(scenario())


def test_only_calls_that_go_the_same_way_join() -> None:
    async def scenario() -> None:
        refused, other = StepsLM("hold"), StepsLM(ANSWER)
        refused.then = RequestRejected("DX4202", "401", sent="yes")
        calls = [asyncio.ensure_future(complete(gate(lm), REQUEST, Context(), shared=True)) for lm in (refused, other)]
        await ticks()
        refused.gate.set()
        with pytest.raises(RequestRejected):
            await calls[0]
        assert (await calls[1]).response == ANSWER

    run(scenario())


def test_a_follower_is_not_bound_by_the_leaders_budget_or_deadline() -> None:
    async def scenario() -> None:
        spent = account(calls=1)
        spent.reserve(Spend(1)).settle(Spend(1))
        lm = StepsLM("hold")
        tasks = await joined(lm, 2, [Context(deadline=time.monotonic() + 0.02), Context()])
        first = (await asyncio.gather(tasks[0], return_exceptions=True))[0]
        assert isinstance(first, CallTimeout)
        lm.gate.set()
        assert (await tasks[1]).response == ANSWER

        class Late(StepsLM):
            pass

        poor = Context(account=spent)
        with pytest.raises(BudgetExceeded):
            await complete(gate(Late()), REQUEST, poor, shared=True)

    run(scenario())


# Cache


def tiers(path: Path) -> TieredCache:
    return TieredCache(MemoryCache(), ResponseCache(path / "responses.db"))


async def ask(through: Gate, request: LMRequest = REQUEST) -> Called:
    called = await complete(through, request, Context())
    store(through, called)
    return called


@pytest.mark.parametrize(
    ("mode", "reads", "writes"),
    [
        ("off", False, False),
        ("on", True, True),
        ("read", True, False),
        ("write", False, True),
        ("refresh", False, True),
    ],
)
def test_cache_modes_read_and_write_as_they_say(mode: CacheMode, reads: bool, writes: bool, tmp_path: Path) -> None:
    async def scenario() -> None:
        cache = tiers(tmp_path)
        old = LMResponse("old", Usage(1, 1))
        key = call_key(StepsLM.fingerprint, REQUEST)
        lm = StepsLM()
        called = await ask(gate(lm, cache=cache, mode=mode))
        assert (cache.get(key) is not None) == writes
        cache.put(key, old)
        called = await ask(gate(lm, cache=cache, mode=mode))
        assert called.cached == reads
        assert (called.response == old) == reads
        # "write" adds what is missing, "refresh" replaces.
        assert cache.get(key) == (ANSWER if mode == "refresh" else old)
        cache.close()

    run(scenario())


def test_a_hit_needs_no_budget(tmp_path: Path) -> None:
    async def scenario() -> None:
        cache = tiers(tmp_path)
        through = gate(StepsLM(), cache=cache, mode="on")
        await ask(through)
        caps = account(calls=1)
        caps.reserve(Spend(1))
        called = await complete(through, REQUEST, Context(account=caps))
        assert (called.cached, called.attempts, called.spent) == (True, 0, Spend())
        cache.close()

    run(scenario())


def test_answers_outlive_the_process(tmp_path: Path) -> None:
    async def scenario() -> None:
        cache = tiers(tmp_path)
        await ask(gate(StepsLM(), cache=cache, mode="on"))
        cache.close()
        lm = StepsLM()
        fresh = tiers(tmp_path)
        assert (await ask(gate(lm, cache=fresh, mode="on"))).cached
        assert not lm.requests
        fresh.close()

    run(scenario())


def test_failures_are_never_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        cache = tiers(tmp_path)
        lm = StepsLM(RequestRejected("DX4202", "401", sent="yes"), ANSWER)
        through = gate(lm, cache=cache, mode="on")
        with pytest.raises(RequestRejected):
            await ask(through)
        assert (await ask(through)).cached is False
        assert (await ask(through)).cached is True
        cache.close()

    run(scenario())


def test_memory_is_bounded_by_bytes_and_keeps_the_latest_used() -> None:
    cache = MemoryCache(capacity=10_000)
    for number in range(100):
        cache.put(str(number), LMResponse("x" * 100))
        assert cache.get("0") is not None
        assert cache.bytes <= 10_000
    assert 5 < len(cache) < 30
    assert cache.get("99") is not None
    assert cache.get("50") is None
    cache.put("big", LMResponse("x" * 100_000))
    assert cache.get("big") is None
    cache.clear()
    assert (len(cache), cache.bytes) == (0, 0)


def test_keys_tell_every_field_of_a_request_apart() -> None:
    base: dict[str, Any] = {"messages": (Message("user", "a"), Message("user", "b")), "max_tokens": 10}
    changes: list[dict[str, Any]] = [
        {},
        {"messages": (Message("user", "ab"),)},
        {"messages": (Message("system", "a"), Message("user", "b"))},
        {"messages": (), "prompt": "a"},
        {"temperature": 0.5},
        {"max_tokens": 11},
        {"stop": ("\n",)},
        {"seed": 0},
        {"json_schema": "{}"},
        {"choices": ("a",)},
        {"choices": ("a",), "score_choices": True},
        {"output_fields": ("a",)},
        {"rollout": 1},
        {"messages": (Message("user", "\ud800"),)},
        {"messages": (Message("user", "\ud801"),)},
    ]
    requests = [LMRequest(**{**base, **change}) for change in changes]
    keys = {call_key("m", request) for request in requests} | {call_key("n", requests[0])}
    assert len(keys) == len(changes) + 1
    assert call_key("m", requests[0]) == call_key("m", LMRequest(**base))
