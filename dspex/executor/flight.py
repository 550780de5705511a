"""Single-flight: of equal calls in the air at one time on one event loop, one is sent."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from typing import Generic, TypeVar

from dspex.errors import DspexError

T = TypeVar("T")


class TakeOver:
    """What a follower receives when it must do the work itself."""


TAKE_OVER = TakeOver()


class Flight(Generic[T]):
    """One call in the air and those who wait for its outcome.

    The leader works in its own task. When it is cancelled, or fails for a reason that is its own (its
    deadline, its budget), the longest waiting follower takes over and leads; so no task runs for nobody
    and no follower dies of another caller's cancellation.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[T | TakeOver]] = deque()

    async def follow(self) -> T | TakeOver:
        """The leader's outcome, or `TAKE_OVER` when the caller is the leader now."""
        turn: asyncio.Future[T | TakeOver] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.done() and turn.exception() is None and turn.result() is TAKE_OVER:
                raise _LostLead from None
            raise

    def land(self, value: T) -> None:
        """Give every follower the value."""
        for turn in self._waiting:
            if not turn.done():
                turn.set_result(value)
        self._waiting.clear()

    def crash(self, error: DspexError) -> None:
        """Give every follower a copy of the error: tracebacks grow on the object that is raised."""
        for turn in self._waiting:
            if not turn.done():
                own = copy.copy(error)
                # The leader has sent and paid; a sum over callers must not count it again.
                own.attempts, own.spent = 0, 0.0
                if hasattr(error, "__notes__"):
                    own.__notes__ = list(error.__notes__)
                turn.set_exception(own)
        self._waiting.clear()

    def hand_over(self) -> bool:
        """Make the longest waiting follower the leader; False when nobody waits."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(TAKE_OVER)
                return True
        return False


class _LostLead(asyncio.CancelledError):
    """A follower was cancelled in the instant in which it was made the leader."""


class Flights(Generic[T]):
    """The flights of one event loop by key."""

    __slots__ = ("_by_key",)

    def __init__(self) -> None:
        self._by_key: dict[object, Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: object) -> Flight[T] | None:
        """The flight in the air for `key`."""
        return self._by_key.get(key)

    def lead(self, key: object) -> Flight[T]:
        """Begin a flight; the caller must end it by one of `land`, `crash` and `give_up`."""
        flight = self._by_key[key] = Flight[T]()
        return flight

    async def follow(self, key: object, flight: Flight[T]) -> T | TakeOver:
        """Wait for `flight`'s outcome; `TAKE_OVER` makes the caller its leader."""
        try:
            return await flight.follow()
        except _LostLead:
            self.give_up(key, flight)
            raise asyncio.CancelledError from None

    def land(self, key: object, flight: Flight[T], value: T) -> None:
        """End a flight with its value."""
        del self._by_key[key]
        flight.land(value)

    def crash(self, key: object, flight: Flight[T], error: DspexError) -> None:
        """End a flight with an error that is the same for every caller."""
        del self._by_key[key]
        flight.crash(error)

    def give_up(self, key: object, flight: Flight[T]) -> None:
        """The leader ends for a reason of its own: a follower leads, or the flight is over."""
        if not flight.hand_over():
            del self._by_key[key]
