"""Rate limits as headers tell them, in the forms of several providers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex.lm.types import RateLimits
from dspex.providers.rate_headers import rate_limits

OPENAI = {
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-limit-tokens": "2000000",
    "x-ratelimit-remaining-requests": "9999",
    "x-ratelimit-remaining-tokens": "1999984",
    "x-ratelimit-reset-requests": "6ms",
    "x-ratelimit-reset-tokens": "1m26.4s",
}
GROQ = {
    "retry-after": "2",
    "x-ratelimit-limit-requests": "14400",
    "x-ratelimit-limit-tokens": "18000",
    "x-ratelimit-remaining-requests": "14370",
    "x-ratelimit-remaining-tokens": "17997",
    "x-ratelimit-reset-requests": "2m59.56s",
    "x-ratelimit-reset-tokens": "7.66s",
}
AZURE = {
    "x-ratelimit-limit-tokens": "-1",
    "x-ratelimit-remaining-tokens": "-1",
    "x-ratelimit-reset-tokens": "0",
    "x-ratelimit-remaining-requests": "99",
}
ANTHROPIC = {
    "anthropic-ratelimit-requests-limit": "50",
    "anthropic-ratelimit-requests-remaining": "49",
    "anthropic-ratelimit-requests-reset": "2026-01-01T00:00:30Z",
    "anthropic-ratelimit-tokens-limit": "60000",
    "anthropic-ratelimit-tokens-remaining": "59000",
    "anthropic-ratelimit-tokens-reset": "2026-01-01T00:00:01.5+00:00",
    "anthropic-ratelimit-input-tokens-limit": "50000",
    "anthropic-ratelimit-input-tokens-remaining": "49000",
    "anthropic-ratelimit-input-tokens-reset": "2025-12-31T23:59:00Z",
}
NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z


@pytest.mark.parametrize(
    ("headers", "limits"),
    [
        ({}, None),
        ({"retry-after": "3", "content-type": "application/json"}, None),
        (OPENAI, RateLimits(10_000, 9_999, 0.006, 2_000_000, 1_999_984, 86.4)),
        (GROQ, RateLimits(14_400, 14_370, 179.56, 18_000, 17_997, 7.66)),
        (AZURE, RateLimits(None, 99, None, None, None, 0.0)),
        (ANTHROPIC, RateLimits(50, 49, 30.0, 60_000, 59_000, 1.5)),
        (
            {k: v for k, v in ANTHROPIC.items() if "ratelimit-tokens" not in k},
            RateLimits(50, 49, 30.0, 50_000, 49_000, 0.0),
        ),
    ],
)
def test_limits_are_read(headers: dict[str, str], limits: RateLimits | None) -> None:
    got = rate_limits(headers, NOW)
    assert (got is None) == (limits is None)
    if got is not None and limits is not None:
        for name in RateLimits.__dataclass_fields__:
            assert getattr(got, name) == pytest.approx(getattr(limits, name)), name


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("1d2h3m4s", 93_784.0),
        ("250ms", 0.25),
        ("59.7", 59.7),
        ("0", 0.0),
        ("", None),
        ("soon", None),
        ("-1s", None),
        ("-1", None),
        ("1s later", None),
        ("inf", None),
        ("nan", None),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    got = rate_limits({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": text})
    assert got is not None
    assert got.requests_reset == (None if seconds is None else pytest.approx(seconds))


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([*OPENAI, *ANTHROPIC]), st.text()))
def test_no_header_breaks_the_reader(headers: dict[str, str]) -> None:
    got = rate_limits(headers, NOW)
    if got is not None:
        for name in RateLimits.__dataclass_fields__:
            value = getattr(got, name)
            assert value is None or 0 <= value < float("inf")
