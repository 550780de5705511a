"""One connection that speaks HTTP/1.1 as a client: a request out, its answer in, as asyncio's protocol.

Source: RFC 9112.
"""

from __future__ import annotations

import asyncio
import re
import select
import socket
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Literal, cast

_PIECE = 1 << 16
"""Bytes of a request that are written at once; what the server takes of them is waited for."""

_HELD = 1 << 20
"""Bytes of a body that wait to be read until the server is made to wait."""

_LONGEST_HEAD = 1 << 16

_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPALIVE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""Seconds, and probes: a long silence while a model thinks is told from a peer that is gone, and routers that forget
silent connections remember ours. Systems name the first one differently."""

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: .*)?")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")

State = Literal["idle", "head", "length", "size", "chunk", "mark", "trailer", "end", "done", "lost"]


Wait = Literal["connect", "read", "write"]
"""What a limit of `Timeouts` is on."""


class Malformed(Exception):
    """What came is no HTTP."""


class Silence(TimeoutError):
    """Nothing came for too long, or nothing was taken, or there was no connection."""

    def __init__(self, kind: Wait) -> None:
        super().__init__(kind)
        self.kind = kind


class Connection(asyncio.Protocol):
    """See the module; it serves one request at a time.

    Attributes:
        transport: To the server; replaced when TLS begins inside a tunnel.
        begun: Whether anything of the present request may have left this machine.
        status: Of the present answer; 0 before its head is there.
        reason: The words beside it.
        headers: Likewise; names in lower case, values of the same name joined by commas.
        since: When it was last used, by the loop's clock.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.transport: asyncio.Transport | None = None
        self.begun = False
        self.status = 0
        self.reason = ""
        self.headers: Mapping[str, str] = {}
        self.since = 0.0
        self._loop = loop
        self._state: State = "idle"
        self._buffer = b""
        self._at = 0
        self._left = 0
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._held_back = False
        self._full = False
        self._last = False
        self._poll: select.poll | None = None
        self._bodiless = False
        self._wrong: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    # ----------------------------------------------------------------- called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        own: socket.socket | None = transport.get_extra_info("socket")
        if own is not None:
            if hasattr(select, "poll"):
                self._poll = select.poll()
                self._poll.register(own.fileno(), select.POLLIN)
            # A system may lack one of them, and a connection is good without.
            with suppress(OSError):
                own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for name, value in _KEEPALIVE.items():
                    if hasattr(socket, name):
                        own.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def data_received(self, data: bytes) -> None:
        if self._state in ("idle", "done", "lost"):
            # Whatever it is, it is not the answer to the next request.
            self._last = True
            self.cut()
            return
        self._buffer = self._buffer + data if self._buffer else data
        self._at = 0
        try:
            while self._at < len(self._buffer) and self._step():
                pass
        except Malformed as wrong:
            self._fail(wrong)
            self.cut()
            return
        self._buffer = self._buffer[self._at :]
        self._wake()
        if self._held > _HELD and not self._held_back and self.transport is not None:
            self._held_back = True
            self.transport.pause_reading()

    def eof_received(self) -> None:
        if self._state == "end":
            self._state = "done"
            self._last = True

    def connection_lost(self, exc: Exception | None) -> None:
        if self._state == "end" and exc is None:
            self._state = "done"
        self._fail(exc or ConnectionResetError("the server closed the connection"))

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._wake()

    # ----------------------------------------------------------------- a request

    @property
    def is_free(self) -> bool:
        """Whether it can take a request.

        A server may have closed it and the event loop not have seen that yet, most of all after a stall; what would be
        sent then would be lost, and whether it was could not be known. So the system is asked whether something came.
        """
        if self._state != "idle" or self.transport is None or self.transport.is_closing():
            return False
        return self._poll is None or not self._poll.poll(0)

    @property
    def is_read(self) -> bool:
        """Whether the answer has arrived whole and was read to its end."""
        return self._state == "done" and not self._pieces

    async def request(self, head: bytes, body: bytes, read: float | None, write: float | None) -> None:
        """Send a request and wait for the head of its answer."""
        transport = self.transport
        if transport is None or self._state != "idle":
            raise self._wrong or ConnectionResetError("the connection was closed before the request was sent")
        self._state = "head"
        self.begun = True
        self.status = 0
        self._bodiless = head.startswith(b"HEAD ")
        if len(body) <= _PIECE:
            transport.write(head + body)
        else:
            transport.write(head)
            view = memoryview(body)
            for start in range(0, len(view), _PIECE):
                if self.status or self._wrong is not None:
                    # An answer to a part of a request: what remains of it is not wanted.
                    self._last = True
                    break
                transport.write(view[start : start + _PIECE])
                while self._full and not self.status and self._wrong is None:
                    await self._wait(write, "write")
        while not self.status:
            if self._wrong is not None:
                raise self._wrong
            await self._wait(read, "read")

    async def read(self, read: float | None) -> bytes:
        """What has arrived of the body, waited for if need be; ``b""`` after its end."""
        while not self._pieces:
            if self._state == "done":
                return b""
            if self._wrong is not None:
                raise self._wrong
            await self._wait(read, "read")
        found = self._pieces.popleft() if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        if self._held_back and self.transport is not None:
            self._held_back = False
            self.transport.resume_reading()
        return found

    def rest(self) -> bool:
        """End with the present answer; whether the connection can take another request."""
        if self._state != "done" or self._last or self._buffer or self._pieces or self._wrong is not None:
            return False
        self._state = "idle"
        self.begun = False
        return True

    def cut(self) -> None:
        """Close at once, whatever waits to be written."""
        if self.transport is not None:
            self.transport.abort()
            self.transport = None

    async def _wait(self, seconds: float | None, kind: Wait) -> None:
        waiter = self._waiter = self._loop.create_future()
        timer = None if seconds is None else self._loop.call_later(seconds, self._silent, waiter, kind)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @staticmethod
    def _silent(waiter: asyncio.Future[None], kind: Wait) -> None:
        if not waiter.done():
            waiter.set_exception(Silence(kind))

    def _fail(self, wrong: BaseException) -> None:
        if self._wrong is None:
            self._wrong = wrong
        if self._state != "done":
            self._state = "lost"
        self._wake()

    # ----------------------------------------------------------------- an answer

    def _step(self) -> bool:
        """Take the next part from the buffer; False when more has to come first."""
        state, buffer, at = self._state, self._buffer, self._at
        if state == "head":
            return self._head()
        if state in ("length", "chunk"):
            piece = buffer[at : at + self._left]
            self._at = at + len(piece)
            self._left -= len(piece)
            self._keep(piece)
            if self._left == 0:
                self._state = "done" if state == "length" else "mark"
            return True
        if state == "end":
            self._at = len(buffer)
            self._keep(buffer[at:])
            return False
        if state == "done":
            # More than was asked for; the connection is not used again.
            return False
        end = buffer.find(b"\r\n", at)
        if end < 0:
            if len(buffer) - at > _LONGEST_HEAD:
                raise Malformed
            return False
        line = buffer[at:end]
        self._at = end + 2
        if state == "size":
            digits = line.partition(b";")[0].strip()
            if not _SIZE.fullmatch(digits):
                raise Malformed
            self._left = int(digits, 16)
            self._state = "chunk" if self._left else "trailer"
            start = end + 2
            end = start + self._left
            if self._left and buffer.startswith(b"\r\n", end):
                # It is here with its mark, as nearly every event of a stream is.
                self._keep(buffer[start:end])
                self._at = end + 2
                self._state = "size"
        elif state == "mark":
            if line:
                raise Malformed
            self._state = "size"
        elif not line:
            self._state = "done"
        return True

    def _keep(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._held += len(piece)

    def _head(self) -> bool:
        head, found, rest = self._buffer[self._at :].partition(b"\r\n\r\n")
        if len(head) > _LONGEST_HEAD or not b"HTTP/1.".startswith(head[:7]):
            raise Malformed
        if not found:
            return False
        self._at = len(self._buffer) - len(rest)
        first, *lines = head.split(b"\r\n")
        status = _STATUS.fullmatch(first)
        if status is None:
            raise Malformed
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or not _NAME.fullmatch(name):
                raise Malformed
            key, text = name.decode().lower(), value.strip(b" \t").decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        code = int(status[2])
        if code < 200 and code != 101:
            return True
        self._frame(code, headers, status[1] == b"0")
        self.headers = headers
        self.reason = first[13:].decode("latin-1")
        self.status = code
        return True

    def _frame(self, code: int, headers: Mapping[str, str], old: bool) -> None:
        connection = headers.get("connection", "").lower()
        self._last = "close" in connection or (old and "keep-alive" not in connection)
        length = headers.get("content-length")
        if code in (204, 304) or self._bodiless:
            self._state = "done"
        elif "transfer-encoding" in headers:
            if headers["transfer-encoding"].lower() != "chunked":
                raise Malformed
            self._last = self._last or length is not None
            self._state = "size"
        elif length is not None:
            sizes = {one.strip() for one in length.split(",")}
            (size,) = sizes if len(sizes) == 1 else ("",)
            if not (size.isascii() and size.isdigit() and len(size) < 16):
                raise Malformed
            self._left = int(size)
            self._state = "length" if self._left else "done"
        else:
            self._last = True
            self._state = "end"
