"""What a server says when it refuses: its words without secrets, and when to come back."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

_LONGEST = 400

_SECRETS = re.compile(r"(?i)\b(bearer\s+|sk-|gsk_|api[-_ ]?key[\"'=:\s]+)[A-Za-z0-9_\-.~+/*]{6,}=*")


class Redactor:
    """Makes excerpts of what a server sent, with one key and whatever looks like a key taken out."""

    __slots__ = ("_key",)

    def __init__(self, key: str = "") -> None:
        self._key = key

    def __repr__(self) -> str:
        return "Redactor(***)"

    def excerpt(self, text: str | bytes) -> str:
        """At most 400 characters of `text` on one line, secrets replaced by ``***``."""
        whole = len(text) <= 8 * _LONGEST
        text = text[: 8 * _LONGEST]
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        if self._key:
            text = text.replace(self._key, "***")
        if not whole:
            # Where the text was cut, so may be a secret.
            text = text[: -max(len(self._key), 200)]
        text = _SECRETS.sub(r"\1***", text)
        text = " ".join(text.split())
        return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds to wait by ``retry-after-ms`` or ``Retry-After`` (seconds or HTTP date), or None.

    Args:
        headers: Lower-case names.
        now: Seconds since the epoch; the clock by default.

    Source: RFC 9110, section 10.2.3.
    """
    millis = _number(headers.get("retry-after-ms", ""))
    if millis is not None:
        return millis / 1000.0
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    seconds = _number(value)
    if seconds is not None:
        return seconds
    try:
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - (time.time() if now is None else now))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0.0 <= value < float("inf") else None
