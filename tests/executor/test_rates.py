"""Token buckets: never more than the rate allows, never a needless wait, and in step with what a server tells."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.errors import UsageError
from dspex.executor.rates import Bucket, Rates, exhausted
from dspex.lm.types import RateLimits

steps = st.lists(st.tuples(st.floats(0.0, 30.0), st.integers(0, 3000)), min_size=1, max_size=60)


@given(steps, st.integers(1, 600), st.integers(100, 60_000))
def test_no_interval_has_more_than_the_burst_and_the_rate(
    arrivals: list[tuple[float, int]], requests: int, tokens: int
) -> None:
    rates = Rates(requests, tokens)
    now = 1000.0
    sent: list[tuple[float, int]] = []
    for pause, size in arrivals:
        now += pause
        now += rates.wait(size, now)
        assert rates.wait(size, now) == 0.0
        rates.take(size, now)
        sent.append((now, size))
    largest = max(size for _, size in sent)
    for first in range(len(sent)):
        total = 0
        for count, (time, size) in enumerate(sent[first:], start=1):
            span = time - sent[first][0]
            assert count <= max(1.0, requests / 10) + requests / 60 * span + 1.001
            total += size
            # A call larger than the bucket passes when it is full, and leaves a debt.
            assert total <= tokens / 10 + tokens / 60 * span + largest + 1.0


@given(st.floats(0.1, 100.0), st.floats(0.01, 50.0), st.floats(0.0, 1.0), st.floats(0.0, 200.0))
def test_a_wait_is_as_long_as_needed_and_no_longer(capacity: float, rate: float, share: float, cost: float) -> None:
    def bucket() -> Bucket:
        return Bucket(capacity, rate, capacity * share, 50.0)

    wait = bucket().wait(cost, 50.0)
    assert bucket().wait(cost, 50.0 + wait) == 0.0
    if wait > 0.01:
        assert bucket().wait(cost, 50.0 + 0.99 * wait - 1e-3 * capacity / rate) > 0.0


def test_a_clock_that_steps_back_gives_nothing_and_takes_nothing() -> None:
    bucket = Bucket(10.0, 1.0, 0.0, 100.0)
    assert bucket.wait(1.0, 40.0) == pytest.approx(1.0)
    assert bucket.wait(1.0, 101.0) == 0.0


def test_a_call_larger_than_the_limit_is_delayed_and_not_blocked() -> None:
    rates = Rates(tokens=600.0)
    assert rates.wait(5000, 0.0) == 0.0
    rates.take(5000, 0.0)
    assert rates.wait(1, 0.0) == pytest.approx((5000 - 60 + 1) / 10)


def test_what_a_call_did_not_use_is_given_back() -> None:
    rates = Rates(requests=60.0, tokens=600.0)
    for _ in range(6):
        assert rates.wait(10, 0.0) == 0.0
        rates.take(10, 0.0)
    assert rates.wait(10, 0.0) == pytest.approx(1.0)
    rates.give(1, 10)
    assert rates.wait(10, 0.0) == 0.0
    rates.give(0, -50)
    assert rates.wait(10, 0.0) == pytest.approx(5.0)


def test_a_hold_ends_at_the_latest_time_asked_for() -> None:
    rates = Rates()
    rates.hold(5.0)
    rates.hold(2.0)
    assert rates.wait(0, 1.0) == 4.0
    assert rates.wait(0, 5.0) == 0.0


@pytest.mark.parametrize("settings", [{"requests": 0.0}, {"tokens": float("inf")}, {"requests": 1.0, "burst": -1.0}])
def test_a_rate_that_is_not_positive_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="DX4730"):
        Rates(**settings)


@pytest.mark.parametrize(
    ("limits", "tokens", "expected"),
    [
        (None, 10, None),
        (RateLimits(), 10, None),
        (RateLimits(requests=10, requests_left=0), 10, 0.0),
        (RateLimits(requests=10, requests_left=1), 10, None),
        (RateLimits(tokens=100, tokens_left=9, tokens_reset=3.0), 10, 3.0),
        (RateLimits(tokens=100, tokens_left=10, tokens_reset=3.0), 10, None),
        (RateLimits(tokens=100, tokens_left=0), 0, 0.0),
        (RateLimits(requests=0, requests_left=0, tokens=0, tokens_left=0), 10, None),
    ],
)
def test_a_refusal_for_the_rate_is_told_from_one_for_the_load(
    limits: RateLimits | None, tokens: int, expected: float | None
) -> None:
    assert exhausted(limits, tokens) == expected


class MeteredServer:
    """Keeps real limits of its own and tells them with every answer, as they were when the request came.

    ``fixed`` counts whole minutes from zero; otherwise the limits refill steadily.
    """

    def __init__(self, requests: int, tokens: int, fixed: bool) -> None:
        self.allowed = (requests, tokens)
        self.fixed = fixed
        self.left = [float(requests), float(tokens)]
        self.time = 0.0
        self.refused = 0

    def arrive(self, now: float, tokens: int) -> RateLimits:
        for i, allowed in enumerate(self.allowed):
            if not self.fixed:
                self.left[i] = min(allowed, self.left[i] + (now - self.time) * allowed / 60.0)
            elif int(now // 60.0) > int(self.time // 60.0):
                self.left[i] = float(allowed)
        self.time = now
        if self.left[0] >= 1.0 and self.left[1] >= tokens:
            self.left[0] -= 1.0
            self.left[1] -= tokens
        else:
            self.refused += 1

        def reset(i: int) -> float:
            if self.fixed:
                return 60.0 - now % 60.0
            return (self.allowed[i] - self.left[i]) / self.allowed[i] * 60.0

        return RateLimits(self.allowed[0], int(self.left[0]), reset(0), self.allowed[1], int(self.left[1]), reset(1))


def drive(rates: Rates, server: MeteredServer, latency: Callable[[], float], seconds: float) -> int:
    """Send calls as early as `rates` lets them, many in flight; how many were sent."""
    now, sent = 0.0, 0
    flying: list[tuple[float, float, int, int, RateLimits, int]] = []
    rng = random.Random(5)
    while now < seconds:
        tokens = rng.randrange(50, 150)
        while True:
            ready = now + rates.wait(tokens, now)
            flying.sort(key=lambda call: call[0])
            if not flying or flying[0][0] > ready:
                break
            ended, started, requests_taken, tokens_taken, limits, size = flying.pop(0)
            now = max(now, ended)
            rates.correct(limits, started, requests_taken, tokens_taken, now)
            if size:
                rates.hold(now + (exhausted(limits, size) or 0.0))
        now = ready
        rates.take(tokens, now)
        before = server.refused
        limits = server.arrive(now, tokens)
        refused = server.refused > before
        ended = now + (0.01 if refused else latency())
        flying.append((ended, now, rates.requests_taken, rates.tokens_taken, limits, tokens if refused else 0))
        # Nobody starts faster than a thousand calls a second.
        now += 0.001
        sent += 1
    return sent


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([(600, 10**6), (6000, 60_000), (300, 30_000)]))
def test_unknown_limits_are_learnt_from_the_headers_and_then_used_in_full(seed: int, allowed: tuple[int, int]) -> None:
    rng = random.Random(seed)
    server = MeteredServer(*allowed, fixed=False)
    sent = drive(Rates(), server, lambda: rng.uniform(0.05, 2.0), 600.0)
    assert server.refused <= 0.02 * sent
    a_minute = min(allowed[0], allowed[1] / 99.5)
    assert sent >= 0.95 * a_minute * 10


@pytest.mark.parametrize("allowed", [(600, 10**6), (6000, 60_000)])
def test_limits_that_count_whole_minutes_are_used_in_full_too(allowed: tuple[int, int]) -> None:
    rng = random.Random(1)
    server = MeteredServer(*allowed, fixed=True)
    sent = drive(Rates(), server, lambda: rng.uniform(0.05, 2.0), 600.0)
    assert server.refused <= 0.05 * sent
    assert sent - server.refused >= 0.95 * 10 * min(allowed[0], allowed[1] / 99.5)


def test_a_configured_rate_is_never_raised_by_what_the_server_tells() -> None:
    rng = random.Random(1)
    server = MeteredServer(6000, 10**9, fixed=False)
    sent = drive(Rates(requests=120.0), server, lambda: rng.uniform(0.05, 2.0), 300.0)
    assert sent <= 120 * 5 + 12 + 1


def test_a_configured_rate_that_is_too_high_is_lowered_by_what_the_server_tells() -> None:
    rng = random.Random(1)
    server = MeteredServer(120, 10**9, fixed=False)
    sent = drive(Rates(requests=60_000.0), server, lambda: 0.5 * rng.random(), 600.0)
    assert server.refused <= 0.2 * sent
    assert sent - server.refused >= 0.95 * 1200


words = st.one_of(st.none(), st.integers(0, 10**7))
resets = st.one_of(st.none(), st.floats(0.0, 1e13))


@given(st.lists(st.tuples(words, words, resets, words, words, resets, st.floats(0.0, 100.0)), max_size=20))
def test_no_words_of_a_server_close_the_limit_for_ever(
    told: list[tuple[int | None, int | None, float | None, int | None, int | None, float | None, float]],
) -> None:
    rates = Rates()
    now = 0.0
    for requests, left, reset, tokens, tokens_left, tokens_reset, pause in told:
        now += pause
        if rates.wait(10, now) <= 0.0:
            rates.take(10, now)
        limits = RateLimits(requests, left, reset, tokens, tokens_left, tokens_reset)
        rates.correct(limits, now - pause, rates.requests_taken, rates.tokens_taken, now)
        # A call that is larger than the limit leaves a debt of its own size.
        assert rates.wait(10, now) <= 86400.0 * 11.0
