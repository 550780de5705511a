"""Whatever fails and whoever is cancelled, every reservation ends once and no cap is broken."""

from __future__ import annotations

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.errors import ConnectError, LMError, RequestRejected, ResponseError, ServerError
from dspex.executor.admission import Limit
from dspex.executor.breaker import Breaker
from dspex.executor.budget import BudgetAccount
from dspex.executor.call import complete
from dspex.executor.hedge import Stragglers
from dspex.executor.models import Gate, here
from dspex.executor.retry import RetryPolicy
from dspex.executor.routes import Route
from dspex.lm.model import Hedge
from dspex.lm.spend import Budget
from dspex.lm.types import FREE, Capabilities, LMRequest, LMResponse, Message, Price, Usage
from dspex.program.context import Context
from tests.executor.models import MemoryJournal

CAP = 14


class Faulty:
    """Does what its plan says, attempt by attempt, and keeps the server's own count of what arrived."""

    name = "test/faulty"
    fingerprint = "test:faulty"
    capabilities = Capabilities()
    price: Price | None = FREE

    def __init__(self, plan: list[tuple[str, int]]) -> None:
        self.plan = plan
        self.begun = 0
        self.arrived = 0
        self.running = 0

    async def complete(self, request: LMRequest, /) -> LMResponse:
        kind, ticks = self.plan[self.begun % len(self.plan)]
        self.begun += 1
        if kind == "down":
            raise ConnectError("DX4102", "refused", retryable=True, sent="no")
        self.arrived += 1
        self.running += 1
        try:
            for _ in range(ticks):
                await asyncio.sleep(0)
        finally:
            self.running -= 1
        if kind == "busy":
            raise ServerError("DX4208", "503", retryable=True, sent="yes")
        if kind == "reset":
            raise ServerError("DX4106", "reset", retryable=True, sent="maybe")
        if kind == "garbage":
            raise ResponseError("DX4301", "not JSON", sent="yes")
        if kind == "refused":
            raise RequestRejected("DX4205", "400", sent="yes")
        if kind == "defect":
            raise KeyError("a defect")
        return LMResponse("x", None if kind == "silent" else Usage(3, 1))

    async def aclose(self) -> None:
        """Nothing to close."""


plans = st.lists(
    st.tuples(
        st.sampled_from(["ok", "ok", "silent", "down", "busy", "reset", "garbage", "refused", "defect"]),
        st.integers(0, 4),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(
    plan=plans,
    callers=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    cancels=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 3)), max_size=8),
    journaled=st.booleans(),
    shared=st.booleans(),
    hedged=st.booleans(),
    routes=st.integers(1, 3),
    spare=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_every_reservation_ends_exactly_once(
    plan: list[tuple[str, int]],
    callers: list[int],
    cancels: list[tuple[int, int]],
    journaled: bool,
    shared: bool,
    hedged: bool,
    routes: int,
    spare: bool,
    seed: int,
) -> None:
    async def scenario() -> None:
        async def nap(seconds: float) -> None:
            await asyncio.sleep(0)

        lm = Faulty(plan)
        limits = [Limit(3) for _ in range(routes)]
        stragglers = Stragglers(Hedge(0.9, 0.9)) if hedged else None
        if stragglers is not None:
            stragglers.late = 0.0
        retry = RetryPolicy(2, rng=random.Random(seed))
        gate = Gate(
            lm,
            routes=tuple(Route(lm, limit, Breaker("test/faulty", calls=4, pause=1e-9)) for limit in limits),
            retry=retry,
            stragglers=stragglers,
            fallback=(Gate(lm, retry=retry, sleep=nap),) if spare else (),
            sleep=nap,
        )
        caps = BudgetAccount(Budget(calls=CAP))
        journal = MemoryJournal() if journaled else None
        context = Context(account=caps, journal=journal)
        tasks = [
            asyncio.ensure_future(
                complete(gate, LMRequest(messages=(Message("user", str(which)),)), context, shared=shared)
            )
            for which in callers
        ]
        for victim, ticks in cancels:
            for _ in range(ticks):
                await asyncio.sleep(0)
            tasks[victim % len(tasks)].cancel()
        done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert lm.running == 0
        assert [(limit.active, limit.waiting) for limit in limits] == [(0, 0)] * routes
        assert {route.load for one in (gate, *gate.fallback) for route in one.routes} == {0}
        assert len(here().flights) == 0
        assert caps.reserved.calls == 0
        counted = caps.settled.calls + caps.uncertain.calls
        # All that arrived is counted. Cancelled before its first step, an attempt may be counted and not have arrived.
        assert lm.arrived <= counted <= min(CAP, lm.begun)
        for one in done:
            if isinstance(one, LMError):
                assert one.attempts <= 3 * (1 + hedged) + 3 * spare
                assert one.spent == 0.0
        if journal is not None:
            kinds = [kind for kind, _ in journal.events]
            # What neither committed nor failed, and was sent, is what a resume counts as spent, uncertain.
            ended = sum(kinds.count(kind) for kind in ("committed", "failed", "unsent"))
            assert kinds.count("started") == len(journal.open) + ended

    asyncio.run(scenario())
