"""A call cancelled at every single step of the event loop, on every way through the call path.

Whatever the step, nothing may be left: no task, no slot, no reservation, no probe of a breaker; and everybody who
counts (the model itself, the account, the ledger, the journal) must have counted the same attempts.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

import pytest

from dspex.errors import BudgetExceeded, LMError, ServerError
from dspex.executor.admission import Limit
from dspex.executor.breaker import Breaker
from dspex.executor.budget import BudgetAccount
from dspex.executor.call import Called, complete
from dspex.executor.hedge import Stragglers
from dspex.executor.models import Gate, here
from dspex.executor.retry import RetryPolicy
from dspex.executor.routes import Route
from dspex.executor.streaming import stream
from dspex.lm.model import Hedge
from dspex.lm.spend import Budget, Spend
from dspex.lm.types import Capabilities, Delta, LMRequest, LMResponse, Message, Price, Usage
from dspex.program.context import Context
from dspex.program.ledger import Entry, Ledger, Tab

REQUEST = LMRequest(messages=(Message("user", "hello"),), max_tokens=10)
PRICE = Price(1.0, 2.0)
ANSWER = LMResponse("Paris", Usage(10, 2))
FAILED = ServerError("DX4208", "500", retryable=True, sent="yes")
LOST = ServerError("DX4107", "reset", retryable=True, sent="maybe")
MOST_STEPS = 60


class Stepping:
    """A model that takes several steps for an answer or a failure, and knows what it was asked and what it gave."""

    fingerprint = "test:stepping"
    capabilities = Capabilities()
    price = PRICE

    def __init__(self, *ends: LMResponse | LMError, steps: tuple[int, ...] = (2,), name: str = "test/stepping") -> None:
        self.name = name
        self.ends = ends
        self.steps = steps
        self.asked = self.answered = self.running = 0

    async def complete(self, request: LMRequest, /) -> LMResponse:
        number = self.asked
        self.asked += 1
        self.running += 1
        try:
            for _ in range(self.steps[min(number, len(self.steps) - 1)]):
                await asyncio.sleep(0)
        finally:
            self.running -= 1
        end = self.ends[min(number, len(self.ends) - 1)]
        if isinstance(end, LMResponse):
            self.answered += 1
            return end
        raise type(end)(end.code, end.message, retryable=end.retryable, sent=end.sent)

    async def aclose(self) -> None:
        """Nothing is open."""


class Streaming(Stepping):
    async def stream(self, request: LMRequest, /) -> AsyncGenerator[Delta]:
        response = await self.complete(request)
        self.answered -= 1
        self.running += 1
        try:
            for letter in response.text:
                await asyncio.sleep(0)
                yield Delta(letter)
        finally:
            self.running -= 1
            await asyncio.sleep(0)
        self.answered += 1
        yield Delta(response=response)


class Log:
    """A journal that takes two steps until a beginning is durable."""

    def __init__(self) -> None:
        self.begun: list[Spend] = []
        self.paid: dict[int, Spend] = {}
        self.lost: set[int] = set()
        self.unused: set[int] = set()
        self.numbers: dict[asyncio.Future[int], int] = {}

    def settled(self, key: str, /) -> LMResponse | None:
        return None

    def answered_by(self, key: str, /) -> str:
        raise KeyError(key)

    def started(self, key: str, model: str, reserved: Spend, /) -> asyncio.Future[int]:
        loop = asyncio.get_running_loop()
        attempt: asyncio.Future[int] = loop.create_future()
        self.begun.append(reserved)
        self.numbers[attempt] = len(self.begun)

        def durable() -> None:
            if not attempt.done():
                attempt.set_result(self.numbers[attempt])

        loop.call_soon(loop.call_soon, durable)
        return attempt

    def unsent(self, attempt: asyncio.Future[int], key: str, /) -> None:
        assert self.numbers[attempt] not in self.paid
        self.unused.add(self.numbers[attempt])

    def committed(self, attempt: asyncio.Future[int], key: str, response: LMResponse, spent: Spend, /) -> None:
        assert attempt.result() not in self.paid
        self.paid[attempt.result()] = spent

    def failed(self, attempt: asyncio.Future[int], key: str, error: LMError, cost: Spend | None, /) -> None:
        assert attempt.result() not in self.paid
        if cost is None:
            self.lost.add(attempt.result())
        else:
            self.paid[attempt.result()] = cost


class World:
    """Everything around some calls, and what must hold of it once they have ended."""

    def __init__(self, *models: Stepping) -> None:
        self.models = models
        self.limits: list[Limit] = []
        self.breakers: list[Breaker] = []
        self.gates: list[Gate] = []
        self.account = BudgetAccount(Budget(calls=1000, usd=10.0))
        self.ledger = Ledger()
        self.log: Log | None = Log()

    @property
    def context(self) -> Context:
        return Context(account=self.account, journal=self.log, ledgers=(self.ledger,))

    def tab(self, gate: Gate) -> Tab:
        return Tab((self.ledger,), ("", "", "", ""), gate.name)

    def route(self, model: Stepping, limit: int | None) -> Route:
        self.breakers.append(Breaker(model.name, calls=1000))
        if limit is None:
            return Route(model, None, self.breakers[-1])
        self.limits.append(Limit(limit))
        return Route(model, self.limits[-1], self.breakers[-1])

    def gate(self, *models: Stepping, limit: int | None = 2, **options: Any) -> Gate:
        async def sleep(seconds: float) -> None:
            await asyncio.sleep(0)

        options.setdefault("retry", RetryPolicy(rng=random.Random(0)))
        routes = tuple(self.route(model, limit) for model in models)
        self.gates.append(Gate(models[0], routes=routes, sleep=sleep, **options))
        return self.gates[-1]

    def check(self, called: int) -> None:
        """Nothing is left, and all have counted the same."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
        assert len(here().flights) == 0
        assert [model.running for model in self.models] == [0] * len(self.models)
        for limit in self.limits:
            assert (limit.active, limit.waiting) == (0, 0)
        for gate in self.gates:
            assert [route.load for route in gate.routes] == [0] * len(gate.routes)
        sent = sum(model.asked for model in self.models)
        answered = sum(model.answered for model in self.models)
        counted = self.ledger.by("outcome").get("answered", Entry()).attempts
        assert self.account.reserved == Spend()
        assert self.account.settled.calls + self.account.uncertain.calls == sent
        total = self.ledger.total
        assert (total.attempts, total.attempts - total.failed) == (sent, counted)
        if total.usd is not None:
            assert total.usd == pytest.approx(self.account.settled.usd)
        assert total.uncertain == self.account.uncertain
        assert called <= counted <= answered
        for breaker in self.breakers:
            assert passes(breaker) >= 3 - answered
        if self.log is not None and total.usd is not None:
            known = sum((spend for spend in self.log.paid.values()), Spend())
            assert (known.calls, known.tokens) == (self.account.settled.calls, self.account.settled.tokens)
            open_ = set(range(1, len(self.log.begun) + 1)) - set(self.log.paid) - self.log.unused
            assert len(open_) == self.account.uncertain.calls


def passes(breaker: Breaker) -> int:
    """How many of three calls a breaker lets through."""
    passed = 0
    for _ in range(3):
        try:
            breaker.enter()
        except ServerError:
            continue
        passed += 1
    return passed


Calls = Callable[[World], list[Coroutine[Any, Any, object]]]


def plain(world: World) -> list[Coroutine[Any, Any, object]]:
    gate = world.gate(*world.models[:1])
    return [complete(gate, REQUEST, world.context, tab=world.tab(gate))]


def overdue(world: World) -> list[Coroutine[Any, Any, object]]:
    gate = world.gate(*world.models[:1], limit=None, timeout=1e-9)
    return [complete(gate, REQUEST, world.context, tab=world.tab(gate))]


def hedged_overdue(world: World) -> list[Coroutine[Any, Any, object]]:
    stragglers = Stragglers(Hedge(ratio=0.5))
    stragglers.late = 0.0
    gate = world.gate(*world.models[:1], limit=None, timeout=1e-9, stragglers=stragglers)
    return [complete(gate, REQUEST, world.context, tab=world.tab(gate))]


def streamed_overdue(world: World) -> list[Coroutine[Any, Any, object]]:
    gate = world.gate(*world.models, limit=None, timeout=1e-9)
    return [read(world, gate)]


def probing(world: World) -> list[Coroutine[Any, Any, object]]:
    """Through a breaker that is half open."""
    gate = world.gate(*world.models)
    now = 0.0
    gate.routes[0].breaker = world.breakers[0] = Breaker("test", calls=1, clock=lambda: now)
    world.breakers[0].leave(world.breakers[0].enter(), "failed")
    now = 1.0
    world.log = None
    return [complete(gate, REQUEST, world.context, tab=world.tab(gate)) for _ in range(2)]


def timed(world: World) -> list[Coroutine[Any, Any, object]]:
    gate = world.gate(*world.models[:1], timeout=60.0)
    return [complete(gate, REQUEST, world.context.replace(deadline=1e12), tab=world.tab(gate))]


def routed(world: World) -> list[Coroutine[Any, Any, object]]:
    gate = world.gate(*world.models, limit=1)
    unkeyed = world.context.replace(journal=None)
    world.log = None
    return [complete(gate, REQUEST, unkeyed, tab=world.tab(gate)) for _ in range(4)]


def queued(world: World) -> list[Coroutine[Any, Any, object]]:
    gate = world.gate(*world.models, limit=1)
    world.log = None
    return [complete(gate, REQUEST, world.context, tab=world.tab(gate)) for _ in range(3)]


def fallen(world: World) -> list[Coroutine[Any, Any, object]]:
    second = world.gate(world.models[1])
    gate = world.gate(world.models[0], fallback=(second,), retry=RetryPolicy(retries=1, rng=random.Random(0)))
    return [complete(gate, REQUEST, world.context, tab=world.tab(gate))]


def joined(world: World) -> list[Coroutine[Any, Any, object]]:
    gate = world.gate(*world.models)
    return [complete(gate, REQUEST, world.context, tab=world.tab(gate)) for _ in range(3)]


def hedged(world: World) -> list[Coroutine[Any, Any, object]]:
    stragglers = Stragglers(Hedge(ratio=0.5))
    stragglers.late = 0.0
    gate = world.gate(*world.models, stragglers=stragglers)
    return [complete(gate, REQUEST, world.context, tab=world.tab(gate))]


def hedged_in_time(world: World) -> list[Coroutine[Any, Any, object]]:
    stragglers = Stragglers(Hedge(ratio=0.5))
    stragglers.late = 0.0
    gate = world.gate(*world.models, stragglers=stragglers, timeout=60.0)
    return [complete(gate, REQUEST, world.context.replace(deadline=1e12), tab=world.tab(gate))]


def hedged_in_queue(world: World) -> list[Coroutine[Any, Any, object]]:
    stragglers = Stragglers(Hedge(ratio=0.5))
    stragglers.late = 0.0
    gate = world.gate(*world.models, limit=1, stragglers=stragglers)
    world.log = None
    return [complete(gate, REQUEST, world.context, tab=world.tab(gate)) for _ in range(2)]


def streamed(world: World) -> list[Coroutine[Any, Any, object]]:
    return [read(world, world.gate(*world.models))]


async def read(world: World, gate: Gate) -> Called:
    called: Called | None = None
    async with aclosing(stream(gate, REQUEST, world.context, tab=world.tab(gate))) as items:
        async for item in items:
            await asyncio.sleep(0)
            if isinstance(item, Called):
                called = item
    assert called is not None
    return called


WAYS: dict[str, tuple[Calls, Callable[[], tuple[Stepping, ...]]]] = {
    "plain": (plain, lambda: (Stepping(ANSWER),)),
    "probing": (probing, lambda: (Stepping(ANSWER),)),
    "no usage": (plain, lambda: (Stepping(LMResponse("Paris")),)),
    "timed": (timed, lambda: (Stepping(FAILED, ANSWER),)),
    "overdue": (overdue, lambda: (Stepping(ANSWER, steps=(9, 9, 1)),)),
    "overdue and hedged": (hedged_overdue, lambda: (Stepping(ANSWER, steps=(9, 1, 9, 1)),)),
    "overdue while streamed": (streamed_overdue, lambda: (Streaming(ANSWER, steps=(9, 1)),)),
    "retried": (plain, lambda: (Stepping(FAILED, LOST, ANSWER),)),
    "lost": (plain, lambda: (Stepping(LOST, ANSWER),)),
    "routed": (routed, lambda: (Stepping(FAILED, ANSWER), Stepping(ANSWER))),
    "queued": (queued, lambda: (Stepping(ANSWER),)),
    "fallen": (fallen, lambda: (Stepping(FAILED), Stepping(ANSWER, name="test/other"))),
    "joined": (joined, lambda: (Stepping(LOST, ANSWER),)),
    "joined to fail": (joined, lambda: (Stepping(FAILED),)),
    "hedged": (hedged, lambda: (Stepping(ANSWER, steps=(8, 3)),)),
    "hedged in vain": (hedged, lambda: (Stepping(ANSWER, steps=(5, 9)),)),
    "hedged to a failure": (hedged, lambda: (Stepping(FAILED, FAILED, ANSWER, steps=(5, 3, 1)),)),
    "hedged by a failure": (hedged, lambda: (Stepping(ANSWER, FAILED, steps=(9, 2)),)),
    "hedged at once": (hedged, lambda: (Stepping(ANSWER, steps=(8, 0)),)),
    "hedged in the queue": (hedged_in_queue, lambda: (Stepping(ANSWER, steps=(5,)),)),
    "hedged in time": (hedged_in_time, lambda: (Stepping(FAILED, ANSWER, steps=(6, 3)),)),
    "streamed": (streamed, lambda: (Streaming(ANSWER),)),
    "streamed again": (streamed, lambda: (Streaming(FAILED, ANSWER),)),
    "streamed in one part": (streamed, lambda: (Stepping(ANSWER),)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("again", [0, 1, 2, 3])
def test_a_call_cancelled_at_any_step_leaves_nothing_behind(way: str, again: int) -> None:
    """`again`: 0 cancels once, others cancel a second time after so many steps."""
    calls, models = WAYS[way]

    async def scenario(cancelled: int, steps: int) -> tuple[bool, int]:
        world = World(*models())
        tasks = [asyncio.ensure_future(call) for call in calls(world)]
        for _ in range(steps):
            await asyncio.sleep(0)
        running = not all(task.done() for task in tasks)
        tasks[cancelled % len(tasks)].cancel()
        if again:
            for _ in range(again):
                await asyncio.sleep(0)
            tasks[cancelled % len(tasks)].cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        called = 0
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, Called):
                called += not outcome.cached
            elif isinstance(outcome, asyncio.CancelledError):
                assert number == cancelled % len(tasks), "only the one that was cancelled"
            else:
                assert isinstance(outcome, LMError), outcome
                assert not isinstance(outcome, BudgetExceeded)
        world.check(called)
        return running, len(tasks)

    cancelled = 0
    many = 1
    while cancelled < many:
        steps = 0
        running = True
        while running and steps < MOST_STEPS:
            running, many = asyncio.run(scenario(cancelled, steps))
            steps += 1
        assert not running
        cancelled += 1


@pytest.mark.parametrize("seed", range(150))
def test_whatever_meets_nothing_is_left_behind(seed: int) -> None:
    """Calls and streams over routes, a fallback, hedges and timeouts, cancelled or left at random."""
    rng = random.Random(seed)

    def model(name: str) -> Stepping:
        kind = rng.choice([Stepping, Streaming])
        ends = [rng.choice([ANSWER, ANSWER, FAILED, LOST]) for _ in range(rng.randint(1, 6))]
        return kind(*ends, steps=tuple(rng.randint(0, 9) for _ in range(4)), name=name)

    async def scenario() -> None:
        world = World(*(model(f"test/{n}") for n in range(rng.randint(2, 4))))
        world.log = rng.choice([None, world.log])
        options: dict[str, Any] = {"retry": RetryPolicy(rng.randint(0, 3), rng=random.Random(seed))}
        limit = rng.choice([None, 1, 2])
        if limit is None and rng.random() < 0.5:
            # A timeout is a sign of overload, at which a limit waits for a while.
            options["timeout"] = 1e-9
        if rng.random() < 0.5:
            options["stragglers"] = Stragglers(Hedge(ratio=0.9))
            options["stragglers"].late = 0.0
        if rng.random() < 0.5:
            options["fallback"] = (world.gate(world.models[-1], limit=limit),)
        gate = world.gate(*world.models[:-1], limit=limit, **options)

        async def leave(after: int) -> None:
            async with aclosing(stream(gate, REQUEST, world.context, tab=world.tab(gate))) as items:
                async for _ in items:
                    await asyncio.sleep(0)
                    after -= 1
                    if after < 0:
                        break

        ways: list[Callable[[], Coroutine[Any, Any, object]]] = [
            lambda: complete(gate, REQUEST, world.context, tab=world.tab(gate)),
            lambda: read(world, gate),
            lambda: leave(rng.randint(0, 3)),
        ]
        tasks = [asyncio.ensure_future(rng.choice(ways)()) for _ in range(rng.randint(1, 6))]
        cancelled: set[int] = set()
        for _ in range(rng.randint(0, 40)):
            await asyncio.sleep(0)
            if rng.random() < 0.15:
                number = rng.randrange(len(tasks))
                cancelled.add(number)
                tasks[number].cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for number, outcome in enumerate(outcomes):
            assert not isinstance(outcome, asyncio.CancelledError) or number in cancelled
            assert not isinstance(outcome, Exception) or isinstance(outcome, LMError)
        called = sum(isinstance(outcome, Called) and not outcome.cached for outcome in outcomes)
        world.check(called)

    asyncio.run(scenario())
