"""Bytes over HTTP: the one place that knows aiohttp and httpx.

`AioWire` is the default: POSTs over aiohttp, one session per event loop. It follows no redirect, keeps no
cookie and sends nothing twice. `HttpxWire` sends through any `AsyncBaseTransport` of httpx or httpx2 that a user
brings, and `AioTransport` is the default's engine as such a transport, with live bodies. All are held to
one conformance suite, `tests/providers/test_transport.py`.

Every failure becomes an `LMError` that says what is known about the request: ``sent="no"`` (no byte of it left
this machine), ``"maybe"`` (it left; no answer came back) or ``"yes"`` (the server began to answer).
"""

from __future__ import annotations

import asyncio
import importlib
import io
import os
import ssl
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import aiohttp
from yarl import URL

from dspex.errors import CallTimeout, ConnectError, LMError, ResponseError, Sent, ServerError, UsageError

if TYPE_CHECKING:
    import httpx
    import httpx2

    AnyTransport = httpx.AsyncBaseTransport | httpx2.AsyncBaseTransport

MAX_BODY = 64 * 1024 * 1024
"""Bytes of a response that are read at most."""

_LARGE_BODY = 1 << 20  # aiohttp warns when a larger body is given as bytes


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds, each with one meaning; None is no limit.

    Attributes:
        connect: From asking for a connection until it (TLS included) is there. Nothing has been sent.
        read: Longest silence while waiting for the response or in the middle of it.
        total: The whole attempt.
    """

    connect: float | None = 10.0
    read: float | None = None
    total: float | None = 120.0


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete response. ``headers`` takes lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Wire(Protocol):
    """Sends one POST and gives the whole response, of whatever status."""

    async def post(self, url: str, body: bytes) -> Reply: ...

    async def aclose(self) -> None: ...


def proxy_for(url: str) -> str | None:
    """The proxy that the environment asks for (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY), or None.

    A loopback address never goes through a proxy. A SOCKS proxy is refused: aiohttp would need another package.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host == "localhost" or host == "::1" or host.startswith("127."):
        return None
    proxies = getproxies_environment()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(host if parts.port is None else f"{host}:{parts.port}"):
        return None
    scheme = proxy.partition("://")[0].lower() if "://" in proxy else "http"
    if scheme not in ("http", "https"):
        raise UsageError(
            "DX8112",
            f"the environment names a {scheme} proxy for {host}; only http and https proxies are supported",
            fix="set HTTPS_PROXY to an http proxy, or add the host to NO_PROXY",
        )
    return proxy if "://" in proxy else f"http://{proxy}"


# --------------------------------------------------------------------------- sessions, one per event loop


class _Connector(aiohttp.TCPConnector):
    def __del__(self, _warnings: Any = None) -> None:
        """Silent: a loop that was closed without its shutdown steps has nobody left to hear a complaint."""


@dataclass(slots=True)
class _Entry:
    session: aiohttp.ClientSession
    lifetime: AsyncGenerator[None]


async def _lifetime(session: aiohttp.ClientSession) -> AsyncGenerator[None]:
    # An event loop closes its asynchronous generators when it shuts down (`asyncio.run` does), which closes the
    # session in time even when nobody called `aclose`.
    try:
        yield
    finally:
        await session.close()
        await asyncio.sleep(0)


class Sessions:
    """aiohttp sessions of one set of headers and limits, one per event loop and process."""

    def __init__(self, *, headers: Mapping[str, str], limit: int, timeouts: Timeouts) -> None:
        self._headers = dict(headers)
        self._limit = limit
        self._timeouts = timeouts
        self._by_loop: dict[asyncio.AbstractEventLoop, _Entry] = {}
        _live.add(self)

    def get(self) -> aiohttp.ClientSession:
        """The session of the running loop; made on first use. Synchronous, so that two tasks share one."""
        entry = self._by_loop.get(asyncio.get_running_loop())
        if entry is None:
            raise LookupError
        return entry.session

    async def open(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        self._forget_closed()
        entry = self._by_loop.get(loop)
        if entry is None:
            limits = self._timeouts
            session = aiohttp.ClientSession(
                connector=_Connector(limit=self._limit, ttl_dns_cache=60),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=limits.total, connect=limits.connect, sock_read=limits.read),
                trust_env=False,
            )
            entry = self._by_loop[loop] = _Entry(session, _lifetime(session))
            await anext(entry.lifetime)
        return entry.session

    async def aclose(self) -> None:
        """Close the running loop's session; those of other loops close with their loops."""
        entry = self._by_loop.pop(asyncio.get_running_loop(), None)
        # A loop that is shutting down closes the session already, in a task of its own.
        if entry is not None and not getattr(entry.lifetime, "ag_running", False):
            await entry.lifetime.aclose()
        self._forget_closed()

    def _forget_closed(self) -> None:
        # A copy, because other threads add their loops meanwhile.
        for loop in list(self._by_loop):
            if loop.is_closed() and (entry := self._by_loop.pop(loop, None)) is not None:
                entry.session.detach()

    def forked(self) -> None:
        """In a forked child: the parent's sockets are kept, never used and never closed from here."""
        for entry in self._by_loop.values():
            entry.session.detach()
        _inherited.append(self._by_loop)
        self._by_loop = {}


_live: weakref.WeakSet[Sessions] = weakref.WeakSet()
_inherited: list[object] = []


def _after_fork() -> None:
    for sessions in list(_live):
        sessions.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


_context: ssl.SSLContext | None = None


def _tls() -> ssl.SSLContext:
    """Verifying context over the system's certificates (SSL_CERT_FILE and SSL_CERT_DIR hold), else certifi's."""
    global _context
    if _context is None:
        context = ssl.create_default_context()
        paths = ssl.get_default_verify_paths()
        if not context.cert_store_stats()["x509_ca"] and not (paths.capath and os.listdir(paths.capath)):
            try:
                bundle = importlib.import_module("certifi").where()
            except ImportError:
                bundle = None
            if bundle is not None:
                context.load_verify_locations(bundle)
        _context = context
    return _context


# --------------------------------------------------------------------------- the default wire


class AioWire:
    """POSTs over aiohttp.

    Args:
        headers: Sent with every request; may hold secrets, so never printed.
        limit: Connections at most, per event loop.
        timeouts: See `Timeouts`.
        base_url: Root of the URLs that will be asked for; decides the proxy.
    """

    def __init__(self, *, headers: Mapping[str, str], limit: int, timeouts: Timeouts, base_url: str) -> None:
        self._timeouts = timeouts
        self._sessions = Sessions(headers=headers, limit=limit, timeouts=timeouts)
        self._proxy = proxy_for(base_url)
        self._tls = _tls() if urlsplit(base_url).scheme == "https" else None
        self._urls: dict[str, URL] = {}

    async def post(self, url: str, body: bytes) -> Reply:
        try:
            session = self._sessions.get()
        except LookupError:
            session = await self._sessions.open()
        target = self._urls.get(url)
        if target is None:
            target = self._urls[url] = URL(url, encoded=True)
        response: aiohttp.ClientResponse | None = None
        try:
            response = await session.post(
                target,
                data=_payload(body),
                allow_redirects=False,
                proxy=self._proxy,
                ssl=self._tls if self._tls is not None else True,
            )
            content = await _read(response, url)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if response is not None:
                response.close()
            raise _aio_error(error, url, self._timeouts, response is not None) from error
        except BaseException:
            if response is not None:
                response.close()
            raise
        return Reply(response.status, response.headers, content)

    async def aclose(self) -> None:
        await self._sessions.aclose()


def _payload(body: bytes) -> bytes | io.BytesIO:
    return body if len(body) < _LARGE_BODY else io.BytesIO(body)


async def _read(response: aiohttp.ClientResponse, url: str) -> bytes:
    headers = response.headers
    length = headers.get("Content-Length", "")
    if length.isdigit() and "Content-Encoding" not in headers:
        if int(length) > MAX_BODY:
            raise too_large(url, int(length))
        return await response.read()
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > MAX_BODY:
            raise too_large(url, size)
        chunks.append(chunk)
    return b"".join(chunks)


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


def too_large(url: str, size: int) -> ResponseError:
    return ResponseError(
        "DX4109", f"the response is larger than {MAX_BODY} bytes (at least {size})", where=place(url), sent="yes"
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


def timed_out(url: str, kind: str, seconds: float | None, sent: Sent) -> CallTimeout:
    code = {"connect": "DX4103", "read": "DX4104", "write": "DX4104", "total": "DX4105"}[kind]
    limit = "" if seconds is None else f" of {seconds:g} s"
    told = {
        "connect": f"the connection was not there within the connect timeout{limit}",
        "read": f"the server was silent for longer than the read timeout{limit}",
        "write": f"the server took nothing for longer than the write timeout{limit}",
        "total": f"the call took longer than its timeout{limit}",
    }[kind]
    fix = "see whether the server hangs, or raise timeout of dx.LM(...)"
    return CallTimeout(code, told, where=place(url), fix=fix, retryable=True, sent=sent)


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


def _aio_error(error: BaseException, url: str, timeouts: Timeouts, answering: bool) -> LMError:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return timed_out(url, "connect", _least(timeouts.connect, timeouts.total), "no")
    sent: Sent = "yes" if answering else "maybe"
    if isinstance(error, aiohttp.SocketTimeoutError):
        return timed_out(url, "read", timeouts.read, sent)
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return ConnectError(
            "DX4102",
            f"TLS failed: {error}",
            where=place(url),
            fix="set SSL_CERT_FILE to the certificate bundle that your network needs",
            sent="no",
        )
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return ConnectError(
            "DX4110",
            f"the proxy refused the connection: {error.status} {error.message}",
            where=place(url),
            fix="check HTTPS_PROXY and NO_PROXY",
            sent="no",
        )
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ServerFingerprintMismatch):
        return unreachable(url, str(error))
    # OSError's ETIMEDOUT is a TimeoutError too: there the peer vanished, and no limit of ours passed.
    if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientError) and error.errno is None:
        return timed_out(url, "total", timeouts.total, sent)
    if isinstance(error, aiohttp.ClientResponseError):
        return ResponseError(
            "DX4108", f"the answer is not HTTP: {error.message}", where=place(url), retryable=True, sent="yes"
        )
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
        return ConnectError("DX4101", f"not a URL of an HTTP server: {place(url)}", where=place(url), sent="no")
    return broken(url, str(error) or type(error).__name__, answering)


def _least(*seconds: float | None) -> float | None:
    known = [value for value in seconds if value is not None]
    return min(known) if known else None


# --------------------------------------------------------------------------- httpx and httpx2


def _library(thing: object) -> Any:
    """The module, httpx or httpx2, whose classes `thing` is made of; httpx for a class of neither."""
    for cls in type(thing).__mro__:
        root = cls.__module__.partition(".")[0]
        if root in ("httpx", "httpx2"):
            return importlib.import_module(root)
    return importlib.import_module("httpx")


class AioTransport:
    """The engine of `AioWire` as an asynchronous transport for httpx and httpx2 clients; bodies are live.

    Failures are the client library's own exceptions; their ``__cause__`` is dspex's error with ``sent``.
    """

    def __init__(self, *, limit: int = 100) -> None:
        self._limits = Timeouts(None, None, None)
        self._sessions = Sessions(headers={}, limit=limit, timeouts=self._limits)

    async def handle_async_request(self, request: httpx.Request | httpx2.Request) -> Any:
        library = _library(request)
        url = str(request.url)
        limits: Mapping[str, float | None] = request.extensions.get("timeout") or {}
        timeouts = Timeouts(limits.get("connect"), limits.get("read"), None)
        body = await request.aread()
        try:
            session = self._sessions.get()
        except LookupError:
            session = await self._sessions.open()
        try:
            response = await session.request(
                request.method,
                URL(url, encoded=True),
                data=_payload(body) if body else None,
                headers=request.headers.multi_items(),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                allow_redirects=False,
                auto_decompress=False,
                proxy=proxy_for(url),
                ssl=_tls() if request.url.scheme == "https" else True,
                timeout=aiohttp.ClientTimeout(connect=timeouts.connect, sock_read=timeouts.read, total=None),
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            known = _aio_error(error, url, timeouts, False)
            known.__cause__ = error
            raise _as_httpx(library, known, request) from known
        return library.Response(
            response.status,
            headers=list(response.raw_headers),
            stream=_live_body(library, response, url, timeouts, request),
            request=request,
        )

    async def aclose(self) -> None:
        await self._sessions.aclose()

    async def __aenter__(self) -> AioTransport:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _as_httpx(library: Any, error: LMError, request: object) -> BaseException:
    name = {
        "DX4101": "ConnectError",
        "DX4102": "ConnectError",
        "DX4110": "ProxyError",
        "DX4103": "ConnectTimeout",
        "DX4104": "ReadTimeout",
        "DX4105": "ReadTimeout",
        "DX4106": "ReadError",
        "DX4107": "ReadError",
        "DX4108": "RemoteProtocolError",
    }.get(error.code, "ReadError")
    return getattr(library, name)(error.message, request=request)


_body_classes: dict[str, Any] = {}


def _live_body(library: Any, response: aiohttp.ClientResponse, url: str, timeouts: Timeouts, request: object) -> Any:
    cls = _body_classes.get(library.__name__)
    if cls is None:
        # Clients check the class of a stream, and the class must come from the client's own library.
        cls = _body_classes[library.__name__] = type("AioBody", (_Body, library.AsyncByteStream), {})
    return cls(library, response, url, timeouts, request)


class _Body:
    def __init__(
        self, library: Any, response: aiohttp.ClientResponse, url: str, timeouts: Timeouts, request: object
    ) -> None:
        self._library = library
        self._response = response
        self._url = url
        self._timeouts = timeouts
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self._response.close()
            known = _aio_error(error, self._url, self._timeouts, True)
            known.__cause__ = error
            raise _as_httpx(self._library, known, self._request) from known

    async def aclose(self) -> None:
        # A body that was read to its end has given its connection back already; any other is cut off.
        self._response.close()


class HttpxWire:
    """POSTs through a transport that a user gave; `httpx.AsyncBaseTransport` or httpx2's."""

    def __init__(self, transport: AnyTransport, *, headers: Mapping[str, str], timeouts: Timeouts) -> None:
        self._transport = transport
        self._headers = dict(headers)
        self._timeouts = timeouts
        limits = timeouts
        self._extensions = {
            "timeout": {"connect": limits.connect, "read": limits.read, "write": limits.read, "pool": limits.connect}
        }

    async def post(self, url: str, body: bytes) -> Reply:
        library = _library(self._transport)
        request = library.Request("POST", url, headers=self._headers, content=body, extensions=self._extensions)
        transport = cast(Any, self._transport)
        answering = False
        try:
            async with asyncio.timeout(self._timeouts.total):
                response = await transport.handle_async_request(request)
                answering = True
                try:
                    chunks: list[bytes] = []
                    size = 0
                    async for chunk in response.aiter_bytes():
                        size += len(chunk)
                        if size > MAX_BODY:
                            raise too_large(url, size)
                        chunks.append(chunk)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise timed_out(url, "total", self._timeouts.total, "yes" if answering else "maybe") from error
        except (library.TransportError, library.DecodingError) as error:
            known = error.__cause__
            if isinstance(known, LMError):
                raise known from known.__cause__
            raise self._error(error, url, answering) from error
        return Reply(response.status_code, response.headers, b"".join(chunks))

    def _error(self, error: BaseException, url: str, answering: bool) -> LMError:
        names = {cls.__name__ for cls in type(error).__mro__}
        reason = str(error) or type(error).__name__
        sent: Sent = "yes" if answering else "maybe"
        if names & {"ConnectTimeout", "PoolTimeout"}:
            return timed_out(url, "connect", self._timeouts.connect, "no")
        if "ReadTimeout" in names:
            return timed_out(url, "read", self._timeouts.read, sent)
        if "WriteTimeout" in names:
            return timed_out(url, "write", self._timeouts.read, sent)
        if names & {"ConnectError", "ProxyError", "UnsupportedProtocol"}:
            return unreachable(url, reason)
        if "DecodingError" in names:
            return ResponseError("DX4107", f"the body cannot be decoded: {reason}", where=place(url), sent="yes")
        return broken(url, reason, answering)

    async def aclose(self) -> None:
        await self._transport.aclose()
