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
    ConnectError,
    LMError,
    RateLimited,
    RequestRejected,
    Sent,
    ServerError,
    StudyError,
    UsageError,
)
from dspex.executor.batches import cancel_batch, complete_batch
from dspex.executor.budget import BudgetAccount
from dspex.executor.caching import MemoryCache, TieredCache
from dspex.executor.call import Called, complete
from dspex.executor.deferral import deferring
from dspex.executor.models import Gate, gate_for
from dspex.executor.retry import RetryPolicy
from dspex.executor.routes import Route
from dspex.executor.streaming import stream
from dspex.lm.model import LM, BatchState, BatchStatus
from dspex.lm.spend import Budget
from dspex.lm.types import Delta, LMRequest, LMResponse, Message, Price, Usage
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
    batch_limits = (100, 1000)

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

    def batch_bytes(self, request: LMRequest, /) -> int:
        text = request.messages[0].content
        if text == "unfit":
            raise RequestRejected("DX4201", "it cannot be in a batch")
        return len(text)

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
        assert naps == [7.0] * 6
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
            through, context = gate(lm, retry=RetryPolicy()), Context(account=caps)
            work = complete_batch(through, REQUESTS, context, record=record, name="work", size=size)
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
        for _ in range(2):
            caps = account()
            outcomes = await complete_batch(careful, REQUESTS, Context(account=caps), record=record, name="work")
            assert texts(outcomes) == ["DX4713"] * 5
            assert {one.sent for one in outcomes if isinstance(one, LMError)} == {"maybe"}
            assert (caps.settled.calls, caps.uncertain.calls, len(lm.batches)) == (0, 5, 1)
        caps = account()
        outcomes = await complete_batch(gate(lm), REQUESTS, Context(account=caps), record=record, name="work")
        assert texts(outcomes) == ANSWERS
        assert [one.ambiguous for one in outcomes if isinstance(one, Called)] == [1] * 5
        # What the first batch may cost is not forgotten.
        assert (caps.settled.calls, caps.uncertain.calls, caps.reserved.calls) == (5, 5, 0)

    asyncio.run(scenario())


def test_a_batch_that_was_certainly_not_handed_in_is_no_doubt() -> None:
    async def scenario() -> None:
        lm, record, caps = BatchLM(), MemoryEventStore(), account()
        refused = ConnectError("DX4101", "refused", retryable=True, sent="no")
        lm.trouble = [refused] * 3
        outcomes = await complete_batch(gate(lm), REQUESTS, Context(account=caps), record=record, name="work")
        assert texts(outcomes) == ["DX4101"] * 5
        assert (caps.reserved.calls, caps.uncertain.calls, caps.settled.calls) == (0, 0, 0)
        lm.trouble = [refused]
        careful = gate(lm, retry=RetryPolicy(2, ambiguous=False))
        outcomes = await complete_batch(careful, REQUESTS, Context(), record=record, name="work")
        assert texts(outcomes) == ANSWERS
        assert len(lm.batches) == 1

    asyncio.run(scenario())


def overloaded() -> ServerError:
    error = ServerError("DX4209", "529", retryable=True, sent="yes")
    error.overloaded = True
    return error


def test_handing_in_is_tried_again_when_the_server_takes_no_more_now() -> None:
    async def scenario() -> None:
        lm, naps = BatchLM(), list[float]()
        lm.trouble = [overloaded(), RateLimited("DX4206", "429", retryable=True, sent="yes")]
        outcomes = await complete_batch(gate(lm, naps), REQUESTS, Context(), record=MemoryEventStore(), name="work")
        assert texts(outcomes) == ANSWERS
        assert (len(lm.batches), len(naps)) == (1, 3)

    asyncio.run(scenario())


@pytest.mark.parametrize("sent", ["maybe", "yes"])
def test_handing_in_is_not_repeated_when_it_may_have_worked(sent: Sent) -> None:
    async def scenario() -> None:
        lm, caps, record = BatchLM(), account(), MemoryEventStore()
        lm.trouble = [ServerError("DX4106", "reset, or 500", retryable=True, sent=sent)]
        outcomes = await complete_batch(gate(lm), REQUESTS, Context(account=caps), record=record, name="work")
        assert texts(outcomes) == ["DX4106"] * 5
        assert (caps.reserved.calls, caps.uncertain.calls, caps.settled.calls) == (0, 5, 0)
        outcomes = await complete_batch(gate(lm), REQUESTS, Context(), record=record, name="work")
        assert [one.ambiguous for one in outcomes if isinstance(one, Called)] == [1] * 5

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
        once = gate(lm, retry=RetryPolicy(0))
        outcomes = await complete_batch(once, REQUESTS, Context(account=caps), record=record, name="work")
        assert texts(outcomes) == [ANSWERS[0], "DX4712", ANSWERS[2], "DX4205", ANSWERS[4]]
        assert (caps.settled.calls, caps.uncertain.calls, caps.reserved.calls) == (4, 0, 0)
        lm.left, lm.refused = set(), set()
        outcomes = await complete_batch(once, REQUESTS, Context(), record=record, name="work")
        assert texts(outcomes) == ANSWERS
        assert lm.handed_in()[5:] == ["q1", "q3"]

    asyncio.run(scenario())


class Leaving(BatchLM):
    """Leaves q3 out of its first batch."""

    async def results(self, batch: str, /) -> AsyncGenerator[tuple[int, LMResponse | LMError]]:
        self.left = {"q3"} if batch == "b1" else set()
        async for one in super().results(batch):
            yield one


def test_what_a_batch_left_out_goes_with_the_next_as_often_as_retries_allow() -> None:
    async def scenario() -> None:
        lm, caps, naps = Leaving(), account(), list[float]()
        outcomes = await complete_batch(
            gate(lm, naps), REQUESTS, Context(account=caps), record=MemoryEventStore(), name="work", interval=7.0
        )
        assert texts(outcomes) == ANSWERS
        assert [one.attempts for one in outcomes if isinstance(one, Called)] == [1, 1, 1, 2, 1]
        assert (caps.settled.calls, caps.uncertain.calls, caps.reserved.calls) == (5, 0, 0)
        assert lm.handed_in()[5:] == ["q3"]
        assert naps == [7.0, 7.0]

    asyncio.run(scenario())


def test_what_one_batch_left_out_is_taken_from_the_one_that_has_it() -> None:
    async def scenario() -> None:
        lm, record = Leaving(), MemoryEventStore()
        once = gate(lm, retry=RetryPolicy(0))
        for expected in ([*ANSWERS[:3], "DX4712", ANSWERS[4]], ANSWERS, ANSWERS):
            caps = account()
            outcomes = await complete_batch(once, REQUESTS, Context(account=caps), record=record, name="work")
            assert texts(outcomes) == expected
            assert (caps.uncertain.calls, caps.reserved.calls) == (0, 0)
        assert lm.handed_in()[5:] == ["q3"]
        ended = [event for event in record.read("batch work") if event.kind == "batch.ended"]
        assert len(ended) == 2

    asyncio.run(scenario())


def test_what_is_full_by_number_or_bytes_goes_at_once_and_what_cannot_go_is_told() -> None:
    async def scenario() -> None:
        class Small(BatchLM):
            batch_limits = (3, 10)

        lm = Small()
        asked = [request(text) for text in ("a" * 6, "b" * 5, "unfit", "c", "d" * 20, "e", "f", "g", "h")]
        outcomes = await complete_batch(gate(lm), asked, Context(), record=MemoryEventStore(), name="work")
        assert [len(one) for one in lm.handed_in()] == [6, 5, 1, 20, 1, 1, 1, 1]
        assert [len(batch) for batch in lm.batches.values()] == [1, 2, 1, 3, 1]
        codes = [one.code for one in outcomes if isinstance(one, LMError)]
        assert codes == ["DX4201"]

    asyncio.run(scenario())


def test_where_too_much_waits_batches_are_halved_and_go_one_after_the_other() -> None:
    async def scenario() -> None:
        class Crowded(BatchLM):
            """Lets two requests wait at a time, and refuses any further batch as a whole."""

            async def results(self, batch: str, /) -> AsyncGenerator[tuple[int, LMResponse | LMError]]:
                running = sum(len(self.batches[name]) for name in self.batches if name not in self.told)
                self.told.add(batch)
                if running > 2:
                    for position in range(len(self.batches[batch])):
                        yield position, RateLimited("DX4214", "token_limit_exceeded", retryable=True, sent="yes")
                else:
                    async for one in super().results(batch):
                        yield one

            told: set[str]

        lm, caps = Crowded(), account()
        lm.told = set()
        asked = [request(f"q{n}") for n in range(9)]
        context = Context(account=caps)
        outcomes = await complete_batch(gate(lm), asked, context, record=MemoryEventStore(), name="work", size=9)
        assert texts(outcomes) == [f"answer to q{n}" for n in range(9)]
        assert [len(batch) for batch in lm.batches.values()] == [9, 4, 2, 2, 2, 2, 1]
        assert (caps.settled.calls, caps.uncertain.calls) == (22, 0)

    asyncio.run(scenario())


def test_equal_requests_that_were_paid_for_each_are_found_as_often() -> None:
    async def scenario() -> None:
        lm, record = BatchLM(), MemoryEventStore()
        for _ in range(2):
            outcomes = await complete_batch(gate(lm), REQUESTS[:1] * 3, Context(), record=record, name="work")
            assert texts(outcomes) == ANSWERS[:1] * 3
        assert lm.handed_in() == ["q0"] * 3
        await complete_batch(gate(lm), REQUESTS[:1] * 4, Context(), record=record, name="work")
        assert lm.handed_in() == ["q0"] * 4

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
        loop, later = asyncio.get_running_loop(), [0.0]
        clock = loop.time
        loop.time = lambda: clock() + later[0]

        class Passing(BatchLM):
            async def status(self, batch: str, /) -> BatchStatus:
                # The deadline passes while somebody looks.
                later[0] = 2000.0
                await asyncio.Event().wait()
                raise AssertionError

        lm, record, caps = Passing(), MemoryEventStore(), account()
        context = Context(account=caps, deadline=time.monotonic() + 1000.0)
        outcomes = await complete_batch(gate(lm), REQUESTS, context, record=record, name="work")
        assert texts(outcomes) == ["DX4702"] * 5
        assert (caps.reserved.calls, caps.uncertain.calls) == (0, 5)
        after = BatchLM()
        after.batches = lm.batches
        assert texts(await complete_batch(gate(after), REQUESTS, Context(), record=record, name="work")) == ANSWERS
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
        outcomes = await complete_batch(gate(lm, retry=RetryPolicy(0)), REQUESTS, Context(), record=record, name="work")
        assert texts(outcomes) == [*ANSWERS[:4], "DX4712"]
        assert await cancel_batch(gate(lm), record=record, name="work") == 0

    asyncio.run(scenario())


def test_a_model_without_batches_is_refused_and_another_model_has_batches_of_its_own() -> None:
    async def scenario() -> None:
        record = MemoryEventStore()
        with pytest.raises(UsageError, match="DX4711"):
            await complete_batch(gate(StepsLM()), REQUESTS, Context(), record=record, name="work")
        through = gate(BatchLM(), fallback=(gate(StepsLM()),))
        with pytest.raises(UsageError, match="DX4711"):
            await complete_batch(through, REQUESTS, Context(), record=record, name="work")
        one, other = BatchLM(), BatchLM()
        other.fingerprint = "test:other"
        for lm in (one, other, one):
            assert texts(await complete_batch(gate(lm), REQUESTS, Context(), record=record, name="work")) == ANSWERS
        assert (len(one.batches), len(other.batches)) == (1, 1)
        assert await cancel_batch(gate(other), record=record, name="work") == 0

    asyncio.run(scenario())


def test_a_fallback_is_asked_by_a_batch_of_its_own() -> None:
    async def scenario() -> None:
        lm, other = BatchLM(), BatchLM()
        lm.refused, other.fingerprint = {"q2"}, "test:other"
        through = gate(lm, fallback=(gate(other),))
        outcomes = await complete_batch(through, REQUESTS, Context(), record=MemoryEventStore(), name="work")
        assert texts(outcomes) == ANSWERS
        assert other.handed_in() == ["q2"]

    asyncio.run(scenario())


def test_a_key_that_expires_meanwhile_is_fetched_again() -> None:
    async def scenario() -> None:
        class Expiring(BatchLM):
            expired = False

            async def status(self, batch: str, /) -> BatchStatus:
                if self.expired:
                    raise RequestRejected("DX4202", "401", sent="yes")
                self.expired = True
                return await super().status(batch)

            async def aclose(self) -> None:
                pass

        old, new = Expiring(looks=5), BatchLM()
        new.batches = old.batches
        through = gate(old, routes=(Route(old, reopen=lambda: new),))
        outcomes = await complete_batch(through, REQUESTS, Context(), record=MemoryEventStore(), name="work")
        assert texts(outcomes) == ANSWERS

    asyncio.run(scenario())


def test_a_network_that_is_away_for_a_while_ends_no_wait_but_a_batch_that_is_gone_does() -> None:
    async def scenario() -> None:
        lm, record, naps = BatchLM(looks=0), MemoryEventStore(), list[float]()
        submit = lm.submit

        async def then_away(requests: Sequence[LMRequest], /) -> str:
            batch = await submit(requests)
            lm.trouble = [ConnectError("DX4101", "away", retryable=True, sent="no")] * 100
            return batch

        lm.submit = then_away
        outcomes = await complete_batch(gate(lm, naps), REQUESTS, Context(), record=record, name="work", interval=9.0)
        assert texts(outcomes) == ANSWERS
        assert naps == [9.0] * 100
        lm.trouble = [RequestRejected("DX4204", "404", sent="yes")]
        caps = account()
        outcomes = await complete_batch(gate(lm), REQUESTS, Context(account=caps), record=record, name="work")
        assert texts(outcomes) == ["DX4204"] * 5
        # Perhaps somebody has to pay for it.
        assert (caps.settled.calls, caps.uncertain.calls, len(lm.batches)) == (0, 5, 1)

    asyncio.run(scenario())


def test_a_record_that_cannot_be_written_ends_the_work() -> None:
    async def scenario() -> None:
        class Full(MemoryEventStore):
            refuses = ""

            def append(self, stream: str, kind: str, payload: Any, durable: bool = True) -> asyncio.Future[int]:
                if kind == self.refuses:
                    raise StudyError("DX6101", "the disk is full")
                return super().append(stream, kind, payload, durable)

        for refuses, batches, uncertain in (
            ("batch.intended", 0, 0),
            ("batch.submitted", 1, 5),
            ("batch.ended", 1, 5),
        ):
            lm, caps, record = BatchLM(), account(), Full()
            record.refuses = refuses
            with pytest.raises(StudyError, match="DX6101"):
                await complete_batch(gate(lm), REQUESTS, Context(account=caps), record=record, name="work")
            assert len(lm.batches) == batches
            assert (caps.settled.calls, caps.reserved.calls, caps.uncertain.calls) == (0, 0, uncertain)

    asyncio.run(scenario())


def test_a_stream_inside_comes_as_one_part() -> None:
    async def scenario() -> None:
        lm = BatchLM()
        async with deferring(MemoryEventStore(), quiet=0.0) as deferral:
            items = [item async for item in stream(deferral.gate(gate(lm)), REQUESTS[0], Context())]
        assert [item.text for item in items if isinstance(item, Delta)] == ANSWERS[:1]
        assert isinstance(items[-1], Called)
        assert lm.handed_in() == ["q0"]

    asyncio.run(scenario())


def test_what_is_not_wanted_any_more_is_not_handed_in_and_after_the_end_calls_are_ordinary() -> None:
    async def scenario() -> None:
        lm, caps = BatchLM(), account()
        through = gate(lm)
        context = Context(account=caps)
        async with deferring(MemoryEventStore(), quiet=0.0) as deferral:
            work = [asyncio.ensure_future(complete(deferral.gate(through), one, context)) for one in REQUESTS[:3]]
            await asyncio.sleep(0)
            work[1].cancel()
            assert [await work[0], await work[2]]
            late = asyncio.ensure_future(complete(deferral.gate(through), REQUESTS[3], context))
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await late
        assert lm.handed_in() == ["q0", "q2"]
        assert (caps.settled.calls, caps.reserved.calls, caps.uncertain.calls) == (2, 0, 0)
        assert deferral.gate(through) is through

    asyncio.run(scenario())


def test_an_attempt_that_failed_stands_in_the_journal_once_its_outcome_is_known() -> None:
    async def scenario() -> None:
        lm, journal = BatchLM(), MemoryJournal()
        lm.refused = {"q1"}
        context = Context(journal=journal)
        outcomes = await complete_batch(gate(lm), REQUESTS[:2], context, record=MemoryEventStore(), name="work")
        assert texts(outcomes) == [ANSWERS[0], "DX4205"]
        assert len(journal.answers) == 1
        again = await complete_batch(gate(lm), REQUESTS[:1], context, record=MemoryEventStore(), name="other")
        assert [one.cached for one in again if isinstance(one, Called)] == [True]

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["openai", "openai-responses", "azure", "anthropic"])
def test_a_providers_batches_outlive_the_process(name: str, tmp_path: Path) -> None:
    async def waiting(server: MockServer, *, leaves: bool) -> list[str]:
        url = server.url if name.startswith("openai") else server.root
        through = await gate_for(LM(f"{name}/mock", url, api_key="k", cache="off", price=PRICE))
        with SqliteEventStore(tmp_path / "events.db") as store:
            work = asyncio.ensure_future(
                complete_batch(through, REQUESTS, Context(), record=store, name="work", interval=0.01)
            )
            if leaves:
                assert await asyncio.to_thread(server.wait_until, looked_at, 60)
                work.cancel()
                await asyncio.wait((work,))
                return []
            return texts(await work)

    def looked_at(server: MockServer) -> bool:
        return any(request.path.endswith(tuple(server.batches or "?")) for request in server.requests)

    with MockServer(lambda _: "7", batch_polls=10**9) as server:
        asyncio.run(waiting(server, leaves=True))
        for batch in server.batches.values():
            batch.waits = 1
        assert asyncio.run(waiting(server, leaves=False)) == ["7"] * 5
        assert len(server.batches) == 1
