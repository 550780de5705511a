"""The call path over real sockets, against a server that misbehaves."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from dspex.errors import CallTimeout, ConnectError, LMError, OutputError, RateLimited, RequestRejected, ServerError
from dspex.executor import models
from dspex.lm.model import LM
from dspex.lm.spend import Budget
from dspex.lm.types import FREE, Capabilities
from dspex.program.context import trace, using
from dspex.program.modules import Predict
from dspex.program.schema import Schema
from dspex.testing import Fault, MockServer


class Ask(Schema):
    question: str


class Answer(Schema):
    answer: str


class Count(Schema):
    count: int


class Label(Schema):
    label: Literal["yes", "no"]


Q = Ask(question="one")


@pytest.fixture(autouse=True)
def fresh_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("DSPEX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(models, "_shared", models._Shared())  # pyright: ignore[reportPrivateUsage]
    yield
    models.response_cache().close()


def served(server: MockServer, **options: Any) -> LM:
    options = {"cache": "off", "price": FREE, "retries": 2, "timeout": 10.0, **options}
    return LM("openai/mock", base_url=server.url, **options)


def plain(request: Any) -> str:
    return "7"


def all_arrived(server: MockServer) -> bool:
    return len(server.requests) == 4


def all_closed(server: MockServer) -> bool:
    return server.open == 0


def ask(lm: LM, n: int = 1, output: type[Schema] = Answer, keep: bool = False) -> list[Any]:
    async def scenario() -> list[Any]:
        module = Predict(Ask, output)
        with using(lm=lm):
            calls = [module(Ask(question=f"q{i}")) for i in range(n)]
            done: list[Any] = list(await asyncio.gather(*calls, return_exceptions=keep))
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return done

    return asyncio.run(scenario())


def test_many_calls_at_once_stay_within_the_limit() -> None:
    with MockServer(plain, latency=0.01) as server:
        assert ask(served(server, concurrency=4), 40) == [Answer(answer="7")] * 40
        assert server.most_open <= 4
        assert len(server.requests) == 40


@pytest.mark.parametrize("date", [False, True])
def test_a_busy_server_is_waited_for(date: bool) -> None:
    with MockServer(plain, faults=[Fault("status", status=429, retry_after=1, date=date, attempts=1)]) as server:
        begun = time.monotonic()
        with trace() as t:
            ask(served(server))
        assert (t.attempts, len(server.requests)) == (2, 2)
        # A date has whole seconds, so up to one of them may have passed already.
        assert time.monotonic() - begun >= (0.0 if date else 1.0)


def test_clients_close_with_their_loop(caplog: pytest.LogCaptureFixture) -> None:
    with MockServer(plain) as server:
        for _ in range(3):
            ask(served(server), 5)
            assert server.wait_until(all_closed)
    assert not caplog.records


def test_a_busy_server_without_a_hint_is_tried_again() -> None:
    with MockServer(plain, faults=[Fault("status", status=429, attempts=1)]) as server, trace() as t:
        ask(served(server))
    assert t.attempts == 2


@pytest.mark.parametrize(
    ("fault", "error", "sent", "uncertain"),
    [
        (Fault("status", status=429, retry_after=0), RateLimited, "yes", False),
        (Fault("status", status=500, retry_after=0), ServerError, "yes", False),
        (Fault("status", status=401), RequestRejected, "yes", False),
        (Fault("hang"), CallTimeout, "maybe", True),
        (Fault("hang_body"), LMError, None, True),
        (Fault("truncate"), LMError, "yes", True),
        (Fault("reset"), ServerError, "maybe", True),
        (Fault("reset_body"), LMError, None, True),
        (Fault("not_json"), LMError, "yes", True),
        (Fault("shape"), LMError, "yes", True),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else None,
)
def test_a_fault_is_an_error_that_says_what_happened(
    fault: Fault, error: type[LMError], sent: str | None, uncertain: bool
) -> None:
    from dspex.executor.budget import BudgetAccount
    from dspex.program.context import bounded

    caps = BudgetAccount(Budget(calls=10))
    with MockServer(plain, faults=[fault]) as server:
        with bounded(account=caps), pytest.raises(error) as caught:
            ask(served(server, retries=0, timeout=0.3))
        assert caught.value.attempts == 1
        assert sent is None or caught.value.sent == sent
        assert caps.reserved.calls == 0
        assert (caps.uncertain.calls, caps.settled.calls) == ((1, 0) if uncertain else (0, 1))


def test_a_server_that_is_down_gives_the_budget_back() -> None:
    server = MockServer(plain)
    server.start()
    lm = served(server, retries=1)
    server.stop()
    with using(lm=lm), trace() as t, pytest.raises(ConnectError) as caught:
        Predict(Ask, Answer).run(Q, budget=Budget(calls=1))
    assert (caught.value.sent, caught.value.attempts) == ("no", 2)
    assert t.usd == 0.0


def test_one_bad_request_of_many_fails_alone() -> None:
    with MockServer(plain, faults=[Fault("status", status=400, at=5)]) as server:
        done = ask(served(server, concurrency=8), 20, keep=True)
    assert sum(isinstance(one, RequestRejected) for one in done) == 1
    assert sum(isinstance(one, Answer) for one in done) == 19


def test_wrong_output_is_repaired_or_an_error() -> None:
    replies = ["seven", "7"]
    with MockServer(lambda request: replies[min(request.number, 1)]) as server:
        assert ask(served(server), output=Count) == [Count(count=7)]
        assert len(server.requests) == 2
    with MockServer(lambda request: "seven") as server, pytest.raises(OutputError, match="DX4601"):
        ask(served(server), output=Count)


def test_choices_are_enforced_when_the_server_can() -> None:
    with MockServer() as server:
        assert ask(served(server, capabilities=Capabilities(json_schema=True, choices=True)), output=Label)
        assert "enum" in str(server.requests[0].body["response_format"])


def test_cached_answers_need_no_server() -> None:
    with MockServer(plain) as server:
        lm = served(server, cache="on")
        ask(lm, 3)
        assert len(server.requests) == 3
    with trace() as t:
        assert ask(lm, 3) == [Answer(answer="7")] * 3
    assert (t.attempts, t.cached) == (0, 3)


def test_cancelled_calls_leave_no_socket_and_no_slot() -> None:
    with MockServer(plain, faults=[Fault("hang")]) as server:
        lm = served(server, concurrency=4)

        async def scenario() -> None:
            with using(lm=lm):
                tasks = [asyncio.ensure_future(Predict(Ask, Answer)(Ask(question=str(i)))) for i in range(8)]
                loop = asyncio.get_running_loop()
                assert await loop.run_in_executor(None, server.wait_until, all_arrived)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                gate = await models.gate_for(lm)
                limit = gate.routes[0].limit
                assert limit is not None
                assert (limit.active, limit.waiting) == (0, 0)
                assert await loop.run_in_executor(None, server.wait_until, all_closed)

        asyncio.run(scenario())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_clients_and_a_cache_of_its_own(tmp_path: Path) -> None:
    with MockServer(plain, latency=0.005) as server:
        body = f"""
        import os
        from dspex.lm.model import LM
        from dspex.lm.types import FREE
        from dspex.program.context import using
        from dspex.program.modules import Predict
        from dspex.program.schema import Schema

        class Ask(Schema):
            question: str

        class Answer(Schema):
            answer: str

        module = Predict(Ask, Answer)
        with using(lm=LM("openai/mock", base_url={server.url!r}, price=FREE, cache="on")):
            xs = [Ask(question=str(i)) for i in range(30)]
            assert len(module.batch(xs)) == 30
            children = []
            for n in range(3):
                child = os.fork()
                if child == 0:
                    code = 1
                    try:
                        mine = [Ask(question=f"{{n}}:{{i}}") for i in range(30)]
                        code = 0 if len(module.batch(xs + mine)) == 60 else 2
                    finally:
                        os._exit(code)
                children.append(child)
            assert len(module.batch([Ask(question=f"parent {{i}}") for i in range(30)])) == 30
            assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
        print("all well")
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(body)],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "DSPEX_CACHE_DIR": str(tmp_path / "cache")},
            check=False,
        )
        assert (done.stdout.strip(), done.returncode) == ("all well", 0), done.stderr
        # What the parent had asked came to the children from the cache.
        assert len(server.requests) == 30 + 30 + 3 * 30
