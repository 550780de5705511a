"""From synchronous code into programs: one loop, any place, and a clean end."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from dspex.errors import CallTimeout, OutputError, UsageError
from dspex.executor import runner
from dspex.executor.loops import LoopThread
from dspex.lm.spend import Budget
from dspex.lm.types import LMRequest, LMResponse
from dspex.program.context import current, trace, using
from dspex.program.modules import Predict
from dspex.program.program import Program
from dspex.program.schema import Schema
from dspex.providers.scripted import ScriptedLM
from tests.executor.models import StepsLM


class Ask(Schema):
    question: str


class Answer(Schema):
    answer: str


def echo(request: LMRequest) -> dict[str, object]:
    return {"answer": request.messages[-1].content}


def test_run_works_in_a_script_in_a_loop_in_a_thread_and_nested() -> None:
    module = Predict(Ask, Answer)
    with using(lm=ScriptedLM(echo)):
        assert module.run(Ask(question="a")).answer == "a"

        async def inside() -> str:
            # A loop runs here: a notebook, a synchronous metric.
            return module.run(Ask(question="b")).answer

        assert asyncio.run(inside()) == "b"

        async def deeper() -> str:
            # This is dspex's own loop.
            return module.run(Ask(question="c")).answer

        assert runner.wait_for(deeper) == "c"

        async def both() -> str:
            return await deeper() + module.run(Ask(question="d")).answer

        assert runner.wait_for(both) == "cd"
        context = contextvars.copy_context()
        got: list[str] = []
        thread = threading.Thread(target=lambda: context.run(lambda: got.append(module.run(Ask(question="e")).answer)))
        thread.start()
        thread.join(20)
        assert got == ["e"]


def test_the_callers_context_is_copied_and_the_loop_is_one() -> None:
    mark: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="unset")
    loops: set[int] = set()

    async def look() -> str:
        loops.add(id(asyncio.get_running_loop()))
        seen = mark.get()
        mark.set("changed inside")
        return seen

    mark.set("of the caller")
    assert runner.wait_for(look) == "of the caller"
    assert runner.wait_for(look) == "of the caller"
    assert mark.get() == "of the caller"
    assert len(loops) == 1


def test_a_trace_sees_calls_of_a_run() -> None:
    with using(lm=ScriptedLM(echo)), trace() as t:
        Predict(Ask, Answer).run(Ask(question="a"))
    assert len(t) == 1


def test_an_error_comes_out_as_it_is() -> None:
    def defect(request: LMRequest) -> str:
        raise ZeroDivisionError

    with using(lm=ScriptedLM(defect)), pytest.raises(ZeroDivisionError):
        Predict(Ask, Answer).run(Ask(question="a"))

    async def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        runner.wait_for(leave)
    with using(lm=ScriptedLM(echo)):
        assert Predict(Ask, Answer).run(Ask(question="still here")).answer == "still here"


def test_a_run_ends_at_its_timeout() -> None:
    class Hang(StepsLM):
        async def complete(self, request: LMRequest, /) -> LMResponse:
            await asyncio.get_running_loop().create_future()
            raise AssertionError

    with using(lm=Hang()):
        with pytest.raises(CallTimeout) as caught:
            Predict(Ask, Answer).run(Ask(question="a"), timeout=0.05)
        assert (caught.value.code, caught.value.sent) == ("DX4702", "maybe")
        with pytest.raises(CallTimeout):
            Predict(Ask, Answer).run(Ask(question="a"), timeout=60, budget=Budget(wall=0.05))
        with pytest.raises(UsageError):
            Predict(Ask, Answer).run(Ask(question="a"), timeout=0)
        with pytest.raises(UsageError, match=r"DX4501.*got 3"):
            Predict(Ask, Answer).run(Ask(question="a"), budget=3)  # type: ignore[arg-type]  # pyright: ignore
    assert current().deadline is None


# Batches


class Counting(Program[Ask, Answer]):
    """Fails where the question says so, and counts how many run at once."""

    def __init__(self) -> None:
        self.state: dict[str, int] = {"now": 0, "most": 0, "started": 0}

    async def __call__(self, x: Ask, /) -> Answer:
        state = self.state
        state["started"] += 1
        state["now"] += 1
        state["most"] = max(state["most"], state["now"])
        try:
            # Later inputs end earlier.
            for _ in range(20 - int(x.question.split()[0]) % 20):
                await asyncio.sleep(0)
            if "fail" in x.question:
                raise ValueError(x.question)
            return Answer(answer=x.question)
        finally:
            state["now"] -= 1


def questions(n: int, failing: tuple[int, ...] = ()) -> list[Ask]:
    return [Ask(question=f"{i} {'fail' if i in failing else 'ok'}") for i in range(n)]


def test_a_batch_keeps_order_and_its_width() -> None:
    program = Counting()
    outputs = program.batch(questions(50), concurrency=7)
    assert [output.answer for output in outputs] == [f"{i} ok" for i in range(50)]
    assert program.state["most"] == 7


def test_errors_stand_in_their_places_when_they_are_returned() -> None:
    results = Counting().batch(questions(20, (3, 11)), on_error="return", concurrency=4)
    assert [i for i, one in enumerate(results) if isinstance(one, ValueError)] == [3, 11]
    assert len(results) == 20


def test_the_first_error_stops_a_batch_and_keeps_what_is_done() -> None:
    program = Counting()
    with pytest.raises(ValueError, match="5 fail") as caught:
        program.batch(questions(1000, (5,)), concurrency=2)
    partial = cast("tuple[Answer | None, ...]", getattr(caught.value, "partial", ()))
    assert partial[5] is None
    done = {i: one.answer for i, one in enumerate(partial) if one is not None}
    assert len(done) >= 4
    assert done == {i: f"{i} ok" for i in done}
    assert program.state["started"] < 20
    assert program.state["now"] == 0


def test_a_batch_draws_from_an_iterator_as_it_goes() -> None:
    drawn: list[int] = []

    def source() -> Iterator[Ask]:
        for i, ask in enumerate(questions(30, (4,))):
            drawn.append(i)
            yield ask

    with pytest.raises(ValueError, match="4 fail"):
        Counting().batch(source(), concurrency=2)
    assert len(drawn) < 12

    def broken() -> Iterator[Ask]:
        yield Ask(question="1 ok")
        raise OSError("the file ended")

    with pytest.raises(OSError, match="the file ended"):
        Counting().batch(broken(), concurrency=2)


def test_a_batch_of_nothing_is_nothing() -> None:
    assert Counting().batch([]) == []
    with pytest.raises(UsageError):
        Counting().batch([], concurrency=0)
    with pytest.raises(UsageError):
        Counting().batch([], on_error="ignore")  # type: ignore[call-overload]


def test_a_batch_is_cancelled_with_its_caller() -> None:
    program = Counting()

    async def scenario() -> None:
        task = asyncio.ensure_future(runner.batch_async(program, questions(1000), concurrency=8))
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())
    assert program.state["now"] == 0


def test_partial_results_of_a_bad_answer_are_kept() -> None:
    class Number(Schema):
        n: int

    def number(request: LMRequest) -> str:
        text = request.messages[1].content
        return "many" if text == "2" else text

    with using(lm=ScriptedLM(number)), pytest.raises(OutputError) as caught:
        Predict(Ask, Number).batch([Ask(question=str(i)) for i in range(3)], concurrency=1)
    assert getattr(caught.value, "partial", ()) == (Number(n=0), Number(n=1), None)


# Processes

PRELUDE = """
import asyncio, os, sys, time
from dspex.program.context import using
from dspex.program.modules import Predict
from dspex.program.schema import Schema
from dspex.providers.scripted import ScriptedLM

class Ask(Schema):
    question: str

class Answer(Schema):
    answer: str

lm = ScriptedLM(lambda request: {"answer": request.messages[-1].content})
module = Predict(Ask, Answer)
"""


def script(body: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", PRELUDE + textwrap.dedent(body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        **options,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_works_after_a_fork_and_so_does_its_parent() -> None:
    done = script("""
    with using(lm=lm):
        assert module.run(Ask(question="before")).answer == "before"
        children = []
        for n in range(3):
            child = os.fork()
            if child == 0:
                ok = module.run(Ask(question=f"child {n}")).answer == f"child {n}"
                os._exit(0 if ok else 1)
            children.append(child)
        assert module.run(Ask(question="after")).answer == "after"
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    print("all well")
    """)
    out, err = done.communicate(timeout=60)
    assert (out.strip(), done.returncode) == ("all well", 0), err


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_inside_a_running_loop_works() -> None:
    done = script("""
    async def main():
        await module(Ask(question="before"))
        child = os.fork()
        if child == 0:
            try:
                ok = module.run(Ask(question="child")).answer == "child"
            finally:
                os._exit(0 if ok else 1)
        assert (await module(Ask(question="after"))).answer == "after"
        return os.waitpid(child, 0)[1]

    with using(lm=lm):
        module.run(Ask(question="warm"))
        assert asyncio.run(main()) == 0
    print("all well")
    """)
    out, err = done.communicate(timeout=60)
    assert (out.strip(), done.returncode) == ("all well", 0), err


def test_the_process_ends_cleanly_with_work_in_the_background() -> None:
    done = script("""
    import threading
    from dspex.executor import runner

    started = threading.Event()

    async def forever():
        started.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            print("cancelled", flush=True)

    def wait():
        try:
            runner.wait_for(forever)
        except asyncio.CancelledError:
            print("told", flush=True)

    threading.Thread(target=wait, daemon=True).start()
    started.wait()
    """)
    out, err = done.communicate(timeout=60)
    # Whether the daemon thread comes to its last word is not ours to say.
    assert (out.split()[0], err, done.returncode) == ("cancelled", "", 0)


def test_the_process_ends_cleanly_whatever_the_loop_does_then() -> None:
    done = script("""
    from dspex.executor import runner
    from dspex.executor.loops import LoopThread

    async def nothing():
        return 1

    for pause in (0, 0.001, 0.004, 0.006, 0.02):
        thread = LoopThread()
        assert sum(thread.run(nothing()) for _ in range(20)) == 20
        time.sleep(pause)
        thread.close()
        assert not thread.alive
        assert runner.wait_for(nothing) == 1
    """)
    out, err = done.communicate(timeout=60)
    assert (out, err, done.returncode) == ("", "", 0)


@pytest.mark.parametrize("fast", [True, False])
def test_many_threads_share_the_loop(fast: bool) -> None:
    async def work(number: int) -> int:
        # Ends at once, in the pass after, or when the loop has slept.
        if number % 3 or not fast:
            await asyncio.sleep(0 if number % 2 else 0.0001)
        return number

    def calls(begin: int) -> list[int]:
        return [runner.wait_for(lambda number=number: work(number)) for number in range(begin, begin + 200)]

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(calls, range(0, 1600, 200)))
    assert [number for part in got for number in part] == list(range(1600))


def test_what_a_run_leaves_behind_goes_on() -> None:
    ended = threading.Event()
    left: list[asyncio.Task[None]] = []

    async def linger() -> None:
        for _ in range(5):
            await asyncio.sleep(0.001)
        ended.set()

    async def begin() -> None:
        left.append(asyncio.create_task(linger()))

    for _ in range(50):
        ended.clear()
        runner.wait_for(begin)
        assert ended.wait(30)


def test_closing_leaves_no_caller_behind() -> None:
    entered, free = threading.Event(), threading.Event()
    outcomes: list[str] = []

    async def block() -> str:
        entered.set()
        assert free.wait(30)
        return "ended"

    async def forever() -> str:
        return await asyncio.get_running_loop().create_future()

    def call(thread: LoopThread, work: Callable[[], Coroutine[Any, Any, str]]) -> None:
        try:
            outcomes.append(thread.run(work()))
        except asyncio.CancelledError:
            outcomes.append("cancelled")

    thread = LoopThread()
    callers = [threading.Thread(target=call, args=(thread, work)) for work in (block, forever, forever)]
    callers[0].start()
    assert entered.wait(30)
    # These wait behind a loop that stands still: they have not begun when it closes.
    for caller in callers[1:]:
        caller.start()
    threading.Timer(0.05, free.set).start()
    thread.close()
    for caller in callers:
        caller.join(30)
    call(thread, forever)
    assert sorted(outcomes) == ["cancelled", "cancelled", "cancelled", "ended"]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_runs_nest(depth: int) -> None:
    async def nest(left: int) -> int:
        return 0 if left == 0 else 1 + runner.wait_for(lambda: nest(left - 1))

    async def each(left: int) -> AsyncGenerator[int]:
        if left:
            for inner in runner.iterated(each(left - 1)):
                yield inner + 1
        yield 0

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: runner.wait_for(lambda: nest(depth))).result(30) == depth
        assert pool.submit(lambda: list(runner.iterated(each(depth)))).result(30) == list(range(depth, -1, -1))


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_an_interrupt_ends_work_that_has_not_begun() -> None:
    done = script("""
    import signal, threading
    from dspex.executor import runner

    entered = threading.Event()

    async def block():
        entered.set()
        # The loop stands still until the interrupt has come.
        while not came:
            time.sleep(0.001)

    came = []
    thread = threading.Thread(target=lambda: runner.wait_for(block))
    thread.start()
    entered.wait()

    def late():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        came.append(True)

    try:
        threading.Timer(0.1, late).start()
        runner.wait_for(asyncio.Event().wait)
    except KeyboardInterrupt:
        print("interrupted")
    """)
    out, err = done.communicate(timeout=60)
    assert (out.strip(), err, done.returncode) == ("interrupted", "", 0)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_an_interrupt_in_a_fast_call_comes_after_its_accounts_are_settled() -> None:
    done = script("""
    import signal
    from dspex.executor.budget import BudgetAccount
    from dspex.lm.spend import Budget

    asked, settled, interrupted = [], [], []

    def answer(request):
        number = int(request.messages[-1].content)
        asked.append(number)
        if number % 7 == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return {"answer": "yes"}

    account = BudgetAccount(Budget(calls=10_000))
    with using(lm=ScriptedLM(answer), budget=account):
        for number in range(700):
            try:
                module.run(Ask(question=str(number)))
            except KeyboardInterrupt:
                interrupted.append(number)
    assert interrupted == list(range(3, 700, 7)), interrupted
    assert asked == list(range(700)), asked
    assert account.settled.calls + account.uncertain.calls == 700, account
    assert account.reserved.calls == 0, account
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    print("all well")
    """)
    out, err = done.communicate(timeout=60)
    assert (out.strip(), done.returncode) == ("all well", 0), err


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_an_interrupt_cancels_the_work() -> None:
    running = script("""
    async def hang(request):
        print("in the air", flush=True)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            print("cancelled", flush=True)

    with using(lm=ScriptedLM(hang)):
        try:
            module.run(Ask(question="x"))
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """)
    assert running.stdout is not None
    assert running.stdout.readline().strip() == "in the air"
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert out.split() == ["cancelled", "interrupted"], err
    assert running.returncode == 0
