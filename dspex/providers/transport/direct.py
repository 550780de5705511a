"""The default: requests over connections of our own, as a wire and as a transport for clients of httpx and httpx2."""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from dspex.errors import ConnectError, LMError, Sent, UsageError
from dspex.providers.transport import wire
from dspex.providers.transport.connection import Connection, Malformed, Silence
from dspex.providers.transport.given import as_library_error, library_of
from dspex.providers.transport.network import proxy_for, tls_context
from dspex.providers.transport.pool import Origin, Pool, Pools, ProxyRefused, ProxyUnreachable, Route
from dspex.providers.transport.wire import Allotment, LiveReply, Reply, Spent, Timeouts, least, place

if TYPE_CHECKING:
    import httpx
    import httpx2


class DirectWire:
    """Requests over connections that are kept for the next one.

    Args:
        headers: Sent with every request; may hold secrets, so never printed.
        limit: Connections at most, per event loop.
        timeouts: See `Timeouts`.
        base_url: Root of the URLs that will be asked for; decides proxy and TLS.
        verify: Whom to trust; see `tls_context`.
        cert: As whom to appear, likewise.
        proxy: See `proxy_for`.
    """

    def __init__(
        self,
        *,
        headers: Mapping[str, str],
        limit: int,
        timeouts: Timeouts,
        base_url: str,
        verify: bool | str = True,
        cert: str | tuple[str, str] | None = None,
        proxy: str | None = None,
    ) -> None:
        self._timeouts = timeouts
        self._pools = Pools(limit)
        self._route = route_to(base_url, verify, cert, proxy)
        self._headers = {name.lower(): (name, value) for name, value in headers.items()}
        self._usual = header_lines(self._headers.values())

    async def send(
        self, url: str, body: bytes | None, headers: Mapping[str, str] | None = None, method: str = "POST"
    ) -> Reply:
        exchange = _Exchange(url, self._timeouts)
        timer = asyncio.timeout(self._timeouts.total)
        try:
            async with timer:
                await self._begin(exchange, body, headers, method)
                content = await exchange.whole()
        except _FAILURES as error:
            exchange.fail(error, timer.expired())
        finally:
            exchange.end()
        return Reply(exchange.connection.status, exchange.connection.headers, content)

    @asynccontextmanager
    async def stream(
        self,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
        most: float | None = None,
    ) -> AsyncGenerator[LiveReply]:
        exchange = _Exchange(url, self._timeouts, most)
        allotment = Allotment(self._timeouts.total)
        try:
            try:
                await allotment.step(self._begin(exchange, body, headers, method))
            except _FAILURES as error:
                exchange.fail(error, isinstance(error, Spent))
            yield _Live(exchange, allotment)
        finally:
            exchange.end()

    async def _begin(
        self, exchange: _Exchange, body: bytes | None, headers: Mapping[str, str] | None, method: str
    ) -> None:
        lines = self._usual
        if headers is not None:
            more = {name.lower(): (name, value) for name, value in headers.items()}
            lines = header_lines({**self._headers, **more}.values())
        pool = self._pools.get() or await self._pools.open()
        await exchange.begin(pool, self._route, method, lines, body)

    async def aclose(self) -> None:
        await self._pools.aclose()


class _Live:
    __slots__ = ("_allotment", "_exchange", "headers", "status")

    def __init__(self, exchange: _Exchange, allotment: Allotment) -> None:
        self.status = exchange.connection.status
        self.headers = exchange.connection.headers
        self._exchange = exchange
        self._allotment = allotment

    async def read(self) -> bytes:
        try:
            return await self._allotment.step(self._exchange.read())
        except _FAILURES as error:
            self._exchange.fail(error, isinstance(error, Spent))


# --------------------------------------------------------------------------- one request and its answer


class _NotAddress(ValueError):
    """A text that is no URL of an HTTP server."""


class _Unpackable(Exception):
    """A body that is not packed as its headers say."""


_FAILURES = (OSError, Malformed, ProxyRefused, _NotAddress, _Unpackable)


@lru_cache(maxsize=1024)
def _target(url: str) -> tuple[Origin, str, str]:
    """Origin, value of ``Host`` and request target of `url`."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if ":" not in host:
            host = host.encode("idna").decode()
    except ValueError as error:
        raise _NotAddress from error
    if parts.scheme not in ("http", "https") or not host:
        raise _NotAddress
    name = f"[{host}]" if ":" in host else host
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not target.isascii() or any(c <= " " for c in target):
        raise _NotAddress
    secure = parts.scheme == "https"
    return Origin(secure, host, port or (443 if secure else 80)), name if port is None else f"{name}:{port}", target


def route_to(url: str, verify: bool | str, cert: str | tuple[str, str] | None, proxy: str | None) -> Route:
    """How `url` is reached with these settings; certificates are read where TLS is spoken."""
    through = proxy_for(url, proxy)
    secure = "https" in (urlsplit(url).scheme, urlsplit(through or "").scheme)
    if not secure and (cert is not None or (isinstance(verify, str) and verify)):
        name = "verify=" if cert is None else "cert="
        raise UsageError(
            "DX8160",
            f"{name} names a certificate, and over http:// there are none",
            where=place(url),
            fix=f"write https:// in base_url, or leave {name} out",
        )
    return Route(through, tls_context(verify, cert) if secure else None)


def header_lines(headers: Iterable[tuple[str, str]]) -> str:
    """The lines of a request's head."""
    pairs = tuple(headers)
    lines = "".join(f"{name}: {value}\r\n" for name, value in pairs)
    if not len(pairs) == lines.count("\r") == lines.count("\n") or "\0" in lines or not lines.isascii():
        raise UsageError("DX8113", "a header holds line ends or characters that no header may carry")
    return lines


class _Exchange:
    """A request and its answer: which connection carries them, how far they got, what their failure means."""

    __slots__ = ("_most", "_origin", "_pool", "_size", "_timeouts", "_unpack", "connection", "sent", "url")

    connection: Connection

    def __init__(self, url: str, timeouts: Timeouts, most: float | None = None) -> None:
        self.url = url
        self.sent: Sent = "no"
        self._timeouts = timeouts
        self._most = wire.MAX_BODY if most is None else most
        self._pool: Pool | None = None
        self._size = 0

    async def begin(self, pool: Pool, route: Route, method: str, lines: str, body: bytes | None) -> None:
        """Send the request; the head of its answer is there afterwards."""
        limits = self._timeouts
        origin, host, target = _target(self.url)
        connection = pool.idle(origin)
        if connection is None:
            timer = asyncio.timeout(limits.connect)
            try:
                async with timer:
                    connection = await pool.fresh(origin, route)
            except TimeoutError:
                if timer.expired():
                    raise Silence("connect") from None
                raise
        self.connection, self._pool, self._origin = connection, pool, origin
        if route.proxy is not None and not origin.secure:
            target, lines = f"http://{host}{target}", route.authorization + lines
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        head = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{lines}{length}\r\n".encode("latin-1")
        self.sent = "maybe"
        try:
            await connection.request(head, body or b"", limits.read, limits.write)
        finally:
            if not connection.begun:
                self.sent = "no"
        self.sent = "yes"
        self._unpack = _unpacking(connection.headers)

    async def read(self) -> bytes:
        """The next of the body; ``b""`` after its end."""
        while piece := await self.connection.read(self._timeouts.read):
            if self._unpack is not None:
                piece = self._unpack(piece, self._most)
            self._size += len(piece)
            if self._size > self._most:
                raise wire.too_large(self.url, self._size, self._most)
            if piece:
                return piece
        return b""

    async def raw(self) -> bytes:
        """The next of the body as it came, packed or not."""
        return await self.connection.read(self._timeouts.read)

    async def whole(self) -> bytes:
        """All of the body."""
        length = self.connection.headers.get("content-length", "")
        if length.isdigit() and int(length) > self._most:
            raise wire.too_large(self.url, int(length), self._most)
        first = await self.read()
        if self.connection.is_read:
            return first
        pieces = [first]
        while piece := await self.read():
            pieces.append(piece)
        return b"".join(pieces)

    def end(self) -> None:
        """Give the connection back; one whose answer was not read to its end is cut off."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.release(self.connection, self._origin)

    def fail(self, error: Exception, expired: bool) -> NoReturn:
        """Raise what `error` means; `expired` says that the total time passed."""
        if expired:
            kind = "connect" if self.sent == "no" else "total"
            raise wire.timed_out(self.url, kind, self._timeouts.total, self.sent) from None
        raise self._known(error) from error

    def _known(self, error: Exception) -> LMError:
        url, sent, limits = self.url, self.sent, self._timeouts
        if isinstance(error, Silence):
            seconds = {"connect": limits.connect, "read": limits.read, "write": limits.write}[error.kind]
            return wire.timed_out(url, error.kind, seconds, sent)
        if isinstance(error, Malformed):
            # What came stands in no message: it may repeat the request, and with it the key.
            return wire.broken(url, "its framing is malformed", True) if sent == "yes" else wire.not_http(url)
        if isinstance(error, _Unpackable):
            return wire.broken(url, "it cannot be unpacked", True)
        if isinstance(error, ProxyRefused):
            return wire.proxy_refused(url, error.status, error.reason)
        if isinstance(error, ProxyUnreachable):
            return wire.proxy_unreachable(url, str(error))
        if isinstance(error, _NotAddress):
            return ConnectError("DX4101", f"not a URL of an HTTP server: {place(url)}", where=place(url), sent="no")
        reason = str(error) or type(error).__name__
        if isinstance(error, ssl.SSLError) and (sent == "no" or "ALERT" in (error.reason or "")) and sent != "yes":
            # Under TLS 1.3 a server refuses a client's certificate only after the client has begun to send.
            return wire.tls_failed(url, reason)
        return wire.unreachable(url, reason) if sent == "no" else wire.broken(url, reason, sent == "yes")


class _Unpacking:
    """Unpacks a body piece by piece, and no further than it may be read."""

    def __init__(self, window: int) -> None:
        self._stream = zlib.decompressobj(window)

    def __call__(self, piece: bytes, most: float) -> bytes:
        found: list[bytes] = []
        size = 0
        try:
            while piece and size <= most:
                part = self._stream.decompress(piece, 1 << 20)
                found.append(part)
                size += len(part)
                piece = self._stream.unconsumed_tail
        except zlib.error as error:
            raise _Unpackable from error
        return b"".join(found)


def _unpacking(headers: Mapping[str, str]) -> _Unpacking | None:
    # Nothing asks for packed bodies; some servers pack them anyway.
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return None
    windows = {"gzip": 31, "x-gzip": 31, "deflate": 15}
    if encoding not in windows:
        raise _Unpackable
    return _Unpacking(windows[encoding])


# --------------------------------------------------------------------------- for clients of httpx and httpx2


class DirectTransport:
    """The engine of `DirectWire` as an asynchronous transport for httpx and httpx2 clients; bodies are live.

    Failures are the client library's own exceptions; their ``__cause__`` is dspex's error with ``sent``. Proxies are
    those of the environment.
    """

    def __init__(self, *, limit: int = 100) -> None:
        self._pools = Pools(limit)

    async def handle_async_request(self, request: httpx.Request | httpx2.Request) -> Any:
        library = library_of(request)
        url = str(request.url)
        asked: Mapping[str, float | None] = request.extensions.get("timeout") or {}
        timeouts = Timeouts(least(asked.get("connect"), asked.get("pool")), asked.get("read"), None, asked.get("write"))
        body = await request.aread()
        own = ("host", "content-length", "transfer-encoding")
        lines = header_lines((name, value) for name, value in request.headers.multi_items() if name not in own)
        route = route_to(url, True, None, None)
        exchange = _Exchange(url, timeouts, inf)
        live = _live_body(library, exchange, request)
        try:
            pool = self._pools.get() or await self._pools.open()
            empty = not body and "content-length" not in request.headers
            await exchange.begin(pool, route, request.method, lines, None if empty else body)
        except _FAILURES as error:
            exchange.end()
            live.fail(error)
        except BaseException:
            exchange.end()
            raise
        connection = exchange.connection
        headers = [(name, value) for name, value in connection.headers.items() if name != "transfer-encoding"]
        return library.Response(connection.status, headers=headers, stream=live, request=request)

    async def aclose(self) -> None:
        await self._pools.aclose()

    async def __aenter__(self) -> DirectTransport:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


_body_classes: dict[str, Any] = {}


def _live_body(library: Any, exchange: _Exchange, request: object) -> Any:
    cls = _body_classes.get(library.__name__)
    if cls is None:
        # Clients check the class of a stream, and the class must come from the client's own library.
        cls = _body_classes[library.__name__] = type("DirectBody", (_Body, library.AsyncByteStream), {})
    return cls(library, exchange, request)


class _Body:
    def __init__(self, library: Any, exchange: _Exchange, request: object) -> None:
        self._library = library
        self._exchange = exchange
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while piece := await self._exchange.raw():
                yield piece
        except _FAILURES as error:
            self.fail(error)

    def fail(self, error: Exception) -> NoReturn:
        try:
            self._exchange.fail(error, False)
        except LMError as known:
            raise as_library_error(self._library, known, self._request) from known

    async def aclose(self) -> None:
        self._exchange.end()
