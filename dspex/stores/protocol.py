"""What an event store is: an append-only log of streams, each event with a monotonic id."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from dspex.telemetry.events import Json

if TYPE_CHECKING:
    import asyncio

__all__ = ["Event", "EventStore", "StreamLock"]


@dataclass(frozen=True, slots=True)
class Event:
    """One record of the log.

    Attributes:
        id: Larger than the id of every event appended before it, in any stream; never used twice.
        stream: What the event belongs to, for example a study's id.
        kind: The kind of the event, for example ``call.committed``.
        payload: A JSON object.
        at: Seconds since 1970 at which it was appended. For people; order is by id.
    """

    id: int
    stream: str
    kind: str
    payload: Mapping[str, Json]
    at: float


class StreamLock(Protocol):
    """An exclusive right to a stream. It ends with `release`, with the ``with`` block, or with the process."""

    @property
    def stream(self) -> str: ...

    def release(self) -> None:
        """Give the stream back; idempotent."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class EventStore(Protocol):
    """An append-only event log.

    Events are readable in the order in which they were appended. An append that fails leaves nothing behind, and
    what was acknowledged before stays readable.
    """

    def append(self, stream: str, kind: str, payload: Mapping[str, Json], durable: bool = True) -> asyncio.Future[int]:
        """Append from a coroutine; the result is the event's id, given once the event is stored.

        The event is queued when this returns, awaited or not, and many appenders share one disk write. A durable event
        survives the death of the process and of the machine from the moment that the future is done. One that is not
        durable waits a little for others to share their write, and nobody has to await it.

        Raises:
            StudyError: DX6107 at once: the payload is not JSON; DX6108 at once: the store is closed. In the future:
                DX6101 to DX6104: the disk or the size limit is full, or the file cannot be written.
        """
        ...

    def append_now(self, stream: str, kind: str, payload: Mapping[str, Json]) -> int:
        """Append durably and wait for it, from plain code; the event's id."""
        ...

    def read(self, stream: str, after: int = 0, kinds: Collection[str] | None = None) -> Iterator[Event]:
        """The stream's events with an id above `after`, in order. Events appended meanwhile may or may not be seen."""
        ...

    def streams(self) -> list[str]:
        """Every stream that has events, the oldest first."""
        ...

    def delete(self, stream: str) -> int:
        """Remove a stream's events for good; how many they were.

        Raises:
            StudyError: DX6105: the stream is locked.
        """
        ...

    def lock(self, stream: str) -> StreamLock:
        """Take the stream for this process alone.

        Raises:
            StudyError: DX6105: it is taken; the message names the process that holds it.
        """
        ...

    def flush(self) -> None:
        """Wait until all that was appended is stored.

        Raises:
            StudyError: an event that nobody awaits could not be stored.
        """
        ...

    def close(self) -> None:
        """Flush and release files and threads; idempotent."""
        ...
