"""Calls that may wait: they gather, go to their provider as batches, and are answered at leisure for less.

Inside of `deferring`, a module's call takes the one call path, and there its attempt waits instead of being sent. What
waits is handed in as a batch once no further call has come for a while: whatever could proceed without an answer has
done so. The answers let their programs go on, and their next calls make the next batch. Cache, single-flight, journal,
budget, retries and fallbacks are therefore those of any call.
"""

from __future__ import annotations

import asyncio
import copy
import math
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence, Sized
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from dspex.errors import LMError, RateLimited, RequestRejected, ServerError, UsageError
from dspex.executor.attempt import KEY_REFUSED, Unsent
from dspex.executor.batch_record import Batch, BatchJournal, BatchRecord, Places
from dspex.executor.caching import call_key
from dspex.executor.retry import Allowance
from dspex.executor.routes import Route
from dspex.lm.model import BatchModel
from dspex.lm.types import LMRequest, LMResponse
from dspex.program.concurrency import stopped
from dspex.program.context import current, within

if TYPE_CHECKING:
    from dspex.executor.models import Gate
    from dspex.stores.protocol import EventStore

T = TypeVar("T")

INTERVAL = 30.0
"""Seconds between two looks at a batch."""

QUIET = 2.0
"""Seconds without a further call after which what waits is handed in."""

MOST_REQUESTS = 10_000
"""Requests of one batch, where the provider takes as many."""

_FAILED_LOOKS = 120
"""Looks in a row that may fail before a batch is given up: an hour of them. It goes on, and can be taken up."""


@asynccontextmanager
async def deferring(
    store: EventStore,
    name: str = "evaluation",
    *,
    interval: float = INTERVAL,
    quiet: float = QUIET,
    size: int = MOST_REQUESTS,
    tell: Callable[[str], object] | None = None,
) -> AsyncGenerator[Deferral]:
    """Let the calls of modules inside the block wait for batches.

    All calls that wait are reserved from the budget, at the batch price. When the block ends early, or the process
    does, the batches stay with the provider: under the same `name` they are taken up again.

    Args:
        store: Where the batches' ids are kept.
        name: Of this piece of work, in `store`.
        interval: Seconds between two looks at a batch.
        quiet: Seconds without a further call after which a batch is handed in.
        size: Requests of one batch at most.
        tell: Called with a line for people when a batch was handed in, is taken up, or has ended.

    Raises:
        StudyError: DX6105: another process works under `name`; the store cannot be read.
    """
    outer = current()
    record = BatchRecord(store, name)
    with record.lock():
        deferral = Deferral(record, interval=interval, quiet=quiet, size=size, tell=tell)
        journal = None if outer.journal is None else BatchJournal(outer.journal)
        try:
            with within(outer.replace(deferral=deferral, journal=journal)):
                yield deferral
            for batch in deferral.places.forgotten():
                deferral.tell(f"batch {batch.id} of {_requests(batch.keys)} is not asked for any more, and goes on")
        finally:
            await deferral.aclose()


class Deferral:
    """A piece of work whose calls may wait; belongs to the running event loop. See `deferring`."""

    def __init__(
        self,
        record: BatchRecord,
        *,
        interval: float,
        quiet: float,
        size: int,
        tell: Callable[[str], object] | None,
    ) -> None:
        self.record = record
        self.interval = interval
        self.quiet = quiet
        self.size = size
        self._tell = tell
        self.places = Places(record.read())
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._gates: dict[int, Gate] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._handing_in: set[asyncio.Task[None]] = set()

    def gate(self, gate: Gate) -> Gate:
        """The gate through which calls of `gate` are deferred.

        A program that runs on another loop inside, or after the end, calls its model in the ordinary way.

        Raises:
            UsageError: DX4711: it, or one of its fallbacks, has no batch endpoint.
        """
        if self._closed or asyncio.get_running_loop() is not self._loop:
            return gate
        place = id(gate.model)
        known = self._gates.get(place)
        if known is None:
            known = self._gates[place] = _deferred(gate, self)
        return known

    def tell(self, line: str) -> None:
        if self._tell is not None:
            # Beside the work: what goes wrong there must cost no answer.
            self._loop.call_soon(self._tell, line)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` until it has ended, or all has."""
        _begun(work, self._tasks)

    async def whole(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` to its end, whoever stops waiting for it: a batch that is handed in gets its id noted."""
        await asyncio.shield(_begun(work, self._handing_in))

    async def aclose(self) -> None:
        """Stop gathering and watching; the batches go on without this process."""
        self._closed = True
        for gate in self._gates.values():
            await gate.model.aclose()
        await asyncio.gather(*self._handing_in, return_exceptions=True)
        await stopped(tuple(self._tasks))


def _begun(work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> asyncio.Task[None]:
    task = asyncio.ensure_future(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task


def _deferred(gate: Gate, deferral: Deferral) -> Gate:
    """`gate` but for its model; nothing of what paces calls is of use to one that waits for hours."""
    model = DeferredModel(gate, deferral)
    made = copy.copy(gate)
    made.model, made.price = model, model.price
    made.route = Route(model)
    made.routes = (made.route,)
    made.alarms = made.stragglers = None
    made.allowance = _Boundless(gate.allowance)
    made.fallback = tuple(deferral.gate(other) for other in gate.fallback)
    made.sleep = _at_once
    return made


class _Boundless(Allowance):
    """Calls count with the others of their model, and any may be tried again: a batch is no load on the server."""

    def __init__(self, shared: Allowance) -> None:
        super().__init__(0.0, math.inf)
        self._shared = shared

    def earn(self) -> None:
        self._shared.earn()


def _requests(several: Sized) -> str:
    return f"{len(several)} request{'s' if len(several) != 1 else ''}"


async def _at_once(_: float) -> None:
    """The next batch is late enough for another attempt."""


@dataclass(slots=True)
class _Waiting:
    """An attempt that waits to be handed in."""

    key: str
    request: LMRequest
    size: int
    answer: asyncio.Future[LMResponse]
    handed_in: bool = False


@dataclass(slots=True)
class _Carried:
    """A batch on its way: who waits for which of its answers, and those that are there."""

    answers: dict[int, asyncio.Future[LMResponse]] = field(default_factory=dict[int, "asyncio.Future[LMResponse]"])
    outcomes: dict[int, LMResponse | LMError] | None = None
    watched: bool = True

    def tell(self, position: int, outcome: LMResponse | BaseException) -> None:
        answer = self.answers.pop(position)
        if answer.done():
            return
        if isinstance(outcome, LMResponse):
            answer.set_result(outcome)
        else:
            answer.set_exception(outcome)

    def fail(self, error: BaseException) -> None:
        """Nobody who waits gets an answer; each has an error of its own, as the call path writes into it."""
        self.watched = False
        for position in list(self.answers):
            own = error
            if isinstance(error, LMError):
                own = copy.copy(error)
                # Whatever may be tried again has been.
                own.retryable = False
            self.tell(position, own)


class DeferredModel:
    """A model whose attempts wait until they are handed in together.

    Args:
        gate: The model itself.
        deferral: The work that its calls belong to.

    Raises:
        UsageError: DX4711.
    """

    def __init__(self, gate: Gate, deferral: Deferral) -> None:
        self.name = gate.name
        self.fingerprint = gate.fingerprint
        self.capabilities = gate.capabilities
        # A batch costs no more than its calls by themselves, also at a server whose price for batches nobody knows.
        self.price = batch_model(gate).batch_price or gate.price
        self._gate = gate
        self._route = gate.routes[0]
        self._deferral = deferral
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._latest = 0.0
        self._size = deferral.size
        self._crowded = False
        self._under_way = 0
        self._taken_up: dict[int, _Carried] = {}

    @property
    def _provider(self) -> BatchModel:
        # The route opens it anew when its key expires.
        return cast(BatchModel, self._route.model)

    async def complete(self, request: LMRequest, /) -> LMResponse:
        """The answer, in hours perhaps.

        Raises:
            LMError: DX4712, DX4713, what the batch says of this request, or what became of the batch.
        """
        key = call_key(self.fingerprint, request)
        answer = asyncio.get_running_loop().create_future()
        place = self._deferral.places.take(key)
        if place is not None:
            self._take_up(*place, answer)
            return await answer
        waiting = _Waiting(key, request, self._provider.batch_bytes(request), answer)
        self._add(waiting)
        try:
            return await answer
        except BaseException as reason:
            if waiting.handed_in:
                raise
            raise Unsent(reason) from None

    async def aclose(self) -> None:
        """Hand nothing in any more; connections belong to the gate that it was made of."""
        if self._timer is not None:
            self._timer.cancel()
        for one in self._waiting:
            one.answer.cancel()

    # ----------------------------------------------------------------- gathering

    def _add(self, waiting: _Waiting) -> None:
        most_requests, most_bytes = self._limits
        if len(self._waiting) >= most_requests or self._bytes + waiting.size > most_bytes:
            self._hand_in()
        self._waiting.append(waiting)
        self._bytes += waiting.size
        self._latest = asyncio.get_running_loop().time()
        if self._timer is None:
            self._wait(self._deferral.quiet)

    @property
    def _limits(self) -> tuple[int, int]:
        most_requests, most_bytes = self._provider.batch_limits
        return min(self._size, most_requests), most_bytes

    def _wait(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._ring)

    def _ring(self) -> None:
        self._timer = None
        left = self._latest + self._deferral.quiet - asyncio.get_running_loop().time()
        if left > 0:
            self._wait(left)
        else:
            self._hand_in()

    def _hand_in(self) -> None:
        """Begin a batch of what waits and is still wanted; where there is no room for two, when the other one ends."""
        if self._crowded and self._under_way:
            return
        most_requests, most_bytes = self._limits
        asked: list[_Waiting] = []
        size = 0
        while self._waiting and len(asked) < most_requests:
            if asked and size + self._waiting[0].size > most_bytes:
                break
            one = self._waiting.popleft()
            self._bytes -= one.size
            if not one.answer.done():
                one.handed_in = True
                asked.append(one)
                size += one.size
        if asked:
            self._under_way += 1
            carried = _Carried({position: one.answer for position, one in enumerate(asked)})
            self._deferral.start(self._handed_in(carried, asked))

    def _take_up(self, batch: Batch, position: int, answer: asyncio.Future[LMResponse]) -> None:
        """Wait for what an earlier process has handed in."""
        if not batch.id:
            raise ServerError(
                "DX4713",
                f"{self.name}: batch {batch.number} may have been handed in: its id was not noted",
                fix="see the provider's list of batches; then LM(retry_ambiguous=True, retries=1), or another folder",
                retryable=True,
                sent="maybe",
            )
        carried = self._taken_up.setdefault(batch.number, _Carried(watched=False))
        carried.answers[position] = answer
        if carried.outcomes is not None:
            carried.tell(position, self._outcome(carried.outcomes, position))
        elif not carried.watched:
            carried.watched = True
            self._deferral.tell(f"{self.name}: batch {batch.id} of {_requests(batch.keys)} is taken up")
            self._deferral.start(self._watched(carried, batch))

    # ----------------------------------------------------------------- one batch

    async def _handed_in(self, carried: _Carried, asked: Sequence[_Waiting]) -> None:
        batch: list[Batch] = []

        async def submit() -> None:
            batch.append(await self._submitted(asked))

        try:
            await self._deferral.whole(submit())
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - supervision boundary: the outcome of all who wait
            carried.fail(error)
        else:
            await self._watched(carried, batch[0])
        self._under_way -= 1
        if self._crowded:
            self._hand_in()

    async def _submitted(self, asked: Sequence[_Waiting]) -> Batch:
        record = self._deferral.record
        requests = [one.request for one in asked]
        try:
            batch = await record.intend(self.fingerprint, [one.key for one in asked])
        except BaseException:
            for one in asked:
                one.handed_in = False
            raise
        try:
            id = await self._tried(lambda: self._provider.submit(requests))
        except LMError as error:
            if _refused(error):
                await record.refused(batch)
            else:
                # The provider may have it, and may charge for it.
                error.sent = "maybe"
            raise
        await record.submitted(batch, id)
        self._deferral.tell(f"{self.name}: batch {id} of {_requests(requests)} is handed in")
        return batch

    async def _watched(self, carried: _Carried, batch: Batch) -> None:
        """Look after `batch` until it has ended, and tell what came of each request."""
        try:
            carried.outcomes = found = await self._results(batch.id)
            if found and all(isinstance(one, RateLimited) for one in found.values()):
                # More than the provider lets wait at a time: by halves, one after the other.
                self._crowded, self._size = True, max(1, len(batch.keys) // 2)
            lost = [at for at in range(len(batch.keys)) if not isinstance(found.get(at), LMResponse)]
            await self._deferral.record.ended(batch, lost)
            answered = len(batch.keys) - len(lost)
            self._deferral.tell(f"{self.name}: batch {batch.id} has ended: {answered} of {len(batch.keys)} answered")
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - supervision boundary: the outcome of all who wait
            carried.fail(error)
            return
        for position in list(carried.answers):
            carried.tell(position, self._outcome(found, position))

    async def _results(self, batch: str) -> dict[int, LMResponse | LMError]:
        failures = 0
        while True:
            try:
                if (await self._provider.status(batch)).state != "running":
                    return {position: one async for position, one in self._provider.results(batch)}
                failures = 0
            except LMError as error:
                failures += 1
                renewed = error.code == KEY_REFUSED and failures == 1 and await self._route.renew(self._provider)
                if not renewed and (not error.retryable or failures > _FAILED_LOOKS):
                    # It goes on without us, and may be charged.
                    error.sent = "maybe"
                    raise
            await self._gate.sleep(self._deferral.interval)

    def _outcome(self, found: dict[int, LMResponse | LMError], position: int) -> LMResponse | LMError:
        return found.pop(position, None) or RequestRejected(
            "DX4712",
            f"{self.name}: the batch ended without an answer to this request",
            fix="ask again with the same folder: what has no answer is handed in once more",
            retryable=True,
        )

    async def _tried(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` gives, tried again where it certainly did nothing."""
        failures = 0
        renewed = False
        while True:
            try:
                return await ask()
            except LMError as error:
                if error.code == KEY_REFUSED and not renewed:
                    renewed = await self._route.renew(self._provider)
                    if renewed:
                        continue
                failures += 1
                delay = self._gate.retry.delay(error, failures) if _refused(error) else None
                if delay is None:
                    raise
            await self._gate.sleep(delay)


def batch_model(gate: Gate) -> BatchModel:
    """The model of `gate`.

    Raises:
        UsageError: DX4711: it has no batch endpoint.
    """
    if not isinstance(gate.model, BatchModel):
        raise UsageError("DX4711", f"{gate.name} has no batch endpoint", fix="leave batch out, or name another model")
    return gate.model


def _refused(error: LMError) -> bool:
    """Whether the provider has certainly not taken the batch; of another failure of the server's nobody knows."""
    if isinstance(error, ServerError):
        return error.sent == "no" or (error.sent == "yes" and error.overloaded)
    return error.sent == "no" or (error.sent == "yes" and isinstance(error, (RateLimited, RequestRejected)))
