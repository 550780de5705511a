"""The ledger: every attempt of every call, added up where it belongs, and equal to what the server counted."""

from __future__ import annotations

import asyncio
import threading
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import pytest

import dspex as dx
from dspex.errors import ConnectError, LMError, ServerError, UsageError
from dspex.executor.batches import complete_batch
from dspex.executor.caching import TieredCache
from dspex.executor.call import complete, store
from dspex.executor.hedge import Stragglers
from dspex.executor.models import Gate
from dspex.executor.retry import RetryPolicy
from dspex.executor.streaming import stream
from dspex.lm.model import Hedge
from dspex.lm.spend import Spend
from dspex.lm.types import LMRequest, LMResponse, Message, Price, Usage
from dspex.program.context import Context, current, using
from dspex.program.ledger import DIMENSIONS, OTHERS, Dimension, Entry, Ledger, Tab
from dspex.stores.cache import ResponseCache
from dspex.stores.memory import MemoryEventStore
from dspex.study.loop import optimize_async
from dspex.testing import ScriptedLM
from tests.executor.account_runs import PRICE, Answer, Ask, Comparison, Desk, compare, covers, differences
from tests.executor.models import ANSWER, StepsLM
from tests.executor.test_batches import HALF, REQUESTS, BatchLM
from tests.study.tasks import Router, accuracy, messages, model

Q = Ask(question="one")


@pytest.fixture(scope="module")
def plain() -> Comparison:
    return compare(3000)


def test_the_ledger_equals_the_servers_own(plain: Comparison) -> None:
    assert plain.totals.refused > 50
    assert plain.totals.cut > 20
    assert differences(plain.ledger.total, plain.totals) == []


def test_each_tenant_pays_what_its_key_was_charged(plain: Comparison) -> None:
    by_tenant = plain.ledger.by("tenant")
    assert by_tenant.keys() == plain.by_tenant.keys()
    for tenant, entry in by_tenant.items():
        assert differences(entry, plain.by_tenant[tenant]) == []


def added(entries: list[Entry]) -> tuple[Any, ...]:
    return (
        sum(e.attempts for e in entries),
        sum(e.failed for e in entries),
        sum((e.usage for e in entries), Usage()),
        round(sum(e.usd or 0.0 for e in entries), 9),
        sum((e.uncertain for e in entries), Spend()).tokens,
    )


def test_every_way_to_split_it_adds_up_to_the_whole(plain: Comparison) -> None:
    whole = added([plain.ledger.total])
    for name in DIMENSIONS:
        assert added(list(plain.ledger.by(name).values())) == whole
    for one, other in combinations(DIMENSIONS, 2):
        assert added(list(plain.ledger.by(one, other).values())) == whole


def test_calls_are_found_under_their_module_program_and_configuration(plain: Comparison) -> None:
    ledger = plain.ledger
    assert set(ledger.by("module")) == {"writing", "editing"}
    assert set(ledger.by("program")) == {"Desk"}
    assert set(ledger.by("model")) == {"openai/mock"}
    # A program and the compiled one have equal configurations.
    bound = [Desk().bind(tone=tone) for tone in ("Be terse.", "Be kind.")]
    assert set(ledger.by("configuration")) == {desk.space.identity(desk.config) for desk in bound}
    outcomes = ledger.by("outcome")
    assert {"answered", "DX4207", "DX4208"} <= set(outcomes)
    assert outcomes["answered"].failed == 0
    assert outcomes["DX4207"].usage == Usage()


def test_what_was_cancelled_is_counted_as_uncertain() -> None:
    found = compare(600, cancel_every=3)
    total = found.ledger.total
    assert found.ledger.by("outcome")["abandoned"].attempts > 20
    assert total.attempts >= found.totals.requests
    # The server finished some of them after their caller had gone.
    finished = found.totals.usage
    assert total.usage.input_tokens <= finished.input_tokens
    unknown = Usage(
        finished.input_tokens - total.usage.input_tokens, finished.output_tokens - total.usage.output_tokens
    )
    assert covers(total.uncertain, unknown + found.totals.lost)


REQUEST = LMRequest(messages=(Message("user", "a"),))


async def nap(seconds: float) -> None:
    await asyncio.sleep(0)


def opened() -> tuple[Ledger, Tab]:
    ledger = Ledger()
    return ledger, Tab((ledger,), ("tenant", "Program", "", "module"), "test/steps")


def outcomes(lm: StepsLM, *, retries: int = 2, price: Price | None = PRICE) -> dict[str, Entry]:
    """What a ledger shows after one call."""
    ledger, tab = opened()
    lm.price = price

    async def scenario() -> None:
        call = complete(Gate(lm, retry=RetryPolicy(retries), sleep=nap), REQUEST, Context(), tab=tab)
        await asyncio.gather(call, return_exceptions=True)

    asyncio.run(scenario())
    return ledger.by("outcome")


def test_each_attempt_is_counted_by_its_outcome() -> None:
    busy = ServerError("DX4208", "503", retryable=True, sent="yes")
    broken = ServerError("DX4106", "reset", retryable=True, sent="maybe")
    down = ConnectError("DX4101", "refused", retryable=True, sent="no")
    found = outcomes(StepsLM(down, busy, broken, ANSWER), retries=3)
    cost = PRICE.cost(Usage(10, 2))
    assert (found["answered"].attempts, found["answered"].failed, found["answered"].usage) == (1, 0, Usage(10, 2))
    assert found["answered"].usd == pytest.approx(cost)
    assert found["DX4208"] == Entry(1, 1)
    assert found["DX4101"] == Entry(unsent=1)
    assert (found["DX4106"].attempts, found["DX4106"].failed, found["DX4106"].usd) == (1, 1, 0.0)
    assert found["DX4106"].uncertain.calls == 1
    assert (found["DX4106"].uncertain.usd or 0.0) > cost


def test_an_answer_without_usage_or_price_is_not_free() -> None:
    silent = outcomes(StepsLM(LMResponse("Paris")))["answered"]
    assert (silent.attempts, silent.usage, silent.usd) == (1, Usage(), None)
    assert silent.uncertain.output_tokens == 512
    unpriced = outcomes(StepsLM(ANSWER), price=None)["answered"]
    assert (unpriced.usage, unpriced.usd, unpriced.uncertain) == (Usage(10, 2), None, Spend())


def test_a_cached_answer_is_a_hit_and_costs_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        ledger, tab = opened()
        with ResponseCache(tmp_path / "responses.db") as disk:
            lm = StepsLM(ANSWER, "hold")
            gate = Gate(lm, cache=TieredCache(disk=disk), mode="on")
            store(gate, await complete(gate, REQUEST, Context(), tab=tab))
            await complete(gate, REQUEST, Context(), tab=tab)
            other = LMRequest(prompt="b")
            # Equal calls in the air: one is sent.
            calls = [asyncio.ensure_future(complete(gate, other, Context(), tab=tab)) for _ in range(3)]
            await asyncio.sleep(0)
            lm.gate.set()
            await asyncio.gather(*calls)
        assert (ledger.total.attempts, ledger.total.hits) == (2, 3)
        assert ledger.by("outcome")["cached"] == Entry(hits=3)

    asyncio.run(scenario())


def test_streams_are_counted_as_calls_are() -> None:
    async def scenario() -> None:
        ledger, tab = opened()
        lm = StepsLM(ServerError("DX4208", "503", retryable=True, sent="yes"), ANSWER)
        async for _ in stream(Gate(lm, sleep=nap), REQUEST, Context(), tab=tab):
            pass
        assert (ledger.total.attempts, ledger.total.failed, ledger.total.usage) == (2, 1, Usage(10, 2))

    asyncio.run(scenario())


def test_the_slower_of_two_hedged_attempts_is_counted_as_uncertain() -> None:
    async def scenario() -> None:
        ledger, tab = opened()
        stragglers = Stragglers(Hedge(0.9, 0.9))
        stragglers.late = 0.0
        lm = StepsLM("hold", ANSWER)
        await complete(Gate(lm, stragglers=stragglers), REQUEST, Context(), tab=tab)
        found = ledger.by("outcome")
        assert found["answered"].usage == Usage(10, 2)
        assert (found["abandoned"].failed, found["abandoned"].uncertain.calls) == (1, 1)

    asyncio.run(scenario())


def test_batches_are_counted_at_their_own_price() -> None:
    async def scenario() -> None:
        lm = BatchLM()
        lm.refused, lm.left = {"q1"}, {"q2"}
        with using(tenant="acme"), dx.ledger() as ledger:
            gate = Gate(lm, retry=RetryPolicy(retries=2), sleep=nap)
            await complete_batch(gate, REQUESTS, current(), record=MemoryEventStore(), name="work")
        total = ledger.total
        # q1 is refused once; q2 is left out of three batches, which charge nothing for it.
        assert (total.attempts, total.failed, total.unsent) == (len(REQUESTS) - 1, 1, 3)
        assert total.usage == Usage(10 * (len(REQUESTS) - 2), 2 * (len(REQUESTS) - 2))
        assert total.usd == pytest.approx((len(REQUESTS) - 2) * HALF.cost(Usage(10, 2)))
        assert ledger.by("tenant", "outcome")["acme", "DX4205"].failed == 1

    asyncio.run(scenario())


def test_ledgers_nest_and_threads_share_them() -> None:
    lm = ScriptedLM(lambda request: {"answer": "x"})
    module = dx.Predict(Ask, Answer)
    with using(lm=lm), dx.ledger() as outer:
        module.run(Q)
        with dx.ledger() as inner, using(tenant="acme"):
            module.batch([Ask(question=str(n)) for n in range(20)])
        module.run(Q)
    assert (outer.total.attempts, inner.total.attempts) == (22, 20)
    assert {tenant: entry.attempts for tenant, entry in outer.by("tenant").items()} == {"acme": 20, "": 2}
    assert set(inner.by("program")) == {"Predict"}
    module_alone = Ledger()
    assert module_alone.total == Entry()
    assert module_alone.by("module") == {}


def test_repairs_are_counted() -> None:
    class Count(dx.Schema):
        count: int

    replies = iter(["seven", '{"count": 7}'])
    with using(lm=ScriptedLM(lambda request: next(replies))), dx.ledger() as ledger:
        assert dx.Predict(Ask, Count).run(Q) == Count(count=7)
    assert ledger.total.attempts == 2


def test_an_attempt_that_ends_inside_the_ledger_is_counted() -> None:
    # As when the garbage collector ends an abandoned call on the thread that is inside: usage is read there.
    ledger = Ledger()
    bound = Spend(1, 5, 5, 0.25)

    class Late(Usage):
        def __getattribute__(self, name: str) -> Any:
            if name == "output_tokens":
                ledger.failed(("", "p", "c", "m", "x", "abandoned"), bound)
            return super().__getattribute__(name)

    ledger.answered(("", "p", "c", "m", "x", "answered"), Late(3, 4), Spend(1, 3, 4, 0.5), bound)
    assert ledger.total == Entry(2, 1, 0, 0, Usage(3, 4), 0.5, Spend(2, 10, 10, 0.5))


def test_a_ledger_does_not_grow_beyond_its_rows() -> None:
    ledger = Ledger(rows=10)
    begin = threading.Barrier(4)

    def work() -> None:
        begin.wait()
        for n in range(500):
            ledger.answered(("", "p", f"c{n}", "m", "x", "answered"), Usage(1, 1), Spend(1, 1, 1, 0.001), None)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.total == Entry(2000, 0, 0, 0, Usage(2000, 2000), 2.0)
    found = ledger.by("configuration")
    assert len(found) == 11
    assert next(iter(found)) == OTHERS


def test_a_ledger_is_read_by_its_dimensions_alone() -> None:
    ledger = Ledger()
    assert get_args(Dimension) == DIMENSIONS
    with pytest.raises(UsageError, match="DX4507"):
        ledger.by("node")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(UsageError, match="DX4507"):
        ledger.by()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def test_a_study_is_counted_in_the_ledger_around_it() -> None:
    with using(tenant="acme"), dx.ledger() as ledger:
        best = asyncio.run(
            optimize_async(
                Router(),
                messages(60),
                accuracy,
                budget=dx.Budget(calls=150),
                lm=model(),
                store=MemoryEventStore(),
                strategy="random",
            )
        )
    report = best.study.report
    assert (ledger.total.attempts, ledger.total.usage.total_tokens) == (report.attempts, report.tokens)
    assert set(ledger.by("tenant")) == {"acme"}
    assert set(ledger.by("program")) == {"Router"}
    assert len(ledger.by("configuration")) > 2


def test_an_error_that_ends_a_run_leaves_its_cost_in_the_ledger() -> None:
    with using(lm=StepsLM(ServerError("DX4208", "503", sent="yes"))), dx.ledger() as ledger, pytest.raises(LMError):
        dx.Predict(Ask, Answer).run(Q)
    assert (ledger.total.attempts, ledger.total.failed) == (1, 1)
    assert "1 attempts, 1 failed" in repr(ledger)
