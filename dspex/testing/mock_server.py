"""An OpenAI-compatible server on loopback that answers by a function and fails on command.

In a test ``with MockServer(latency=0.05, faults=[Fault("status", status=429, retry_after=1, at=3)]) as server`` runs
it in a thread of its own; ``server.url`` is the base URL. As a process of its own, whose ledger outlives the client
that is killed: ``with ServerProcess(ledger=path) as server``, or ``python -m dspex.testing --ledger FILE``.

Only asyncio's raw sockets are used, no task is made for a request.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import importlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic_core import from_json, to_json

from dspex.testing.mock_protocol import (
    Answer,
    Fault,
    MockRequest,
    choose_fields,
    completion,
    default_answer,
    error_reply,
    fault_reply,
    read_plan,
    reply,
)

_PATHS = ("/v1/chat/completions", "/v1/completions")


class MockServer:
    """See the module. Every method may be called from any thread.

    Attributes:
        requests: What arrived, in order.
        answered: Numbers of the requests whose answer was written, in order.
        input_tokens: Sum over the answers, as they were reported to clients.
        output_tokens: Likewise.
        connections: How many were ever accepted.
        open: Connections that are open now.
        most_open: The highest value that ``open`` had.
    """

    def __init__(
        self,
        answer: Answer | None = None,
        *,
        latency: float = 0.0,
        faults: Sequence[Fault] = (),
        ledger: str | os.PathLike[str] | None = None,
        port: int = 0,
        headers: Mapping[str, str] | None = None,
        api_key: str | None = None,
    ) -> None:
        """Start with `start` or ``with``.

        Args:
            answer: Pure function of the request; `default_answer` by default.
            latency: Seconds between a request and its answer.
            faults: The first that meets a request decides.
            ledger: File that gets one JSON line for each request and for each answer, written through at once.
            port: 0 picks a free one.
            headers: Added to every answer.
            api_key: When given, other keys are answered 401.
        """
        self.answer: Answer = answer or default_answer
        self.latency = latency
        self.faults: tuple[Fault, ...] = tuple(faults)
        self.headers = list((headers or {}).items())
        self.api_key = api_key
        self.requests: list[MockRequest] = []
        self.answered: list[int] = []
        self.input_tokens = 0
        self.output_tokens = 0
        self.connections = 0
        self.open = 0
        self.most_open = 0
        self._seen: dict[str, int] = {}
        self._port = port
        self._ledger_path = ledger
        self._ledger: int | None = None
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._live: set[_Connection] = set()

    @property
    def url(self) -> str:
        """The base URL, for `LM(base_url=...)`."""
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> MockServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, in a thread of its own; returns when connections are accepted."""
        ready = threading.Event()
        failure: list[OSError] = []

        def serve() -> None:
            try:
                asyncio.run(self._serve(ready))
            except OSError as error:
                failure.append(error)
                ready.set()

        self._thread = threading.Thread(target=serve, name="dspex-mock-server", daemon=True)
        self._thread.start()
        ready.wait()
        if failure:
            raise failure[0]

    def stop(self) -> None:
        """Cut every connection and end the thread; idempotent."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        self._loop = self._thread = None
        loop.call_soon_threadsafe(self._end.set)
        thread.join()

    def wait_until(self, condition: Callable[[MockServer], bool], timeout: float = 5.0) -> bool:
        """Block until `condition` holds, checked at every arrival, answer, opening and closing; its last value."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self), timeout)

    async def serve_here(self, announce: Callable[[str], None]) -> None:
        """Serve in the running loop until cancelled; `announce` gets the base URL."""
        ready = threading.Event()
        await self._serve(ready, announce)

    async def _serve(self, ready: threading.Event, announce: Callable[[str], None] | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        if self._ledger_path is not None:
            self._ledger = os.open(self._ledger_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self._port, backlog=2048)
        self._port = server.sockets[0].getsockname()[1]
        self._loop = loop
        ready.set()
        if announce is not None:
            announce(self.url)
        try:
            await self._end.wait()
        finally:
            server.close()
            for connection in list(self._live):
                connection.abort()
            await asyncio.sleep(0)
            if self._ledger is not None:
                os.close(self._ledger)
                self._ledger = None

    # ----------------------------------------------------------------- called by connections, in the server's thread

    def opened(self, connection: _Connection) -> None:
        with self._changed:
            self._live.add(connection)
            self.connections += 1
            self.open += 1
            self.most_open = max(self.most_open, self.open)
            self._changed.notify_all()

    def closed(self, connection: _Connection) -> None:
        with self._changed:
            self._live.discard(connection)
            self.open -= 1
            self._changed.notify_all()

    def arrived(self, path: str, headers: Mapping[str, str], raw: bytes) -> MockRequest:
        digest = hashlib.sha256(path.encode() + b"\n" + raw).hexdigest()
        try:
            body: object = from_json(raw) if raw else {}
        except ValueError:
            body = {}
        fields = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
        with self._changed:
            attempt = self._seen.get(digest, 0)
            self._seen[digest] = attempt + 1
            request = MockRequest(len(self.requests), attempt, digest, path, headers, fields)
            self.requests.append(request)
            if self._ledger is not None:
                entry = {"event": "received", "number": request.number, "attempt": attempt, "digest": digest}
                os.write(self._ledger, to_json({**entry, "path": path, "body": fields}) + b"\n")
            self._changed.notify_all()
        return request

    def settled(self, request: MockRequest, status: int, asked: int, said: int) -> None:
        with self._changed:
            self.answered.append(request.number)
            self.input_tokens += asked
            self.output_tokens += said
            if self._ledger is not None:
                entry = {"event": "answered", "number": request.number, "digest": request.digest, "status": status}
                os.write(self._ledger, to_json({**entry, "input_tokens": asked, "output_tokens": said}) + b"\n")
            self._changed.notify_all()

    def fault_for(self, request: MockRequest) -> Fault | None:
        return next((fault for fault in self.faults if fault.meets(request)), None)


class _Connection(asyncio.Protocol):
    def __init__(self, server: MockServer) -> None:
        self._server = server
        self._buffer = bytearray()
        self._busy = False
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._server.closed(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._busy:
            self._next()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _next(self) -> None:
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
            self._write(error_reply(411, "the mock server wants a Content-Length"))
            self._close()
            return
        stop = end + 4 + int(length)
        if len(self._buffer) < stop:
            return
        raw = bytes(self._buffer[end + 4 : stop])
        del self._buffer[:stop]
        self._busy = True
        target = lines[0].split(" ", 2)[1] if " " in lines[0] else ""
        request = self._server.arrived(target.partition("?")[0], headers, raw)
        fault = self._server.fault_for(request)
        delay = self._server.latency + (0.0 if fault is None else fault.delay if fault.kind != "drip" else 0.0)
        if delay > 0:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(delay, self._respond, request, fault)
        else:
            self._respond(request, fault)

    def _respond(self, request: MockRequest, fault: Fault | None) -> None:
        server = self._server
        if fault is not None and fault.kind in ("status", "redirect", "not_json", "shape", "not_http"):
            answer = fault_reply(fault, time.time())
            status = fault.status if fault.kind in ("status", "redirect") else 200
            server.settled(request, status, 0, 0)
            self._write(answer)
            if fault.kind == "not_http":
                self._close()
            return self._done()
        if fault is not None and fault.kind == "hang":
            return None
        if fault is not None and fault.kind == "reset":
            return self._reset()
        if server.api_key is not None and request.headers.get("authorization") != f"Bearer {server.api_key}":
            self._refuse(request, 401, f"Incorrect API key provided: {request.headers.get('authorization', 'none')}")
        elif request.path == "/v1/models":
            listing = to_json({"object": "list", "data": [{"id": "mock", "object": "model", "owned_by": "dspex"}]})
            server.settled(request, 200, 0, 0)
            self._write(reply(200, listing))
        elif request.path not in _PATHS:
            self._refuse(request, 404, f"no route {request.path}")
        elif not request.body:
            self._refuse(request, 400, "the body is not a JSON object")
        else:
            body, asked, said = completion(request, server.answer(request))
            whole = reply(200, body, server.headers)
            if fault is None:
                server.settled(request, 200, asked, said)
                self._write(whole)
            else:
                return self._misbehave(fault, whole, len(body))
        return self._done()

    def _misbehave(self, fault: Fault, whole: bytes, size: int) -> None:
        cut = len(whole) - size + size // 2
        if fault.kind == "drip":
            self._write(whole[: len(whole) - size])
            self._drip(whole[len(whole) - size :], fault.delay)
            return
        self._write(whole[:cut])
        if fault.kind == "truncate":
            self._close()
        elif fault.kind == "reset_body":
            # Later, so that the client has seen the head before the reset throws its buffer away.
            self._timer = asyncio.get_running_loop().call_later(0.05, self._reset)

    def _drip(self, rest: bytes, delay: float) -> None:
        self._write(rest[:1])
        if len(rest) > 1:
            self._timer = asyncio.get_running_loop().call_later(delay, self._drip, rest[1:], delay)
        else:
            self._done()

    def _refuse(self, request: MockRequest, status: int, message: str) -> None:
        self._server.settled(request, status, 0, 0)
        self._write(error_reply(status, message))

    def _done(self) -> None:
        self._busy = False
        if self._buffer and self._transport is not None:
            self._next()

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


# ----------------------------------------------------------------- a process of its own


class ServerProcess:
    """`MockServer` in another process; ends when the ``with`` block or this process does.

    Args:
        latency: See `MockServer`.
        faults: See `MockServer`.
        fields: Values for `choose_fields`; without, `default_answer` answers.
        answer: ``module:function`` instead, imported there.
        ledger: See `MockServer`.
        port: See `MockServer`.
    """

    def __init__(
        self,
        *,
        latency: float = 0.0,
        faults: Sequence[Fault] = (),
        fields: Mapping[str, Sequence[object]] | None = None,
        answer: str | None = None,
        ledger: str | os.PathLike[str] | None = None,
        port: int = 0,
    ) -> None:
        self._command = [sys.executable, "-m", "dspex.testing", "--while-stdin", "--latency", str(latency)]
        self._command += ["--port", str(port), "--faults", to_json(list(faults)).decode()]
        if fields is not None:
            self._command += ["--fields", to_json(fields).decode()]
        if answer is not None:
            self._command += ["--answer", answer]
        if ledger is not None:
            self._command += ["--ledger", os.fspath(ledger)]
        self._ledger = None if ledger is None else Path(ledger)
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    @property
    def pid(self) -> int:
        """Process ID; 0 when it does not run."""
        return 0 if self._process is None else self._process.pid

    def __enter__(self) -> ServerProcess:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self._process.stdout is None:
            raise RuntimeError("the server's output is not piped")
        line = self._process.stdout.readline()
        if not line.startswith("listening "):
            self.__exit__()
            raise RuntimeError("the mock server did not start; its message is on standard error")
        self.url = line.split()[1]
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def ledger(self) -> list[dict[str, Any]]:
        """The ledger's entries so far."""
        if self._ledger is None or not self._ledger.exists():
            return []
        whole = self._ledger.read_bytes()
        return [from_json(line) for line in whole[: whole.rfind(b"\n") + 1].splitlines()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until the process is ended; prints ``listening URL``."""
    parser = argparse.ArgumentParser(prog="python -m dspex.testing", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--ledger", type=Path, help="file that gets a JSON line for each request and answer")
    parser.add_argument("--fields", help='JSON object of values to choose from, such as {"label": ["a", "b"]}')
    parser.add_argument("--answer", help="module:function that answers")
    parser.add_argument("--faults", default="[]", help='JSON list, such as [{"kind": "hang", "at": 3}]')
    parser.add_argument("--while-stdin", action="store_true", help="end when standard input is closed")
    options = parser.parse_args(arguments)
    answer: Answer | None = None
    if options.answer:
        module, _, name = str(options.answer).partition(":")
        answer = cast(Answer, getattr(importlib.import_module(module), name))
    elif options.fields:
        answer = choose_fields(cast("dict[str, list[object]]", from_json(options.fields)))
    server = MockServer(
        answer,
        latency=options.latency,
        faults=read_plan(options.faults),
        ledger=options.ledger,
        port=options.port,
    )
    if options.while_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(server.serve_here(lambda url: print(f"listening {url}", flush=True)))


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)
