"""Batches: ids are durable before they are waited for, nothing is handed in twice, each request is settled once."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.errors import (
    BudgetExceeded,
    CallTimeout,
    ConnectError,
    DspexError,
    LMError,
    RequestRejected,
    ServerError,
    StudyError,
    UsageError,
)
from dspex.executor.batches import cancel_batch, complete_batch
from dspex.executor.budget import BudgetAccount
from dspex.executor.caching import MemoryCache, TieredCache
from dspex.executor.call import Called, complete
from dspex.executor.models import Gate, gate_for
from dspex.executor.retry import RetryPolicy
from dspex.lm.model import LM, BatchState, BatchStatus
from dspex.lm.spend import Budget
from dspex.lm.types import LMRequest, LMResponse, Message, Price, Usage
from dspex.program.context import Context
from dspex.stores.cache import ResponseCache
from dspex.stores.memory import MemoryEventStore
from dspex.stores.sqlite import SqliteEventStore
from dspex.testing import MockServer
from tests.executor.models import MemoryJournal, StepsLM

PRICE = Price(1000.0, 2000.0)
HALF = Price(500.0, 1000.0)


def request(text: str) -> LMRequest:
    return LMRequest(messages=(Message("user", text),), max_tokens=10)


REQUESTS = [request(f"q{n}") for n in range(5)]


class Killed(BaseException):
    """The process ends here."""


class BatchLM(StepsLM):
    """A provider that keeps batches; `looks` is how often each is seen running.

    Attributes:
        left: Texts of the requests that a batch does not answer.
        refused: Texts of the requests that it refuses.
        trouble: Raised by the next calls, in order.
        dies: Ends the process at the n-th call, after the provider has done its part.
    """

    batch_price = HALF

    def __init__(self, looks: int = 1) -> None:
        super().__init__(price=PRICE)
        self.looks = looks
        self.batches: dict[str, list[LMRequest]] = {}
        self.left: set[str] = set()
        self.refused: set[str] = set()
        self.trouble: list[Exception] = []
        self.dies: int | None = None
        self.seen: dict[str, int] = {}
        self.ended: dict[str, BatchState] = {}

    def _happen(self) -> None:
        if self.dies is not None:
            self.dies -= 1
            if self.dies < 0:
                raise Killed
        if self.trouble:
            raise self.trouble.pop(0)

    async def submit(self, requests: Sequence[LMRequest], /) -> str:
        if not self.trouble:
            self.batches[f"b{len(self.batches) + 1}"] = list(requests)
        self._happen()
        return f"b{len(self.batches)}"

    async def status(self, batch: str, /) -> BatchStatus:
        self._happen()
        seen = self.seen[batch] = self.seen.get(batch, 0) + 1
        state = self.ended.get(batch, "done" if seen > self.looks else "running")
        return BatchStatus(state, 0, 0, len(self.batches[batch]))

    async def results(self, batch: str, /) -> AsyncGenerator[tuple[int, LMResponse | LMError]]:
        self._happen()
        outcomes = list(enumerate(self.batches[batch]))
        random.Random(batch).shuffle(outcomes)
        for position, one in outcomes:
            text = one.messages[0].content
            if text in self.refused:
                yield position, RequestRejected("DX4205", "400", sent="yes")
            elif text not in self.left:
                yield position, LMResponse(f"answer to {text}", Usage(10, 2))

    async def cancel(self, batch: str, /) -> None:
        self.ended[batch] = "cancelled"

    def handed_in(self) -> list[str]:
        return [one.messages[0].content for batch in self.batches.values() for one in batch]


def gate(lm: Any, naps: list[float] | None = None, **options: Any) -> Gate:
    async def sleep(seconds: float) -> None:
        if naps is not None:
            naps.append(seconds)
        await asyncio.sleep(0)

    options.setdefault("retry", RetryPolicy(2, rng=random.Random(0)))
    return Gate(lm, sleep=sleep, **options)


def texts(outcomes: Sequence[Called | LMError]) -> list[str]:
    return [one.response.text if isinstance(one, Called) else one.code for one in outcomes]


ANSWERS = [f"answer to q{n}" for n in range(5)]


def account() -> BudgetAccount:
    return BudgetAccount(Budget(calls=100, usd=100.0))


def test_answers_come_in_order_at_the_batch_price() -> None:
    async def scenario() -> None:
        lm, caps, naps, journal = BatchLM(looks=2), account(), list[float](), MemoryJournal()
        outcomes = await complete_batch(
            gate(lm, naps),
            [*REQUESTS, REQUESTS[0]],
            Context(account=caps, journal=journal),
            record=MemoryEventStore(),
            name="work",
            interval=7.0,
            size=2,
        )
        assert texts(outcomes) == [*ANSWERS, ANSWERS[0]]
        assert [len(batch) for batch in lm.batches.values()] == [2, 2, 1]
        assert naps == [7.0, 7.0]
        cost = HALF.cost(Usage(10, 2))
        assert caps.settled.calls == 5
        assert caps.settled.usd == pytest.approx(5 * cost)
        assert (caps.reserved.calls, caps.uncertain.calls) == (0, 0)
        called = [one for one in outcomes if isinstance(one, Called)]
        assert [one.cached for one in called] == [False] * 5 + [True]
        assert sum(one.spent.usd or 0.0 for one in called) == pytest.approx(5 * cost)
        assert len(journal.answers) == 5

    asyncio.run(scenario())


def test_what_is_known_is_not_asked_and_what_is_answered_is_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk = ResponseCache(tmp_path / "responses.db")
        lm = BatchLM()
        through = gate(lm, cache=TieredCache(MemoryCache(), disk), mode="on")
        for name in ("first", "second"):
            await complete_batch(through, REQUESTS[:3], Context(), record=MemoryEventStore(), name=name)
        assert lm.handed_in() == ["q0", "q1", "q2"]
        assert (await complete(through, REQUESTS[0], Context())).cached
        await complete_batch(through, REQUESTS, Context(), record=MemoryEventStore(), name="third")
        assert lm.handed_in() == ["q0", "q1", "q2", "q3", "q4"]
        disk.close()

    asyncio.run(scenario())


@given(dies=st.lists(st.integers(0, 12), max_size=4), size=st.integers(1, 5))
def test_a_killed_process_hands_nothing_in_twice(dies: list[int], size: int) -> None:
    async def scenario() -> None:
        lm, record = BatchLM(), MemoryEventStore()
        for lm.dies in [*dies, None]:
            caps = account()
            work = complete_batch(gate(lm), REQUESTS, Context(account=caps), record=record, name="work", size=size)
            try:
                assert texts(await work) == ANSWERS
            except Killed:
                assert lm.dies is not None
            assert caps.reserved.calls == 0
        noted = sum(event.kind == "batch.submitted" for event in record.read("batch work"))
        # Only a batch that was being handed in when the process ended may be handed in again.
        assert len(lm.handed_in()) <= 5 + size * (len(lm.batches) - noted)
        assert set(lm.handed_in()) == {"q0", "q1", "q2", "q3", "q4"}

    asyncio.run(scenario())


def test_a_batch_in_doubt_is_handed_in_again_only_where_that_is_allowed() -> None:
    async def scenario() -> None:
        lm, record = BatchLM(), MemoryEventStore()
        lm.dies = 0
        with pytest.raises(Killed):
            await complete_batch(gate(lm), REQUESTS, Context(), record=record, name="work")
        lm.dies = None
        careful = gate(lm, retry=RetryPolicy(2, ambiguous=False))
        with pytest.raises(ServerError, match="DX4713") as caught:
            await complete_batch(careful, REQUESTS, Context(), record=record, name="work")
        assert caught.value.sent == "maybe"
        caps = account()
        outcomes = await complete_batch(gate(lm), REQUESTS, Context(account=caps), record=record, name="work")
        assert texts(outcomes) == ANSWERS
        # What the first batch may cost is not forgotten.
        assert (caps.settled.calls, caps.uncertain.calls, caps.reserved.calls) == (5, 5, 0)

    asyncio.run(scenario())


def test_a_batch_that_was_certainly_not_handed_in_is_no_doubt() -> None:
    async def scenario() -> None:
        lm, record, caps = BatchLM(), MemoryEventStore(), account()
        refused = ConnectError("DX4101", "refused", retryable=True, sent="no")
        lm.trouble = [refused] * 3
        with pytest.raises(ConnectError):
            await complete_batch(gate(lm), REQUESTS, Context(account=caps), record=record, name="work")
        assert (caps.reserved.calls, caps.uncertain.calls, caps.settled.calls) == (0, 0, 0)
        lm.trouble = [refused]
        careful = gate(lm, retry=RetryPolicy(2, ambiguous=False))
        outcomes = await complete_batch(careful, REQUESTS, Context(), record=record, name="work")
        assert texts(outcomes) == ANSWERS
        assert len(lm.batches) == 1

    asyncio.run(scenario())


def test_handing_in_is_not_repeated_when_it_may_have_worked() -> None:
    async def scenario() -> None:
        lm, caps = BatchLM(), account()
        lm.trouble = [ServerError("DX4106", "reset", retryable=True, sent="maybe")]
        with pytest.raises(ServerError):
            await complete_batch(gate(lm), REQUESTS, Context(account=caps), record=MemoryEventStore(), name="work")
        assert (caps.reserved.calls, caps.uncertain.calls) == (0, 5)

    asyncio.run(scenario())


def test_looking_and_reading_are_tried_again() -> None:
    async def scenario() -> None:
        lm = BatchLM()
        submit = lm.submit

        async def then_trouble(requests: Sequence[LMRequest], /) -> str:
            batch = await submit(requests)
            lm.trouble = [ServerError("DX4208", "500", retryable=True, sent="yes")] * 2
            return batch

        lm.submit = then_trouble
        careful = gate(lm, retry=RetryPolicy(2, rng=random.Random(0), ambiguous=False))
        outcomes = await complete_batch(careful, REQUESTS, Context(), record=MemoryEventStore(), name="work")
        assert texts(outcomes) == ANSWERS

    asyncio.run(scenario())


def test_requests_without_an_answer_are_told_and_alone_handed_in_again() -> None:
    async def scenario() -> None:
        lm, record, caps = BatchLM(), MemoryEventStore(), account()
        lm.left, lm.refused = {"q1"}, {"q3"}
        context = Context(account=caps)
        outcomes = await complete_batch(gate(lm), REQUESTS, context, record=record, name="work")
        assert texts(outcomes) == [ANSWERS[0], "DX4712", ANSWERS[2], "DX4205", ANSWERS[4]]
        assert (caps.settled.calls, caps.uncertain.calls, caps.reserved.calls) == (4, 0, 0)
        lm.left, lm.refused = set(), set()
        outcomes = await complete_batch(gate(lm), REQUESTS, Context(), record=record, name="work")
        assert texts(outcomes) == ANSWERS
        assert lm.handed_in()[5:] == ["q1", "q3"]

    asyncio.run(scenario())


def test_what_one_batch_left_out_is_taken_from_the_one_that_has_it() -> None:
    async def scenario() -> None:
        class Leaving(BatchLM):
            async def results(self, batch: str, /) -> AsyncGenerator[tuple[int, LMResponse | LMError]]:
                self.left = {"q3"} if batch == "b1" else set()
                async for one in super().results(batch):
                    yield one

        lm, record = Leaving(), MemoryEventStore()
        for expected in ([*ANSWERS[:3], "DX4712", ANSWERS[4]], ANSWERS, ANSWERS):
            caps = account()
            outcomes = await complete_batch(gate(lm), REQUESTS, Context(account=caps), record=record, name="work")
            assert texts(outcomes) == expected
            assert (caps.uncertain.calls, caps.reserved.calls) == (0, 0)
        assert lm.handed_in()[5:] == ["q3"]
        ended = [event for event in record.read("batch work") if event.kind == "batch.ended"]
        assert len(ended) == 2

    asyncio.run(scenario())


def test_an_answer_without_usage_counts_as_the_most_that_it_can_cost() -> None:
    async def scenario() -> None:
        class Silent(BatchLM):
            batch_price = None

            async def results(self, batch: str, /) -> AsyncGenerator[tuple[int, LMResponse | LMError]]:
                yield 0, LMResponse("x")

        caps = BudgetAccount(Budget(tokens=100_000))
        context = Context(account=caps)
        await complete_batch(gate(Silent()), REQUESTS[:1], context, record=MemoryEventStore(), name="work")
        assert (caps.settled.calls, caps.uncertain.calls, caps.uncertain.output_tokens) == (0, 1, 10)

    asyncio.run(scenario())


def test_a_batch_in_doubt_leaves_the_reservations_of_others_alone() -> None:
    async def scenario() -> None:
        lm, record = BatchLM(), MemoryEventStore()
        lm.dies = 1
        with pytest.raises(Killed):
            await complete_batch(gate(lm), REQUESTS, Context(), record=record, name="work", size=3)
        lm.dies = None
        caps = account()
        context = Context(account=caps)
        outcomes = await complete_batch(gate(lm), REQUESTS, context, record=record, name="work", size=3)
        assert texts(outcomes) == ANSWERS
        assert (caps.settled.calls, caps.uncertain.calls, caps.reserved.calls) == (5, 2, 0)

    asyncio.run(scenario())


def test_a_deadline_leaves_the_batch_to_be_taken_up() -> None:
    async def scenario() -> None:
        lm, record = BatchLM(looks=1), MemoryEventStore()
        caps = account()
        context = Context(account=caps, deadline=time.monotonic() + 5.0)
        with pytest.raises(CallTimeout, match="DX4702") as caught:
            await complete_batch(gate(lm), REQUESTS, context, record=record, name="work", interval=60.0)
        assert caught.value.sent == "yes"
        assert (caps.reserved.calls, caps.uncertain.calls) == (0, 5)
        assert texts(await complete_batch(gate(lm), REQUESTS, Context(), record=record, name="work")) == ANSWERS
        assert len(lm.batches) == 1

    asyncio.run(scenario())


def test_a_batch_over_budget_is_not_handed_in() -> None:
    async def scenario() -> None:
        lm = BatchLM()
        caps = BudgetAccount(Budget(calls=3))
        with pytest.raises(BudgetExceeded):
            await complete_batch(gate(lm), REQUESTS, Context(account=caps), record=MemoryEventStore(), name="work")
        assert (caps.reserved.calls, caps.uncertain.calls, len(lm.batches)) == (0, 0, 0)

    asyncio.run(scenario())


def test_cancelled_batches_give_what_they_have() -> None:
    async def scenario() -> None:
        lm, record = BatchLM(looks=10**6), MemoryEventStore()
        task = asyncio.ensure_future(complete_batch(gate(lm), REQUESTS, Context(), record=record, name="work"))
        for _ in range(20):
            await asyncio.sleep(0)
        with pytest.raises(StudyError, match="DX6105"):
            await cancel_batch(gate(lm), record=record, name="work")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await cancel_batch(gate(lm), record=record, name="work") == 1
        lm.left = {"q4"}
        outcomes = await complete_batch(gate(lm), REQUESTS, Context(), record=record, name="work")
        assert texts(outcomes) == [*ANSWERS[:4], "DX4712"]
        assert await cancel_batch(gate(lm), record=record, name="work") == 0

    asyncio.run(scenario())


def test_what_does_not_fit_together_is_refused() -> None:
    async def scenario() -> None:
        record = MemoryEventStore()
        with pytest.raises(UsageError, match="DX4711"):
            await complete_batch(gate(StepsLM()), REQUESTS, Context(), record=record, name="work")
        await complete_batch(gate(BatchLM()), REQUESTS[:1], Context(), record=record, name="work")
        other = BatchLM()
        other.fingerprint = "test:other"
        with pytest.raises(UsageError, match="DX4714"):
            await complete_batch(gate(other), REQUESTS, Context(), record=record, name="work")

    asyncio.run(scenario())


def test_a_providers_batches_outlive_the_process(tmp_path: Path) -> None:
    async def waiting(lm: LM, interval: float) -> list[Called | LMError]:
        store = SqliteEventStore(tmp_path / "events.db")
        try:
            through = await gate_for(lm)
            context = Context(deadline=time.monotonic() + 20.0)
            return await complete_batch(through, REQUESTS, context, record=store, name="work", interval=interval)
        finally:
            store.close()

    with MockServer(lambda _: "7", batch_polls=1) as server:
        lm = LM("openai/mock", server.url, cache="off", price=PRICE)
        with pytest.raises(DspexError, match="DX4702"):
            asyncio.run(waiting(lm, 60.0))
        outcomes = asyncio.run(waiting(lm, 0.01))
        assert texts(outcomes) == ["7"] * 5
        assert len(server.batches) == 1
