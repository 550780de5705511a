"""Awaitables that run together, with one meaning for plans and for programs that are called directly.

No task outlives its caller: whoever leaves early, by an error or by cancellation, cancels what is left and awaits it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any, TypeVar

from dspex.errors import BudgetExceeded, LMError

__all__ = ["first_success", "first_that_works", "majority", "recoverable", "stopped", "together"]

T = TypeVar("T")

Thunk = Callable[[], Awaitable[T]]


def recoverable(error: BaseException) -> bool:
    """Whether another way may be tried after `error`: a failed call or answer, not a spent budget or a mistake."""
    return isinstance(error, LMError) and not isinstance(error, BudgetExceeded)


async def together(thunks: Sequence[Thunk[T]], /) -> list[T]:
    """The values of all `thunks`, which run together, in their order.

    When one fails, later ones are cancelled and earlier ones are finished; the first failure in order is raised.
    """
    if len(thunks) < 2:
        return [await thunk() for thunk in thunks]
    tasks = [asyncio.ensure_future(_begun(thunk)) for thunk in thunks]
    failed = len(tasks)

    def ended(index: int, task: asyncio.Future[T]) -> None:
        nonlocal failed
        if index < failed and (task.cancelled() or task.exception() is not None):
            for later in tasks[index + 1 : failed]:
                later.cancel()
            failed = index

    for index in range(failed):
        tasks[index].add_done_callback(partial(ended, index))
    try:
        try:
            await asyncio.wait(tasks)
        finally:
            await stopped(tasks, told=tasks[failed + 1 :])
        if failed < len(tasks):
            tasks[failed].result()
        return [task.result() for task in tasks]
    finally:
        # The traceback of an error holds this frame, which must not hold the error's task in turn.
        tasks.clear()


async def first_that_works(thunks: Sequence[Thunk[T]], /) -> T:
    """The value of the first of `thunks`, tried in order, that does not fail.

    A failure that is not `recoverable` is raised at once. When all fail, the last error is raised, with the earlier
    ones as notes.
    """
    earlier: list[BaseException] = []
    for index, thunk in enumerate(thunks):
        try:
            return await thunk()
        except Exception as error:
            if not recoverable(error):
                raise
            if index == len(thunks) - 1:
                for number, other in enumerate(earlier, 1):
                    error.add_note(f"way {number} of {len(thunks)} failed before: {other}")
                if earlier and error.__context__ is None and error is not earlier[-1]:
                    error.__context__ = earlier[-1]
                raise
            earlier.append(error)
    raise ValueError("no way to try")


async def first_success(thunks: Sequence[Thunk[T]], /) -> T:
    """The value of whichever of `thunks`, which run together, succeeds first; the others are cancelled and awaited.

    Of several that end at once the first in order counts. A failure that is not `recoverable` ends the race and is
    raised. When all fail, the error of the first in order is raised.
    """
    tasks = [asyncio.ensure_future(_begun(thunk)) for thunk in thunks]
    running = set(tasks)
    done: set[asyncio.Task[T]] = set()
    try:
        first = 0
        try:
            while running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                ends = [index for index, task in enumerate(tasks) if task in done and _decides(task)]
                if ends:
                    first = ends[0]
                    break
        finally:
            await stopped(tasks)
        return tasks[first].result()
    finally:
        # As in `together`.
        for held in (tasks, running, done):
            held.clear()


def majority(values: Sequence[T], by: str | None = None) -> T:
    """The commonest of `values`, by equality of the whole or of the field `by`; of equally common ones the first."""
    keys = [value if by is None else getattr(value, by) for value in values]
    best, most = 0, 0
    for index, key in enumerate(keys):
        votes = sum(1 for other in keys if other == key)
        if votes > most:
            best, most = index, votes
    return values[best]


async def _begun(thunk: Thunk[T]) -> T:
    return await thunk()


def _decides(task: asyncio.Future[Any]) -> bool:
    """Whether a race ends with `task`, which is done."""
    if task.cancelled():
        return True
    error = task.exception()
    return error is None or not recoverable(error)


async def stopped(tasks: Sequence[asyncio.Future[Any]], told: Collection[asyncio.Future[Any]] = ()) -> None:
    """Cancel what still runs and wait for its end, through further cancellations of the caller too.

    Args:
        tasks: What has to end.
        told: Those of them that were cancelled before.
    """
    running: list[asyncio.Future[Any]] = [task for task in tasks if not task.done()]
    again: asyncio.CancelledError | None = None
    before = set(told)
    for task in running:
        # Once: a second cancellation would interrupt what the task does to end in good order.
        if task not in before:
            task.cancel()
    while running:
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError as error:
            again = error
        running = [task for task in running if not task.done()]
    for task in tasks:
        if not task.cancelled():
            # Reading it tells asyncio that the error of one that lost was seen.
            task.exception()
    if again is not None:
        raise again
