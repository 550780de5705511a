"""AWS Signature Version 4 for requests without a query.

Source: AWS, "Create a signed AWS API request".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key of AWS; ``token`` belongs to a temporary one."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str = field(default="", repr=False)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Signer:
    """Signs requests to one service in one region.

    Args:
        credentials: Whose signature it is.
        region: For example ``us-east-1``.
        service: Name of the service in signatures, for example ``bedrock``.
        now: The clock, in UTC.
    """

    def __init__(
        self, credentials: Credentials, region: str, service: str, now: Callable[[], datetime] = _utc_now
    ) -> None:
        self._credentials = credentials
        self._scope = f"{region}/{service}/aws4_request"
        self._now = now
        self._key = ("", b"")

    def sign(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers to add to a request.

        Args:
            method: Upper-case.
            url: As it is sent, its path percent-encoded, without a query.
            body: What is sent.
            headers: Further headers that the signature covers; lower-case names.
        """
        stamp = self._now().strftime("%Y%m%dT%H%M%SZ")
        parts = urlsplit(url)
        added = {"x-amz-date": stamp}
        if self._credentials.token:
            added["x-amz-security-token"] = self._credentials.token
        covered = {"host": _host(parts.scheme, parts.netloc), **headers, **added}
        names = sorted(covered)
        signed = ";".join(names)
        # Every service but S3 wants the path that is sent encoded once more.
        path = quote(parts.path or "/", safe="/-_.~")
        lines = [f"{name}:{' '.join(covered[name].split())}" for name in names]
        digest = hashlib.sha256(body).hexdigest()
        canonical = "\n".join([method, path, "", *lines, "", signed, digest])
        scope = f"{stamp[:8]}/{self._scope}"
        text = "\n".join([_ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        signature = _hmac(self._key_of(stamp[:8]), text).hex()
        added["authorization"] = (
            f"{_ALGORITHM} Credential={self._credentials.access_key}/{scope}, "
            f"SignedHeaders={signed}, Signature={signature}"
        )
        return added

    def _key_of(self, day: str) -> bytes:
        known, key = self._key
        if day != known:
            key = f"AWS4{self._credentials.secret_key}".encode()
            for part in (day, *self._scope.split("/")):
                key = _hmac(key, part)
            self._key = (day, key)
        return key


def _host(scheme: str, netloc: str) -> str:
    """The Host header that a request is sent with: without user and default port."""
    host = netloc.rpartition("@")[2]
    return host.removesuffix(":443" if scheme == "https" else ":80")


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
