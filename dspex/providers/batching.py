"""What batches of every provider have in common: requests handed in together, answered at leisure, for half the price.

Another process may ask for the results, so what reading an answer needs of its request stands in the request's id.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from dspex.errors import LMError, RequestRejected, ServerError
from dspex.lm.model import BatchStatus
from dspex.lm.types import LMRequest, LMResponse, Price
from dspex.providers.reading import Reading
from dspex.providers.served import Served, ServedModel

_CHOICE, _LOGPROBS, _CUT = "choice", "logprobs", "cut"


class Batches(Protocol):
    """The batches of one model; its methods are those of `BatchModel`."""

    @property
    def most(self) -> tuple[int, int]:
        """Requests and bytes of one batch."""
        ...

    def size(self, request: LMRequest) -> int: ...

    async def submit(self, requests: Sequence[LMRequest]) -> str: ...

    async def status(self, batch: str) -> BatchStatus: ...

    def results(self, batch: str) -> AsyncGenerator[tuple[int, LMResponse | LMError]]: ...

    async def cancel(self, batch: str) -> None: ...


class BatchedModel(ServedModel):
    """A model whose server takes batches as well.

    Args:
        served: The server and the model.
        batches: The model's batches.
        halved: Whether they cost half.
    """

    def __init__(self, served: Served, batches: Batches, *, halved: bool) -> None:
        super().__init__(served)
        self._batches = batches
        self._halved = halved

    @property
    def batch_price(self) -> Price | None:
        price = self.price
        return price.scaled(0.5) if self._halved and price is not None else None

    @property
    def batch_limits(self) -> tuple[int, int]:
        return self._batches.most

    def batch_bytes(self, request: LMRequest, /) -> int:
        return self._batches.size(request)

    async def submit(self, requests: Sequence[LMRequest], /) -> str:
        return await self._batches.submit(requests)

    async def status(self, batch: str, /) -> BatchStatus:
        return await self._batches.status(batch)

    def results(self, batch: str, /) -> AsyncGenerator[tuple[int, LMResponse | LMError]]:
        return self._batches.results(batch)

    async def cancel(self, batch: str, /) -> None:
        await self._batches.cancel(batch)


def request_id(index: int, reading: Reading) -> str:
    """The id of a batch's request: its position and how its answer is read, of letters, digits and hyphens."""
    ways = [_CHOICE] * reading.enforced + [_LOGPROBS] * reading.logprobs
    if reading.stops:
        ways += [_CUT, *(stop.encode().hex() for stop in reading.stops)]
    return "-".join([str(index), *ways])


def id_read(name: object) -> tuple[int, Reading]:
    """The position and the reading that an id says.

    Raises:
        ValueError: it is none of `request_id`.
    """
    index, *ways = str(name).split("-")
    enforced = ways[:1] == [_CHOICE]
    rest = ways[enforced:]
    logprobs = rest[:1] == [_LOGPROBS]
    stops = rest[logprobs:]
    if not index.isdecimal() or (stops and stops[0] != _CUT):
        raise ValueError("an id of someone else")
    return int(index), Reading(enforced, (), tuple(bytes.fromhex(stop).decode() for stop in stops[1:]), logprobs)


def check_size(requests: int, size: int, most_requests: int, most_bytes: int) -> None:
    """Refuse a batch that its server would not take.

    Raises:
        RequestRejected: DX4212.
    """
    if not 1 <= requests <= most_requests or size > most_bytes:
        raise RequestRejected(
            "DX4212",
            f"a batch has 1 to {most_requests} requests and at most {most_bytes} bytes, "
            f"got {requests} requests and {size} bytes",
            fix="hand them in as several batches",
        )


def not_ended(batch: str, where: str) -> RequestRejected:
    """The error of asking for results too early."""
    return RequestRejected("DX4213", f"batch {batch} has not ended", where=where, fix="wait for its status")


def unanswered(message: str, where: str) -> ServerError:
    """The outcome of a request that its batch did not come to: no model got it, and nothing is charged for it."""
    return ServerError("DX4215", message, where=where, fix="hand it in again", retryable=True, sent="no")
