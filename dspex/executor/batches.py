"""Many requests through a provider's batch endpoint: answered at leisure, for less, and resumable.

A batch's id is durable before it is waited for, so a process that ends meanwhile loses nothing: asked again under the
same name, the batches that were handed in are taken up, and only what is in none of them is handed in.

The record is one stream of an event store: ``batch.intended`` (number, keys, model) before a batch is handed in,
``batch.submitted`` (number, id) or ``batch.refused`` (number) after, and ``batch.ended`` (number, keys without an
answer) when its results were read.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar, cast

from dspex.errors import BudgetExceeded, LMError, RequestRejected, ServerError, UsageError
from dspex.executor.attempt import upper_bound
from dspex.executor.caching import call_key
from dspex.executor.call import Call, Called, kept, store
from dspex.executor.retry import is_free
from dspex.lm.model import BatchModel
from dspex.lm.spend import NOTHING, Spend
from dspex.lm.types import LMRequest, LMResponse
from dspex.program.ledger import Tab

if TYPE_CHECKING:
    from dspex.executor.models import Gate
    from dspex.program.context import Context, Reservation
    from dspex.stores.protocol import EventStore
    from dspex.telemetry.events import Json

T = TypeVar("T")

MOST_REQUESTS = 10_000
"""Requests of one batch; OpenAI takes 50,000, Anthropic 100,000, both with a limit on bytes as well."""


async def complete_batch(
    gate: Gate,
    requests: Sequence[LMRequest],
    context: Context,
    *,
    record: EventStore,
    name: str,
    interval: float = 30.0,
    size: int = MOST_REQUESTS,
) -> list[Called | LMError]:
    """Answer `requests` by batches; the outcome of each, in order.

    What the cache or the journal knows is not asked. Each request is reserved from the account when its batch is handed
    in, at the batch price, and settled by its result. A cancelled wait, or one that the deadline ends, leaves the
    batches with the provider: call again with the same `name` to take them up.

    Args:
        gate: A model whose provider has a batch endpoint.
        requests: What to ask; equal ones are sent once.
        context: Whose budget, journal and deadline bind the work.
        record: Where the batches' ids are kept.
        name: Of this piece of work, in `record`.
        interval: Seconds between two looks at the batches.
        size: Requests of one batch at most.

    Raises:
        UsageError: DX4711 the model has no batch endpoint; DX4714 `name` is another model's.
        LMError: What handing in, looking or reading raises once retries are used up; DX4713; DX4702.
        StudyError: The record cannot be written, or another process works under `name`.
    """
    work = _Work(gate, _batch_model(gate), requests, context, record, _stream(name))
    with record.lock(work.stream):
        try:
            await work.hand_in(size)
            await work.collect(interval)
        finally:
            work.let_go()
    return work.outcomes()


async def cancel_batch(gate: Gate, *, record: EventStore, name: str) -> int:
    """Ask the provider to end every batch handed in under `name`; how many there were.

    What is answered by then is charged, and `complete_batch` reads it.

    Raises:
        UsageError: DX4711, DX4714, as `complete_batch`.
        LMError: What the provider raises.
    """
    model = _batch_model(gate)
    stream = _stream(name)
    with record.lock(stream):
        live = [batch for batch in _recorded(record, stream, gate).values() if batch.id and not batch.ended]
        for batch in live:
            await model.cancel(batch.id)
    return len(live)


def _batch_model(gate: Gate) -> BatchModel:
    if not isinstance(gate.model, BatchModel):
        raise UsageError("DX4711", f"{gate.name} has no batch endpoint", fix="call it in the ordinary way")
    return gate.model


def _stream(name: str) -> str:
    return f"batch {name}"


@dataclass(slots=True)
class _Batch:
    """One batch: its requests' keys in order, its id once it is known, and what its results left unanswered."""

    number: int
    keys: list[str]
    id: str = ""
    ended: bool = False
    unanswered: set[str] = field(default_factory=set[str])
    asked: set[str] = field(default_factory=set[str])
    """Keys whose answers are wanted of it now; others of its requests are answered elsewhere, or not asked any more."""


def _recorded(record: EventStore, stream: str, gate: Gate) -> dict[int, _Batch]:
    """The batches of a record by number, those left out that were never handed in."""
    batches: dict[int, _Batch] = {}
    for event in record.read(stream):
        number = cast(int, event.payload["number"])
        if event.kind == "batch.intended":
            model = event.payload["model"]
            if model != gate.fingerprint:
                raise UsageError(
                    "DX4714",
                    f"{stream!r} was begun with {model}, and {gate.fingerprint} is asked now",
                    fix="choose another name, or use the model that it was begun with",
                )
            batches[number] = _Batch(number, list(cast("list[str]", event.payload["keys"])))
        elif event.kind == "batch.submitted":
            batches[number].id = cast(str, event.payload["id"])
        elif event.kind == "batch.refused":
            del batches[number]
        elif event.kind == "batch.ended":
            batches[number].ended = True
            batches[number].unanswered.update(cast("list[str]", event.payload["unanswered"]))
    return batches


class _Work:
    def __init__(
        self,
        gate: Gate,
        model: BatchModel,
        requests: Sequence[LMRequest],
        context: Context,
        record: EventStore,
        stream: str,
    ) -> None:
        self.stream = stream
        self._gate = gate
        self._model = model
        self._context = context
        self._record = record
        self._keys = [call_key(gate.fingerprint, request) for request in requests]
        self._requests = dict(zip(self._keys, requests, strict=True))
        self._found: dict[str, Called | LMError] = {}
        self._held: dict[str, tuple[Reservation, Spend]] = {}
        self._tab = Tab(context.ledgers, (context.tenant, "", "", ""), gate.name)
        self._open: list[_Batch] = []
        self._number = 0
        self._began = time.perf_counter()

    # ----------------------------------------------------------------- handing in

    async def hand_in(self, size: int) -> None:
        """Hand in every request that neither a cache nor a batch of the record answers."""
        self._look_up()
        missing = self._taken_up()
        for at in range(0, len(missing), size):
            await self._submit(missing[at : at + size])

    def _look_up(self) -> None:
        journal = self._context.journal
        for key in self._requests:
            known = kept(self._gate, key)
            if known is None and journal is not None:
                known = journal.settled(key)
            if known is not None:
                self._tab.hit()
                self._found[key] = self._called(key, known, NOTHING, cached=True)

    def _taken_up(self) -> list[str]:
        """Take up the batches of the record; the keys that none of them answers."""
        batches = _recorded(self._record, self.stream, self._gate)
        self._number = max(batches, default=0)
        wanted = {key: None for key in self._requests if key not in self._found}
        for batch in batches.values():
            answers = [key for key in batch.keys if key in wanted and key not in batch.unanswered]
            if not batch.id:
                self._in_doubt(batch, answers)
            elif answers:
                # It was handed in by a process that is gone, and its reservations with it.
                self._open.append(batch)
                self._reserve(answers)
                batch.asked.update(answers)
                for key in answers:
                    del wanted[key]
        return list(wanted)

    def _in_doubt(self, batch: _Batch, keys: list[str]) -> None:
        """A process ended between handing `batch` in and noting its id: it may have to be paid."""
        if not self._gate.retry.ambiguous:
            raise ServerError(
                "DX4713",
                f"batch {batch.number} of {self.stream!r} may have been handed in: its id was not noted",
                fix="see the provider's list of batches; then LM(retry_ambiguous=True), or another name",
                sent="maybe",
            )
        self._reserve(keys)
        for key in keys:
            self._close(key, None)

    async def _submit(self, keys: list[str]) -> None:
        self._reserve(keys)
        self._number += 1
        batch = _Batch(self._number, keys, asked=set(keys))
        await self._note("batch.intended", batch, {"keys": keys, "model": self._gate.fingerprint})
        requests = [self._requests[key] for key in keys]
        try:
            batch.id = await self._tried(lambda: self._model.submit(requests), once=True)
        except LMError as error:
            if is_free(error):
                for key in keys:
                    self._close(key, NOTHING)
                await self._note("batch.refused", batch, {})
            raise
        await self._note("batch.submitted", batch, {"id": batch.id})
        self._open.append(batch)

    # ----------------------------------------------------------------- collecting

    async def collect(self, interval: float) -> None:
        """Wait for every batch and read its results."""
        while self._open:
            for batch in list(self._open):
                status = await self._tried(lambda batch=batch: self._model.status(batch.id))
                if status.state != "running":
                    await self._read(batch, status.state)
                    self._open.remove(batch)
            if self._open:
                ends = self._context.deadline
                if ends is not None and time.monotonic() + interval >= ends:
                    late = Call(self._gate, self._requests[self._keys[0]], self._context)
                    late.saw("yes")
                    raise late.too_late()
                await self._gate.sleep(interval)

    async def _read(self, batch: _Batch, state: str) -> None:
        """Settle every request of an ended batch."""
        journal = self._context.journal

        async def results() -> dict[int, LMResponse | LMError]:
            return {position: one async for position, one in self._model.results(batch.id)}

        found = await self._tried(results)
        unanswered: list[str] = []
        for position, key in enumerate(batch.keys):
            if key not in batch.asked:
                continue
            one = found.get(position)
            if isinstance(one, LMResponse):
                spent = self._cost(one)
                most = None if one.usage is not None else self._most(key)
                self._close(key, spent if most is None else None)
                self._tab.answered(self._gate.name, one.usage, spent, most)
                if journal is not None:
                    paid = spent if most is None else most
                    ticket = await journal.started(key, self._gate.name, paid)
                    await journal.committed(ticket, key, one, paid)
                called = self._called(key, one, spent)
                store(self._gate, called)
                self._found[key] = called
                continue
            # What a batch did not come to, or refused, is not charged.
            self._close(key, NOTHING if one is None else Spend(1))
            error = self._found[key] = self._lost(state) if one is None else one
            if one is None:
                self._tab.unsent(self._gate.name, error.code)
            else:
                self._tab.failed(self._gate.name, error.code, None)
            unanswered.append(key)
        if unanswered or not batch.ended:
            await self._note("batch.ended", batch, {"unanswered": unanswered})

    def _lost(self, state: str) -> LMError:
        return RequestRejected(
            "DX4712",
            f"{self._gate.name}: the batch ended ({state}) without an answer to this request",
            fix="ask again under the same name: what has no answer is handed in once more",
            retryable=True,
            sent="yes",
        )

    def outcomes(self) -> list[Called | LMError]:
        """Of every request, in order; of equal ones, the first has paid."""
        seen: set[str] = set()
        outcomes: list[Called | LMError] = []
        for key in self._keys:
            one = self._found[key]
            if key in seen and isinstance(one, Called):
                self._tab.hit()
                one = self._called(key, one.response, NOTHING, cached=True)
            seen.add(key)
            outcomes.append(one)
        return outcomes

    # ----------------------------------------------------------------- accounts, record, retries

    def _cost(self, response: LMResponse) -> Spend:
        usage, price = response.usage, self._model.batch_price
        if usage is None:
            return Spend(1, 0, 0, None)
        return Spend(1, usage.input_tokens, usage.output_tokens, None if price is None else price.cost(usage))

    def _reserve(self, keys: Sequence[str]) -> None:
        account = self._context.account
        if account is None:
            return
        fresh: list[str] = []
        for key in keys:
            upper = self._most(key)
            try:
                self._held[key] = (account.reserve(upper), upper)
            except BudgetExceeded:
                for one in fresh:
                    self._close(one, NOTHING)
                raise
            fresh.append(key)

    def _most(self, key: str) -> Spend:
        """The most that a request can cost in a batch."""
        price, most = self._model.batch_price, upper_bound(self._gate, self._requests[key])
        usd = None if price is None else price.ceiling(most.input_tokens, most.output_tokens)
        return Spend(1, most.input_tokens, most.output_tokens, usd)

    def _close(self, key: str, spent: Spend | None) -> None:
        """End a reservation; None when what it comes to is not known."""
        held = self._held.pop(key, None)
        if held is None:
            return
        if spent is NOTHING:
            held[0].release()
        elif spent is None:
            held[0].uncertain(held[1])
        else:
            held[0].settle(spent)

    def let_go(self) -> None:
        """What is reserved still may have to be paid: its batches go on without this process."""
        for key in list(self._held):
            self._close(key, None)

    def _called(self, key: str, response: LMResponse, spent: Spend, *, cached: bool = False) -> Called:
        return Called(response, key, cached, 0 if cached else 1, spent, time.perf_counter() - self._began)

    async def _note(self, kind: str, batch: _Batch, more: Mapping[str, Json]) -> None:
        await self._record.append(self.stream, kind, {"number": batch.number, **more})

    async def _tried(self, ask: Callable[[], Awaitable[T]], *, once: bool = False) -> T:
        """What `ask` gives, tried again as often as the policy says; with `once`, only what certainly did nothing."""
        policy = replace(self._gate.retry, ambiguous=not once)
        failures = 0
        while True:
            try:
                return await ask()
            except LMError as error:
                failures += 1
                delay = policy.delay(error, failures)
                ends = self._context.deadline
                if delay is None or (ends is not None and time.monotonic() + delay >= ends):
                    raise
            await self._gate.sleep(delay)
