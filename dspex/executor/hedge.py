"""Hedging: a second attempt for a call that takes unusually long; the first answer counts.

Nothing is paid for it by calls that are answered in time but one timer: the first attempt runs in the caller's own
task, and a task is made for the second one alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dspex.errors import LMError
from dspex.executor.retry import Allowance

if TYPE_CHECKING:
    from dspex.lm.model import Hedge

T = TypeVar("T")

_WINDOW = 256
_EVERY = 32
_BURST = 1.0


class Stragglers:
    """Which calls are late, by the latest `_WINDOW` latencies, and how many of them may be hedged.

    Args:
        hedge: The quantile beyond which a call is late, and the share of calls that may be sent twice.

    Attributes:
        allowance: Counts and bounds second attempts.
        late: Seconds after which a call is late; None as long as too few calls were seen.
        overtaken: Stragglers whose second attempt was answered first.
    """

    __slots__ = ("_latest", "_quantile", "_seen", "allowance", "late", "overtaken")

    def __init__(self, hedge: Hedge) -> None:
        self.allowance = Allowance(hedge.ratio, _BURST)
        self.late: float | None = None
        self.overtaken = 0
        self._quantile = hedge.quantile
        self._latest: list[float] = []
        self._seen = 0

    def saw(self, seconds: float) -> None:
        """An attempt was answered after so long. Threads that call at the same time lose an observation at worst."""
        latest = self._latest
        if len(latest) < _WINDOW:
            latest.append(seconds)
        else:
            latest[self._seen % _WINDOW] = seconds
        self._seen += 1
        if self._seen % _EVERY == 0:
            ranked = sorted(latest)
            self.late = ranked[min(len(ranked) - 1, int(self._quantile * len(ranked)))]


class _Race(Generic[T]):
    def __init__(self, again: Callable[[], Coroutine[Any, Any, T | None]]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._again = again
        self._task = task
        self._second: asyncio.Task[T | None] | None = None
        self._over = False
        self._cancelled = False

    def _start(self) -> None:
        self._second = asyncio.ensure_future(self._again())
        self._second.add_done_callback(self._ended)

    def _ended(self, second: asyncio.Task[T | None]) -> None:
        if not self._over and (_defect(second) is not None or _result(second) is not None):
            self._cancelled = self._over = True
            self._task.cancel()

    async def run(self, first: Coroutine[Any, Any, T], after: float) -> T:
        before = self._task.cancelling()
        timer = asyncio.get_running_loop().call_later(after, self._start)
        try:
            try:
                value: T | None = await first
            except asyncio.CancelledError:
                # As in asyncio.timeout: a cancellation that is ours alone ends here, any other goes on.
                value = self._decided() if self._taken_back() and self._task.cancelling() <= before else None
                if value is None:
                    raise
            except LMError:
                self._over = True
                if self._second is not None:
                    await asyncio.wait((self._second,))
                value = self._decided()
                if value is None:
                    raise
        except BaseException as error:
            timer.cancel()
            defect = await self._stopped()
            if defect is not None and defect is not error:
                # What is raised already goes before it, and it must not be lost.
                about = {"message": "a second attempt failed by a defect", "exception": defect, "task": self._second}
                asyncio.get_running_loop().call_exception_handler(about)
            raise
        self._over = True
        timer.cancel()
        if self._second is not None and (defect := await self._stopped()) is not None:
            raise defect
        return value

    def _decided(self) -> T | None:
        """What the second attempt came to, if that counts."""
        defect = _defect(self._second)
        if defect is not None:
            raise defect from None
        return None if self._second is None else _result(self._second)

    async def _stopped(self) -> BaseException | None:
        """End the second attempt, if it still goes on; its defect, if it has one."""
        self._over = True
        self._taken_back()
        if self._second is not None and not self._second.done():
            await _cancelled(self._second)
        return _defect(self._second)

    def _taken_back(self) -> bool:
        """Take back our own cancellation of the caller's task, if there was one."""
        was, self._cancelled = self._cancelled, False
        if was:
            self._task.uncancel()
        return was


def _result(task: asyncio.Task[T | None]) -> T | None:
    """What an ended task gave; None for an error, which counts as retrieved."""
    return None if task.cancelled() or task.exception() is not None else task.result()


def _defect(task: asyncio.Task[Any] | None) -> BaseException | None:
    """The error of an ended task that is no `LMError`: of a defective model, or of a journal that cannot be written."""
    if task is None or not task.done() or task.cancelled():
        return None
    error = task.exception()
    return None if isinstance(error, LMError) else error


async def hedged(first: Coroutine[Any, Any, T], again: Callable[[], Coroutine[Any, Any, T | None]], after: float) -> T:
    """The result of `first`, or of `again`, which is begun after `after` seconds; the other is cancelled and awaited.

    A failure of one waits for the other; when both fail, `first`'s error is raised. An error that is no `LMError` ends
    both, and is raised.

    Args:
        first: The first attempt.
        again: Makes the second one; None from it means that there is none.
        after: Seconds.
    """
    return await _Race(again).run(first, after)


async def _cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end, also while the caller is cancelled itself."""
    task.cancel()
    interrupted = False
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            interrupted = True
    _result(task)
    if interrupted:
        raise asyncio.CancelledError
