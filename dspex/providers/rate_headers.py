"""What the headers of a response tell about the server's rate limits."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from dspex.lm.types import RateLimits

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def rate_limits(headers: Mapping[str, str], now: float | None = None) -> RateLimits | None:
    """The limits that ``x-ratelimit-*`` or ``anthropic-ratelimit-*`` tell; None where there are none.

    A server's window is its own: a minute for most, a day for the requests of some; ``requests_reset`` over what is
    used up of ``requests`` shows the rate. A negative or unreadable figure counts as not told.

    Args:
        headers: Lower-case names.
        now: Seconds since the epoch; the clock by default. Only Anthropic's times need it.

    Source: OpenAI, "Rate limits", "Rate limits in headers"; Anthropic, "Rate limits", "Response headers".
    """
    get = headers.get
    if get("x-ratelimit-remaining-requests") is not None or get("x-ratelimit-remaining-tokens") is not None:
        return RateLimits(
            _count(get("x-ratelimit-limit-requests")),
            _count(get("x-ratelimit-remaining-requests")),
            _duration(get("x-ratelimit-reset-requests")),
            _count(get("x-ratelimit-limit-tokens")),
            _count(get("x-ratelimit-remaining-tokens")),
            _duration(get("x-ratelimit-reset-tokens")),
        )
    if get("anthropic-ratelimit-requests-remaining") is None and get("anthropic-ratelimit-tokens-remaining") is None:
        return None
    now = time.time() if now is None else now
    # ``tokens`` is the tightest of the limits in force; where it is missing, that of the input.
    tokens = "tokens" if get("anthropic-ratelimit-tokens-limit") is not None else "input-tokens"
    return RateLimits(
        _count(get("anthropic-ratelimit-requests-limit")),
        _count(get("anthropic-ratelimit-requests-remaining")),
        _until(get("anthropic-ratelimit-requests-reset"), now),
        _count(get(f"anthropic-ratelimit-{tokens}-limit")),
        _count(get(f"anthropic-ratelimit-{tokens}-remaining")),
        _until(get(f"anthropic-ratelimit-{tokens}-reset"), now),
    )


def _count(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else None


def _duration(text: str | None) -> float | None:
    """Seconds of ``6m0s``, ``12ms``, ``1m26.4s`` or plain ``59.7``."""
    if text is None:
        return None
    if _DURATION.fullmatch(text):
        return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0.0 <= seconds < float("inf") else None


def _until(text: str | None, now: float) -> float | None:
    """Seconds from `now` to a time of RFC 3339; never negative."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now)
