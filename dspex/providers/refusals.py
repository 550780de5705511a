"""What a server says when it refuses: its words without secrets, and when to come back."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

_LONGEST = 400
_MOST_LEARNED = 63

_SECRETS = re.compile(r"(?i)\b(bearer\s+|sk-|gsk_|api[-_ ]?key[\"'=:\s]+)[A-Za-z0-9_\-.~+/*]{6,}=*")


class Redactor:
    """Makes excerpts of what a server sent, with the given secrets and whatever looks like a key taken out."""

    __slots__ = ("_learned", "_secrets")

    def __init__(self, *secrets: str) -> None:
        self._secrets = tuple(secret for secret in secrets if secret)
        self._learned: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return "Redactor(***)"

    def learn(self, secret: str) -> None:
        """Take `secret` out as well, until many others have been learned: the keys of a server that expire."""
        if secret and secret not in self._secrets and secret not in self._learned:
            self._learned = (*self._learned[-_MOST_LEARNED:], secret)

    def excerpt(self, text: str | bytes) -> str:
        """At most 400 characters of `text` on one line, secrets replaced by ``***``."""
        whole = len(text) <= 8 * _LONGEST
        text = text[: 8 * _LONGEST]
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        secrets = self._secrets + self._learned
        for secret in secrets:
            text = text.replace(secret, "***")
        if not whole:
            # Where the text was cut, so may be a secret.
            text = text[: -max(200, 0, *map(len, secrets))]
        text = _SECRETS.sub(r"\1***", text)
        text = " ".join(text.split())
        return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds to wait by ``retry-after-ms`` or ``Retry-After`` (seconds or HTTP date), or None.

    Args:
        headers: Lower-case names.
        now: Seconds since the epoch; by default the server's own (``Date``), whatever our clock says, else the clock.

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
        moment = _moment(value)
    except _UNREADABLE:
        return None
    if now is None:
        try:
            now = _moment(headers["date"])
        except (KeyError, *_UNREADABLE):
            now = time.time()
    return max(0.0, moment - now)


_UNREADABLE = (ValueError, TypeError, IndexError, OverflowError)


def _moment(value: str) -> float:
    """Seconds since the epoch of an HTTP date."""
    moment = parsedate_to_datetime(value)
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0.0 <= value < float("inf") else None
