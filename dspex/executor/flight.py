"""Single-flight: of equal calls in the air at one time on one event loop, one is sent."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dspex.errors import DspexError

if TYPE_CHECKING:
    from dspex.executor.call import Call

T = TypeVar("T")

Way = tuple[int, int]
"""What equal calls must have in common beside their key."""


class TakeOver:
    """What a follower receives when it must do the work itself."""


TAKE_OVER = TakeOver()


class Flight(Generic[T]):
    """One call in the air and those who wait for its outcome.

    The leader works in its own task. When it is cancelled, or fails for a reason that is its own (its
    deadline, its budget), the longest waiting follower takes over and leads; so no task runs for nobody
    and no follower dies of another caller's cancellation.

    Attributes:
        leader: The call that is sent.
    """

    __slots__ = ("_equals", "_followers", "_key", "leader")

    def __init__(self, equals: dict[str, Flight[T]], key: str, leader: Call) -> None:
        """Made by `Flights` alone."""
        self.leader = leader
        self._equals = equals
        self._key = key
        # None until there is one: a hundred thousand different calls that wait have none.
        self._followers: list[asyncio.Future[T | TakeOver]] | None = None

    def follow(self) -> asyncio.Future[T | TakeOver]:
        """What the leader's outcome comes in, or `TAKE_OVER` when the caller is the leader now.

        A caller that does not await it any more says so to `leave`.
        """
        place: asyncio.Future[T | TakeOver] = asyncio.get_running_loop().create_future()
        if self._followers is None:
            self._followers = []
        self._followers.append(place)
        return place

    def leave(self, place: asyncio.Future[Any]) -> None:
        """A follower does not wait any more: if it was made the leader in that instant, the next one is."""
        if place.done() and not place.cancelled() and place.exception() is None and place.result() is TAKE_OVER:
            self.give_up()

    def land(self, value: T) -> None:
        """End with the leader's value, which every follower gets."""
        for place in self._end():
            if not place.done():
                place.set_result(value)

    def crash(self, error: DspexError) -> None:
        """End with an error that is the same for every caller; each gets a copy, on which tracebacks grow."""
        for place in self._end():
            if not place.done():
                own = copy.copy(error)
                # The leader has sent and paid; a sum over callers must not count it again.
                own.attempts, own.spent = 0, 0.0
                if hasattr(error, "__notes__"):
                    own.__notes__ = list(error.__notes__)
                place.set_exception(own)

    def give_up(self) -> None:
        """The leader ends for a reason of its own: the longest waiting follower leads, or the flight is over."""
        followers = self._followers or []
        for number, place in enumerate(followers, 1):
            if not place.done():
                del followers[:number]
                place.set_result(TAKE_OVER)
                return
        self._end()

    def _end(self) -> list[asyncio.Future[T | TakeOver]]:
        del self._equals[self._key]
        return self._followers or []


class Flights(Generic[T]):
    """The flights of one event loop."""

    __slots__ = ("_ways",)

    def __init__(self) -> None:
        self._ways: dict[Way, dict[str, Flight[T]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._ways.values()))

    def board(self, key: str, way: Way, call: Call) -> Flight[T]:
        """The flight in the air for `key`, or a new one that `call` leads.

        The leader must end it by one of `land`, `crash` and `give_up`.
        """
        equals = self._ways.get(way)
        if equals is None:
            for old in [old for old, flights in self._ways.items() if not flights]:
                del self._ways[old]
            equals = self._ways[way] = {}
        flight = equals.get(key)
        if flight is None:
            flight = equals[key] = Flight(equals, key, call)
        return flight
