"""Connections that are kept for the next request: one pool per event loop and process."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import weakref
from base64 import b64encode
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from dspex.providers.transport.connection import Connection

_IDLE = 15.0
"""Seconds after which an unused connection is not used again: servers close theirs, some of them soon."""

_HAPPY = 0.25
"""Seconds that an address has before the next one is tried as well (RFC 8305)."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request goes."""

    secure: bool
    host: str
    port: int


class ProxyRefused(Exception):
    """A proxy opened no tunnel."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status)
        self.status = status
        self.reason = reason


class ProxyUnreachable(OSError):
    """There is no connection to the proxy."""


class Route:
    """How an origin is reached: directly or through a proxy, and with which certificates."""

    def __init__(self, proxy: str | None, tls: ssl.SSLContext | None) -> None:
        self.proxy = proxy
        self.tls = tls
        parts = urlsplit(proxy or "")
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._secure = parts.scheme == "https"
        self.authorization = ""
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self.authorization = f"Proxy-Authorization: Basic {b64encode(pair.encode()).decode()}\r\n"

    async def connect(self, origin: Origin) -> Connection:
        """A new connection to `origin`, TLS included."""
        loop = asyncio.get_running_loop()
        if self.proxy is None:
            return await self._open(loop, origin.host, origin.port, origin.secure)
        try:
            connection = await self._open(loop, self._host, self._port, self._secure)
        except ssl.SSLError:
            raise
        except OSError as error:
            raise ProxyUnreachable(str(error)) from error
        if not origin.secure:
            return connection
        try:
            return await self._tunnel(loop, connection, origin)
        except BaseException:
            connection.cut()
            raise

    async def _open(self, loop: asyncio.AbstractEventLoop, host: str, port: int, secure: bool) -> Connection:
        reached = await _reach(loop, host, port)
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(loop),
                sock=reached,
                ssl=self.tls if secure else None,
                server_hostname=host if secure else None,
            )
        except BaseException:
            reached.close()
            raise
        return connection

    async def _tunnel(self, loop: asyncio.AbstractEventLoop, outer: Connection, origin: Origin) -> Connection:
        far = f"[{origin.host}]" if ":" in origin.host else origin.host
        head = f"CONNECT {far}:{origin.port} HTTP/1.1\r\nHost: {far}:{origin.port}\r\n{self.authorization}\r\n"
        await outer.request(head.encode(), b"", None, None)
        transport = outer.transport
        if outer.status != 200 or transport is None or self.tls is None:
            raise ProxyRefused(outer.status, outer.reason)
        inner = Connection(loop)
        secured = await loop.start_tls(transport, inner, self.tls, server_hostname=origin.host)
        if secured is None:
            raise ConnectionResetError("the proxy closed the tunnel")
        inner.connection_made(secured)
        return inner


async def _reach(loop: asyncio.AbstractEventLoop, host: str, port: int) -> socket.socket:
    """A socket that is connected to the first address of `host` that answers.

    asyncio's own race of addresses loses sockets when it is cancelled. Source: RFC 8305, with one address at a time
    getting a head start on the next, in the order of the resolver.
    """
    addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if len(addresses) == 1:
        return await _dial(loop, *addresses[0])
    racing: set[asyncio.Task[socket.socket]] = set()
    wrong: Exception = OSError(f"{host} has no address")
    try:
        while addresses or racing:
            if addresses:
                racing.add(loop.create_task(_dial(loop, *addresses.pop(0))))
            over, _ = await asyncio.wait(
                racing, timeout=_HAPPY if addresses else None, return_when=asyncio.FIRST_COMPLETED
            )
            racing -= over
            for task in over:
                failure = task.exception()
                if failure is None:
                    racing |= over - {task}
                    return task.result()
                if not isinstance(failure, Exception):
                    raise failure
                wrong = failure
        raise wrong
    finally:
        for task in racing:
            task.cancel()
            task.add_done_callback(_drop)


def _drop(task: asyncio.Task[socket.socket]) -> None:
    """A loser of the race, which may have won at the same moment."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _dial(
    loop: asyncio.AbstractEventLoop, family: int, kind: int, protocol: int, _name: str, address: Any
) -> socket.socket:
    own = socket.socket(family, kind, protocol)
    try:
        own.setblocking(False)
        await loop.sock_connect(own, address)
    except BaseException:
        own.close()
        raise
    return own


class Pool:
    """The connections of one event loop.

    Args:
        limit: How many there are at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._count = 0
        self._idle: dict[Origin, deque[Connection]] = {}
        self._busy: set[Connection] = set()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def idle(self, origin: Origin) -> Connection | None:
        """A connection to `origin` that is free now."""
        kept = self._idle.get(origin)
        while kept:
            connection = kept.pop()
            if connection.is_free and self._loop.time() - connection.since < _IDLE:
                self._busy.add(connection)
                return connection
            self._count -= 1
            connection.cut()
        return None

    async def fresh(self, origin: Origin, route: Route) -> Connection:
        """A new connection to `origin`, or one that becomes free while all that may be are in use."""
        while self._count >= self._limit and not self._evict(origin):
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except BaseException:
                if not waiter.cancelled():
                    # Its turn had come; it is the next one's.
                    self._wake()
                raise
            connection = self.idle(origin)
            if connection is not None:
                return connection
        self._count += 1
        try:
            connection = await route.connect(origin)
        except BaseException:
            self._count -= 1
            self._wake()
            raise
        self._busy.add(connection)
        return connection

    def release(self, connection: Connection, origin: Origin) -> None:
        """A request is over, well or not."""
        self._busy.discard(connection)
        if connection.rest() and not self._closed:
            connection.since = self._loop.time()
            self._idle.setdefault(origin, deque()).append(connection)
            if self._sweeper is None:
                self._sweeper = self._loop.call_later(_IDLE, self._sweep)
        else:
            connection.cut()
            self._count -= 1
        self._wake()

    def close(self) -> None:
        """Cut every connection, and keep none from now on."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in [*self._busy, *(one for kept in self._idle.values() for one in kept)]:
            connection.cut()
        self._idle.clear()

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _evict(self, origin: Origin) -> bool:
        for other, kept in self._idle.items():
            if other != origin and kept:
                kept.popleft().cut()
                self._count -= 1
                return True
        return False

    def _sweep(self) -> None:
        self._sweeper = None
        old = self._loop.time() - _IDLE
        for kept in self._idle.values():
            while kept and (kept[0].since <= old or not kept[0].is_free):
                kept.popleft().cut()
                self._count -= 1
        if any(self._idle.values()):
            self._sweeper = self._loop.call_later(_IDLE, self._sweep)


class Pools:
    """A pool for each event loop that asks for one, closed with its loop; a forked child begins without any."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_loop: dict[asyncio.AbstractEventLoop, tuple[Pool, AsyncGenerator[None]]] = {}
        _live.add(self)

    def get(self) -> Pool | None:
        """The pool of the running loop, once it is opened."""
        entry = self._by_loop.get(asyncio.get_running_loop())
        return None if entry is None else entry[0]

    async def open(self) -> Pool:
        """The pool of the running loop."""
        loop = asyncio.get_running_loop()
        self._forget_closed()
        pool = Pool(self._limit)
        lifetime = _lifetime(pool)
        self._by_loop[loop] = pool, lifetime
        await anext(lifetime)
        return pool

    async def aclose(self) -> None:
        """Close the running loop's pool; those of other loops close with their loops."""
        entry = self._by_loop.pop(asyncio.get_running_loop(), None)
        # A loop that is shutting down closes the pool already, in a task of its own.
        if entry is not None and not getattr(entry[1], "ag_running", False):
            await entry[1].aclose()
        self._forget_closed()

    def _forget_closed(self) -> None:
        # A copy, because other threads add their loops meanwhile.
        for loop in list(self._by_loop):
            if loop.is_closed():
                self._by_loop.pop(loop, None)

    def forked(self) -> None:
        """In a forked child: the parent's sockets are kept, never used and never closed from here."""
        _inherited.append(self._by_loop)
        self._by_loop = {}


async def _lifetime(pool: Pool) -> AsyncGenerator[None]:
    # An event loop closes its asynchronous generators when it shuts down (`asyncio.run` does), which closes the
    # pool in time even when nobody called `aclose`.
    try:
        yield
    finally:
        pool.close()
        await asyncio.sleep(0)


_live: weakref.WeakSet[Pools] = weakref.WeakSet()
_inherited: list[object] = []


def _after_fork() -> None:
    for pools in list(_live):
        pools.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
