"""Requests and tokens a minute: token buckets, seeded from configuration and corrected by what servers tell.

Two kinds of buckets bind at once. A *configured* one is the user's word: what a server tells never raises it. A *told*
one is the server's: every response's headers set it anew. All is O(1) and without timers: `Limit` asks how long to
wait and calls under its own lock, so nothing here is thread-safe by itself.
"""

from __future__ import annotations

from dspex.errors import UsageError
from dspex.lm.types import RateLimits

_DAY = 86400.0
"""Seconds of the longest window that servers count in."""

_SLACK = 1e-6
"""Share of a bucket that a sum of floats may be short of without waiting again."""


class Bucket:
    """Holds `capacity` at most and fills by `rate` a second.

    A call that costs more than the capacity passes when the bucket is full, and leaves a debt: a limit that is too
    small for a call delays it and does not block it for ever.

    Args:
        capacity: The most that it holds, > 0.
        rate: Refill a second, >= 0.
        level: What it holds at `now`.
        now: Seconds of the caller's clock.

    Source: Turner (1986), "New directions in communications (or which way to the information age?)", IEEE
    Communications Magazine 24(10).
    """

    __slots__ = ("capacity", "level", "rate", "stamp")

    def __init__(self, capacity: float, rate: float, level: float, now: float) -> None:
        self.capacity = capacity
        self.rate = rate
        self.level = min(level, capacity)
        self.stamp = now

    def wait(self, cost: float, now: float) -> float:
        """Seconds until `cost` may be taken; infinite where the bucket never fills."""
        self.fill(now)
        short = min(cost, self.capacity) - self.level
        if short <= _SLACK * self.capacity:
            return 0.0
        return short / self.rate if self.rate > 0.0 else float("inf")

    def fill(self, now: float) -> None:
        """Bring the level up to `now`; a clock that steps back fills nothing."""
        if now > self.stamp:
            self.level = min(self.capacity, self.level + (now - self.stamp) * self.rate)
            self.stamp = now

    def give(self, amount: float) -> None:
        """Put back what was taken and not used; a negative amount takes what was used beyond."""
        self.level = min(self.capacity, self.level + amount)


class Rates:
    """The rate limits of one key at one server.

    Args:
        requests: Requests a minute, as configured; None for none.
        tokens: Tokens a minute, as configured; None for none.
        burst: Seconds' worth of the configured rates that may be sent at once. Servers count in windows of a second
            up to a minute; with six seconds no minute has more than 110 % of its share.

    Attributes:
        requests_taken, tokens_taken: All that was ever admitted, what was given back included; a call remembers both
            as they were when it was admitted, for `correct`.

    Raises:
        UsageError: DX4730 when a rate is not a positive number.
    """

    __slots__ = (
        "_burst",
        "_held",
        "_request_buckets",
        "_token_buckets",
        "_told_at",
        "_told_requests",
        "_told_tokens",
        "requests_taken",
        "tokens_taken",
    )

    def __init__(self, requests: float | None = None, tokens: float | None = None, *, burst: float = 6.0) -> None:
        for name, value in (("requests a minute", requests), ("tokens a minute", tokens), ("burst", burst)):
            if value is not None and not 0.0 < value < float("inf"):
                raise UsageError("DX4730", f"{name} is a positive number, got {value!r}")
        self._request_buckets = [] if requests is None else [_configured(requests, burst)]
        self._token_buckets = [] if tokens is None else [_configured(tokens, burst)]
        self._told_at = float("-inf")
        self._told_requests: Bucket | None = None
        self._told_tokens: Bucket | None = None
        self._held = float("-inf")
        self.requests_taken = 0
        self.tokens_taken = 0

    def wait(self, tokens: int, now: float) -> float:
        """Seconds until a call of `tokens` may be sent; 0.0 when it may be sent now."""
        longest = self._held - now if self._held > now else 0.0
        for bucket in self._request_buckets:
            longest = max(longest, bucket.wait(1.0, now))
        for bucket in self._token_buckets:
            longest = max(longest, bucket.wait(tokens, now))
        return longest

    def take(self, tokens: int, now: float) -> None:
        """One call of `tokens` is sent; it may overdraw a bucket where `wait` was not asked."""
        self.requests_taken += 1
        self.tokens_taken += tokens
        for bucket in self._request_buckets:
            bucket.fill(now)
            bucket.level -= 1.0
        for bucket in self._token_buckets:
            bucket.fill(now)
            bucket.level -= tokens

    def give(self, requests: int, tokens: int) -> None:
        """Put back what an admitted call did not use; negative `tokens` where it used more than was taken for it."""
        for bucket in self._request_buckets:
            bucket.give(requests)
        for bucket in self._token_buckets:
            bucket.give(tokens)

    def hold(self, until: float) -> None:
        """Let nothing pass before `until`; an earlier end of a longer hold changes nothing."""
        self._held = max(self._held, until)

    def is_held(self, now: float) -> bool:
        """Whether a hold has not ended yet."""
        return self._held > now

    def left(self, now: float) -> tuple[float | None, float | None]:
        """Requests and tokens that may be sent now; None where there is no rate of them."""
        for bucket in (*self._request_buckets, *self._token_buckets):
            bucket.fill(now)
        return _least(self._request_buckets), _least(self._token_buckets)

    def correct(self, limits: RateLimits, started: float, requests_taken: int, tokens_taken: int, now: float) -> None:
        """Take over what the headers of a response say.

        A server counts a request when it arrives. So what it told is true of the moment when that call was sent:
        calls admitted after it are still to be taken off, and the refill since then is to be added. Words about an
        earlier moment than those known already are left aside.

        Args:
            limits: Of the response.
            started: When its call was sent.
            requests_taken, tokens_taken: These attributes just after its call was admitted.
            now: Time of the caller's clock.
        """
        if started < self._told_at:
            return
        self._told_at = started
        self._told_requests = _told(
            self._request_buckets,
            self._told_requests,
            (limits.requests, limits.requests_left, limits.requests_reset),
            self.requests_taken - requests_taken,
            (started, now),
        )
        self._told_tokens = _told(
            self._token_buckets,
            self._told_tokens,
            (limits.tokens, limits.tokens_left, limits.tokens_reset),
            self.tokens_taken - tokens_taken,
            (started, now),
        )


def exhausted(limits: RateLimits | None, tokens: int) -> float | None:
    """Seconds until the rate is whole again, where a refusal was for the rate; None where it was not.

    It was when a call of `tokens` did not fit into what was left; a limit of zero is none.
    """
    if limits is None:
        return None
    whole: float | None = None
    for allowed, left, reset, cost in (
        (limits.requests, limits.requests_left, limits.requests_reset, 1),
        (limits.tokens, limits.tokens_left, limits.tokens_reset, max(tokens, 1)),
    ):
        if left is not None and allowed != 0 and left < cost:
            whole = max(whole or 0.0, reset or 0.0)
    return whole


def _least(buckets: list[Bucket]) -> float | None:
    # A debt is nothing left.
    return max(0.0, min(bucket.level for bucket in buckets)) if buckets else None


def _configured(a_minute: float, burst: float) -> Bucket:
    # The time of the first call is later than any time before it, so that the bucket is full then.
    capacity = max(1.0, a_minute * burst / 60.0)
    return Bucket(capacity, a_minute / 60.0, capacity, float("-inf"))


def _told(
    buckets: list[Bucket],
    bucket: Bucket | None,
    words: tuple[int | None, int | None, float | None],
    since: int,
    times: tuple[float, float],
) -> Bucket | None:
    """The server's bucket of one dimension, set anew from its words: allowed, left, seconds until whole."""
    allowed, left, reset = words
    started, now = times
    if left is None or allowed == 0:
        # Some gateways tell zero where there is no limit.
        return bucket
    if allowed is None:
        allowed = max(left, 1) if bucket is None else bucket.capacity
    if reset is not None and reset > 0.0 and allowed > left:
        rate = (allowed - left) / reset
    elif bucket is not None:
        rate = bucket.rate
    else:
        # Nothing is missing, or nobody says when it comes back: the usual window is a minute.
        rate = allowed / 60.0
    # However far away a reset is said to be, the limit is tried again.
    rate = max(rate, allowed / _DAY)
    # A server refuses what does not fit; it lets nobody run up a debt.
    level = max(0.0, left - since + rate * max(0.0, now - started))
    if bucket is None:
        bucket = Bucket(max(allowed, 1.0), rate, level, now)
        buckets.append(bucket)
    else:
        bucket.capacity, bucket.rate, bucket.stamp = max(allowed, 1.0), rate, now
        bucket.level = min(level, bucket.capacity)
    return bucket
