"""Concurrency limits that belong to no event loop: calls of every loop and thread share one count."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque

borrowing: contextvars.ContextVar[bool] = contextvars.ContextVar("dspex_borrowing", default=False)
"""True inside a synchronous run whose caller's event loop stands still meanwhile.

Such a call may exceed a limit by one rather than wait for a slot that only the blocked loop could free.
"""


class Limit:
    """At most `capacity` holders at once, first come first served."""

    __slots__ = ("_active", "_lock", "_waiting", "capacity")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._active = 0
        self._lock = threading.Lock()
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def active(self) -> int:
        """Slots held now."""
        return self._active

    @property
    def waiting(self) -> int:
        """Calls queued for a slot."""
        return len(self._waiting)

    def try_acquire(self) -> bool:
        """Take a slot if one is free and nobody waits for it."""
        with self._lock:
            if self._active < self.capacity and not self._waiting:
                self._active += 1
                return True
            return False

    async def acquire(self) -> None:
        """Take a slot, waiting for one. A cancelled wait leaves nothing behind."""
        with self._lock:
            if (self._active < self.capacity and not self._waiting) or borrowing.get():
                self._active += 1
                return
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            with self._lock:
                queued = turn in self._waiting
                if queued:
                    self._waiting.remove(turn)
            if not queued:
                # The slot was already handed to this call: pass it on.
                self.release()
            raise

    def release(self) -> None:
        """Give a slot back; the longest waiting call, on whichever loop, gets it."""
        here = _running_loop()
        with self._lock:
            if self._active > self.capacity:
                self._active -= 1
                return
            while self._waiting:
                turn = self._waiting.popleft()
                loop = turn.get_loop()
                # Out of the queue means that the slot is this call's: if it was cancelled meanwhile, it passes it on.
                if loop is here:
                    _grant(turn)
                    return
                try:
                    loop.call_soon_threadsafe(_grant, turn)
                except RuntimeError:
                    # That loop was closed with the call still queued; nobody waits there any more.
                    continue
                return
            self._active -= 1


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _grant(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
