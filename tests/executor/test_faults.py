"""The whole call path, from a program to a server that really misbehaves.

In every case: one coded error with the server's words, or the right answer; no attempt that is not accounted for as
the server's ledger has it; no task and no connection left behind.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest

from dspex.errors import BudgetExceeded, CallTimeout, ConnectError, LMError, RateLimited, Sent
from dspex.executor import models
from dspex.executor.budget import BudgetAccount
from dspex.executor.streaming import stream
from dspex.lm.model import LM
from dspex.lm.spend import Budget
from dspex.lm.types import LMRequest, LMResponse, Message, Price
from dspex.program.context import Context, bounded, trace, using
from dspex.program.modules import Predict
from dspex.program.schema import Schema
from dspex.testing import Fault, MockRequest, MockServer
from tests.providers.raw_server import RawConnection, RawServer, answering, server_tls

PRICE = Price(1.0, 2.0)


class Ask(Schema):
    question: str


class Answer(Schema):
    answer: str


@pytest.fixture(autouse=True)
def fresh_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("DSPEX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(models, "_shared", models._Shared())  # pyright: ignore[reportPrivateUsage]
    # How long a call backs off is tested on its own; here it only has to.
    monkeypatch.setattr(models, "RetryPolicy", partial(models.RetryPolicy, base=0.02))
    yield
    models.response_cache().close()


def served(server: MockServer | RawServer, **options: Any) -> LM:
    options = {"cache": "off", "price": PRICE, "retries": 3, "timeout": 20.0, "breaker": False, **options}
    return LM("openai/mock", base_url=server.url, **options)


def echo(request: MockRequest) -> str:
    """An answer that names its question, so that no answer can be taken for another."""
    return f"re {request.text.split()[-1]}"


@dataclass
class Done:
    """What came of some calls made at once.

    Attributes:
        results: An answer or an error for each.
        attempts: Sent for all of them.
        account: What they cost.
    """

    results: list[Any]
    attempts: int
    account: BudgetAccount

    @property
    def error(self) -> LMError:
        (error,) = self.results
        assert isinstance(error, LMError)
        return error


def ask(lm: LM, n: int = 1, budget: Budget | None = None, seconds: float | None = None) -> Done:
    account = BudgetAccount(budget or Budget())

    async def scenario() -> list[Any]:
        module = Predict(Ask, Answer)
        deadline = None if seconds is None else time.monotonic() + seconds
        with using(lm=lm), bounded(account=account, deadline=deadline):
            calls = [module(Ask(question=f"q{i}")) for i in range(n)]
            results: list[Any] = list(await asyncio.gather(*calls, return_exceptions=True))
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return results

    with trace() as t:
        results = asyncio.run(scenario())
    assert account.reserved.calls == 0
    return Done(results, t.attempts, account)


def all_closed(server: MockServer) -> bool:
    return server.open == 0


# ----------------------------------------------------------------- one call, one fault, one error

Cost = Literal["nothing", "a call", "uncertain"]


@pytest.mark.parametrize(
    ("fault", "code", "sent", "cost"),
    [
        (Fault("status", status=400, message="no such field"), "DX4205", "yes", "a call"),
        (Fault("status", status=401, message="who are you"), "DX4202", "yes", "a call"),
        (Fault("status", status=403, message="not yours"), "DX4203", "yes", "a call"),
        (Fault("status", status=404, message="no such model"), "DX4204", "yes", "a call"),
        (Fault("status", status=429, message="slow down"), "DX4207", "yes", "a call"),
        (Fault("status", status=500, message="out of order"), "DX4208", "yes", "a call"),
        (Fault("status", status=503, message="full"), "DX4208", "yes", "a call"),
        (Fault("status", status=529, message="overloaded"), "DX4208", "yes", "a call"),
        (Fault("context_length", message="too many tokens"), "DX4209", "yes", "a call"),
        (Fault("content_filter", message="not allowed"), "DX4210", "yes", "a call"),
        (Fault("quota", message="pay first"), "DX4207", "yes", "a call"),
        (Fault("redirect", status=308), "DX4206", "yes", "a call"),
        (Fault("hang"), "DX4105", "maybe", "uncertain"),
        (Fault("hang_head"), "DX4105", "yes", "uncertain"),
        (Fault("hang_body"), "DX4105", "yes", "uncertain"),
        (Fault("drip", delay=0.05), "DX4105", "yes", "uncertain"),
        (Fault("long_length"), "DX4105", "yes", "uncertain"),
        (Fault("close"), "DX4106", "maybe", "uncertain"),
        (Fault("reset"), "DX4106", "maybe", "uncertain"),
        (Fault("reset_body"), "DX4107", "yes", "uncertain"),
        (Fault("truncate"), "DX4107", "yes", "uncertain"),
        (Fault("not_http"), "DX4108", "yes", "uncertain"),
        (Fault("huge"), "DX4109", "yes", "uncertain"),
        (Fault("short_length"), "DX4301", "yes", "uncertain"),
        (Fault("not_json"), "DX4301", "yes", "uncertain"),
        (Fault("not_utf8"), "DX4301", "yes", "uncertain"),
        (Fault("shape"), "DX4302", "yes", "uncertain"),
    ],
    ids=lambda value: f"{value.kind}-{value.status}" if isinstance(value, Fault) else None,
)
def test_a_fault_is_one_coded_error_that_is_accounted_for(fault: Fault, code: str, sent: Sent, cost: Cost) -> None:
    with MockServer(echo, faults=[fault]) as server:
        done = ask(served(server, retries=0, timeout=0.5))
        assert server.wait_until(all_closed)
        assert len(server.requests) == 1
    assert (done.error.code, done.error.sent, done.error.attempts) == (code, sent, 1)
    assert fault.message in done.error.message
    assert done.error.where is not None
    assert done.error.where.startswith(server.url)
    counted = (done.account.settled.calls, done.account.uncertain.calls)
    assert counted == {"nothing": (0, 0), "a call": (1, 0), "uncertain": (0, 1)}[cost]
    assert done.account.settled.output_tokens == 0


def unsent(lm: LM, code: str) -> LMError:
    done = ask(lm)
    assert isinstance(done.error, ConnectError)
    assert (done.error.code, done.error.sent) == (code, "no")
    assert (done.account.settled.calls, done.account.uncertain.calls) == (0, 0)
    return done.error


def test_a_server_that_is_not_there_costs_nothing() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        error = unsent(LM("openai/mock", base_url=url, retries=1, price=PRICE, cache="off"), "DX4101")
    assert error.attempts == 2


def test_a_host_without_an_address_costs_nothing() -> None:
    unsent(LM("openai/mock", base_url="http://models.invalid/v1", retries=0, price=PRICE, cache="off"), "DX4101")


def test_a_certificate_that_is_not_trusted_costs_nothing_and_is_not_tried_again() -> None:
    with RawServer(answering, tls=server_tls()) as server:
        assert unsent(served(server), "DX4102").attempts == 1
        assert not server.requests


def test_a_proxy_that_refuses_costs_nothing() -> None:
    def play(server: RawServer, connection: RawConnection) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")

    with RawServer(play) as proxy:
        lm = LM("openai/mock", base_url="https://models.invalid/v1", price=PRICE, cache="off", proxy=proxy.url)
        assert "Who are you" in unsent(lm, "DX4110").message


# ----------------------------------------------------------------- many calls, some faults, every answer


@pytest.mark.parametrize(
    ("fault", "ambiguous"),
    [
        (Fault("status", status=429, retry_after=0, attempts=1), False),
        (Fault("status", status=500, attempts=2), False),
        (Fault("status", status=529, share=0.3, attempts=1), False),
        (Fault("hang", share=0.3, attempts=1), True),
        (Fault("hang_body", share=0.3, attempts=1), True),
        (Fault("drip", delay=0.1, share=0.3, attempts=1), True),
        (Fault("close", attempts=1), True),
        (Fault("reset", attempts=1), True),
        (Fault("reset_body", attempts=1), True),
        (Fault("truncate", attempts=1), True),
        (Fault("short_length", attempts=1), True),
        (Fault("not_utf8", attempts=1), True),
        (Fault("not_http", attempts=1), True),
        (Fault("half_close"), None),
    ],
    ids=lambda value: f"{value.kind}-{value.status}" if isinstance(value, Fault) else None,
)
def test_no_answer_is_lost_and_every_attempt_is_counted(fault: Fault, ambiguous: bool | None) -> None:
    n = 16
    with MockServer(echo, faults=[fault]) as server:
        done = ask(served(server, concurrency=8, timeout=1.5), n)
        assert server.wait_until(all_closed)
        totals = server.totals()
        requests = len(server.requests)
    assert done.results == [Answer(answer=f"re q{i}") for i in range(n)]
    met = done.attempts - n
    if ambiguous is None:
        # A request may cross the end of its connection on the way; whether it arrived the client cannot know.
        assert n <= requests <= done.attempts
    else:
        assert met > 0
        assert done.attempts == requests
    assert done.account.uncertain.calls == (0 if ambiguous is False else met)
    assert done.account.settled.calls + done.account.uncertain.calls == done.attempts
    # The tokens that are known are exactly those of the answers that the server sent whole.
    settled = done.account.settled
    assert (settled.input_tokens, settled.output_tokens) == (totals.usage.input_tokens, totals.usage.output_tokens)
    assert totals.completed == n


def test_ambiguous_attempts_are_not_repeated_where_that_is_the_policy() -> None:
    with MockServer(echo, faults=[Fault("reset", attempts=1, every=2)]) as server:
        done = ask(served(server, retry_ambiguous=False), 10)
        lost = [one for one in done.results if isinstance(one, LMError)]
        assert len(server.requests) == 10
    assert {error.code for error in lost} == {"DX4106"}
    assert done.account.uncertain.calls == len(lost) > 0
    assert done.account.settled.calls == 10 - len(lost)


@pytest.mark.parametrize("wait", [None, 0.2])
@pytest.mark.parametrize("status", [429, 500, 529])
def test_a_storm_passes_over(status: int, wait: float | None) -> None:
    storm = Fault("status", status=status, retry_after=wait, until=12)
    with MockServer(echo, faults=[storm]) as server:
        done = ask(served(server, concurrency=8, retries=8), 20)
        assert len(server.requests) == 32
    assert done.results == [Answer(answer=f"re q{i}") for i in range(20)]
    assert (done.account.settled.calls, done.account.uncertain.calls) == (32, 0)


def test_a_budget_holds_while_attempts_fail_and_answers_are_ambiguous() -> None:
    faults = [Fault("reset", share=0.3), Fault("status", status=500, share=0.2)]
    with MockServer(echo, faults=faults) as server:
        done = ask(served(server, concurrency=8), 40, Budget(calls=20))
        assert len(server.requests) <= 20
    assert done.account.settled.calls + done.account.uncertain.calls == len(server.requests)
    assert any(isinstance(one, BudgetExceeded) for one in done.results)
    assert any(isinstance(one, Answer) for one in done.results)


def test_a_deadline_ends_calls_to_a_server_that_hangs() -> None:
    with MockServer(echo, faults=[Fault("hang", every=2)]) as server:
        done = ask(served(server, concurrency=4), 12, seconds=1.0)
        assert server.wait_until(all_closed)
        requests = len(server.requests)
    late = [one for one in done.results if isinstance(one, CallTimeout)]
    assert {error.code for error in late} == {"DX4702"}
    assert len(late) + done.results.count(None) <= 12
    assert done.account.settled.calls + done.account.uncertain.calls == requests


def test_answers_that_were_stored_are_not_paid_again() -> None:
    with MockServer(echo, faults=[Fault("status", status=400, every=3)]) as server:
        lm = served(server, cache="on")
        first = ask(lm, 12)
        answered = [one for one in first.results if isinstance(one, Answer)]
        assert 0 < len(answered) < 12
        server.faults = ()
        again = ask(lm, 12)
        assert again.results == [Answer(answer=f"re q{i}") for i in range(12)]
        assert again.attempts == 12 - len(answered)


# ----------------------------------------------------------------- streams

REQUEST = LMRequest((Message("user", "one two three four five six seven eight nine ten"),))


def read(lm: LM) -> tuple[str, LMResponse | LMError, BudgetAccount]:
    account = BudgetAccount(Budget())
    shown: list[str] = []

    async def scenario() -> LMResponse | LMError:
        gate = await models.gate_for(lm)
        end: LMResponse | LMError | None = None
        try:
            async for part in stream(gate, REQUEST, Context(account=account)):
                if hasattr(part, "text"):
                    shown.append(part.text)  # type: ignore[union-attr]
                else:
                    end = part.response
        except LMError as error:
            end = error
        for _ in range(5):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert end is not None
        return end

    end = asyncio.run(scenario())
    assert account.reserved.calls == 0
    return "".join(shown), end, account


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("hang_body", "DX4105"),
        ("reset_body", "DX4107"),
        ("truncate", "DX4107"),
        ("no_end", "DX4107"),
        ("error_event", "DX4208"),
    ],
)
def test_a_stream_that_breaks_after_its_first_part_is_not_begun_again(kind: Any, code: str) -> None:
    with MockServer(lambda request: request.text, faults=[Fault(kind)]) as server:
        shown, end, account = read(served(server, timeout=1.0))
        assert server.wait_until(all_closed)
        assert len(server.requests) == 1
    assert shown
    assert REQUEST.messages[0].content.startswith(shown)
    assert isinstance(end, LMError)
    assert (end.code, end.sent, end.attempts) == (code, "yes", 1)
    assert account.settled.calls + account.uncertain.calls == 1


@pytest.mark.parametrize("kind", ["hang", "hang_head", "close", "reset", "not_json", "not_http"])
def test_a_stream_that_breaks_before_its_first_part_is_begun_again(kind: Any) -> None:
    with MockServer(lambda request: request.text, faults=[Fault(kind, attempts=1)]) as server:
        shown, end, account = read(served(server, timeout=1.0))
        assert server.wait_until(all_closed)
        assert len(server.requests) == 2
    assert shown == REQUEST.messages[0].content
    assert isinstance(end, LMResponse)
    assert end.text == shown
    assert (account.settled.calls, account.uncertain.calls) == (1, 1)


# ----------------------------------------------------------------- this machine misbehaves


def test_a_stalled_event_loop_loses_no_answer() -> None:
    with MockServer(echo, latency=0.05) as server:

        async def stall() -> None:
            for _ in range(3):
                # What a call of blocking code in the loop does, for longer than an attempt may take.
                time.sleep(0.6)  # noqa: ASYNC251
                await asyncio.sleep(0)

        account = BudgetAccount(Budget())

        async def scenario() -> list[Any]:
            module = Predict(Ask, Answer)
            with using(lm=served(server, concurrency=4, timeout=0.5, retries=8)), bounded(account=account):
                work = asyncio.gather(*(module(Ask(question=f"q{i}")) for i in range(8)))
                await asyncio.sleep(0)
                await stall()
                return list(await work)

        assert asyncio.run(scenario()) == [Answer(answer=f"re q{i}") for i in range(8)]
        assert account.settled.calls + account.uncertain.calls == len(server.requests)
        assert server.wait_until(all_closed)


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_a_wrong_clock_changes_nothing(jump: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def play(server: RawServer, connection: RawConnection) -> None:
        while connection.request():
            server.requests.append(b"")
            if len(server.requests) == 1:
                # The server's clock is right, and what it asks for is one second.
                connection.send(
                    b"HTTP/1.1 429 Slow down\r\nDate: Mon, 02 Nov 2026 10:00:00 GMT\r\n"
                    b"Retry-After: Mon, 02 Nov 2026 10:00:01 GMT\r\nContent-Length: 2\r\n\r\n{}"
                )
                continue
            body = b'{"choices":[{"message":{"content":"re q0"},"finish_reason":"stop"}]}'
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + jump)
    with RawServer(play) as server:
        done = ask(served(server))
        assert len(server.requests) == 2
    assert done.results == [Answer(answer="re q0")]


def test_a_server_that_asks_for_a_day_is_not_waited_for() -> None:
    with MockServer(echo, faults=[Fault("status", status=429, retry_after=86400)]) as server:
        done = ask(served(server))
        assert len(server.requests) == 1
    assert isinstance(done.error, RateLimited)
    assert done.error.retry_after == 86400
    assert "86400 s" in done.error.message


def test_a_damaged_cache_fails_no_call(caplog: pytest.LogCaptureFixture) -> None:
    with MockServer(echo) as server:
        lm = served(server, cache="on")
        ask(lm, 3)
        cache = models.response_cache()
        cache.close()
        cache.memory.clear()
        (path,) = [path for path in Path(os.environ["DSPEX_CACHE_DIR"]).rglob("*") if path.suffix in (".db", ".sqlite")]
        path.write_bytes(b"damaged" * 4096)
        models._shared = models._Shared()  # pyright: ignore[reportPrivateUsage]
        assert ask(lm, 3).results == [Answer(answer=f"re q{i}") for i in range(3)]


SCRIPT = """
import asyncio, sys
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
lm = LM("openai/mock", base_url=sys.argv[1], price=FREE, concurrency=512, cache=sys.argv[2], breaker=False)
try:
    with using(lm=lm):
        print(len(module.batch([Ask(question=f"q{i}") for i in range(int(sys.argv[3]))], concurrency=512)))
except KeyboardInterrupt:
    print("interrupted")
"""


def child(server: MockServer, cache: str, n: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), server.url, cache, str(n)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_ends_with_512_calls_in_flight_leaves_no_connection(end: signal.Signals) -> None:
    with MockServer(echo, faults=[Fault("hang")]) as server:
        with child(server, "off", 512) as process:
            assert server.wait_until(lambda s: len(s.requests) == 512, 60)
            process.send_signal(end)
            out, err = process.communicate(timeout=60)
        assert server.wait_until(all_closed)
    if end == signal.SIGINT:
        assert (process.returncode, out, err) == (0, "interrupted\n", "")


def test_a_killed_process_pays_nothing_again_that_it_had_stored() -> None:
    n = 200
    with MockServer(echo, faults=[Fault("hang", at=150)]) as server:
        with child(server, "on", n) as process:
            # All but the one that hangs are answered, and then the process goes without a word.
            assert server.wait_until(lambda s: s.totals().completed == n - 1, 60)
            process.kill()
            process.communicate(timeout=60)
        before = len(server.requests)
        with child(server, "on", n) as process:
            out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, f"{n}\n", "")
        asked = [request.digest for request in server.requests]
    # What came at the very end need not have been stored, and nothing was paid a third time.
    assert before == n
    assert 1 <= len(asked) - before <= n
    assert max(asked.count(digest) for digest in asked) <= 2
