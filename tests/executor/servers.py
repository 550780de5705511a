"""Servers with a capacity, simulated: they refuse what is too much, queue it, or slow down under it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Literal

from dspex.executor.admission import Limit

Manner = Literal["refuses", "queues", "slows"]


def fifty() -> float:
    return 0.05


class Server:
    """Serves `capacity` calls at once, as a simulation.

    Args:
        capacity: May change while it runs, by `resize`; calls being served go on.
        manner: What it does beyond: ``refuses`` after `refusing` seconds, ``queues`` first come first served, or
            ``slows``: every call takes ``1 + active / capacity`` times as long, as where a batch is decoded.
        seconds: Time to serve one call.
        refusing: Seconds that a refusal takes.

    Attributes:
        done, refused: Times at which calls were answered and refused.
    """

    def __init__(
        self,
        capacity: int,
        manner: Manner = "refuses",
        seconds: Callable[[], float] = fifty,
        refusing: float = 0.001,
    ) -> None:
        self.capacity = capacity
        self.manner = manner
        self.seconds = seconds
        self.refusing = refusing
        self.done: list[float] = []
        self.refused: list[float] = []
        self._active = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    def resize(self, capacity: int) -> None:
        self.capacity = capacity
        while self._queue and self._active < capacity:
            self._active += 1
            self._queue.popleft().set_result(None)

    async def serve(self) -> bool:
        """One call; False when it was refused."""
        loop = asyncio.get_running_loop()
        if self._active >= self.capacity and self.manner == "refuses":
            await asyncio.sleep(self.refusing)
            self.refused.append(loop.time())
            return False
        if self._active >= self.capacity and self.manner == "queues":
            turn = loop.create_future()
            self._queue.append(turn)
            await turn
        else:
            self._active += 1
        stretch = 1.0 + self._active / self.capacity if self.manner == "slows" else 1.0
        await asyncio.sleep(self.seconds() * stretch)
        if self._queue and self._active <= self.capacity:
            self._queue.popleft().set_result(None)
        else:
            self._active -= 1
        self.done.append(loop.time())
        return True

    def share(self, begin: float, end: float, possible: float) -> float:
        """Answers a second in [begin, end), as a share of `possible`."""
        return sum(begin <= t < end for t in self.done) / (end - begin) / possible

    def failing(self, begin: float, end: float) -> float:
        """Share of the calls that ended in [begin, end) and were refused."""
        refused = sum(begin <= t < end for t in self.refused)
        return refused / max(1, refused + sum(begin <= t < end for t in self.done))


async def saturate(limit: Limit, serve: Callable[[], Awaitable[bool]], seconds: float, workers: int) -> None:
    """Send calls as fast as `limit` admits them for `seconds`, from so many `workers`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds

    async def work() -> None:
        while loop.time() < end:
            permit = limit.try_acquire() or await limit.acquire()
            permit.release("ok" if await serve() else "limited")

    await asyncio.gather(*[work() for _ in range(workers)])
