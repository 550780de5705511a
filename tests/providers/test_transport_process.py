"""The transport at the edges of a process: exit, loops that were never shut down, fork. Each in a fresh interpreter."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys

import pytest

from dspex.testing import Fault, MockServer

PRELUDE = """
import asyncio, gc, os, sys, threading
from dspex.lm.model import LM
from dspex.lm.types import LMRequest, Message
from dspex.providers import open_model

model = open_model(LM("openai/mock", base_url=sys.argv[1]))
request = LMRequest(messages=(Message("user", "hello"),))

async def ask():
    return (await model.complete(request)).text
"""


def run(server: MockServer, script: str) -> str:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", PRELUDE + script, server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, quiet(done.stderr)) == (0, [])
    return done.stdout


def quiet(errors: str) -> list[str]:
    """Without what asyncio's debug mode, a part of ``-X dev``, tells of slow steps, which says nothing here."""
    return [line for line in errors.splitlines() if not line.startswith("Executing <")]


def test_asyncio_run_closes_everything_although_nobody_closed_the_model() -> None:
    with MockServer() as server:
        out = run(server, "print(asyncio.run(ask())); gc.collect(); print(asyncio.run(ask()))")
        assert out.count("answer") == 2
        assert server.wait_until(lambda s: s.open == 0)


def test_a_loop_in_a_thread_with_calls_in_flight_ends_with_the_process() -> None:
    script = """
async def flight():
    await asyncio.gather(*(ask() for _ in range(8)))

loop = asyncio.new_event_loop()
thread = threading.Thread(target=loop.run_forever, daemon=True)
thread.start()
future = asyncio.run_coroutine_threadsafe(flight(), loop)
sys.stdin.readline()
print("leaving")
"""
    with MockServer(faults=[Fault("hang")]) as server:
        command = [sys.executable, "-c", PRELUDE + script, server.url]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
            assert server.wait_until(lambda s: len(s.requests) == 8, 30)
            out, err = process.communicate("\n", timeout=30)
        assert (process.returncode, out, err) == (0, "leaving\n", "")
        assert server.wait_until(lambda s: s.open == 0)


def test_a_loop_that_is_closed_without_its_shutdown_steps_makes_no_noise() -> None:
    script = """
loop = asyncio.new_event_loop()
print(loop.run_until_complete(ask()))
loop.close()
"""
    with MockServer() as server:
        command = [sys.executable, "-c", PRELUDE + script + "print(asyncio.run(ask()))", server.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("answer") == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_makes_fresh_connections_and_leaves_the_parents_alone() -> None:
    script = """
async def parent():
    print("parent", await ask(), flush=True)
    child = os.fork()
    if child == 0:
        # In the child the parent's loop is only left; a fresh one does the work.
        try:
            asyncio._set_running_loop(None)
            print("child", asyncio.run(ask()), flush=True)
            os._exit(0)
        except BaseException as error:
            print("child failed", repr(error), flush=True)
            os._exit(1)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    print("status", status, flush=True)
    print("parent", await ask(), flush=True)

asyncio.run(parent())
"""
    with MockServer() as server:
        out = run(server, script)
        assert out.count("parent answer") == 2
        assert "child answer" in out
        assert "status 0" in out
        # The parent used one connection all along, the child one of its own.
        assert server.connections == 2


def test_opening_a_model_loads_no_client_library_and_sends_nothing() -> None:
    script = """
print(sorted(name for name in ("httpx", "httpx2", "genai_prices", "numpy") if name in sys.modules))
"""
    with MockServer() as server:
        assert run(server, script) == "[]\n"
        assert server.connections == 0


def test_loops_of_several_threads_use_one_model_at_once() -> None:
    script = """
barrier = threading.Barrier(4)

def work():
    async def several():
        barrier.wait()
        return await asyncio.gather(*(ask() for _ in range(8)))
    answers.append(asyncio.run(several()))

answers = []
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sum(map(len, answers)))
"""
    with MockServer() as server:
        assert run(server, script) == "32\n"
        assert server.wait_until(lambda s: s.open == 0)
        assert len(server.requests) == 32


def test_an_interrupt_with_many_calls_in_flight_leaves_nothing() -> None:
    script = """
from dspex.providers.openai.chat import open_openai

model = open_openai(LM("openai/mock", base_url=sys.argv[1], concurrency=512))

async def flight():
    await asyncio.gather(*(model.complete(request) for _ in range(512)))

try:
    asyncio.run(flight())
except KeyboardInterrupt:
    print("interrupted")
"""
    with MockServer(faults=[Fault("hang")]) as server:
        command = [sys.executable, "-X", "dev", "-W", "error", "-c", PRELUDE + script, server.url]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
            assert server.wait_until(lambda s: len(s.requests) == 512, 60)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        assert (process.returncode, out, quiet(err)) == (0, "interrupted\n", [])
        assert server.wait_until(lambda s: s.open == 0)


@pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="uvloop is optional")
def test_uvloop_serves_as_well() -> None:
    script = """
import uvloop

async def work():
    print(await ask())
    task = asyncio.create_task(ask())
    sys.stdin.readline()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(work())
"""
    with MockServer(faults=[Fault("hang", at=1)]) as server:
        pipe = subprocess.PIPE
        command = [sys.executable, "-X", "dev", "-W", "error", "-c", PRELUDE + script, server.url]
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
            out, err = process.communicate("\n", timeout=60)
        assert (process.returncode, quiet(err)) == (0, [])
        assert out.startswith("answer")
        assert server.wait_until(lambda s: s.open == 0)
