"""Ctrl-C and SIGTERM: while a study runs, first drain, then cancel, then leave; elsewhere an interruption."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from dspex.cli.output import leave

if TYPE_CHECKING:
    from dspex.study.stop import StopToken

T = TypeVar("T")
Handler = Callable[[int, FrameType | None], object]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_interruptible(work: Coroutine[object, object, T], stop: StopToken, say: Callable[[str], None]) -> T:
    """Run `work` to its end, with three signals that mean: finish what is in flight, cancel it, leave at once.

    Args:
        work: A study.
        stop: Its token.
        say: Tells a person something; called from inside the signal handler.
    """
    seen = 0

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        # A handler of Python's, not of the event loop's: it runs even while a metric blocks the loop.
        nonlocal seen
        seen += 1
        if seen == 1:
            say(f"stopping: up to {stop.grace:.0f} s for calls in flight (again to cancel them)")
            stop.request("signal")
        elif seen == 2:
            say("cancelling what is in flight (again to leave at once)")
            stop.cancel()
        else:
            leave()

    import asyncio

    with _handling(on_signal):
        return asyncio.run(_awaited(work))


async def _awaited(work: Coroutine[object, object, T]) -> T:
    return await work


def interrupt_on_sigterm() -> None:
    """Make SIGTERM end a command as Ctrl-C does, its files and child processes put in order."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _handling(handler: Handler) -> Generator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous if previous is not None else signal.SIG_DFL)
