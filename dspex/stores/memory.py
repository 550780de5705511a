"""The event log in memory: for tests, and for searches that nobody will resume."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from types import TracebackType
from typing import Self

from dspex.errors import StudyError
from dspex.stores.codec import dumps, loads
from dspex.stores.locks import taken
from dspex.stores.protocol import Event
from dspex.telemetry.events import Json

__all__ = ["MemoryEventStore", "MemoryLock"]


class MemoryLock:
    """A lock between the parts of one process."""

    def __init__(self, held: set[str], stream: str) -> None:
        if stream in held:
            raise taken(stream, os.getpid())
        self._held: set[str] | None = held
        self._stream = stream
        held.add(stream)

    @property
    def stream(self) -> str:
        return self._stream

    def release(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.discard(self._stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class MemoryEventStore:
    """An `EventStore` that ends with the process.

    Args:
        clock: Gives `Event.at`.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._events: dict[str, list[tuple[int, str, float, str]]] = {}
        self._last = 0
        self._gate = threading.Lock()
        self._held: set[str] = set()
        self._closed = False

    def append(self, stream: str, kind: str, payload: Mapping[str, Json], durable: bool = True) -> asyncio.Future[int]:
        number = self.append_now(stream, kind, payload)
        waiting: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        waiting.set_result(number)
        return waiting

    def append_now(self, stream: str, kind: str, payload: Mapping[str, Json]) -> int:
        self._check_open()
        try:
            body = dumps(payload)
        except ValueError as error:
            raise StudyError(
                "DX6107", f"the payload of an event is a JSON object: {error}", where=f"{stream} {kind}"
            ) from error
        with self._gate:
            self._last += 1
            self._events.setdefault(stream, []).append((self._last, kind, self._clock(), body))
            return self._last

    def read(self, stream: str, after: int = 0, kinds: Collection[str] | None = None) -> Iterator[Event]:
        self._check_open()
        for number, kind, at, body in list(self._events.get(stream, ())):
            payload = loads(body)
            if number > after and (kinds is None or kind in kinds) and isinstance(payload, Mapping):
                yield Event(number, stream, kind, payload, at)

    def streams(self) -> list[str]:
        self._check_open()
        return sorted(self._events, key=lambda stream: self._events[stream][0][0])

    def delete(self, stream: str) -> int:
        self._check_open()
        with self.lock(stream), self._gate:
            return len(self._events.pop(stream, ()))

    def lock(self, stream: str) -> MemoryLock:
        return MemoryLock(self._held, stream)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StudyError("DX6108", "the event log is closed", where="memory")
