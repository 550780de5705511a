"""The child process of the local model: turns, failures to start, and that it never outlives its users."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from dspex.errors import LocalModelError, ServerError
from dspex.lm.model import LM
from dspex.lm.types import LMRequest
from dspex.providers import local_process
from dspex.providers.local import Check, LocalModel, doctor_checks, open_local
from dspex.providers.local_process import DEATHS, ModelProcess, Turns, environment, processors

ROOT = Path(__file__).parents[2]
ASK = LMRequest(prompt="One, two,", max_tokens=4)
DEADLINE = 30.0

SCRIPT = """
import asyncio, os, sys
from dspex.lm.model import LM
from dspex.lm.types import LMRequest
from dspex.providers.local import open_local
model = open_local(LM("local/smollm2"))
async def ask():
    return (await model.complete(LMRequest(prompt="One, two,", max_tokens=4))).text
text = asyncio.run(ask())
print(model.pid, flush=True)
"""


class Watch:
    """Sees a process end, whoever its parent is."""

    def __init__(self, pid: int) -> None:
        try:
            self._fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._fd = -1

    def ended(self) -> bool:
        if self._fd < 0:
            return True
        ready, _, _ = select.select([self._fd], [], [], DEADLINE)
        os.close(self._fd)
        return bool(ready)


def start(script: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# ------------------------------------------------------------------ turns


def test_turns_are_given_in_order_of_arrival() -> None:
    async def work() -> list[int]:
        turns = Turns()
        order: list[int] = []

        async def one(number: int) -> None:
            async with turns:
                await asyncio.sleep(0)
                order.append(number)

        await asyncio.gather(*(one(number) for number in range(20)))
        return order

    assert asyncio.run(work()) == list(range(20))


@pytest.mark.parametrize("when", ["waiting", "given"])
def test_cancelled_turn_goes_to_the_next(when: str) -> None:
    async def work() -> list[str]:
        turns = Turns()
        order: list[str] = []

        async def one(name: str) -> None:
            async with turns:
                order.append(name)

        async with turns:
            first, second = asyncio.create_task(one("first")), asyncio.create_task(one("second"))
            await asyncio.sleep(0)
            if when == "waiting":
                first.cancel()
        if when == "given":
            # The turn was passed on to the first task, which has not run since.
            first.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        async with turns:
            order.append("third")
        return order

    assert asyncio.run(work()) == ["second", "third"]


def test_turns_hold_over_event_loops_and_threads() -> None:
    turns = Turns()
    inside = 0
    most = 0

    async def one() -> None:
        nonlocal inside, most
        for _ in range(50):
            async with turns:
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                inside -= 1

    async def many() -> None:
        await asyncio.gather(*(one() for _ in range(3)))

    threads = [threading.Thread(target=lambda: asyncio.run(many())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inside, most) == (0, 1)


# ------------------------------------------------------------------ a child that does not start


def fake_library(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    package = folder / "library" / "xllamacpp"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(package.parent), *sys.path])


def failure(tmp_path: Path) -> LocalModelError:
    with pytest.raises(LocalModelError) as caught:
        ModelProcess(tmp_path / "model.gguf").start()
    return caught.value


def test_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    error = failure(tmp_path)
    assert (error.code, error.fix) == ("DX7001", 'pip install "dspex[local]"')
    assert Check("xllamacpp", False, error.message, error.fix) in doctor_checks()


def test_missing_libgomp_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = "libgomp.so.1: cannot open shared object file: No such file or directory"
    fake_library(tmp_path, monkeypatch, f"raise ImportError({message!r})")
    error = failure(tmp_path)
    assert error.code == "DX7002"
    assert "apt-get install libgomp1" in str(error)
    (check,) = [check for check in doctor_checks() if check.name == "libgomp"]
    assert not check.ok
    assert "apt-get install libgomp1" in str(check.fix)


def test_library_that_cannot_be_imported_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_library(tmp_path, monkeypatch, "raise ImportError('GLIBC_2.99 not found')")
    error = failure(tmp_path)
    assert error.code == "DX7006"
    assert "GLIBC_2.99 not found" in str(error)


def test_child_that_crashes_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = "import os, sys; print('last words', file=sys.stderr); os.abort()"
    fake_library(tmp_path, monkeypatch, crash)
    error = failure(tmp_path)
    assert error.code == "DX7006"
    assert "SIGABRT" in str(error)
    assert "last words" in str(error)


def test_file_that_is_no_model_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("importlib.metadata").version("xllamacpp")
    path = tmp_path / "model.gguf"
    path.write_bytes(b"this is no model")
    with pytest.raises(LocalModelError) as caught:
        ModelProcess(path).start()
    assert caught.value.code == "DX7006"


def test_child_has_an_environment_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    made = environment()
    assert (made["OMP_WAIT_POLICY"], made["GOMP_SPINCOUNT"]) == ("passive", "0")
    assert not {"HTTPS_PROXY", "PYTHONPATH"} & set(made)
    assert 1 <= processors() <= 8


# ------------------------------------------------------------------ a child that ends


@pytest.mark.model
def test_two_models_share_a_child_until_the_last_is_closed(model_file: Path) -> None:
    async def work() -> None:
        one, two = open_local(LM("local/smollm2")), open_local(LM("local/smollm2", timeout=30.0))
        await asyncio.gather(one.complete(ASK), two.complete(ASK))
        pid = one.pid
        assert pid is not None
        assert pid == two.pid
        await one.aclose()
        assert (await two.complete(ASK)).text
        assert two.pid == pid
        await two.aclose()
        assert Watch(pid).ended()

    asyncio.run(work())


@pytest.mark.model
def test_model_that_is_forgotten_ends_its_child(model_file: Path) -> None:
    async def work() -> int:
        model = open_local(LM("local/smollm2"))
        await model.complete(ASK)
        assert model.pid is not None
        return model.pid

    watch = Watch(asyncio.run(work()))
    gc.collect()
    assert watch.ended()


@pytest.mark.model
def test_killed_child_is_a_retryable_error_and_started_again(model_file: Path) -> None:
    async def work() -> None:
        model = open_local(LM("local/smollm2"))
        try:
            for _ in range(DEATHS):
                await _kill_in_flight(model)
            with pytest.raises(LocalModelError, match="dspex doctor") as caught:
                await model.complete(ASK)
            assert caught.value.code == "DX7008"
        finally:
            await model.aclose()

    asyncio.run(work())


async def _kill_in_flight(model: LocalModel) -> None:
    before = await model.complete(ASK)
    assert before.text
    pid = model.pid
    assert pid is not None
    # A stopped child takes the request and does not answer, so the call is in flight when it is killed.
    os.kill(pid, signal.SIGSTOP)
    call = asyncio.create_task(model.complete(ASK))
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ServerError, match="SIGKILL") as caught:
        await call
    assert caught.value.code == "DX7007"
    assert caught.value.retryable


def test_how_a_child_ended_is_known_while_another_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    process = ModelProcess(tmp_path)
    told: list[str | None] = []

    def launch(_: object) -> tuple[subprocess.Popen[bytes], None, dict[str, object]]:
        # Whoever had asked the child before hears of its death only now.
        told.append(process.ended(0))
        return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE), None, {"url": "http://x"}

    monkeypatch.setattr(local_process, "launch", launch)
    try:
        process.start()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        assert "SIGKILL" in (process.ended(DEADLINE) or "")
        process.start()
    finally:
        process.stop()
    assert told[0] == "it was closed"
    assert "SIGKILL" in (told[1] or "")
    assert process.ended(0) == "it was closed"


@pytest.mark.model
def test_killed_child_ends_a_stream_with_an_error(model_file: Path) -> None:
    async def work() -> None:
        model = open_local(LM("local/smollm2", extra={"ignore_eos": True}))
        stream = model.stream(LMRequest(prompt="One, two,", max_tokens=4000))
        waiting = open_local(LM("local/smollm2"))
        try:
            assert (await anext(stream)).text
            call = asyncio.create_task(waiting.complete(ASK))
            assert model.pid is not None
            os.kill(model.pid, signal.SIGKILL)
            with pytest.raises(ServerError, match="SIGKILL") as caught:
                _ = [part async for part in stream]
            assert (caught.value.code, caught.value.sent, caught.value.retryable) == ("DX7007", "yes", True)
            # It was sent to the child that died, or it came later and started another.
            (other,) = await asyncio.gather(call, return_exceptions=True)
            assert getattr(other, "code", "DX7007") == "DX7007"
            assert (await model.complete(replace(ASK, max_tokens=2))).text
        finally:
            await stream.aclose()
            await model.aclose()
            await waiting.aclose()

    asyncio.run(work())


@pytest.mark.model
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda n: n.name)
def test_child_ends_when_its_parent_is_killed(model_file: Path, number: signal.Signals) -> None:
    with start(SCRIPT + "sys.stdin.read()") as parent:
        watch = Watch(int(line(parent)))
        parent.send_signal(number)
        assert watch.ended()


@pytest.mark.model
def test_child_ends_when_its_parent_exits_without_closing(model_file: Path) -> None:
    with start(SCRIPT + "sys.stdin.readline()") as parent:
        watch = Watch(int(line(parent)))
        assert parent.stdin is not None
        parent.stdin.write("\n")
        parent.stdin.flush()
        assert watch.ended()
        assert parent.wait(DEADLINE) == 0


@pytest.mark.model
def test_forked_process_has_a_child_of_its_own(model_file: Path) -> None:
    script = f"""{SCRIPT}
import warnings
warnings.simplefilter("ignore")
mine = model.pid
forked = os.fork()
if forked == 0:
    assert model.pid is None
    assert asyncio.run(ask()) == text
    print(model.pid, flush=True)
    sys.stdin.readline()
    os._exit(0)
os.read(0, 1)
assert asyncio.run(ask()) == text and model.pid == mine
print("same", flush=True)
sys.stdin.read()
"""
    with start(script) as parent:
        assert parent.stdin is not None
        first, second = int(line(parent)), int(line(parent))
        assert first != second
        watches = Watch(first), Watch(second)
        parent.stdin.write("x")
        parent.stdin.flush()
        assert line(parent) == "same"
        # The fork still runs. It must not keep the child of its dead parent alive.
        parent.kill()
        assert watches[0].ended()
        parent.stdin.close()
        assert watches[1].ended()
