"""Several servers or keys for one model, and other models when all of it fails."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.errors import BudgetExceeded, ConnectError, LMError, RateLimited, RequestRejected, ServerError
from dspex.executor.admission import Limit
from dspex.executor.breaker import Breaker
from dspex.executor.budget import BudgetAccount
from dspex.executor.caching import MemoryCache, TieredCache, call_key
from dspex.executor.call import Called, complete, store
from dspex.executor.models import Gate
from dspex.executor.retry import Allowance, RetryPolicy
from dspex.executor.routes import Route, pick
from dspex.executor.streaming import stream
from dspex.lm.spend import Budget
from dspex.lm.types import Capabilities, LMRequest, LMResponse, Message, Price, Usage
from dspex.program.context import Context
from dspex.stores.cache import ResponseCache
from tests.executor.models import ANSWER, MemoryJournal, StepsLM

REQUEST = LMRequest(messages=(Message("user", "hello"),), max_tokens=10)
DOWN = ConnectError("DX4101", "refused", retryable=True, sent="no")
BAD_KEY = RequestRejected("DX4202", "401", sent="yes")


def broken(pause: float = 1000.0) -> Breaker:
    """A breaker that is open."""
    breaker = Breaker("test/steps", calls=1, pause=pause, longest=1000.0)
    breaker.leave(breaker.enter(), "failed")
    assert breaker.state == "open"
    return breaker


def over(*models: StepsLM, naps: list[float] | None = None, **options: Any) -> Gate:
    """A gate with a route to each of `models`."""

    async def sleep(seconds: float) -> None:
        if naps is not None:
            naps.append(seconds)
        await asyncio.sleep(0)

    options.setdefault("retry", RetryPolicy(rng=random.Random(0)))
    return Gate(
        models[0], routes=tuple(Route(one, Limit(4), Breaker(one.name)) for one in models), sleep=sleep, **options
    )


def other(name: str, *steps: Any, **options: Any) -> StepsLM:
    lm = StepsLM(*steps, **options)
    lm.name = f"test/{name}"
    lm.fingerprint = f"test:{name}"
    return lm


# Which route


@given(
    loads=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    opened=st.sets(st.integers(0, 5)),
    avoid=st.integers(0, 5),
    seed=st.integers(0, 2**16),
)
def test_a_sound_route_is_picked_where_there_is_one(loads: list[int], opened: set[int], avoid: int, seed: int) -> None:
    routes = [Route(StepsLM(), None, broken() if place in opened else None) for place in range(len(loads))]
    for route, load in zip(routes, loads, strict=True):
        route.load = load
    avoided = routes[avoid] if avoid < len(routes) else None
    found = pick(routes, random.Random(seed), avoided)
    assert found in routes
    if len(routes) > 1:
        assert found is not avoided
    if any(route.is_sound for route in routes if route is not avoided):
        assert found.is_sound or len(routes) == 1


def test_load_settles_by_weight() -> None:
    rng = random.Random(1)
    routes = [Route(StepsLM(), weight=weight) for weight in (1.0, 2.0, 5.0)]
    for _ in range(8000):
        pick(routes, rng).load += 1
    shares = [route.load / 8000 for route in routes]
    assert shares == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.02)


def test_calls_spread_over_equal_routes() -> None:
    async def scenario() -> None:
        models = [StepsLM("hold"), StepsLM("hold")]
        through = over(*models)
        calls = [asyncio.ensure_future(complete(through, REQUEST, Context())) for _ in range(8)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert [lm.running for lm in models] == [4, 4]
        for lm in models:
            lm.gate.set()
        await asyncio.gather(*calls)
        assert [route.load for route in through.routes] == [0, 0]

    asyncio.run(scenario())


def test_a_call_waits_only_when_no_route_has_room() -> None:
    async def scenario() -> None:
        models = [StepsLM("hold"), StepsLM("hold")]
        routes = (Route(models[0], Limit(1)), Route(models[1], Limit(5), weight=0.001))
        through = Gate(models[0], routes=routes)
        calls = [asyncio.ensure_future(complete(through, REQUEST, Context())) for _ in range(7)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert [lm.running for lm in models] == [1, 5]
        assert sum(route.limit.waiting for route in routes if route.limit is not None) == 1
        for lm in models:
            lm.gate.set()
        await asyncio.gather(*calls)
        assert [route.load for route in routes] == [0, 0]

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(8))
def test_a_retry_leaves_the_route_that_had_a_slot_and_failed(seed: int) -> None:
    async def scenario() -> None:
        full, good, bad = Limit(1), StepsLM(ANSWER), StepsLM("hold")
        bad.then = ServerError("DX4208", "500", retryable=True, sent="yes")
        held = full.try_acquire()
        assert held is not None
        routes = (Route(good, full, weight=1000.0), Route(bad, Limit(1), weight=1e-9))
        asked = Gate(good, routes=routes, retry=RetryPolicy(rng=random.Random(seed)))
        call = asyncio.ensure_future(complete(asked, REQUEST, Context()))
        await bad.entered.wait()
        held.release()
        bad.gate.set()
        await call
        assert (len(bad.requests), len(good.requests)) == (1, 1)

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(4))
def test_a_route_that_refused_a_call_is_not_asked_by_it_again(seed: int) -> None:
    """Also when the other is full, and the one that refused has slots because it refuses at once."""

    async def scenario() -> None:
        full, good, bad = Limit(1), StepsLM(ANSWER), StepsLM(BAD_KEY)
        held = full.try_acquire()
        assert held is not None
        routes = (Route(good, full), Route(bad, Limit(4)))
        asked = Gate(good, routes=routes, retry=RetryPolicy(rng=random.Random(seed)))
        call = asyncio.ensure_future(complete(asked, REQUEST, Context()))
        for _ in range(20):
            await asyncio.sleep(0)
        assert full.waiting == 1
        held.release()
        assert (await call).response == ANSWER
        assert (len(bad.requests), len(good.requests)) == (1, 1)

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [DOWN, BAD_KEY, RateLimited("DX4207", "429", retryable=True, sent="yes")])
def test_another_route_answers_at_once_what_one_refused(error: LMError) -> None:
    async def scenario() -> None:
        naps: list[float] = []
        bad, good = StepsLM(error), StepsLM(ANSWER)
        through = over(bad, good, naps=naps)
        for _ in range(100):
            called = await complete(through, REQUEST, Context())
            assert called.response == ANSWER
        assert naps.count(0.0) == len(naps) == len(bad.requests)
        assert len(good.requests) == 100
        # A 429 is no failure: the limit, not the breaker, keeps calls away from there.
        assert through.routes[0].is_sound == isinstance(error, RateLimited)

    asyncio.run(scenario())


def test_the_error_is_raised_when_every_route_refuses() -> None:
    async def scenario() -> None:
        models = [StepsLM(BAD_KEY), StepsLM(BAD_KEY), StepsLM(BAD_KEY)]
        with pytest.raises(RequestRejected, match="401") as caught:
            await complete(over(*models), REQUEST, Context())
        assert caught.value.attempts == 3
        assert sum(len(lm.requests) for lm in models) == 3

    asyncio.run(scenario())


def test_answers_of_all_routes_count_as_the_same_models(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk = ResponseCache(tmp_path / "responses.db")
        cache = TieredCache(MemoryCache(), disk)
        first, second = StepsLM(DOWN), other("elsewhere", ANSWER)
        through = over(first, second, cache=cache, mode="on")
        called = await complete(through, REQUEST, Context())
        store(through, called)
        assert called.key == call_key(first.fingerprint, REQUEST)
        assert (await complete(through, REQUEST, Context())).cached
        disk.close()

    asyncio.run(scenario())


# The breaker


def test_an_open_breaker_is_waited_for_and_nothing_is_sent() -> None:
    async def scenario() -> None:
        now = 0.0
        breaker = Breaker("test/steps", calls=1, pause=2.0, clock=lambda: now)
        breaker.leave(breaker.enter(), "failed")
        lm = StepsLM(ANSWER)
        naps: list[float] = []

        async def sleep(seconds: float) -> None:
            nonlocal now
            naps.append(seconds)
            now += seconds

        through = Gate(lm, breaker=breaker, limit=Limit(1), sleep=sleep, retry=RetryPolicy(0, rng=random.Random(0)))
        called = await complete(through, REQUEST, Context())
        assert (called.attempts, len(naps)) == (1, 1)
        assert 2.0 <= naps[0] <= 2.5

    asyncio.run(scenario())


def test_a_call_gives_up_on_a_breaker_that_stays_open() -> None:
    async def scenario() -> None:
        lm, slots, caps = StepsLM(ANSWER), Limit(1), BudgetAccount(Budget(calls=5))
        through = Gate(lm, breaker=broken(), limit=slots)
        with pytest.raises(ServerError) as caught:
            await complete(through, REQUEST, Context(account=caps))
        assert (caught.value.code, caught.value.sent, caught.value.attempts) == ("DX4731", "no", 0)
        assert (slots.active, caps.reserved.calls, lm.requests) == (0, 0, [])

    asyncio.run(scenario())


def test_failures_open_the_breaker_and_refusals_do_not() -> None:
    async def scenario() -> None:
        for step, state in [
            (ServerError("DX4208", "500", retryable=True, sent="yes"), "open"),
            (RequestRejected("DX4205", "400", sent="yes"), "closed"),
            (KeyError("a defect of the model"), "closed"),
        ]:
            breaker = Breaker("test/steps")
            through = Gate(StepsLM(step), breaker=breaker, retry=RetryPolicy(0))
            for _ in range(20):
                with pytest.raises(type(step)):
                    await complete(through, REQUEST, Context())
            assert breaker.state == state

    asyncio.run(scenario())


def test_a_route_that_is_being_probed_does_not_hold_a_call_up() -> None:
    async def scenario() -> None:
        naps: list[float] = []
        probed, good = StepsLM(ANSWER), StepsLM(ANSWER)
        through = over(probed, good, naps=naps)
        now = 0.0
        breaker = through.routes[0].breaker = Breaker("test/steps", calls=1, pause=1.0, clock=lambda: now)
        breaker.leave(breaker.enter(), "failed")
        now = 1.0
        for _ in range(3):
            breaker.enter()
        assert through.routes[0].is_sound
        for _ in range(20):
            await complete(through, REQUEST, Context())
        assert (len(probed.requests), len(good.requests), sum(naps)) == (0, 20, 0.0)
        assert len(naps) > 0

    asyncio.run(scenario())


# Fallback


@pytest.mark.parametrize("error", [DOWN, BAD_KEY, RequestRejected("DX4209", "too long", sent="yes")])
def test_a_fallback_answers_what_failed_for_good(error: LMError, tmp_path: Path) -> None:
    async def scenario() -> None:
        disk = ResponseCache(tmp_path / "responses.db")
        cache = TieredCache(MemoryCache(), disk)
        first, second = StepsLM(error), other("second", ANSWER, price=Price(1.0, 1.0))
        spare = Gate(second, cache=cache, mode="on")
        through = over(first, retry=RetryPolicy(1), cache=cache, mode="on", fallback=(spare,))
        caps, journal = BudgetAccount(Budget(calls=10, usd=1.0)), MemoryJournal()
        called = await complete(through, REQUEST, Context(account=caps, journal=journal))
        assert called.response == ANSWER
        assert called.fallback == (spare, call_key("test:second", REQUEST))
        assert called.spent.usd == Price(1.0, 1.0).cost(Usage(10, 2))
        assert caps.reserved.calls == 0
        # A resumed study finds what it bought under the call that it made.
        assert list(journal.answers) == [call_key("test:steps", REQUEST)]
        store(through, called)
        assert cache.get(call_key("test:steps", REQUEST)) is None
        asked = len(second.requests)
        again = await complete(through, REQUEST, Context())
        assert (again.response, again.cached, len(second.requests)) == (ANSWER, True, asked)
        first.steps = [LMResponse("itself")]
        assert (await complete(through, REQUEST, Context())).response.text == "itself"
        disk.close()

    asyncio.run(scenario())


def test_an_answer_that_a_fallback_gave_is_the_fallbacks_in_a_resumed_study_too() -> None:
    async def scenario() -> None:
        first, second = StepsLM(DOWN), other("second", ANSWER)
        spare = Gate(second)
        through = over(first, retry=RetryPolicy(0), fallback=(spare,))
        context = Context(journal=MemoryJournal())
        bought = await complete(through, REQUEST, context)
        again = await complete(through, REQUEST, context)
        assert (again.response, again.cached, again.attempts) == (ANSWER, True, 0)
        assert again.fallback == bought.fallback == (spare, call_key("test:second", REQUEST))
        parts = [part async for part in stream(through, REQUEST, context)]
        assert isinstance(parts[-1], Called)
        assert parts[-1].fallback == bought.fallback
        assert (len(first.requests), len(second.requests)) == (1, 1)

    asyncio.run(scenario())


def test_the_model_is_asked_itself_when_a_fallback_that_is_no_more_had_answered() -> None:
    async def scenario() -> None:
        context = Context(journal=MemoryJournal())
        first = StepsLM(DOWN, ANSWER)
        await complete(over(first, retry=RetryPolicy(0), fallback=(Gate(other("second", ANSWER)),)), REQUEST, context)
        called = await complete(over(first), REQUEST, context)
        assert (called.cached, called.fallback, len(first.requests)) == (False, None, 2)

    asyncio.run(scenario())


def test_fallbacks_are_asked_in_turn_and_the_models_own_error_is_raised() -> None:
    async def scenario() -> None:
        spares = [other(name, RequestRejected("DX4204", f"no {name}", sent="yes")) for name in ("second", "third")]
        through = over(StepsLM(BAD_KEY), fallback=tuple(Gate(lm) for lm in spares))
        with pytest.raises(RequestRejected, match="401") as caught:
            await complete(through, REQUEST, Context())
        assert caught.value.attempts == 3
        assert caught.value.__notes__ == [
            "fallback test/second: DX4204 no second",
            "fallback test/third: DX4204 no third",
        ]

    asyncio.run(scenario())


def test_no_fallback_is_asked_when_the_budget_is_used_up() -> None:
    async def scenario() -> None:
        spare = other("second", ANSWER)
        through = over(StepsLM(DOWN), retry=RetryPolicy(0), fallback=(Gate(spare),))
        caps = BudgetAccount(Budget(tokens=1))
        with pytest.raises(BudgetExceeded):
            await complete(through, REQUEST, Context(account=caps))
        assert not spare.requests

    asyncio.run(scenario())


def test_a_fallback_gets_the_request_that_suits_it() -> None:
    async def scenario() -> None:
        spare = other("second", ANSWER, capabilities=Capabilities(json_schema=True))
        through = over(StepsLM(DOWN), retry=RetryPolicy(0), fallback=(Gate(spare),))

        def adapt(able: Capabilities) -> LMRequest:
            return LMRequest(REQUEST.messages, json_schema="{}" if able.json_schema else None)

        await complete(through, REQUEST, Context(), adapt=adapt)
        assert [request.json_schema for request in spare.requests] == ["{}"]

    asyncio.run(scenario())


def test_an_open_breaker_goes_to_the_fallback_at_once() -> None:
    async def scenario() -> None:
        naps: list[float] = []
        first, spare = StepsLM(ANSWER), other("second", ANSWER)
        through = over(first, naps=naps, fallback=(Gate(spare),))
        through.routes[0].breaker = broken(pause=1.0)
        called = await complete(through, REQUEST, Context())
        assert (called.attempts, len(first.requests), len(spare.requests), sum(naps)) == (1, 0, 1, 0.0)
        assert through.fallback[0].tally["stood_in"] == 1

    asyncio.run(scenario())


# Retries of all calls together


def test_a_call_waits_a_minute_in_all_for_a_busy_server() -> None:
    async def scenario() -> None:
        busy = RateLimited("DX4207", "429", retryable=True, sent="yes")
        busy.retry_after = 10.0
        naps: list[float] = []
        lm = StepsLM(busy)
        through = over(lm, naps=naps, retry=RetryPolicy(1, rng=random.Random(0)))
        through.routes[0].limit = None  # It would wait as well, by a real clock.
        with pytest.raises(RateLimited):
            await complete(through, REQUEST, Context())
        assert 60.0 <= sum(naps) <= 72.0
        assert len(lm.requests) == len(naps) + 1

    asyncio.run(scenario())


@given(st.lists(st.booleans(), max_size=300), st.floats(0.05, 1.0), st.integers(1, 20))
def test_an_allowance_is_never_overdrawn(takes: list[bool], ratio: float, burst: int) -> None:
    allowance = Allowance(ratio, burst)
    counts: Counter[str] = Counter()
    for take in takes:
        if take:
            counts["taken"] += allowance.take()
        else:
            allowance.earn()
            counts["earned"] += 1
        assert counts["taken"] + allowance.left == pytest.approx(burst + ratio * counts["earned"])
        assert allowance.left >= 0.0


def test_a_server_that_is_down_is_not_flooded_with_retries() -> None:
    async def scenario() -> None:
        lm = StepsLM(ServerError("DX4208", "500", retryable=True, sent="yes"))
        through = over(lm, allowance=Allowance(0.5, 10.0))
        through.routes[0].breaker = None
        for _ in range(200):
            with pytest.raises(ServerError):
                await complete(through, REQUEST, Context())
        assert 200 < len(lm.requests) <= 200 + 10 + 100
        assert (through.allowance.calls, through.allowance.taken) == (200, len(lm.requests) - 200)
        with pytest.raises(ServerError) as caught:
            await complete(through, REQUEST, Context())
        assert any("being retried" in note for note in caught.value.__notes__)

    asyncio.run(scenario())


def test_an_ambiguous_failure_is_retried_only_where_that_is_allowed() -> None:
    async def scenario() -> None:
        for ambiguous, error, attempts in [
            (True, ServerError("DX4106", "reset", retryable=True, sent="maybe"), 2),
            (False, ServerError("DX4106", "reset", retryable=True, sent="maybe"), 1),
            (False, ServerError("DX4208", "500", retryable=True, sent="yes"), 2),
            (False, ConnectError("DX4101", "refused", retryable=True, sent="no"), 2),
        ]:
            lm = StepsLM(error, ANSWER)
            through = over(lm, retry=RetryPolicy(3, ambiguous=ambiguous))
            if attempts == 1:
                with pytest.raises(ServerError):
                    await complete(through, REQUEST, Context())
            else:
                called = await complete(through, REQUEST, Context())
                assert called.ambiguous == (error.sent == "maybe")
            assert len(lm.requests) == attempts

    asyncio.run(scenario())


def test_a_route_whose_server_wants_no_calls_is_left_out() -> None:
    async def scenario() -> None:
        now = 0.0
        held, other = Limit(1, clock=lambda: now), Limit(1)
        permit = held.try_acquire()
        assert permit is not None
        permit.release("limited", retry_after=30.0)
        models = [StepsLM(), StepsLM("hold")]
        routes = (Route(models[0], held, weight=1000.0), Route(models[1], other))
        through = Gate(models[0], routes=routes)
        assert [route.is_held for route in routes] == [True, False]
        calls = [asyncio.ensure_future(complete(through, REQUEST, Context())) for _ in range(4)]
        for _ in range(5):
            await asyncio.sleep(0)
        # All wait for the one that answers, though the other has a slot.
        assert (held.waiting, other.waiting, other.active) == (0, 3, 1)
        models[1].gate.set()
        await asyncio.gather(*calls)
        assert not models[0].requests
        now = 31.0
        assert not routes[0].is_held

    asyncio.run(scenario())


def test_a_refusal_stands_where_no_fresh_key_is_to_be_had() -> None:
    def reopen() -> StepsLM:
        raise RequestRejected("DX4218", "the key resolver failed")

    async def scenario() -> None:
        lm = StepsLM(RequestRejected("DX4202", "401", sent="yes"), ANSWER)
        gate = Gate(lm, routes=(Route(lm, reopen=reopen),), retry=RetryPolicy(retries=0))
        with pytest.raises(RequestRejected) as caught:
            await complete(gate, REQUEST, Context())
        assert (caught.value.code, caught.value.attempts) == ("DX4202", 1)
        assert caught.value.__notes__ == ["no fresh key: DX4218 the key resolver failed"]

    asyncio.run(scenario())
