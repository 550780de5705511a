"""What one call costs through the framework: a model that answers at once, in process or over HTTP."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, cast

import pytest

from dspex.compiler.render import prepare
from dspex.executor.adaptive import Adaptive
from dspex.executor.admission import Limit
from dspex.executor.breaker import Breaker
from dspex.executor.caching import MemoryCache, TieredCache, call_key
from dspex.executor.call import complete, store
from dspex.executor.hedge import Stragglers
from dspex.executor.models import Gate
from dspex.lm.model import LM, Hedge
from dspex.lm.spend import Budget
from dspex.lm.types import FREE, Capabilities, LMRequest, LMResponse, Price, Usage
from dspex.program.context import Context, bounded, ledger, trace, using
from dspex.program.demos import Demo, DemoSet
from dspex.program.modules import ChainOfThought, Predict
from dspex.program.schema import Schema
from dspex.stores.cache import ResponseCache

CALLS = 200
LARGE = Budget(calls=10**9, tokens=10**12, usd=1.0)


class Ask(Schema):
    question: str


class Answer(Schema):
    """Answer the question in a few words."""

    answer: str


class Label(Schema):
    """Name the topic."""

    topic: Literal["art", "sport", "law"]


class Instant:
    name = "instant/lm"
    fingerprint = "instant"
    price: Price | None = FREE

    def __init__(self, text: str, capabilities: Capabilities | None = None) -> None:
        self.capabilities = capabilities or Capabilities()
        self._response = LMResponse(text, Usage(40, 2))

    async def complete(self, request: LMRequest, /) -> LMResponse:
        return self._response

    async def aclose(self) -> None:
        """Nothing to close."""


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.run_until_complete(made.shutdown_asyncgens())
    made.close()


INPUTS = [Ask(question=f"question {i}") for i in range(CALLS)]


def in_turn(benchmark: Any, loop: asyncio.AbstractEventLoop, call: Callable[[Ask], Awaitable[object]]) -> None:
    """Measure `CALLS` calls in turn; the figure of a call is that of a round divided by their number."""

    async def rounds() -> None:
        for x in INPUTS:
            await call(x)

    benchmark.extra_info["calls"] = CALLS
    benchmark(lambda: loop.run_until_complete(rounds()))


@pytest.mark.parametrize(
    "kind", ["predict", "choices", "chain_of_thought", "traced", "counted", "budgeted", "nested", "deadline"]
)
def test_a_module_call(benchmark: Any, loop: asyncio.AbstractEventLoop, kind: str) -> None:
    text, module = "Paris", Predict(Ask, Answer)
    able = Capabilities(json_schema=True, choices=True)
    if kind == "choices":
        text, module = "law", Predict(Ask, Label)
    elif kind == "chain_of_thought":
        text, module = '{"reasoning": "It is known.", "answer": "Paris"}', ChainOfThought(Ask, Answer)
    with using(lm=Instant(text, able)):
        if kind == "traced":
            with trace():
                in_turn(benchmark, loop, module)
        elif kind == "counted":
            with ledger():
                in_turn(benchmark, loop, module)
        elif kind == "budgeted":
            with using(budget=LARGE):
                in_turn(benchmark, loop, module)
        elif kind == "nested":
            with using(budget=LARGE), using(budget=LARGE), using(budget=LARGE):
                in_turn(benchmark, loop, module)
        elif kind == "deadline":
            with bounded(deadline=float("1e12")):
                in_turn(benchmark, loop, module)
        else:
            in_turn(benchmark, loop, module)


@pytest.mark.parametrize("stage", ["none", "limit", "adaptive", "breaker", "timeout", "hedge", "all"])
def test_a_stage_of_the_call_path(benchmark: Any, loop: asyncio.AbstractEventLoop, stage: str) -> None:
    module = prepare(Predict(Ask, Answer).settings)
    requests = [module.request(x) for x in INPUTS]
    context = Context()
    capacity = 64 if stage == "limit" else Adaptive(64)
    gate = Gate(
        Instant("Paris"),
        limit=Limit(capacity) if stage in ("limit", "adaptive", "all") else None,
        breaker=Breaker("a server") if stage in ("breaker", "all") else None,
        timeout=60.0 if stage in ("timeout", "all") else None,
        stragglers=Stragglers(Hedge()) if stage in ("hedge", "all") else None,
    )

    async def rounds() -> None:
        for request in requests:
            await complete(gate, request, context)

    benchmark.extra_info["calls"] = CALLS
    benchmark(lambda: loop.run_until_complete(rounds()))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.peers.server", "--delay", "0"]
    process = subprocess.Popen(
        command, cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield f"http://127.0.0.1:{cast('IO[str]', process.stdout).readline().strip()}/v1"
    process.communicate()


@pytest.mark.parametrize("in_flight", [1, 64])
@pytest.mark.parametrize("kind", ["whole", "streamed"])
def test_a_call_over_http(
    benchmark: Any, loop: asyncio.AbstractEventLoop, server: str, kind: str, in_flight: int
) -> None:
    module = Predict(Ask, Answer)

    async def worker(inputs: Iterator[Ask]) -> None:
        for x in inputs:
            if kind == "whole":
                await module(x)
            else:
                async for _ in module.stream(x):
                    pass

    async def rounds() -> None:
        inputs = iter(INPUTS)
        await asyncio.gather(*[worker(inputs) for _ in range(in_flight)])

    lm = LM("openai/m", base_url=server, api_key="x", concurrency=in_flight, cache="off")
    with using(lm=lm):
        loop.run_until_complete(rounds())
        benchmark.extra_info["calls"] = CALLS
        benchmark(lambda: loop.run_until_complete(rounds()))


def test_a_run_from_synchronous_code(benchmark: Any) -> None:
    module = Predict(Ask, Answer)
    with using(lm=Instant("Paris")):
        benchmark(lambda: module.run(INPUTS[0]))


@pytest.mark.parametrize("demos", [0, 18])
def test_rendering(benchmark: Any, demos: int) -> None:
    members = [Demo({"question": f"question {i} " * 10}, {"answer": f"answer {i}"}) for i in range(demos)]
    module = prepare(Predict(Ask, Answer, demos=DemoSet(members)).settings)
    benchmark(lambda: module.request(INPUTS[0]))


@pytest.mark.parametrize("size", [100, 10_000])
def test_a_call_key(benchmark: Any, size: int) -> None:
    module = prepare(Predict(Ask, Answer).settings)
    request = module.request(Ask(question="x" * size))
    benchmark(lambda: call_key("openai:http://127.0.0.1:1/v1:m", request))


@pytest.mark.parametrize("tier", ["memory", "disk", "disk_packed"])
def test_a_cache_hit(benchmark: Any, loop: asyncio.AbstractEventLoop, tmp_path: Path, tier: str) -> None:
    disk = ResponseCache(tmp_path / "responses.db")
    cache = TieredCache(MemoryCache(64 * 2**20 if tier == "memory" else 0), disk)
    text = (
        "Paris" if tier != "disk_packed" else "".join(f"Paris is the capital, said {n} of them. " for n in range(100))
    )
    gate = Gate(Instant(text), cache=cache, mode="on")
    module = prepare(Predict(Ask, Answer).settings)
    requests = [module.request(x) for x in INPUTS]
    context = Context()

    async def rounds() -> int:
        hits = 0
        for request in requests:
            called = await complete(gate, request, context)
            store(gate, called)
            hits += called.cached
        return hits

    loop.run_until_complete(rounds())
    disk.flush()
    benchmark.extra_info["calls"] = CALLS
    assert benchmark(lambda: loop.run_until_complete(rounds())) == CALLS
    disk.close()
