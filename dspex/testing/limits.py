"""Rate limits as providers have them: what a key may use in a window, in buckets that fill evenly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dspex.lm.types import RateLimits


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What each API key may use.

    Attributes:
        requests: Requests in a window; None for any number.
        tokens: Tokens, of input and output together, in a window; None for any number.
        window: Seconds.
        date: Whether ``Retry-After`` is a date rather than seconds.
    """

    requests: int | None = None
    tokens: int | None = None
    window: float = 60.0
    date: bool = False


class _Bucket:
    """Holds at most `size`, is full at the beginning and fills within `window` seconds."""

    __slots__ = ("_filled", "_level", "_rate", "size")

    def __init__(self, size: int, window: float, now: float) -> None:
        self.size = size
        self._rate = size / window
        self._level = float(size)
        self._filled = now

    def fill(self, now: float) -> None:
        self._level = min(self.size, self._level + (now - self._filled) * self._rate)
        self._filled = now

    def missing(self, amount: float) -> float:
        """Seconds until `amount` is there; what exceeds the whole bucket needs a full one."""
        return max(0.0, (min(amount, self.size) - self._level) / self._rate)

    def take(self, amount: float) -> None:
        self._level = max(0.0, self._level - amount)

    def state(self) -> tuple[int, int, float]:
        """(size, what is left, seconds until it is full)."""
        return self.size, int(self._level), (self.size - self._level) / self._rate


class Buckets:
    """The buckets of all keys.

    Args:
        limit: Of each key.
        clock: Seconds since the epoch.
    """

    def __init__(self, limit: RateLimit, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._buckets: dict[str, tuple[_Bucket | None, _Bucket | None]] = {}

    def take(self, key: str, tokens: int) -> tuple[RateLimits, float]:
        """Take one request and `tokens`; (what is left, seconds to wait where that was too much).

        Nothing is taken when there is a wait.
        """
        now = self._clock()
        limit = self._limit
        if key not in self._buckets:
            requested = None if limit.requests is None else _Bucket(limit.requests, limit.window, now)
            used = None if limit.tokens is None else _Bucket(limit.tokens, limit.window, now)
            self._buckets[key] = requested, used
        wanted = tuple(zip(self._buckets[key], (1, tokens), strict=True))
        wait = 0.0
        for bucket, amount in wanted:
            if bucket is not None:
                bucket.fill(now)
                wait = max(wait, bucket.missing(amount))
        for bucket, amount in wanted:
            if bucket is not None and wait == 0:
                bucket.take(amount)
        states = [(None, None, None) if bucket is None else bucket.state() for bucket, _ in wanted]
        return RateLimits(*states[0], *states[1]), wait
