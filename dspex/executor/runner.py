"""From synchronous code into programs: one background event loop a process, and bounded batches."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterable, Sized
from typing import Any, Literal, TypeAlias, TypeVar

from dspex.errors import CallTimeout, UsageError
from dspex.executor.admission import borrowing
from dspex.executor.budget import BudgetAccount
from dspex.executor.loops import LoopThread, inside_any, running_loop
from dspex.lm.spend import Budget, check_budget
from dspex.program.context import bounded
from dspex.program.outputs import output_of
from dspex.program.schema import Schema

T = TypeVar("T")
I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741

Callee: TypeAlias = Callable[[I], Awaitable[O]]
"""A program, compiled or not."""
OnError = Literal["raise", "return"]
DEFAULT_CONCURRENCY = 64
"""Inputs of a batch in work at once; the limits of the models bind below it."""

_LAST_WORDS_SECONDS = 0.1


_thread: LoopThread | None = None
_lock = threading.Lock()
_inherited: list[LoopThread | None] = []


def _after_fork() -> None:
    global _thread, _lock
    # The thread does not exist in a child, and its loop's epoll set is the parent's: keep it, use it never.
    _inherited.append(_thread)
    _thread = None
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def background() -> LoopThread:
    """The process's background loop, started at its first use."""
    global _thread
    with _lock:
        if _thread is None or not _thread.alive:
            _thread = LoopThread()
            atexit.register(_thread.close)
        return _thread


def wait_for(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine from synchronous code, also inside a running loop (a notebook, a synchronous metric).

    A running loop of the caller stands still meanwhile; await the program there instead where you can.
    """
    if running_loop() is None:
        return background().run(work())
    token = borrowing.set(True)
    try:
        if not inside_any():
            return background().run(work())
        # One of our own loops stands still, or waits for one that does: the work needs another.
        nested = LoopThread()
        try:
            return nested.run(work())
        finally:
            nested.close()
    finally:
        borrowing.reset(token)


def iterated(source: AsyncGenerator[T]) -> Generator[T]:
    """The items of `source` in synchronous code: one loop makes them all, and closes it at the end."""
    # Where one of our own loops stands still, the work needs another.
    own = LoopThread() if inside_any() else None
    at = own or background()
    end = object()

    async def following() -> Any:
        return await anext(source, end)

    async def closed() -> None:
        await source.aclose()

    try:
        while (item := at.run(following())) is not end:
            yield item
    finally:
        if own is not None:
            # Which closes the source, as the last thing that it does.
            own.close()
        elif inside_any():
            # Collected as garbage in a loop's thread, which cannot wait for itself.
            at.loop.call_soon_threadsafe(lambda: at.loop.create_task(closed()))
        elif at.alive:
            at.run(closed())


def run(program: Callee[I, O], x: I, timeout: float | None = None, budget: Budget | None = None) -> O:
    """Call `program` on one input from synchronous code.

    Args:
        program: What to call.
        x: Its input.
        timeout: Seconds for the whole run; DX4702 when they pass.
        budget: Caps on what the run may spend.
    """
    return wait_for(lambda: run_async(program, x, timeout, budget))


async def run_async(program: Callee[I, O], x: I, timeout: float | None = None, budget: Budget | None = None) -> O:
    """`run`, awaited."""
    if timeout is None and budget is None:
        return await output_of(program, x)
    with bounded(account=_account(budget), deadline=_deadline(timeout, budget)) as context:
        return await _in_time(program, x, context.deadline)


async def _in_time(program: Callee[I, O], x: I, deadline: float | None) -> O:
    """Call `program`; what it does beside calls of models ends with the deadline as well."""
    if deadline is None:
        return await output_of(program, x)
    left = deadline - time.monotonic()
    # A call in the air ends itself at the deadline, and its error says what it cost: it goes first.
    timer = asyncio.timeout(left + _LAST_WORDS_SECONDS if left > 0 else 0)
    try:
        async with timer:
            return await output_of(program, x)
    except TimeoutError:
        if not timer.expired():
            raise
        raise CallTimeout(
            "DX4702",
            "the deadline of this run passed before the program ended",
            fix="give run(timeout=...) more seconds",
        ) from None


def batch(
    program: Callee[I, O],
    xs: Iterable[I],
    on_error: OnError = "raise",
    concurrency: int | None = None,
    timeout: float | None = None,
    budget: Budget | None = None,
) -> list[O | Exception]:
    """Call `program` on many inputs from synchronous code; see `batch_async`."""
    return wait_for(lambda: batch_async(program, xs, on_error, concurrency, timeout, budget))


async def batch_async(
    program: Callee[I, O],
    xs: Iterable[I],
    on_error: OnError = "raise",
    concurrency: int | None = None,
    timeout: float | None = None,
    budget: Budget | None = None,
) -> list[O | Exception]:
    """Call `program` on many inputs, at most `concurrency` at once; outputs in the order of the inputs.

    Args:
        program: What to call.
        xs: Inputs; an iterator is drawn from as work proceeds.
        on_error: "return" puts an input's error in its place and goes on. "raise" stops at the first error,
            and raises it with ``partial``: a tuple with the outputs so far, None where there is none.
        concurrency: Inputs in work at once.
        timeout: Seconds for the whole batch.
        budget: Caps on what the batch may spend.
    """
    if on_error not in ("raise", "return"):
        raise UsageError("DX8107", f"on_error is 'raise' or 'return', got {on_error!r}")
    width = DEFAULT_CONCURRENCY if concurrency is None else concurrency
    if width < 1:
        raise UsageError("DX8103", f"concurrency is at least 1, got {width}")
    with bounded(account=_account(budget), deadline=_deadline(timeout, budget)) as context:
        deadline = context.deadline
        if deadline is not None:
            return await _batch(lambda x: _in_time(program, x, deadline), xs, on_error, width)
        return await _batch(lambda x: output_of(program, x), xs, on_error, width)


async def _batch(program: Callee[I, O], xs: Iterable[I], on_error: OnError, width: int) -> list[O | Exception]:
    source = iter(xs)
    if isinstance(xs, Sized):
        width = min(width, len(xs))
    results: list[O | Exception | None] = []
    failed: list[int] = []
    exits: list[BaseException] = []

    def end_others() -> None:
        for other in workers:
            if other is not asyncio.current_task():
                other.cancel()

    async def work() -> None:
        # Workers draw from one iterator: as many tasks as may run, not as many as there are inputs.
        while not (exits or (failed and on_error == "raise")):
            try:
                x = next(source)
            except StopIteration:
                return
            place = len(results)
            results.append(None)
            try:
                results[place] = await program(x)
            except Exception as error:  # noqa: BLE001  supervision boundary: the user's program
                results[place] = error
                failed.append(place)
                if on_error == "raise" and not exits and len(failed) == 1:
                    end_others()
            except BaseException as error:
                worker = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and worker is not None and worker.cancelling():
                    raise
                # An exit, or a cancellation that nobody asked this worker for.
                exits.append(error)
                if len(exits) == 1 and not (failed and on_error == "raise"):
                    end_others()
                raise

    workers: list[asyncio.Task[None]] = []
    try:
        workers.extend(asyncio.ensure_future(work()) for _ in range(width))
        await asyncio.gather(*workers, return_exceptions=True)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    if exits:
        raise exits[0]
    for worker in workers:
        # Not a failure of the program but of the inputs' iterator: that is raised as it is.
        if not worker.cancelled() and (error := worker.exception()) is not None:
            raise error
    if failed and on_error == "raise":
        first = results[min(failed)]
        if isinstance(first, Exception):
            first.partial = tuple(None if isinstance(one, Exception) else one for one in results)  # type: ignore[attr-defined]
            raise first
    return [one for one in results if one is not None]


def _account(budget: Budget | None) -> BudgetAccount | None:
    check_budget(budget)
    if budget is None:
        return None
    from dspex.program.context import current

    return BudgetAccount(budget, parent=current().account)


def _deadline(timeout: float | None, budget: Budget | None) -> float | None:
    if timeout is not None and not timeout > 0:
        raise UsageError(
            "DX8104",
            f"timeout is a positive number of seconds, got {timeout}",
            where="timeout",
            fix="leave timeout out for no limit",
        )
    # A cap on wall time ends calls in the air as well; the account alone would only begin no more.
    wall = None if budget is None else budget.wall_seconds
    seconds = min((end for end in (timeout, wall) if end is not None), default=None)
    return None if seconds is None else time.monotonic() + seconds
