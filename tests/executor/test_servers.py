"""Several servers, stragglers, streams and fallbacks over real sockets; the servers' own ledgers are the judges."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from dspex.executor import models
from dspex.executor.call import Called, complete
from dspex.executor.models import gate_for
from dspex.executor.streaming import stream
from dspex.lm.model import LM, Endpoint, Hedge
from dspex.lm.types import FREE, Delta, LMRequest, Message
from dspex.program.context import Context, trace, using
from dspex.program.modules import Predict
from dspex.program.schema import Schema
from dspex.testing import Fault, MockServer

REQUEST = LMRequest(messages=(Message("user", "hello"),), max_tokens=10)


class Ask(Schema):
    question: str


class Answer(Schema):
    answer: str


@pytest.fixture(autouse=True)
def fresh_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("DSPEX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(models, "_shared", models._Shared())  # pyright: ignore[reportPrivateUsage]
    yield
    models.response_cache().close()


def at(server: MockServer, **options: Any) -> LM:
    options = {"cache": "off", "price": FREE, "timeout": 20.0, **options}
    return LM("openai/mock", server.url, options.pop("api_key", None), **options)


def plain(request: Any) -> str:
    return "7"


def one_open(server: MockServer) -> bool:
    return server.open <= 1


def all_closed(server: MockServer) -> bool:
    return server.open == 0


async def ask(lm: LM, calls: int) -> list[Answer]:
    with using(lm=lm):
        module = Predict(Ask, Answer)
        done = await asyncio.gather(*(module(Ask(question=f"q{n}")) for n in range(calls)))
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return done


def test_calls_go_to_every_server_and_around_one_that_is_broken() -> None:
    broken = Fault("reset")
    with MockServer(plain) as one, MockServer(plain) as two, MockServer(plain, faults=[broken]) as three:
        endpoints = tuple(Endpoint(server.url) for server in (one, two, three))
        lm = at(one, endpoints=endpoints, concurrency=4)
        with trace() as t:
            assert asyncio.run(ask(lm, 200)) == [Answer(answer="7")] * 200
        assert len(one.requests) + len(two.requests) == 200
        assert min(len(one.requests), len(two.requests)) > 50
        # Its breaker opened: not a third of the calls went there first.
        assert 0 < len(three.requests) < 40
        assert t.attempts == len(one.requests) + len(two.requests) + len(three.requests)
        assert sum(call.ambiguous for call in t.calls) == len(three.requests)


def test_several_keys_share_the_load_of_one_server() -> None:
    with MockServer(plain, latency=0.01) as server:
        lm = at(server, endpoints=(Endpoint(api_key="one"), Endpoint(api_key="two")), concurrency=4)
        asyncio.run(ask(lm, 100))
        keys = [request.key for request in server.requests]
        assert set(keys) == {"one", "two"}
        assert min(keys.count("one"), keys.count("two")) >= 25
        assert server.most_open <= 8


def test_a_refused_key_does_not_fail_calls_while_another_works() -> None:
    with MockServer(plain, faults=[Fault("status", status=401, key="revoked")]) as server:
        lm = at(server, endpoints=(Endpoint(api_key="revoked"), Endpoint(api_key="valid")), retries=1)
        asyncio.run(ask(lm, 100))
        assert [request.key for request in server.requests].count("revoked") < 60


def test_a_straggler_is_overtaken_and_its_connection_closed() -> None:
    with MockServer(plain, faults=[Fault("hang", at=0)]) as server:
        lm = at(server, hedge=Hedge(quantile=0.9, ratio=0.1), concurrency=8)

        async def scenario() -> Called:
            gate = await gate_for(lm)
            assert gate.stragglers is not None
            gate.stragglers.late = 0.02
            called = await complete(gate, REQUEST, Context())
            loop = asyncio.get_running_loop()
            assert await loop.run_in_executor(None, server.wait_until, one_open)
            return called

        called = asyncio.run(scenario())
        assert (called.response.text, called.attempts, called.ambiguous) == ("7", 2, 1)
        assert server.wait_until(all_closed)


def test_a_stream_is_read_while_it_arrives_and_may_be_left() -> None:
    def long(request: Any) -> str:
        return "one two three four five six seven eight"

    with MockServer(long, faults=[Fault("hang_body", at=1)]) as server:
        lm = at(server)

        async def scenario() -> None:
            gate = await gate_for(lm)
            parts = [part async for part in stream(gate, REQUEST, Context())]
            called = parts[-1]
            assert isinstance(called, Called)
            texts = [part.text for part in parts if isinstance(part, Delta)]
            assert "".join(texts) == called.response.text == long(None)
            assert len([text for text in texts if text]) > 1
            assert called.spent.calls == 1
            assert called.response.usage is not None
            async with aclosing(stream(gate, REQUEST, Context())) as left:
                async for part in left:
                    if isinstance(part, Delta) and part.text:
                        break
            limit = gate.routes[0].limit
            assert limit is not None
            assert limit.active == 0
            loop = asyncio.get_running_loop()
            assert await loop.run_in_executor(None, server.wait_until, all_closed)

        asyncio.run(scenario())


def test_a_fallback_serves_while_the_server_is_down() -> None:
    with (
        MockServer(plain, faults=[Fault("status", status=503, retry_after=0)]) as down,
        MockServer(plain) as spare,
    ):
        lm = at(down, fallback=(LM("openai/spare", spare.url, cache="off", price=FREE),), retries=1)
        with trace() as t:
            assert asyncio.run(ask(lm, 60)) == [Answer(answer="7")] * 60
        assert {call.model for call in t.calls} == {"openai/spare"}
        assert len(spare.requests) == 60
        assert t.attempts == len(down.requests) + len(spare.requests)
        # After the first calls the breaker is open, and the server is left alone.
        assert len(down.requests) < 120


def test_spending_is_what_the_servers_answered_whatever_fails() -> None:
    faults = [Fault("status", status=500, share=0.05), Fault("status", status=429, retry_after=0, share=0.03)]
    with MockServer(plain, faults=faults) as one, MockServer(plain, faults=faults) as two:
        lm = at(one, endpoints=(Endpoint(one.url), Endpoint(two.url)), retries=8, concurrency=16)
        with trace() as t:
            asyncio.run(ask(lm, 200))
    assert t.usage.input_tokens == one.input_tokens + two.input_tokens
    assert t.usage.output_tokens == one.output_tokens + two.output_tokens
    assert t.attempts == len(one.requests) + len(two.requests)
