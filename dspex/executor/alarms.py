"""Time limits for work that nearly always keeps them: all of them share one timer of the event loop.

A timer of its own for each attempt is set and cancelled within milliseconds, hundreds of seconds before it is due; here
setting one means to remember a time, and only when the earliest of them has come are the others looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from typing import TypeVar

T = TypeVar("T")

_EARLY = 1e-3
"""Seconds before its time at which an alarm rings rather than have the timer set again."""


class _Alarm:
    __slots__ = ("before", "ends", "rang", "task")

    def __init__(self, task: asyncio.Task[object], ends: float) -> None:
        self.task = task
        self.before = task.cancelling()
        self.ends = ends
        self.rang = False


class Alarms:
    """The time limits that are set now, on one event loop at a time.

    Args:
        seconds: The limit.
        overdue: Makes the error of work that has passed it.
    """

    __slots__ = ("_armed", "_loop", "_overdue", "_set", "_timer", "seconds")

    def __init__(self, seconds: float, overdue: Callable[[], Exception]) -> None:
        self.seconds = seconds
        self._overdue = overdue
        self._loop: asyncio.AbstractEventLoop | None = None
        self._set: set[_Alarm] = set()
        self._armed = inf
        self._timer: asyncio.TimerHandle | None = None

    async def bound(
        self, work: Awaitable[T], left: float | None = None, overdue: Callable[[], Exception] | None = None
    ) -> T:
        """The result of `work`, which is cancelled after the limit, or after what is `left` of it, in seconds.

        Raises:
            Exception: `overdue`'s, or that of all. As with `asyncio.timeout`, a cancellation that came from elsewhere
                as well goes on.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._set, self._armed, self._timer = loop, set(), inf, None
        task = asyncio.current_task(loop)
        assert task is not None
        alarm = _Alarm(task, loop.time() + (self.seconds if left is None else left))
        self._set.add(alarm)
        if alarm.ends < self._armed:
            self._arm(loop, alarm.ends)
        try:
            return await work
        except asyncio.CancelledError:
            if alarm.rang and task.cancelling() - 1 <= alarm.before:
                raise (overdue or self._overdue)() from None
            raise
        finally:
            self._set.discard(alarm)
            if alarm.rang:
                task.uncancel()

    def _arm(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = when
        self._timer = loop.call_at(when, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._armed, self._timer = inf, None
        due = loop.time() + _EARLY
        for alarm in [alarm for alarm in self._set if alarm.ends <= due]:
            self._set.discard(alarm)
            alarm.rang = True
            alarm.task.cancel()
        if self._set:
            self._arm(loop, min(alarm.ends for alarm in self._set))
