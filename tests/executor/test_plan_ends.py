"""How runs end: exits, cancellations that nobody asked for, deadlines; and what acting steps leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

import dspex as dx
from dspex.errors import CallTimeout, LMError
from dspex.executor.runner import background
from dspex.program.concurrency import first_success, first_that_works, together
from tests.executor.test_plan import Desk, Q, at, failure, made, marked, run

PAIR = """
%1 = call a (%0)
%2 = python await bot:act (%0.q) : str
%3 = call b (%0)
%4 = join record (text=%2) : Answer
%5 = join record (first=%1, second=%4, third=%3) : Both
output %5
"""


# --- context variables ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["python await bot:act (%0.q) : str", "tool act bot:act (text=%0.q) : str"])
def test_context_variables_of_an_acting_step_hold_for_what_comes_after_it(kind: str) -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")

    async def act(text: str) -> str:
        await asyncio.sleep(0)
        who.set(text)
        return text

    body = f"""
    %1 = call a (%0)
    %2 = {kind}
    %3 = after %2 python bot:look () : str
    %4 = join record (text=%3) : Answer
    %5 = join record (first=%1, second=%4, third=%4) : Both
    output %5
    """
    bot = made(body, {"bot:act": act, "bot:look": who.get}, signature="Ask -> Both")

    async def scenario() -> tuple[Any, str]:
        return await bot(Q), who.get()

    got, outside = run(Desk(), scenario)
    assert (got.second.text, outside) == ("<<one>>", "<<one>>")


def test_context_variables_of_what_does_not_act_stay_inside() -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")

    async def pure(text: str) -> str:
        await asyncio.sleep(0)
        who.set(text)
        return text

    bot = made(PAIR.replace("python await", "python await pure"), {"bot:act": pure}, signature="Ask -> Both")

    async def scenario() -> str:
        await bot(Q)
        return who.get()

    assert run(Desk(), scenario) == "nobody"


# --- cancelled once -------------------------------------------------------------------------------


def closing(began: asyncio.Event, may_end: asyncio.Event, log: list[str]) -> Callable[..., Awaitable[str]]:
    """Something that ends in good order when it is cancelled, which takes until `may_end`."""

    async def work(*_: object) -> str:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            log.append("closing")
            await may_end.wait()
            log.append("closed")
        return ""

    return work


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_step_is_cancelled_once_when_two_before_it_fail() -> None:
    log: list[str] = []

    async def scenario() -> None:
        began, may_end, slow = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def late(_: str) -> None:
            await slow.wait()
            raise failure("first")

        body = """
        %1 = python await pure bot:late (%0.q) : str
        %2 = call b (%0)
        %3 = python await pure bot:close (%0.q) : str
        %4 = python pure bot:at (%1, %3) : Answer
        output %4
        """
        bot = made(body, {"bot:late": late, "bot:close": closing(began, may_end, log), "bot:at": at})
        work = asyncio.ensure_future(bot(Q))
        await began.wait()
        await settle()
        slow.set()
        await settle()
        assert log == ["closing"]
        may_end.set()
        with pytest.raises(LMError, match="first failed"):
            await work

    run(Desk(b=failure("b")), scenario)
    assert log == ["closing", "closed"]


def test_item_is_cancelled_once_when_two_before_it_fail_and_the_caller_leaves() -> None:
    log: list[str] = []

    async def scenario() -> None:
        began, may_end, slow = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def late() -> str:
            await slow.wait()
            raise failure("first")

        async def soon() -> str:
            await began.wait()
            raise failure("second")

        work = asyncio.ensure_future(together([late, soon, closing(began, may_end, log)]))
        await began.wait()
        await settle()
        slow.set()
        await settle()
        work.cancel()
        await settle()
        assert log == ["closing"]
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await work

    run(Desk(), scenario)
    assert log == ["closing", "closed"]


def test_failure_before_many_items_cancels_each_of_them_once() -> None:
    asked: list[int] = []

    async def scenario() -> None:
        async def bad() -> None:
            raise failure("first")

        async def item(number: int) -> None:
            task = asyncio.current_task()
            assert task is not None
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                asked.append(task.cancelling())

        async def last() -> None:
            await settle()
            await bad()

        with pytest.raises(LMError, match="first failed"):
            await together([last, *(partial(item, number) for number in range(500))])

    run(Desk(), scenario)
    assert asked == [1] * 500


# --- errors hold nothing --------------------------------------------------------------------------


class Heavy(Exception):
    """An error that can be watched."""


@pytest.mark.parametrize("how", ["flow", "together", "race"])
def test_error_is_freed_without_the_collector(how: str) -> None:
    seen: list[weakref.ref[Heavy]] = []

    async def bad(*_: object) -> str:
        error = Heavy()
        seen.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    async def work() -> object:
        if how == "flow":
            return await made(PAIR, {"bot:act": bad}, signature="Ask -> Both")(Q)
        return await (together if how == "together" else first_success)([bad, bad])

    async def scenario() -> None:
        with contextlib.suppress(Heavy):
            await work()
        await settle()

    gc.collect()
    gc.disable()
    try:
        run(Desk(), scenario)
        assert [ref() for ref in seen] == [None] * len(seen)
        assert seen
    finally:
        gc.enable()


def test_error_that_two_ways_share_is_not_its_own_context() -> None:
    error = failure("both")

    async def way() -> str:
        raise error

    with pytest.raises(LMError) as caught:
        asyncio.run(first_that_works([way, way]))
    assert caught.value is error
    assert error.__context__ is not error


# --- exits and cancellations ----------------------------------------------------------------------


def leaving(text: str) -> str:
    raise SystemExit(text)


MAPPED = """
%1 = map %0.docs {
%2 = input : str
%3 = join copy (%0, q=%2) : Ask
%4 = call a (%3)
%5 = python bot:leave (%4.text) : str
output %5
} : list[str]
%6 = python bot:at (%1, 0) : Answer
output %6
"""


@pytest.mark.parametrize("how", ["run", "batch"])
def test_exit_in_a_task_reaches_the_caller_and_no_other_run(how: str) -> None:
    desk, gate = Desk(), asyncio.Event()
    loop = background()

    async def other() -> str:
        await gate.wait()
        return "still here"

    waiting = asyncio.run_coroutine_threadsafe(other(), loop.loop)
    bot = made(MAPPED, {"bot:leave": leaving, "bot:at": at})
    x = Q.model_copy(update={"docs": [marked("a"), marked("b")]})
    call: Callable[[], object] = partial(bot.run, x) if how == "run" else partial(bot.batch, [x] * 3)
    with dx.using(lm=desk.lm), pytest.raises(SystemExit, match="a:a"):
        call()
    loop.loop.call_soon_threadsafe(gate.set)
    assert waiting.result(timeout=10) == "still here"
    assert background() is loop


@pytest.mark.parametrize("on_error", ["raise", "return"])
@pytest.mark.parametrize("concurrency", [1, 2, 5])
def test_batch_loses_no_input_to_a_cancellation_that_nobody_asked_for(on_error: Any, concurrency: int) -> None:
    async def act(text: str) -> str:
        if text == "2":
            raise asyncio.CancelledError("the program's own")
        return text

    body = "%1 = python await bot:act (%0.q) : str\n%2 = join record (text=%1) : Answer\noutput %2"
    bot = made(body, {"bot:act": act})
    xs = [Q.model_copy(update={"q": str(number)}) for number in range(5)]
    with pytest.raises(asyncio.CancelledError):
        bot.batch(xs, on_error=on_error, concurrency=concurrency)
    assert [got.text for got in bot.batch(xs[:2] + xs[3:], concurrency=concurrency)] == ["0", "1", "3", "4"]


def test_cancellation_of_a_step_s_own_is_raised_as_it_is() -> None:
    async def act(text: str) -> str:
        raise asyncio.CancelledError("the step's own")

    bot = made(PAIR, {"bot:act": act}, signature="Ask -> Both")
    with pytest.raises(asyncio.CancelledError, match="the step's own"):
        run(Desk(), lambda: bot(Q))


# --- deadlines ------------------------------------------------------------------------------------


async def never(text: str) -> str:
    await asyncio.Event().wait()
    return text


def test_deadline_ends_python_beside_the_calls() -> None:
    bot = made(PAIR, {"bot:act": never}, signature="Ask -> Both")
    with dx.using(lm=Desk().lm), pytest.raises(CallTimeout) as late:
        bot.run(Q, timeout=0.01)
    assert late.value.code == "DX4702"


def test_deadline_ends_every_input_of_a_batch() -> None:
    bot = made(PAIR, {"bot:act": never}, signature="Ask -> Both")
    with dx.using(lm=Desk().lm):
        got = bot.batch([Q] * 3, timeout=0.01, concurrency=1, on_error="return")
    assert [getattr(one, "code", None) for one in got] == ["DX4702"] * 3


def test_timeout_that_a_program_raises_itself_is_its_own() -> None:
    async def act(text: str) -> str:
        raise TimeoutError("mine")

    bot = made(PAIR, {"bot:act": act}, signature="Ask -> Both")
    with dx.using(lm=Desk().lm), pytest.raises(TimeoutError, match="mine"):
        bot.run(Q, timeout=60)
