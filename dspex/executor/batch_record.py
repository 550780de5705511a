"""What is durable of batches: one stream of an event store.

``batch.intended`` (number, model, keys in order) before a batch is handed in, ``batch.submitted`` (number, id) or
``batch.refused`` (number) after, and ``batch.ended`` (number, positions without an answer) when its results were read.
A process that ends meanwhile loses nothing: the next one finds its calls in the batches that were handed in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from dspex.errors import LMError
    from dspex.lm.spend import Spend
    from dspex.lm.types import LMResponse
    from dspex.program.context import Journal
    from dspex.stores.protocol import EventStore, StreamLock
    from dspex.telemetry.events import Json


@dataclass(eq=False, slots=True)
class Batch:
    """One batch.

    Attributes:
        number: In its record.
        model: Fingerprint of the model that it is for.
        keys: Of its requests, in order.
        id: The provider's; empty until it is known.
        ended: Whether its results were read.
        unanswered: Positions that they left out, or refused.
    """

    number: int
    model: str
    keys: Sequence[str]
    id: str = ""
    ended: bool = False
    unanswered: frozenset[int] = frozenset()


class BatchRecord:
    """The batches of one piece of work.

    Args:
        store: Where they are kept.
        name: Of the work.
    """

    def __init__(self, store: EventStore, name: str) -> None:
        self._store = store
        self._stream = f"batch {name}"
        self._number = 0

    def lock(self) -> StreamLock:
        """Take the work for this process alone.

        Raises:
            StudyError: DX6105: another one has it.
        """
        return self._store.lock(self._stream)

    def read(self) -> list[Batch]:
        """Every batch that was handed in, or may have been: such a one has no id."""
        batches: dict[int, Batch] = {}
        for event in self._store.read(self._stream):
            number = cast(int, event.payload["number"])
            if event.kind == "batch.intended":
                keys = cast("list[str]", event.payload["keys"])
                batches[number] = Batch(number, cast(str, event.payload["model"]), keys)
                self._number = number
            elif event.kind == "batch.submitted":
                batches[number].id = cast(str, event.payload["id"])
            elif event.kind == "batch.refused":
                del batches[number]
            elif event.kind == "batch.ended":
                batches[number].ended = True
                batches[number].unanswered = frozenset(cast("list[int]", event.payload["unanswered"]))
        return list(batches.values())

    async def intend(self, model: str, keys: Sequence[str]) -> Batch:
        """A batch that is about to be handed in."""
        self._number += 1
        batch = Batch(self._number, model, keys)
        await self._note("batch.intended", batch, model=model, keys=keys)
        return batch

    async def refused(self, batch: Batch) -> None:
        """The provider has certainly not taken it."""
        await self._note("batch.refused", batch)

    async def submitted(self, batch: Batch, id: str) -> None:
        """The provider has it under `id`."""
        batch.id = id
        await self._note("batch.submitted", batch, id=id)

    async def ended(self, batch: Batch, unanswered: Sequence[int]) -> None:
        """Its results were read; the positions without an answer are looked for in it no more."""
        if not batch.ended:
            batch.ended = True
            await self._note("batch.ended", batch, unanswered=unanswered)

    async def _note(self, kind: str, batch: Batch, **more: Json) -> None:
        await self._store.append(self._stream, kind, {"number": batch.number, **more})


class Places:
    """Where calls stand in batches that earlier processes handed in.

    A key that stands in several was asked for as often, and is found as often.
    """

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches
        self._asked: set[int] = set()
        self._by_key: dict[str, deque[tuple[Batch, int]]] = {}
        for batch in batches:
            for position, key in enumerate(batch.keys):
                if position not in batch.unanswered:
                    self._by_key.setdefault(key, deque()).append((batch, position))

    def take(self, key: str) -> tuple[Batch, int] | None:
        """A batch that has `key`, and the position; each is given once."""
        places = self._by_key.get(key)
        if not places:
            return None
        place = places.popleft()
        self._asked.add(place[0].number)
        return place

    def forgotten(self) -> list[Batch]:
        """Batches that the provider has worked on for nobody: none of their calls was asked for, and no result read."""
        return [one for one in self._batches if one.id and not one.ended and one.number not in self._asked]


class BatchJournal:
    """The journal of what surrounds the work, told of an attempt once its outcome is known.

    Before that the attempt stands in the record of its batch: in the journal it would count as lost when the process
    ends, while the batch goes on.
    """

    def __init__(self, outer: Journal) -> None:
        self._outer = outer
        self._begun: dict[asyncio.Future[int], tuple[str, Spend]] = {}

    def settled(self, key: str, /) -> LMResponse | None:
        return self._outer.settled(key)

    def answered_by(self, key: str, /) -> str:
        return self._outer.answered_by(key)

    def started(self, key: str, model: str, reserved: Spend, /) -> asyncio.Future[int]:
        attempt: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        attempt.set_result(0)
        self._begun[attempt] = (model, reserved)
        return attempt

    def unsent(self, attempt: asyncio.Future[int], key: str, /) -> None:
        del self._begun[attempt]

    def committed(self, attempt: asyncio.Future[int], key: str, response: LMResponse, spent: Spend, /) -> None:
        model, _ = self._begun.pop(attempt)
        self._outer.committed(self._outer.started(key, model, spent), key, response, spent)

    def failed(self, attempt: asyncio.Future[int], key: str, error: LMError, cost: Spend | None, /) -> None:
        model, reserved = self._begun.pop(attempt)
        self._outer.failed(self._outer.started(key, model, cost or reserved), key, error, cost)
