"""A transport of the user's own, of httpx or of httpx2, as a wire."""

from __future__ import annotations

import importlib
import ssl
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

from dspex.errors import LMError, ResponseError, Sent
from dspex.providers.transport import wire
from dspex.providers.transport.wire import Allotment, LiveReply, Reply, Spent, Timeouts, place

if TYPE_CHECKING:
    import httpx
    import httpx2

    AnyTransport = httpx.AsyncBaseTransport | httpx2.AsyncBaseTransport


def library_of(thing: object) -> Any:
    """The module, httpx or httpx2, whose classes `thing` is made of; httpx for a class of neither."""
    for cls in type(thing).__mro__:
        root = cls.__module__.partition(".")[0]
        if root in ("httpx", "httpx2"):
            return importlib.import_module(root)
    return importlib.import_module("httpx")


def as_library_error(library: Any, error: LMError, request: object) -> BaseException:
    """What a client of `library` expects instead of `error`."""
    name = {
        "DX4101": "ConnectError",
        "DX4102": "ConnectError",
        "DX4103": "ConnectTimeout",
        "DX4104": "ReadTimeout",
        "DX4105": "ReadTimeout",
        "DX4108": "RemoteProtocolError",
        "DX4110": "ProxyError",
        "DX4111": "WriteTimeout",
        "DX4112": "ProxyError",
    }.get(error.code, "ReadError")
    return getattr(library, name)(error.message, request=request)


class HttpxWire:
    """Requests through a transport that a user gave; `httpx.AsyncBaseTransport` or httpx2's.

    Certificates, proxies and limits of connections are the transport's own affair.
    """

    def __init__(self, transport: AnyTransport, *, headers: Mapping[str, str], timeouts: Timeouts) -> None:
        self._transport = transport
        self._library = library_of(transport)
        self._headers = dict(headers)
        self._timeouts = timeouts

    async def send(
        self, url: str, body: bytes | None, headers: Mapping[str, str] | None = None, method: str = "POST"
    ) -> Reply:
        async with self.stream(url, body, headers, method) as reply:
            pieces: list[bytes] = []
            while piece := await reply.read():
                pieces.append(piece)
            return Reply(reply.status, reply.headers, b"".join(pieces))

    @asynccontextmanager
    async def stream(
        self,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
        most: float | None = None,
    ) -> AsyncGenerator[LiveReply]:
        attempt = _Attempt(self._library, url, self._timeouts)
        request = self._library.Request(
            method, url, headers={**self._headers, **(headers or {})}, content=body, extensions=attempt.extensions
        )
        response = await attempt.step(cast(Any, self._transport).handle_async_request(request))
        attempt.sent = "yes"
        live = _Live(response, attempt, wire.MAX_BODY if most is None else most)
        try:
            yield live
        finally:
            await live.aclose()

    async def aclose(self) -> None:
        await self._transport.aclose()


class _Attempt:
    """What is known of one request, and the time that it has left."""

    def __init__(self, library: Any, url: str, timeouts: Timeouts) -> None:
        # A transport that tells nothing of what it does may have sent.
        self.sent: Sent = "maybe"
        self.url = url
        self._sending = False
        self._library = library
        self._timeouts = timeouts
        self._allotment = Allotment(timeouts.total)
        limits = {"connect": timeouts.connect, "read": timeouts.read, "write": timeouts.write, "pool": timeouts.connect}
        self.extensions: dict[str, Any] = {"timeout": limits, "trace": self._trace}

    async def _trace(self, event: str, info: object) -> None:
        # The pools of httpx and httpx2 tell what they do.
        if self.sent != "yes":
            self._sending = self._sending or "send_request" in event
            self.sent = "maybe" if self._sending else "no"

    async def step(self, work: Awaitable[Any]) -> Any:
        try:
            return await self._allotment.step(work)
        except Spent:
            kind = "connect" if self.sent == "no" else "total"
            raise wire.timed_out(self.url, kind, self._timeouts.total, self.sent) from None
        except (self._library.TransportError, self._library.DecodingError, OSError) as error:
            known = error.__cause__
            if isinstance(known, LMError):
                raise known from known.__cause__
            # What is no HTTP stands in the library's exceptions, and with it what it may repeat of the request.
            raise self._known(error) from None if _malformed(error) else error

    def _known(self, error: BaseException) -> LMError:
        names = {cls.__name__ for cls in type(error).__mro__}
        reason = str(error) or type(error).__name__
        url, limits, sent = self.url, self._timeouts, self.sent
        if names & {"ConnectTimeout", "PoolTimeout"}:
            return wire.timed_out(url, "connect", limits.connect, "no")
        if "ReadTimeout" in names:
            return wire.timed_out(url, "read", limits.read, sent)
        if "WriteTimeout" in names:
            return wire.timed_out(url, "write", limits.write, sent)
        if sent != "yes" and any(isinstance(cause, ssl.SSLError) for cause in _causes(error)):
            return wire.tls_failed(url, reason)
        if "ProxyError" in names:
            return wire.proxy_unreachable(url, reason)
        if names & {"ConnectError", "UnsupportedProtocol"} or sent == "no":
            return wire.unreachable(url, reason)
        if "DecodingError" in names:
            return ResponseError("DX4107", f"the body cannot be decoded: {reason}", where=place(url), sent="yes")
        if _malformed(error):
            return wire.broken(url, "its framing is malformed", True) if sent == "yes" else wire.not_http(url)
        return wire.broken(url, reason, sent == "yes")


def _malformed(error: BaseException) -> bool:
    """Whether httpcore's parser says that something is no HTTP, rather than that it ended too early."""
    parsed = any(type(cause).__module__.startswith("h11") for cause in _causes(error))
    return parsed and not str(error).startswith("peer closed")


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


class _Live:
    __slots__ = ("_attempt", "_most", "_pieces", "_response", "_size", "headers", "status")

    def __init__(self, response: Any, attempt: _Attempt, most: float) -> None:
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._attempt = attempt
        self._response = response
        self._pieces: AsyncGenerator[bytes] = response.aiter_bytes()
        self._most = most
        self._size = 0

    async def read(self) -> bytes:
        piece: bytes = await self._attempt.step(anext(self._pieces, b""))
        self._size += len(piece)
        if self._size > self._most:
            raise wire.too_large(self._attempt.url, self._size, self._most)
        return piece

    async def aclose(self) -> None:
        await self._pieces.aclose()
        await self._response.aclose()
