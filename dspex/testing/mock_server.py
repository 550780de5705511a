"""A server on loopback that speaks the protocols of model providers, answers by a function and fails on command.

In a test ``with MockServer(latency=0.05, faults=[Fault("status", status=429, retry_after=1, at=3)]) as server`` runs
it in a thread of its own; ``server.url`` is the base URL of OpenAI's API and ``server.root`` that of the others. As a
process of its own, whose ledger outlives the client that is killed: ``with ServerProcess(ledger=path) as server``, or
``dspex mock-server``.

Only asyncio's raw sockets are used, no task is made for a request.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from email.utils import formatdate
from typing import Any, cast
from urllib.parse import parse_qsl

from pydantic_core import from_json

from dspex.lm.types import Usage
from dspex.testing.answers import default_answer
from dspex.testing.connection import Connection
from dspex.testing.control import check, controlled
from dspex.testing.faults import Fault
from dspex.testing.ledger import Ledger, Totals
from dspex.testing.limits import Buckets, RateLimit
from dspex.testing.request import Answer, Batch, Made, MockRequest, Trouble
from dspex.testing.routes import route
from dspex.testing.script import Outcome, Script, honest, instead, spoiled


class MockServer:
    """See the module. Every method may be called from any thread, and the settings set from any.

    Attributes:
        answer, latency, pace, faults, queue, overload, api_key: See `__init__`; they may change while it runs.
        requests: What arrived, in order, unless ``record`` is off.
        answered: Numbers of the requests that were answered whole, in order, unless ``record`` is off.
        connections: How many were ever accepted.
        open: Connections that are open now.
        most_open: The highest value that ``open`` had.
        most_served: The most requests that were ever served at once.
        held: Answers that the fault ``hold`` or ``hold_body`` holds now.
        files: Uploaded files and those that batches wrote: id → (name, content).
        batches: What clients left to be answered later, by id.
    """

    def __init__(
        self,
        answer: Answer | None = None,
        *,
        latency: float = 0.0,
        pace: float = 0.0,
        faults: Sequence[Fault] = (),
        capacity: int | None = None,
        queue: int | None = None,
        overload: int = 503,
        limit: RateLimit | None = None,
        clock: Callable[[], float] = time.time,
        ledger: str | os.PathLike[str] | None = None,
        record: bool = True,
        port: int = 0,
        headers: Mapping[str, str] | None = None,
        api_key: str | None = None,
        batch_polls: int = 1,
        certificate: str | os.PathLike[str] | None = None,
    ) -> None:
        """Start with `start` or ``with``.

        Args:
            answer: Pure function of the request; `default_answer` by default. What it raises is answered with 500, and
                raised again at the end of the ``with`` block.
            latency: Seconds between the beginning of a request's service and its answer.
            pace: Seconds between the events of a stream.
            faults: The first that meets a request decides.
            capacity: Requests that are served at once; None for any number.
            queue: How many wait while ``capacity`` are being served; None for any number.
            overload: Status that refuses those that may not even wait.
            limit: What each API key may use; told in headers, and enforced with 429.
            clock: Seconds since the epoch, for ``limit`` and for dates.
            ledger: File that gets one JSON line for each request and for each answer, written through at once.
            record: Keep ``requests`` and ``answered``, which grow; the ledger does not need them.
            port: 0 picks a free one.
            headers: Added to every answer.
            api_key: When given, other keys are refused.
            batch_polls: How many times a batch is said to be in progress before it has ended.
            certificate: PEM file with key and certificate; the server then speaks TLS.

        Raises:
            UsageError: DX8141, a setting is out of range.
        """
        check(latency=latency, pace=pace, capacity=capacity, queue=queue, overload=overload)
        self.answer: Answer = answer or default_answer
        self.latency = latency
        self.pace = pace
        self.faults: tuple[Fault, ...] = tuple(faults)
        self.queue = queue
        self.overload = overload
        self.headers = tuple((headers or {}).items())
        self.api_key = api_key
        self.batch_polls = batch_polls
        self.requests: list[MockRequest] = []
        self.answered: list[int] = []
        self.connections = 0
        self.open = 0
        self.most_open = 0
        self.most_served = 0
        self.files: dict[str, tuple[str, bytes]] = {}
        self.batches: dict[str, Batch] = {}
        self._capacity = capacity
        self._buckets = None if limit is None else Buckets(limit, clock)
        self._limit = limit
        self._clock = clock
        self._record = record
        self._number = 0
        self._seen: dict[str, int] = {}
        self._serving: set[Connection] = set()
        self._waiting: deque[tuple[Connection, MockRequest, Fault | None]] = deque()
        self._held: list[Connection] = []
        self._raised: list[Exception] = []
        self._port = port
        self._certificate = certificate
        self._ledger = Ledger(ledger)
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._live: set[Connection] = set()

    @property
    def root(self) -> str:
        """The server's address, the base URL of Anthropic's, Gemini's, Ollama's and Bedrock's clients."""
        return f"{'http' if self._certificate is None else 'https'}://127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """The base URL of OpenAI's clients, for `LM(base_url=...)`."""
        return f"{self.root}/v1"

    @property
    def input_tokens(self) -> int:
        """Sum over the completed answers, as they were reported to clients."""
        return self.totals().usage.input_tokens

    @property
    def output_tokens(self) -> int:
        """Likewise."""
        return self.totals().usage.output_tokens

    def totals(self, *, protocol: str | None = None, key: str | None = None) -> Totals:
        """The ledger's sums over all requests, or over those of one protocol, of one API key, or of both."""
        with self._changed:
            return self._ledger.totals(protocol, key)

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def capacity(self) -> int | None:
        """Requests that are served at once; those that waited for more of it are served when it rises."""
        return self._capacity

    @capacity.setter
    def capacity(self, value: int | None) -> None:
        check(capacity=value)
        self._capacity = value
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._serve_waiting)

    def change(self, **settings: Any) -> None:
        """Set several of the settings that may change while it runs.

        Raises:
            UsageError: DX8141, a setting is unknown or out of range.
        """
        check(**settings)
        for name, value in settings.items():
            setattr(self, name, tuple(value) if name == "faults" else value)

    def release(self) -> None:
        """Let every answer go on that the fault ``hold`` or ``hold_body`` holds now."""
        with self._changed:
            held, self._held = self._held, []
        if self._loop is not None:
            for connection in held:
                self._loop.call_soon_threadsafe(connection.go_on)

    def wait_until(self, condition: Callable[[MockServer], bool], timeout: float = 5.0) -> bool:
        """Block until `condition` holds, checked at every arrival, answer, opening and closing; its last value."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self), timeout)

    # ----------------------------------------------------------------- start and stop

    def __enter__(self) -> MockServer:
        self.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.stop()
        if self._raised and kind is None:
            raise self._raised[0]

    def start(self) -> None:
        """Listen, in a thread of its own; returns when connections are accepted."""
        ready = threading.Event()
        failure: list[OSError] = []

        def serve() -> None:
            try:
                asyncio.run(self._serve(ready.set))
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

    async def serve_here(self, announce: Callable[[str], None]) -> None:
        """Serve in the running loop until cancelled; `announce` gets the base URL."""
        await self._serve(lambda: announce(self.url))

    async def _serve(self, ready: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        context = None
        if self._certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._certificate)
        self._ledger.open()
        try:
            server = await loop.create_server(
                lambda: Connection(self), "127.0.0.1", self._port, backlog=2048, ssl=context
            )
            self._port = server.sockets[0].getsockname()[1]
            self._loop = loop
            ready()
            try:
                await self._end.wait()
            finally:
                server.close()
                for connection in list(self._live):
                    connection.abort()
                await asyncio.sleep(0)
        finally:
            self._ledger.close()

    # ----------------------------------------------------------------- called by connections, in the server's thread

    def opened(self, connection: Connection) -> None:
        """Note a new connection."""
        with self._changed:
            self._live.add(connection)
            self.connections += 1
            self.open += 1
            self.most_open = max(self.most_open, self.open)
            self._changed.notify_all()

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        with self._changed:
            self._live.discard(connection)
            if connection in self._held:
                self._held.remove(connection)
            self.open -= 1
            self._changed.notify_all()
        self.left(connection)

    def controlled(self, method: str, target: str, raw: bytes) -> Script | None:
        """The answer to a request about the server itself; None for all others."""
        return controlled(self, method, target, raw) if target.startswith("/mock/") else None

    def arrived(self, method: str, target: str, headers: Mapping[str, str], raw: bytes) -> MockRequest:
        """Note a request."""
        path, _, query = target.partition("?")
        digest = hashlib.sha256(path.encode() + b"\n" + raw).hexdigest()
        try:
            body: object = from_json(raw) if raw else {}
        except ValueError:
            body = None
        parameters = dict(parse_qsl(query)) if query else {}
        whole = isinstance(body, dict)
        with self._changed:
            attempt = self._seen.get(digest, 0)
            self._seen[digest] = attempt + 1
            request = MockRequest(
                self._number,
                attempt,
                digest,
                path,
                headers,
                cast("dict[str, Any]", body) if whole else {},
                route(method, path),
                key_of(headers, parameters),
                parameters,
                b"" if whole else raw,
                method,
            )
            self._number += 1
            if self._record:
                self.requests.append(request)
            self._ledger.received(request)
            self._changed.notify_all()
        return request

    def admit(self, connection: Connection, request: MockRequest) -> None:
        """Serve `request` now, later, or not at all, as the capacity allows."""
        fault = next((fault for fault in self.faults if fault.meets(request)), None)
        if self._capacity is None or len(self._serving) < self._capacity:
            self._begin(connection, request, fault)
        elif self.queue is None or len(self._waiting) < self.queue:
            self._waiting.append((connection, request, fault))
        else:
            connection.play(honest(request.endpoint.trouble(Trouble.of(self.overload, "")), self.headers))

    def left(self, connection: Connection) -> None:
        """Note that `connection` is being served no longer."""
        self._serving.discard(connection)
        if self._waiting:
            self._serve_waiting()

    def _serve_waiting(self) -> None:
        while self._waiting and (self._capacity is None or len(self._serving) < self._capacity):
            connection, request, fault = self._waiting.popleft()
            if connection in self._live:
                self._begin(connection, request, fault)

    def _begin(self, connection: Connection, request: MockRequest, fault: Fault | None) -> None:
        self._serving.add(connection)
        self.most_served = max(self.most_served, len(self._serving))
        late = 0.0 if fault is None or fault.kind == "drip" else fault.delay
        connection.begin(request, fault, self.latency + late)

    def script(self, request: MockRequest, fault: Fault | None) -> Script:
        """What is written for `request`."""
        endpoint = request.endpoint
        script = None if fault is None else instead(fault, request, self._clock())
        if script is not None:
            return script
        if self.api_key is not None and request.key != self.api_key:
            # The one protocol whose server repeats the key.
            said = f"Incorrect API key provided: {request.key}" if request.protocol == "openai" else ""
            return honest(endpoint.trouble(Trouble("key", message=said)))
        try:
            made = endpoint.respond(request, self)
        except Exception as error:  # noqa: BLE001 - `__exit__` raises it; until then the client waits for something
            self._raised.append(error)
            made = endpoint.trouble(Trouble("server", message=f"the answer raised {type(error).__name__}: {error}"))
        if self._buckets is not None and self._limit is not None and made.status == 200:
            made = self._limited(request, made, self._buckets, self._limit)
        if fault is None or made.status != 200:
            return honest(made, self.headers, self.pace)
        return spoiled(fault, made, endpoint, self.headers, self.pace)

    def _limited(self, request: MockRequest, made: Made, buckets: Buckets, limit: RateLimit) -> Made:
        now = self._clock()
        limits, wait = buckets.take(request.key, made.usage.total_tokens)
        if wait > 0:
            made = request.endpoint.trouble(Trouble("rate_limit", retry_after=wait))
            after = formatdate(now + wait, usegmt=True) if limit.date else str(math.ceil(wait))
            made = replace(
                made, headers=(*made.headers, ("Retry-After", after), ("Date", formatdate(now, usegmt=True)))
            )
        return replace(made, headers=(*made.headers, *request.endpoint.limit_headers(limits, now)))

    def hold(self, connection: Connection) -> None:
        """Keep an answer until `release`."""
        with self._changed:
            self._held.append(connection)
            self._changed.notify_all()

    def settled(self, request: MockRequest, outcome: Outcome, status: int, usage: Usage) -> None:
        """Note what became of a request."""
        with self._changed:
            if outcome != "cut" and self._record:
                self.answered.append(request.number)
            self._ledger.settled(request, outcome, status, usage)
            self._changed.notify_all()


def key_of(headers: Mapping[str, str], query: Mapping[str, str]) -> str:
    """The API key of a request, wherever its protocol puts it; ``""`` for none."""
    for name in ("x-api-key", "x-goog-api-key", "api-key"):
        if name in headers:
            return headers[name]
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind == "AWS4-HMAC-SHA256":
        # A signature shows which key made it, not the key.
        return value.partition("Credential=")[2].partition("/")[0]
    return value or query.get("key", "")
