"""One connection of the mock server: requests in, scripts out."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from dspex.testing.request import NO_USAGE
from dspex.testing.script import Script

if TYPE_CHECKING:
    from dspex.testing.faults import Fault
    from dspex.testing.mock_server import MockServer
    from dspex.testing.request import MockRequest

_TOO_LATE = b"HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Connection(asyncio.Protocol):
    """Answers the requests of one client one after the other. Lives in the server's thread."""

    def __init__(self, server: MockServer) -> None:
        self._server = server
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._busy = False
        self._deaf = False
        self._last = False
        self._paused = False
        self._request: MockRequest | None = None
        self._script: Script | None = None
        self._feed: Iterator[bytes] = iter(())
        self._coming: bytes | None = None

    # ----------------------------------------------------------------- called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        raw = cast(socket.socket, transport.get_extra_info("socket"))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._buffer.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._settle_cut()
        self._server.closed(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._coming is not None and self._timer is None:
            self._pump()

    # ----------------------------------------------------------------- called by the server

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()

    def begin(self, request: MockRequest, fault: Fault | None, delay: float) -> None:
        """Answer `request` after `delay` seconds."""
        if delay > 0:
            self._timer = asyncio.get_running_loop().call_later(delay, self._respond, request, fault)
        else:
            self._respond(request, fault)

    def play(self, script: Script) -> None:
        """Write `script`."""
        self._script = script
        self._feed = iter(script.pieces)
        self._coming = next(self._feed, None)
        if script.outcome == "cut":
            self._settle(script)
        self._pump()

    def go_on(self) -> None:
        """Write what was held."""
        script = self._script
        if script is not None and self._transport is not None:
            self.play(Script(script.held, script.outcome, script.status, script.usage, script.gap))

    # ----------------------------------------------------------------- requests

    def _next(self) -> None:
        if self._busy:
            return
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not length.isdigit():
            self._write(_TOO_LATE)
            self._close()
            return
        stop = end + 4 + int(length)
        if len(self._buffer) < stop:
            return
        raw = bytes(self._buffer[end + 4 : stop])
        del self._buffer[:stop]
        self._busy = True
        self._last = headers.get("connection", "").lower() == "close"
        method, _, target = lines[0].partition(" ")
        target = target.partition(" ")[0]
        controlled = self._server.controlled(method, target, raw)
        if controlled is not None:
            self.play(controlled)
            return
        self._request = self._server.arrived(method, target, headers, raw)
        if not self._deaf:
            self._server.admit(self, self._request)

    def _respond(self, request: MockRequest, fault: Fault | None) -> None:
        self._timer = None
        self.play(self._server.script(request, fault))

    # ----------------------------------------------------------------- answers

    def _pump(self) -> None:
        script = self._script
        if script is None:
            return
        self._timer = None
        while self._coming is not None:
            if self._transport is None or self._transport.is_closing():
                return
            piece, self._coming = self._coming, next(self._feed, None)
            if self._coming is None and script.end != "hold":
                # Before the last byte, so that a client with its answer finds it in the ledger.
                self._settle(script)
            self._write(piece)
            if self._coming is None:
                break
            if script.gap > 0:
                self._timer = asyncio.get_running_loop().call_later(script.gap, self._pump)
                return
            if self._paused:
                return
        self._ended(script)

    def _ended(self, script: Script) -> None:
        end = script.end
        if end == "hold":
            self._server.hold(self)
            return
        if end == "hang":
            return
        self._server.left(self)
        if end == "reset":
            # Later, so that the client has seen what came before the reset throws its buffer away.
            delay = 0.05 if script.pieces else 0.0
            self._timer = asyncio.get_running_loop().call_later(delay, self._reset)
            return
        self._script = None
        if end == "close" or self._last:
            self._close()
        elif self._transport is not None:
            if end == "half_close" and self._transport.can_write_eof():
                self._deaf = True
                self._transport.write_eof()
            self._busy = False
            if self._buffer:
                asyncio.get_running_loop().call_soon(self._next)

    def _settle(self, script: Script) -> None:
        request, self._request = self._request, None
        if request is not None:
            self._server.settled(request, script.outcome, script.status, script.usage)

    def _settle_cut(self) -> None:
        request, self._request = self._request, None
        if request is not None:
            usage = NO_USAGE if self._script is None else self._script.usage
            self._server.settled(request, "cut", 0 if self._script is None else self._script.status, usage)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _reset(self) -> None:
        if self._transport is not None:
            raw = cast(socket.socket, self._transport.get_extra_info("socket"))
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
