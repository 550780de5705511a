"""Faults of the whole process and of its machine, from a program down to the cache's file.

What a process had in hand when it ended is read back from its cache: a second process asks for exactly the rest.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dspex.errors import CallTimeout, ConnectError, LMError
from dspex.executor import models
from dspex.lm.model import LM
from dspex.program.context import using
from dspex.program.modules import Predict
from dspex.stores.cache import ResponseCache
from dspex.testing import Fault, MockRequest, MockServer, ServerProcess
from tests.executor.test_faults import PRICE, Answer, Ask, all_closed, ask, echo, fresh_models, served
from tests.providers.raw_server import RawConnection, RawServer

__all__ = ["fresh_models"]

PRELUDE = """
import asyncio, os, sys
from dspex.executor import models
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
lm = LM("openai/mock", base_url=sys.argv[1], price=FREE, concurrency=512, breaker=False)

def asks(begin, end):
    return [Ask(question=f"q{n}") for n in range(begin, end)]
"""


def child(server: MockServer, script: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [*prefix, sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(script), server.url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def number(request: MockRequest) -> int:
    return int(request.text.split()[-1].removeprefix("q"))


def stored(folder: Path) -> int:
    """Sound answers in the only cache below `folder`."""
    (path,) = folder.rglob("*.db")
    with ResponseCache(path) as cache:
        found = cache.check()
    assert (found.dropped, found.aside) == (0, None)
    return found.sound


ALL = "with using(lm=lm): print(len(module.batch(asks(0, 512), concurrency=512)))"


def test_an_interrupt_with_512_calls_in_flight_leaves_nothing_and_loses_no_answer(tmp_path: Path) -> None:
    script = """
    async def one(x):
        await module(x)
        print(x.question, flush=True)

    async def flight():
        with using(lm=lm):
            await asyncio.gather(*map(one, asks(0, 512)))

    try:
        asyncio.run(flight())
    except KeyboardInterrupt:
        links = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if int(n) > 2 and
                 os.path.exists(f"/proc/self/fd/{n}")] if os.path.isdir("/proc/self/fd") else []
        print("sockets", sum(link.startswith("socket:") for link in links))
    """
    # Half of them are answered only in the second process.
    with MockServer(echo, faults=[Fault("hang", every=2, until=512)]) as server:
        with child(server, script) as process:
            assert process.stdout is not None
            had = {process.stdout.readline().strip() for _ in range(256)}
            assert server.wait_until(lambda s: len(s.requests) == 512, 60)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "sockets 0\n", "")
        assert server.wait_until(all_closed)
        assert stored(tmp_path) == 256
        with child(server, ALL) as process:
            out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "512\n", "")
        again = [f"q{number(request)}" for request in server.requests[512:]]
    assert len(again) == 256
    assert had.isdisjoint(again)


@pytest.mark.parametrize("after", [0, 100, 300])
def test_a_process_killed_within_a_batch_buys_nothing_twice_that_was_committed(after: int, tmp_path: Path) -> None:
    script = """
    with using(lm=lm):
        module.batch(asks(0, 60))
        models.response_cache().disk.flush()
        print("committed", flush=True)
        module.batch(asks(60, 512), concurrency=32)
    """
    with MockServer(echo, faults=[Fault("hang", at=60 + after)]) as server:
        with child(server, script) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "committed\n"
            assert server.wait_until(lambda s: len(s.requests) > 60 + after, 60)
            process.kill()
            process.communicate(timeout=60)
        assert server.wait_until(all_closed)
        before = len(server.requests)
        kept = stored(tmp_path)
        assert kept >= 60
        with child(server, ALL) as process:
            out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "512\n", "")
        bought = Counter(number(request) for request in server.requests)
        assert len(server.requests) - before == 512 - kept
    assert max(bought.values()) <= 2
    assert all(bought[n] == 1 for n in range(60))


def _may_mount() -> bool:
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not _may_mount(), reason="no file system may be mounted here")
def test_a_disk_that_fills_up_under_the_cache_costs_no_answer(tmp_path: Path) -> None:
    script = """
    import subprocess
    folder = os.environ["DSPEX_CACHE_DIR"]
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=True)
    with using(lm=lm):
        module.batch(asks(0, 20))
        models.response_cache().disk.flush()
        filler = os.open(f"{folder}/filler", os.O_WRONLY | os.O_CREAT)
        try:
            while True:
                os.write(filler, b"x" * 4096)
        except OSError:
            os.close(filler)
        print(len(module.batch(asks(0, 80))))
    """
    with MockServer(lambda request: f"{echo(request)} {os.urandom(4000).hex()}") as server:
        process = child(server, script, ("unshare", "--user", "--map-root-user", "--mount"))
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "80\n"), err
        assert len(server.requests) == 80
    assert err.count("cannot be written") == 1


# ----------------------------------------------------------------- the server and the network


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_loop_is_one_request_and_one_error(status: int) -> None:
    with MockServer(echo) as one, MockServer(echo) as other:
        one.faults = (Fault("redirect", status=status, location=f"{other.url}/chat/completions"),)
        other.faults = (Fault("redirect", status=status, location=f"{one.url}/chat/completions"),)
        done = ask(served(one))
        assert (len(one.requests), len(other.requests)) == (1, 0)
        assert one.wait_until(all_closed)
    assert (done.error.code, done.error.attempts) == ("DX4206", 1)
    assert done.account.settled.calls == 1


def test_a_body_of_a_gigabyte_that_does_not_say_its_length_is_given_up() -> None:
    chunk = b"%x\r\n%b\r\n" % (1 << 20, b" " * (1 << 20))
    sent: list[int] = []

    def play(server: RawServer, connection: RawConnection) -> None:
        connection.request()
        count = 0
        try:
            connection.socket.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while count < 1024:
                connection.socket.sendall(chunk)
                count += 1
        except OSError:
            # The client has gone, as it should.
            pass
        sent.append(count)
        server.arrived.set()

    with RawServer(play) as server:
        done = ask(served(server, retries=0))
        assert server.arrived.wait(30)
    assert (done.error.code, done.error.sent) == ("DX4109", "yes")
    assert sent[0] < 512
    assert done.account.uncertain.calls == 1


def test_a_name_that_no_server_resolves_is_asked_for_anew_and_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a resolver behaves that is down for a while."""
    resolve, fails = socket.getaddrinfo, iter([True, True])

    def getaddrinfo(host: Any, *rest: Any, **named: Any) -> Any:
        if host == "models.example" and next(fails, False):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve("127.0.0.1" if host == "models.example" else host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with MockServer(echo) as server:
        lm = LM("openai/mock", server.url.replace("127.0.0.1", "models.example"), price=PRICE, cache="off")
        done = ask(lm)
        assert len(server.requests) == 1
    assert done.results == [Answer(answer="re q0")]
    assert (done.account.settled.calls, done.account.uncertain.calls) == (1, 0)


def test_a_resolver_that_hangs_holds_no_call_up(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve, over = socket.getaddrinfo, threading.Event()

    def getaddrinfo(host: Any, *rest: Any, **named: Any) -> Any:
        if host == "models.example":
            over.wait(60)
            host = "127.0.0.1"
        return resolve(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    lm = LM("openai/mock", "http://models.example:9/v1", price=PRICE, cache="off", retries=0, timeout=0.3)
    errors: list[LMError] = []

    async def scenario() -> None:
        try:
            with using(lm=lm):
                await Predict(Ask, Answer)(Ask(question="q0"))
        except LMError as error:
            errors.append(error)
        # The loop waits at its end for threads; the call has ended before the resolver did.
        assert not over.is_set()
        over.set()

    asyncio.run(scenario())
    assert isinstance(errors[0], ConnectError | CallTimeout)
    assert errors[0].sent == "no"


# ----------------------------------------------------------------- clocks


def test_a_clock_that_jumps_at_every_look_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now, jumps = time.time, itertools.cycle([0.0, 86400.0, -86400.0, 3.0e8, -3.0e8])
    monkeypatch.setattr(time, "time", lambda: now() + next(jumps))
    n = 12
    storm = Fault("status", status=429, retry_after=1, date=True, attempts=1, share=0.5)
    # In a process of its own: the server's clock is right, and dates are read by it.
    with ServerProcess(fields={"answer": ["yes"]}, faults=[storm]) as server:
        lm = LM("openai/mock", server.url, price=PRICE, hedge=True, rpm=100_000)
        first = ask(lm, n)
        assert first.results == [Answer(answer="yes")] * n
        before = server.totals()
        assert before.completed == n
        assert before.refused == first.attempts - n > 0
        models.response_cache().memory.clear()
        again = ask(lm, n)
        assert (again.results, again.attempts) == (first.results, 0)
        assert server.totals().requests == before.requests
