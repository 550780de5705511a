"""When a failed attempt is tried again, after how long, and how many retries all calls together may make."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field

from dspex.errors import LMError, RateLimited, RequestRejected, ServerError


def is_free(error: LMError) -> bool:
    """Whether the failed attempt certainly produced, and so cost, no tokens: it was never sent, or was refused."""
    if error.sent == "yes":
        return isinstance(error, (RateLimited, ServerError, RequestRejected))
    return error.sent == "no"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with full jitter; a server's Retry-After is kept, with jitter on top.

    Attributes:
        retries: Attempts after the first.
        base: Upper bound of the first delay, in seconds; it doubles each time.
        ceiling: Upper bound of every delay that dspex chooses.
        patience: The longest Retry-After that is waited for; a longer one ends the call.
        rng: Source of the jitter: its own, so that the caller's random numbers stay untouched.
        ambiguous: Whether an attempt is tried again that may have been carried out, and paid.
        busy: Seconds that a call waits on answers 429 in all, however many attempts that takes: such a server has done
            nothing and wants to be asked later. Without any ``retries`` it does not hold.

    Source: Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015), full jitter.
    """

    retries: int = 4
    base: float = 0.5
    ceiling: float = 30.0
    patience: float = 300.0
    rng: random.Random = field(default_factory=random.Random)
    ambiguous: bool = True
    busy: float = 60.0

    def may(self, error: LMError, failures: int, waited: float = 0.0) -> bool:
        """Whether another attempt is made at all.

        Args:
            error: Of the last attempt.
            failures: Attempts that have failed.
            waited: Seconds that the call has waited on answers 429.
        """
        if not error.retryable or not (self.ambiguous or is_free(error)):
            return False
        return failures <= self.retries or (isinstance(error, RateLimited) and self.retries > 0 and waited < self.busy)

    def delay(self, error: LMError, failures: int, waited: float = 0.0) -> float | None:
        """Seconds until the next attempt, or None to give up; the arguments are those of `may`."""
        if not self.may(error, failures, waited):
            return None
        # The exponent is bounded before the power, so that no count of failures overflows.
        chosen = self.rng.uniform(0.0, min(self.ceiling, self.base * 2.0 ** min(failures - 1, 60)))
        asked = error.retry_after if isinstance(error, (RateLimited, ServerError)) else None
        if asked is None:
            return chosen
        if asked > self.patience:
            return None
        # Never earlier than asked; spread, because every client was told the same moment.
        later = max(0.0, asked) + self.rng.uniform(0.0, min(1.0, 0.1 * max(0.0, asked)))
        return later if failures <= self.retries else max(chosen, later)


_WINDOW = 512
"""Calls that an allowance looks back on, about."""


class Allowance:
    """Extra attempts that calls earn: `burst`, and `ratio` for each of the latest calls.

    It bounds what retries add to the load of a server that fails anyway: without it, every call to a server that is
    down is sent as often as its retries allow. No clock is read. Shared by threads.

    Attributes:
        calls: Calls so far.
        taken: Extra attempts so far.
        refused: Extra attempts for which none was left.

    Source: Finagle's RetryBudget, with a window in calls instead of seconds.
    """

    __slots__ = ("_calls", "_extra", "_lock", "burst", "calls", "ratio", "refused", "taken")

    def __init__(self, ratio: float, burst: float) -> None:
        self.ratio = ratio
        self.burst = burst
        self.calls = 0
        self.taken = 0
        self.refused = 0
        self._calls = 0.0
        self._extra = 0.0
        self._lock = threading.Lock()

    @property
    def left(self) -> float:
        """Extra attempts that may be made now."""
        return self.burst + self.ratio * self._calls - self._extra

    def earn(self) -> None:
        """A call was made."""
        with self._lock:
            self.calls += 1
            self._calls += 1.0
            if self._calls >= _WINDOW:
                # Half of the past is forgotten at once.
                self._calls /= 2.0
                self._extra /= 2.0

    def take(self) -> bool:
        """Make an extra attempt; False when none is left."""
        with self._lock:
            if self.left < 1.0:
                self.refused += 1
                return False
            self._extra += 1.0
            self.taken += 1
            return True
