"""What a wire is, whatever carries it: requests out, replies in, and the errors of both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from dspex.errors import CallTimeout, ConnectError, LMError, ResponseError, Sent, ServerError

T = TypeVar("T")

MAX_BODY = 64 * 1024 * 1024
"""Bytes of a response that are read at most, unless its reader says otherwise."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds, each with one meaning; None is no limit.

    Attributes:
        connect: From asking for a connection until it (TLS included) is there. Nothing has been sent.
        read: Longest silence while waiting for the response or in the middle of it.
        total: The whole attempt. What the reader of a stream does between its pieces does not count.
        write: Longest time in which the server takes nothing of the request.
    """

    connect: float | None = 10.0
    read: float | None = None
    total: float | None = 120.0
    write: float | None = 30.0


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete response. ``headers`` takes lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class LiveReply(Protocol):
    """A response whose body is still arriving. ``headers`` takes lower-case names."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    async def read(self) -> bytes:
        """What has arrived of the body since the last call, waited for if need be; ``b""`` after its end."""
        ...


class Wire(Protocol):
    """Sends one request and gives the response, of whatever status: whole, or while it arrives.

    ``headers`` of a call are added to those of the wire.
    """

    async def send(
        self, url: str, body: bytes | None, headers: Mapping[str, str] | None = None, method: str = "POST"
    ) -> Reply: ...

    def stream(
        self,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
        most: float | None = None,
    ) -> AbstractAsyncContextManager[LiveReply]:
        """Leaving the block before the body's end closes the connection.

        The body has at most `most` bytes, by default `MAX_BODY`.
        """
        ...

    async def aclose(self) -> None: ...


# --------------------------------------------------------------------------- errors


def place(url: str) -> str:
    """``scheme://host:port/path`` of `url`, without user, password or query; never raises."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "(no readable URL)"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{parts.path}"


def too_large(url: str, size: int, most: float) -> ResponseError:
    return ResponseError(
        "DX4109", f"the response is larger than {most:.0f} bytes (at least {size})", where=place(url), sent="yes"
    )


def unreachable(url: str, reason: str) -> ConnectError:
    return ConnectError(
        "DX4101",
        f"cannot connect: {reason}",
        where=place(url),
        fix="check that the server runs and that base_url names its host and port",
        retryable=True,
        sent="no",
    )


def tls_failed(url: str, reason: str) -> ConnectError:
    return ConnectError(
        "DX4102",
        f"TLS failed: {reason}",
        where=place(url),
        fix="name the certificates that your network needs: verify= and cert= of dx.LM(...), or SSL_CERT_FILE",
        sent="no",
    )


def proxy_refused(url: str, status: int, reason: str) -> ConnectError:
    return ConnectError(
        "DX4110",
        f"the proxy refused the connection: {status} {reason}",
        where=place(url),
        fix="check proxy= of dx.LM(...), or HTTPS_PROXY and NO_PROXY",
        retryable=status >= 500,
        sent="no",
    )


def proxy_unreachable(url: str, reason: str) -> ConnectError:
    return ConnectError(
        "DX4112",
        f"cannot connect to the proxy: {reason}",
        where=place(url),
        fix="check proxy= of dx.LM(...), or HTTPS_PROXY and NO_PROXY",
        retryable=True,
        sent="no",
    )


def timed_out(url: str, kind: str, seconds: float | None, sent: Sent) -> CallTimeout:
    """The error of a limit of `Timeouts` that passed; `kind` is its name."""
    code = {"connect": "DX4103", "read": "DX4104", "write": "DX4111", "total": "DX4105"}[kind]
    limit = "" if seconds is None else f" of {seconds:g} s"
    told = {
        "connect": f"the connection was not there within the connect timeout{limit}",
        "read": f"the server was silent for longer than the read timeout{limit}",
        "write": f"the server took nothing of the request for longer than the write timeout{limit}",
        "total": f"the call took longer than its timeout{limit}",
    }[kind]
    fix = "see whether the server hangs, or raise timeout of dx.LM(...)"
    return CallTimeout(code, told, where=place(url), fix=fix, retryable=True, sent=sent)


def not_http(url: str) -> ResponseError:
    # Without the words of whoever answered: they may repeat the request, and with it the key.
    return ResponseError(
        "DX4108",
        "the answer is not HTTP",
        where=place(url),
        fix="check the scheme and the port of base_url",
        retryable=True,
        sent="yes",
    )


def broken(url: str, reason: str, answering: bool) -> LMError:
    fix = "see the log of the server, and of a proxy in between"
    if answering:
        return ResponseError(
            "DX4107", f"the response broke off: {reason}", where=place(url), fix=fix, retryable=True, sent="yes"
        )
    return ServerError(
        "DX4106",
        f"the connection broke after the request was sent, before any answer: {reason}",
        where=place(url),
        fix=fix,
        retryable=True,
        sent="maybe",
    )


def least(*seconds: float | None) -> float | None:
    """The shortest of some limits; None when there is none."""
    return min((value for value in seconds if value is not None), default=None)


class Allotment:
    """The time that an attempt may still wait for the other side.

    It is spent step by step and never on the code between steps: that is the reader's, it may run in other tasks, and
    a timer that spanned it would cancel whichever of them began.
    """

    __slots__ = ("_left",)

    def __init__(self, seconds: float | None) -> None:
        self._left = seconds

    async def step(self, work: Awaitable[T]) -> T:
        """Wait for `work`.

        Raises:
            Spent: When the time ran out, and not some timer within `work`.
        """
        if self._left is None:
            return await work
        loop = asyncio.get_running_loop()
        began = loop.time()
        timer = asyncio.timeout_at(began + self._left)
        try:
            async with timer:
                return await work
        except TimeoutError:
            if timer.expired():
                raise Spent from None
            raise
        finally:
            self._left = max(0.0, self._left - (loop.time() - began))


class Spent(TimeoutError):
    """The time of an `Allotment` ran out."""
