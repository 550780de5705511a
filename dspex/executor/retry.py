"""When a failed attempt is tried again, and after how long."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from dspex.errors import LMError, RateLimited, ServerError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with full jitter; a server's Retry-After is kept, with jitter on top.

    Attributes:
        retries: Attempts after the first.
        base: Upper bound of the first delay, in seconds; it doubles each time.
        ceiling: Upper bound of every delay that dspex chooses.
        patience: The longest Retry-After that is waited for; a longer one ends the call.
        rng: Source of the jitter: its own, so that the caller's random numbers stay untouched.

    Source: Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015), full jitter.
    """

    retries: int = 4
    base: float = 0.5
    ceiling: float = 30.0
    patience: float = 300.0
    rng: random.Random = field(default_factory=random.Random)

    def delay(self, error: LMError, failures: int) -> float | None:
        """Seconds until the next attempt after `failures` of them, or None to give up."""
        if not error.retryable or failures > self.retries:
            return None
        asked = error.retry_after if isinstance(error, (RateLimited, ServerError)) else None
        if asked is not None:
            if asked > self.patience:
                return None
            # Never earlier than asked; spread, because every client was told the same moment.
            return max(0.0, asked) + self.rng.uniform(0.0, min(1.0, 0.1 * max(0.0, asked)))
        # The exponent is bounded before the power, so that no count of failures overflows.
        return self.rng.uniform(0.0, min(self.ceiling, self.base * 2.0 ** min(failures - 1, 60)))
