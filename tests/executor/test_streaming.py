"""Answers read while they are generated: the stages of a call, and what a reader may do meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspex.errors import BudgetExceeded, CallTimeout, ConnectError, LMError, ResponseError, ServerError
from dspex.executor.admission import Limit
from dspex.executor.breaker import Breaker
from dspex.executor.budget import BudgetAccount
from dspex.executor.caching import MemoryCache, TieredCache, call_key
from dspex.executor.call import Called, complete, store
from dspex.executor.models import Gate
from dspex.executor.retry import RetryPolicy
from dspex.executor.streaming import stream
from dspex.lm.spend import Budget, Spend
from dspex.lm.types import FREE, CallDelta, Capabilities, Delta, LMRequest, LMResponse, Message, ToolCall, Usage
from dspex.program.context import Context
from dspex.stores.cache import ResponseCache
from tests.executor.models import ANSWER, MemoryJournal, StepsLM

REQUEST = LMRequest(messages=(Message("user", "hello"),), max_tokens=10)
DOWN = ConnectError("DX4101", "refused", retryable=True, sent="no")
BROKEN = ResponseError("DX4107", "broke off", retryable=True, sent="yes")

Part = str | Delta | LMResponse | LMError
"""A piece of text, the last part, or a failure; "hold" waits for ever."""


class PartsLM:
    """Streams each attempt as the next of `attempts` says, the last one for ever."""

    name = "test/parts"
    fingerprint = "test:parts"
    capabilities = Capabilities()
    price = FREE

    def __init__(self, *attempts: list[Part]) -> None:
        self.attempts: Sequence[list[Part]] = attempts
        self.begun = 0
        self.open = 0

    async def complete(self, request: LMRequest, /) -> LMResponse:
        async with aclosing(self.stream(request)) as parts:
            async for part in parts:
                if part.response is not None:
                    return part.response
        raise AssertionError

    async def stream(self, request: LMRequest, /) -> AsyncGenerator[Delta]:
        steps = self.attempts[min(self.begun, len(self.attempts) - 1)]
        self.begun += 1
        self.open += 1
        try:
            for step in steps:
                await asyncio.sleep(0)
                if step == "hold":
                    await asyncio.Event().wait()
                elif isinstance(step, LMError):
                    raise step
                elif isinstance(step, LMResponse):
                    yield Delta(response=step)
                else:
                    yield step if isinstance(step, Delta) else Delta(step)
        finally:
            self.open -= 1

    async def aclose(self) -> None:
        """Nothing to close."""


def gate(lm: Any, **options: Any) -> Gate:
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(0)

    options.setdefault("retry", RetryPolicy(rng=random.Random(0)))
    return Gate(lm, sleep=sleep, **options)


async def read(through: Gate, context: Context | None = None) -> tuple[str, Called]:
    text, called = "", None
    async with aclosing(stream(through, REQUEST, context or Context())) as parts:
        async for part in parts:
            assert called is None
            if isinstance(part, Called):
                called = part
            else:
                text += part.text
    assert called is not None
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return text, called


def test_parts_come_as_they_are_and_the_last_item_is_the_call() -> None:
    async def scenario() -> None:
        lm, slots, caps = PartsLM(["Pa", "ris", ANSWER]), Limit(1), BudgetAccount(Budget(calls=3))
        journal, breaker = MemoryJournal(), Breaker("test/parts")
        through = gate(lm, limit=slots, breaker=breaker)
        items = [part async for part in stream(through, REQUEST, Context(account=caps, journal=journal))]
        assert items[:3] == [Delta("Pa"), Delta("ris"), Delta(response=ANSWER)]
        called = items[3]
        assert isinstance(called, Called)
        assert (called.response, called.attempts, called.spent) == (ANSWER, 1, Spend(1, 10, 2, 0.0))
        assert (caps.settled, caps.reserved, slots.active) == (Spend(1, 10, 2, 0.0), Spend(), 0)
        assert [kind for kind, _ in journal.events] == ["started", "committed"]
        again = [part async for part in stream(through, REQUEST, Context(account=caps, journal=journal))]
        assert again[0] == Delta("Paris", "", ANSWER)
        assert lm.begun == 1

    asyncio.run(scenario())


def test_a_model_that_cannot_stream_answers_in_one_part() -> None:
    async def scenario() -> None:
        text, called = await read(gate(StepsLM(DOWN, ANSWER)))
        assert (text, called.attempts) == ("Paris", 2)

    asyncio.run(scenario())


def test_a_stream_is_cached_under_the_key_of_the_call(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk = ResponseCache(tmp_path / "responses.db")
        lm = PartsLM(["Paris", ANSWER])
        through = gate(lm, cache=TieredCache(MemoryCache(), disk), mode="on")
        _, called = await read(through)
        assert called.key == call_key(lm.fingerprint, REQUEST)
        store(through, called)
        assert (await complete(through, REQUEST, Context())).cached
        text, again = await read(through)
        assert (text, again.cached, again.attempts, lm.begun) == ("Paris", True, 0, 1)
        disk.close()

    asyncio.run(scenario())


def test_a_failure_is_tried_again_before_the_first_visible_part_only() -> None:
    async def scenario() -> None:
        lm = PartsLM([DOWN], [BROKEN], ["Paris", ANSWER])
        text, called = await read(gate(lm))
        assert (text, called.attempts, called.ambiguous, called.spent.calls) == ("Paris", 3, 1, 2)
        lm = PartsLM(["Pa", BROKEN], ["Paris", ANSWER])
        spare = PartsLM(["Paris", ANSWER])
        parts = stream(gate(lm, fallback=(gate(spare),)), REQUEST, Context())
        assert await anext(parts) == Delta("Pa")
        with pytest.raises(ResponseError) as caught:
            await anext(parts)
        assert (caught.value.attempts, lm.begun, spare.begun, lm.open) == (1, 1, 0, 0)

    asyncio.run(scenario())


def test_a_tool_call_is_visible_too() -> None:
    begun = Delta(calls=(CallDelta(0, "c", "answer"),))

    async def scenario() -> None:
        lm = PartsLM([begun, BROKEN], ["Paris", ANSWER])
        parts = stream(gate(lm), REQUEST, Context())
        assert await anext(parts) == begun
        with pytest.raises(ResponseError):
            await anext(parts)
        assert lm.begun == 1

    asyncio.run(scenario())


def test_a_known_answer_shows_its_tool_calls() -> None:
    answer = replace(ANSWER, tool_calls=(ToolCall("c", "answer", '{"a":1}'),))

    async def scenario() -> None:
        through, context = gate(PartsLM([Delta(response=answer)])), Context(journal=MemoryJournal())
        await read(through, context)
        known, _ = [part async for part in stream(through, REQUEST, context)]
        assert known == Delta("Paris", "", answer, (CallDelta(0, "c", "answer", '{"a":1}'),))

    asyncio.run(scenario())


def test_a_fallback_streams_what_the_model_could_not() -> None:
    async def scenario() -> None:
        lm, spare = PartsLM([DOWN]), PartsLM(["Pa", "ris", ANSWER])
        spare.fingerprint = "test:spare"
        other = gate(spare)
        text, called = await read(gate(lm, retry=RetryPolicy(1), fallback=(other,)))
        assert (text, called.attempts) == ("Paris", 3)
        assert called.fallback == (other, call_key("test:spare", REQUEST))
        spare.attempts = [[DOWN]]
        with pytest.raises(ConnectError) as caught:
            await read(gate(lm, retry=RetryPolicy(0), fallback=(other,)))
        assert caught.value.__notes__ == ["fallback test/parts: DX4101 refused"]

    asyncio.run(scenario())


def test_a_reader_that_leaves_ends_the_attempt_and_it_counts_as_uncertain() -> None:
    async def scenario() -> None:
        lm, slots, caps = PartsLM(["Pa", "hold"]), Limit(1), BudgetAccount(Budget(calls=3))
        async with aclosing(stream(gate(lm, limit=slots), REQUEST, Context(account=caps))) as parts:
            assert await anext(parts) == Delta("Pa")
            assert (lm.open, slots.active, caps.reserved.calls) == (1, 1, 1)
        assert (lm.open, slots.active, caps.reserved.calls, caps.uncertain.calls) == (0, 0, 0, 1)

    asyncio.run(scenario())


@pytest.mark.parametrize(("steps", "settled", "uncertain"), [([], 1, 0), (["Pa"], 0, 1)])
def test_a_refusal_is_free_until_a_part_has_come(steps: list[Part], settled: int, uncertain: int) -> None:
    async def scenario() -> None:
        overloaded = ServerError("DX4208", "overloaded", retryable=True, sent="yes")
        lm, caps = PartsLM([*steps, overloaded]), BudgetAccount(Budget(calls=3))
        with pytest.raises(ServerError):
            await read(gate(lm, retry=RetryPolicy(0)), Context(account=caps))
        assert (caps.settled.calls, caps.uncertain.calls, caps.reserved.calls) == (settled, uncertain, 0)

    asyncio.run(scenario())


def test_a_reader_that_leaves_with_the_answer_owes_nothing() -> None:
    async def scenario() -> None:
        lm, caps = PartsLM(["Paris", ANSWER]), BudgetAccount(Budget(calls=3))
        async with aclosing(stream(gate(lm), REQUEST, Context(account=caps))) as parts:
            async for part in parts:
                if isinstance(part, Delta) and part.response is not None:
                    break
        assert (caps.settled.calls, caps.uncertain.calls, caps.reserved.calls) == (1, 0, 0)

    asyncio.run(scenario())


def test_a_cancelled_reader_ends_the_attempt() -> None:
    async def scenario() -> None:
        lm, slots, caps = PartsLM(["hold"]), Limit(1), BudgetAccount(Budget(calls=3))
        task = asyncio.ensure_future(read(gate(lm, limit=slots), Context(account=caps)))
        while not lm.open:  # noqa: ASYNC110
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (lm.open, slots.active, caps.uncertain.calls, caps.reserved.calls) == (0, 0, 1, 0)

    asyncio.run(scenario())


def test_the_deadline_and_the_timeout_end_a_stream() -> None:
    async def scenario() -> None:
        for options, deadline, code in [({}, 0.02, "DX4702"), ({"timeout": 0.02}, None, "DX4701")]:
            lm, caps, slots = PartsLM(["Pa", "hold"]), BudgetAccount(Budget(calls=3)), Limit(1)
            context = Context(account=caps, deadline=None if deadline is None else time.monotonic() + deadline)
            with pytest.raises(CallTimeout) as caught:
                await read(gate(lm, limit=slots, **options), context)
            assert (caught.value.code, caught.value.attempts) == (code, 1)
            assert caught.value.sent != "no"
            assert (lm.open, slots.active, caps.uncertain.calls, caps.reserved.calls) == (0, 0, 1, 0)

    asyncio.run(scenario())


def test_nothing_is_sent_after_the_deadline() -> None:
    async def scenario() -> None:
        lm = StepsLM(ANSWER)
        with pytest.raises(CallTimeout, match="DX4702"):
            await read(gate(lm), Context(deadline=time.monotonic() - 1.0))
        assert not lm.requests

    asyncio.run(scenario())


def test_no_fallback_is_asked_after_the_deadline() -> None:
    async def scenario() -> None:
        lm, spare = PartsLM(["hold"]), PartsLM(["Paris", ANSWER])
        with pytest.raises(CallTimeout, match="DX4702"):
            await read(gate(lm, fallback=(gate(spare),)), Context(deadline=time.monotonic() + 0.02))
        assert (lm.begun, spare.begun) == (1, 0)

    asyncio.run(scenario())


def test_the_time_that_a_reader_takes_is_not_the_attempts() -> None:
    async def scenario() -> None:
        lm = PartsLM(["Pa", "ris", ANSWER])
        async with aclosing(stream(gate(lm, timeout=0.5), REQUEST, Context())) as parts:
            assert await anext(parts) == Delta("Pa")
            await asyncio.sleep(0.6)
            assert [part.text async for part in parts if isinstance(part, Delta)] == ["ris", ""]

    asyncio.run(scenario())


def test_a_stream_over_budget_is_never_begun() -> None:
    async def scenario() -> None:
        lm = PartsLM(["Paris", ANSWER])
        with pytest.raises(BudgetExceeded):
            await read(gate(lm), Context(account=BudgetAccount(Budget(tokens=1))))
        assert lm.begun == 0

    asyncio.run(scenario())


def test_a_stream_without_a_last_part_is_a_coded_error() -> None:
    async def scenario() -> None:
        with pytest.raises(ResponseError, match="DX4710"):
            await read(gate(PartsLM(["Paris"])))

    asyncio.run(scenario())


FAILED = ServerError("DX4208", "500", sent="yes")
steps = st.sampled_from(["a", "b", ANSWER, LMResponse("x", None), DOWN, BROKEN, FAILED])


@given(
    attempts=st.lists(st.lists(steps, max_size=4), min_size=1, max_size=4),
    leave=st.integers(0, 6),
    cancel=st.integers(0, 12),
)
def test_every_stream_ends_its_reservation_once(attempts: list[list[Part]], leave: int, cancel: int) -> None:
    async def scenario() -> None:
        lm, slots, caps = PartsLM(*attempts), Limit(2), BudgetAccount(Budget(calls=20))
        through = gate(lm, limit=slots, retry=RetryPolicy(2, rng=random.Random(0)))
        seen: list[Delta | Called] = []

        async def reader() -> None:
            async with aclosing(stream(through, REQUEST, Context(account=caps))) as parts:
                async for part in parts:
                    seen.append(part)
                    if len(seen) > leave:
                        break

        task = asyncio.ensure_future(reader())
        for _ in range(cancel):
            await asyncio.sleep(0)
        if cancel < 10:
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert (lm.open, slots.active, slots.waiting, caps.reserved.calls) == (0, 0, 0, 0)
        assert caps.settled.calls + caps.uncertain.calls <= lm.begun
        texts = [part.text for part in seen if isinstance(part, Delta) and part.text]
        said = [step for step in attempts[min(max(lm.begun, 1), len(attempts)) - 1] if isinstance(step, str)]
        # Whatever was seen comes from one attempt, from its beginning.
        assert texts == said[: len(texts)]

    asyncio.run(scenario())


def test_usage_of_a_stream_is_that_of_its_response() -> None:
    async def scenario() -> None:
        _, called = await read(gate(PartsLM(["x", LMResponse("x", Usage(7, 3, 2))])))
        assert called.spent == Spend(1, 7, 3, 0.0)

    asyncio.run(scenario())
