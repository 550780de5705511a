"""What the stages have counted: every figure is one that the server on the other side has seen, too."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import dspex as dx
from dspex.executor import models
from dspex.executor.admission import Limit
from dspex.executor.breaker import Breaker
from dspex.executor.status import ModelStatus, ServerStatus
from dspex.testing import Fault, MockServer
from tests.executor.models import StepsLM


class Ask(dx.Schema):
    question: str


class Answer(dx.Schema):
    answer: str


bot = dx.Predict(Ask, Answer)


@pytest.fixture(autouse=True)
def fresh_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("DSPEX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(models, "_shared", models._Shared())  # pyright: ignore[reportPrivateUsage]
    yield
    models.response_cache().close()


def plain(request: Any) -> str:
    return "7"


def at(server: MockServer, **options: Any) -> dx.LM:
    options = {"cache": "off", "timeout": 20.0, **options}
    return dx.LM("openai/mock", server.url, **options)


def one_by_one(lm: Any, calls: int, first: int = 0) -> int:
    """How many of so many calls, one after the other, were answered."""
    answered = 0
    for number in range(first, first + calls):
        with dx.using(lm=lm):
            try:
                bot.run(Ask(question=f"q{number}"))
                answered += 1
            except dx.LMError:
                continue
    return answered


def the_model() -> ModelStatus:
    (model,) = dx.status().models
    return model


def the_server() -> ServerStatus:
    (server,) = dx.status().servers
    return server


def requests(least: int) -> Callable[[MockServer], bool]:
    return lambda server: len(server.requests) >= least


def test_before_the_first_call_there_is_nothing() -> None:
    status = dx.status()
    assert (status.models, status.servers) == ((), ())
    assert set(status.as_dict()) == {"models", "servers", "cache"}
    assert status.as_text().startswith("model  calls  hits")


def test_a_cache_counts_what_it_has_from_where() -> None:
    with MockServer(plain) as server:
        lm = at(server, cache="on")
        one_by_one(lm, 5)
        cache = dx.status().cache
        assert (cache.memory_hits, cache.disk_hits, cache.misses, cache.stores, cache.entries) == (0, 0, 5, 5, 5)
        one_by_one(lm, 3)
        models.response_cache().memory.clear()
        one_by_one(lm, 4)
        one_by_one(lm, 2)
        cache = dx.status().cache
        assert (cache.memory_hits, cache.disk_hits, cache.misses, cache.stores, cache.entries) == (5, 4, 5, 5, 4)
        assert cache.bytes == models.response_cache().memory.bytes > 0
        model = the_model()
        assert (model.calls, model.hits, model.joined) == (5, 9, 0)
        assert the_server().attempts == the_server().answered == len(server.requests) == 5


def test_calls_that_join_an_equal_one_count_as_hits() -> None:
    async def scenario() -> None:
        with dx.using(lm=lm):
            calls = [asyncio.ensure_future(bot(Ask(question="same"))) for _ in range(6)]
            await asyncio.to_thread(server.wait_until, requests(1))
            server.release()
            await asyncio.gather(*calls)

    with MockServer(plain, faults=[Fault("hold")]) as server:
        lm = at(server, cache="on")
        asyncio.run(scenario())
        model = the_model()
        assert (model.calls, model.hits, model.joined) == (1, 5, 5)
        assert len(server.requests) == 1


def test_admission_counts_who_is_in_flight_and_who_waits() -> None:
    async def scenario() -> None:
        with dx.using(lm=lm):
            calls = [asyncio.ensure_future(bot(Ask(question=f"q{number}"))) for number in range(5)]
            await asyncio.to_thread(server.wait_until, requests(2))
            during = the_server()
            assert (during.in_flight, during.most_in_flight, during.limit, during.waiting) == (2, 2, 2, 3)
            assert (during.queued, during.waited, during.attempts) == (0, 0.0, 0)
            calls[-1].cancel()
            for seen in (2, 4):
                await asyncio.to_thread(server.wait_until, requests(seen))
                server.release()
            await asyncio.gather(*calls, return_exceptions=True)

    with MockServer(plain, faults=[Fault("hold")]) as server:
        lm = at(server, concurrency=2)
        asyncio.run(scenario())
        after = the_server()
        assert (after.in_flight, after.most_in_flight, after.waiting, after.queued) == (0, 2, 0, 2)
        assert after.waited > 0.0
        assert after.attempts == after.answered == len(server.requests) == 4
        assert after.median is not None
        assert after.p95 is not None
        assert 0.0 < after.median <= after.p95


def test_seconds_waited_are_those_of_the_limits_clock() -> None:
    async def scenario() -> None:
        now = 10.0
        limit = Limit(1, clock=lambda: now)
        first = limit.try_acquire()
        assert first is not None
        waiting = [asyncio.ensure_future(limit.acquire()) for _ in range(2)]
        await asyncio.sleep(0)
        now = 13.0
        first.release()
        (await waiting[0]).release(seconds=0.5)
        now = 14.5
        await waiting[1]
        assert (limit.queued, limit.waited, limit.most_active) == (2, 6.0, 1)
        assert list(limit.latest) == [3.0, 0.5]
        assert limit.ended["ok"] == 2

    asyncio.run(scenario())


def test_a_call_that_is_cancelled_counts_as_abandoned() -> None:
    async def scenario() -> None:
        with dx.using(lm=lm):
            call = asyncio.ensure_future(bot(Ask(question="never")))
            await asyncio.to_thread(server.wait_until, requests(1))
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    with MockServer(plain, faults=[Fault("hold")]) as server:
        lm = at(server)
        asyncio.run(scenario())
        found = the_server()
        assert (found.attempts, found.abandoned, found.in_flight) == (1, 1, 0)


def test_rates_say_what_is_left() -> None:
    with MockServer(plain) as server:
        one_by_one(at(server, rpm=1.0), 1)
        found = the_server()
        assert found.requests_left is not None
        assert 0.0 <= found.requests_left < 1.0
        assert found.tokens_left is None
        assert not found.held


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (Fault("status", status=500, retry_after=0, attempts=1), "failed"),
        (Fault("status", status=503, retry_after=0, attempts=1), "overloaded"),
        (Fault("status", status=429, retry_after=0, attempts=1), "limited"),
    ],
)
def test_each_attempt_that_is_tried_again_counts_by_how_it_ended(fault: Fault, outcome: str) -> None:
    with MockServer(plain, faults=[fault]) as server:
        assert one_by_one(at(server, breaker=False), 4) == 4
        found = the_server()
        assert (found.attempts, found.answered, getattr(found, outcome)) == (8, 4, 4)
        assert (the_model().retried, the_model().given_up) == (4, 0)
        assert len(server.requests) == 8


def test_a_refused_request_is_not_tried_again() -> None:
    with MockServer(plain, faults=[Fault("status", status=400)]) as server:
        assert one_by_one(at(server), 3) == 0
        assert (the_server().attempts, the_server().rejected, the_model().retried) == (3, 3, 0)


def test_attempts_that_the_allowance_does_not_cover_count_as_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "RETRY_BURST", 1.0)
    with MockServer(plain, faults=[Fault("status", status=500, retry_after=0)]) as server:
        assert one_by_one(at(server, retries=1, breaker=False), 4) == 0
        # One beforehand and a half for each call: enough for the first two and the fourth.
        assert (the_model().retried, the_model().given_up) == (3, 1)
        assert (the_server().breaker, the_server().opened, the_server().failed) == (None, 0, 7)


def test_a_breaker_counts_and_so_do_both_sides_of_a_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "Breaker", partial(Breaker, pause=1000.0, longest=1000.0))
    with MockServer(plain, faults=[Fault("status", status=500)]) as down, MockServer(plain) as spare:
        other = dx.LM("openai/spare", spare.url, cache="off")
        assert one_by_one(at(down, retries=0, fallback=(other, StepsLM())), 23) == 23
        status = dx.status()
        first, second = sorted(status.models, key=lambda one: one.model)
        assert (first.calls, first.fell_back, first.stood_in) == (23, 23, 0)
        assert (second.calls, second.fell_back, second.stood_in) == (23, 0, 23)
        one, two = sorted(status.servers, key=lambda one: one.model)
        assert (one.failed, one.attempts, one.opened) == (20, 20, 1)
        assert (one.breaker, one.refused) == ("open", 3)
        assert (two.answered, two.attempts, two.breaker, two.opened) == (23, 23, "closed", 0)
        assert len(down.requests) == 20
        assert len(spare.requests) == 23


def test_second_attempts_count_where_they_were_sent_and_where_they_won() -> None:
    with MockServer(plain, faults=[Fault("hold", at=32)]) as server:
        lm = at(server, hedge=True)
        assert one_by_one(lm, 33) == 33
        assert (the_model().calls, the_model().hedged, the_model().overtaken) == (33, 1, 1)
        assert (the_server().attempts, the_server().answered, the_server().abandoned) == (34, 33, 1)
        assert len(server.requests) == 34


def test_each_server_counts_its_own_attempts_and_no_key_is_told() -> None:
    with MockServer(plain) as one, MockServer(plain) as two:
        endpoints = (dx.Endpoint(one.url, "sk-one"), dx.Endpoint(two.url, "sk-two"), dx.Endpoint(two.url, "sk-three"))
        assert one_by_one(at(one, api_key="sk-none", endpoints=endpoints), 30) == 30
        status = dx.status()
        assert [server.server for server in status.servers] == [one.url, two.url, two.url]
        assert [model.servers for model in status.models] == [(one.url, two.url, two.url)]
        answered = [server.answered for server in status.servers]
        assert answered[0] == len(one.requests)
        assert sum(answered[1:]) == len(two.requests)
        assert "sk-" not in f"{status!r}{status.as_dict()}{status.as_text()}"


def test_configurations_of_one_server_share_its_row() -> None:
    with MockServer(plain) as server:
        one_by_one(at(server), 2)
        one_by_one(at(server, retries=1), 3)
        assert [model.calls for model in dx.status().models] == [2, 3]
        assert the_server().answered == 5


def test_embeddings_count_like_calls() -> None:
    with MockServer(plain) as server:
        lm = at(server, cache="on")
        dx.embed(["red", "green"], lm=lm)
        dx.embed(["green", "red"], lm=lm)
        assert (the_model().calls, the_model().hits) == (1, 1)
        assert the_server().answered == len(server.requests) == 1


def test_the_snapshot_is_values_of_json_and_aligned_text() -> None:
    with MockServer(plain) as server:
        one_by_one(at(server), 2)
        status = dx.status()
        read = json.loads(json.dumps(status.as_dict()))
        assert read["models"][0]["calls"] == 2
        assert read["models"][0]["servers"] == [server.url]
        assert read["servers"][0]["answered"] == 2
        assert read["servers"][0]["tokens_left"] is None
        counts, admission, attempts, cache = status.as_text().split("\n\n")
        for table in (counts, admission, attempts):
            title, row = table.split("\n")
            assert title.startswith("model ")
            assert row.startswith("openai/mock ")
        assert server.url in admission
        assert server.url in attempts
        assert cache.startswith("cache  0 memory hits, 0 disk hits")
        one_by_one(at(server), 1)
        assert status.models[0].calls == 2


def test_counts_are_exact_while_threads_call_and_one_reads() -> None:
    async def calls(first: int) -> None:
        with dx.using(lm=lm):
            await asyncio.gather(*(bot(Ask(question=f"q{number}")) for number in range(first, first + 60)))

    with MockServer(plain, faults=[Fault("status", status=429, retry_after=0, attempts=1)]) as server:
        lm = at(server, cache="on", concurrency=4)
        threads = [threading.Thread(target=asyncio.run, args=(calls(1000 * number),)) for number in range(3)]
        for thread in threads:
            thread.start()
        seen = [0]
        while any(thread.is_alive() for thread in threads):
            seen += [one.answered for one in dx.status().servers]
        for thread in threads:
            thread.join()
        assert seen == sorted(seen)
        found = the_server()
        assert (found.answered, found.limited, found.attempts) == (180, 180, len(server.requests))
        assert (the_model().calls, the_model().retried, the_model().hits) == (180, 180, 0)
        assert found.in_flight == found.waiting == 0
        assert found.most_in_flight <= 4
        assert dx.status().cache.stores == 180
