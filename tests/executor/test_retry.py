"""Delays: full jitter under a doubling bound, Retry-After kept, and an end."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from dspex.errors import LMError, RateLimited, RequestRejected, ServerError
from dspex.executor.retry import RetryPolicy


def rate_limited(after: float | None) -> RateLimited:
    error = RateLimited("DX4101", "429", retryable=True, sent="yes")
    error.retry_after = after
    return error


@given(st.integers(0, 2**32), st.integers(1, 2000))
def test_a_delay_stays_under_its_bound(seed: int, failures: int) -> None:
    policy = RetryPolicy(retries=5000, rng=random.Random(seed))
    delay = policy.delay(ServerError("DX4101", "500", retryable=True), failures)
    assert delay is not None
    assert 0.0 <= delay <= min(30.0, 0.5 * 2.0 ** min(failures - 1, 60))


@given(st.integers(0, 2**32), st.floats(0, 300))
def test_a_retry_after_is_never_undercut(seed: int, after: float) -> None:
    delay = RetryPolicy(rng=random.Random(seed)).delay(rate_limited(after), 1)
    assert delay is not None
    assert after <= delay <= after + 1.0


def test_it_gives_up_when_retrying_cannot_help() -> None:
    policy = RetryPolicy(retries=2)
    assert policy.delay(RequestRejected("DX4101", "401"), 1) is None
    assert policy.delay(LMError("DX4101", "x", retryable=True), 3) is None
    assert policy.delay(rate_limited(301.0), 1) is None


def test_a_busy_server_is_waited_for_by_time_and_not_by_count() -> None:
    policy = RetryPolicy(retries=2, rng=random.Random(0))
    waited, failures = 0.0, 0
    while True:
        failures += 1
        delay = policy.delay(rate_limited(0.0), failures, waited)
        if delay is None:
            break
        waited += delay
    assert 60.0 <= waited <= 90.0
    # Asked to come back at once again and again, it waits longer each time.
    assert failures < 40
    assert RetryPolicy(retries=0).delay(rate_limited(1.0), 1) is None
    assert policy.delay(ServerError("DX4101", "500", retryable=True), 3, waited=0.0) is None


def test_delays_are_the_same_when_the_seed_is() -> None:
    error = rate_limited(None)
    first, second = (
        [RetryPolicy(rng=rng).delay(error, n) for n in range(1, 5)] for rng in (random.Random(7), random.Random(7))
    )
    assert first == second
    assert len(set(first)) == 4
