"""The one call path: every request to a language model goes through `complete`, in this order.

cache → single-flight → settled journal → budget.reserve → concurrency limit → attempt (durable start, timeout) →
classify → retry (Retry-After, jitter, deadline) → commit.

What a call does not need costs it nothing: without a timeout no timer is made, without a cache no key is hashed,
and no task is ever started for a call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from dspex.errors import BudgetExceeded, CallTimeout, LMError, RateLimited, RequestRejected, Sent, ServerError
from dspex.executor.caching import call_key
from dspex.executor.flight import TakeOver
from dspex.executor.models import Gate, here
from dspex.lm.spend import NOTHING, Spend
from dspex.lm.types import LMRequest, LMResponse, Usage

if TYPE_CHECKING:
    from dspex.program.context import Context, Journal, Reservation

T = TypeVar("T")

_TURN_TOKENS = 16
"""Upper bound of what a chat template adds to one turn."""

_RANK: dict[Sent, int] = {"no": 0, "maybe": 1, "yes": 2}


@dataclass(frozen=True, slots=True)
class Called:
    """How a call came out.

    Attributes:
        response: The answer.
        key: The call's identity; None where nothing needed it.
        cached: Whether this call was answered without being sent (cache, journal, or another call's flight).
        attempts: Attempts sent for it.
        spent: What they cost, as far as known.
        seconds: From entering the path to leaving it.
    """

    response: LMResponse
    key: str | None
    cached: bool
    attempts: int
    spent: Spend
    seconds: float


class _Progress:
    """What is known of a call while it runs, for the error that may end it."""

    __slots__ = ("attempts", "sent", "spent")

    def __init__(self) -> None:
        self.attempts = 0
        self.sent: Sent = "no"
        self.spent = NOTHING

    def mark(self, error: LMError) -> None:
        """Write into `error` what the whole call did, not its last attempt alone."""
        error.attempts = self.attempts
        if _RANK[self.sent] > _RANK[error.sent]:
            error.sent = self.sent
        error.spent = self.spent.usd

    def saw(self, sent: Sent) -> None:
        if _RANK[sent] > _RANK[self.sent]:
            self.sent = sent


async def complete(gate: Gate, request: LMRequest, context: Context, *, shared: bool = False) -> Called:
    """Answer one request.

    Args:
        gate: The model, opened on the running loop.
        request: What to ask.
        context: Whose budget, journal and deadline bind the call.
        shared: Whether equal calls in the air join even when nothing is cached.

    Raises:
        LMError: With ``attempts``, ``sent`` and ``spent`` of the call as a whole.
    """
    progress = _Progress()
    deadline = context.deadline
    if deadline is None:
        return await _joined(gate, request, context, shared, progress)
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise _too_late(progress)
    timer = asyncio.timeout(remaining)
    try:
        async with timer:
            return await _joined(gate, request, context, shared, progress)
    except TimeoutError:
        if timer.expired():
            raise _too_late(progress) from None
        raise


def store(gate: Gate, called: Called) -> None:
    """Keep an answer that proved usable; for the caller of `complete`, after validation."""
    if gate.writes and not called.cached and called.key is not None and gate.cache is not None:
        if not gate.replaces and gate.cache.get(called.key) is not None:
            return
        gate.cache.put(called.key, called.response)


async def _joined(gate: Gate, request: LMRequest, context: Context, shared: bool, progress: _Progress) -> Called:
    """Cache and single-flight."""
    started = time.perf_counter()
    journal = context.journal
    if not (gate.reads or gate.writes or journal is not None or shared):
        return await _sent(gate, request, context, None, started, progress)
    key = call_key(gate.fingerprint, request)
    if gate.reads and gate.cache is not None:
        found = gate.cache.get(key)
        if found is not None:
            return Called(found, key, True, 0, NOTHING, time.perf_counter() - started)
    flights = here().flights
    # A flight is shared only by calls that the same study remembers.
    place = (key, id(journal))
    flight = flights.get(place)
    if flight is None:
        flight = flights.lead(place)
    else:
        landed = await flights.follow(place, flight)
        if not isinstance(landed, TakeOver):
            return Called(landed.response, key, True, 0, NOTHING, time.perf_counter() - started)
    landing: Called | None = None
    shared_error: LMError | None = None
    try:
        if journal is not None:
            settled = journal.settled(key)
            if settled is not None:
                landing = Called(settled, key, True, 0, NOTHING, time.perf_counter() - started)
        if landing is None:
            landing = await _sent(gate, request, context, key, started, progress)
        return landing
    except LMError as error:
        if not isinstance(error, BudgetExceeded):
            shared_error = error
        raise
    finally:
        if landing is not None:
            flights.land(place, flight, landing)
        elif shared_error is not None:
            flights.crash(place, flight, shared_error)
        else:
            # Cancelled, out of budget, or the journal failed: reasons that are this caller's own.
            flights.give_up(place, flight)


async def _sent(
    gate: Gate, request: LMRequest, context: Context, key: str | None, started: float, progress: _Progress
) -> Called:
    """Attempts until one succeeds or the policy gives up."""
    upper = upper_bound(gate, request) if context.account is not None or context.journal is not None else NOTHING
    failures = 0
    while True:
        try:
            response, spent = await _attempt(gate, request, context, key, upper, progress)
        except LMError as error:
            if isinstance(error, BudgetExceeded):
                progress.mark(error)
                raise
            failures += 1
            delay = gate.retry.delay(error, failures)
            if delay is None or (context.deadline is not None and time.monotonic() + delay >= context.deadline):
                progress.mark(error)
                raise
        else:
            total = spent if progress.spent is NOTHING else progress.spent + spent
            return Called(response, key, False, progress.attempts, total, time.perf_counter() - started)
        await gate.sleep(delay)


async def _attempt(
    gate: Gate, request: LMRequest, context: Context, key: str | None, upper: Spend, progress: _Progress
) -> tuple[LMResponse, Spend]:
    """One attempt: reserve, wait for a slot, send, settle, commit."""
    account, journal = context.account, context.journal
    held: Reservation | None = account.reserve(upper) if account is not None else None
    ticket = 0
    sent: Sent = "no"
    try:
        limit = gate.limit
        if limit is not None and not limit.try_acquire():
            await limit.acquire()
        try:
            if journal is not None:
                ticket = await journal.started(key or "", gate.name, upper)
            progress.attempts += 1
            sent = "maybe"
            if gate.timeout is None:
                response = await gate.model.complete(request)
            else:
                response = await _timed(gate, request, gate.timeout)
        finally:
            if limit is not None:
                limit.release()
    except LMError as error:
        # An error of our own bookkeeping is not one of the attempt: `sent` is then still "no".
        sent = error.sent if sent == "maybe" else sent
        progress.saw(sent)
        cost = _cost_of(error, sent)
        _close(held, upper, sent, cost)
        progress.spent += _known(gate, cost, sent)
        if journal is not None and ticket:
            await _finished(journal.failed(ticket, key or "", error, NOTHING if sent == "no" else cost))
        raise
    except BaseException:
        progress.saw(sent)
        _close(held, upper, sent, None)
        raise
    progress.saw("yes")
    spent, exact = _spent(gate, response)
    if held is not None:
        if exact:
            held.settle(spent)
        else:
            held.uncertain(upper)
    if journal is not None:
        await _finished(_commit(journal, ticket, key or "", response, spent if exact else upper))
    return response, spent


async def _commit(journal: Journal, ticket: int, key: str, response: LMResponse, spent: Spend) -> None:
    await journal.committed(ticket, key, response, spent)


async def _timed(gate: Gate, request: LMRequest, seconds: float) -> LMResponse:
    timer = asyncio.timeout(seconds)
    try:
        async with timer:
            return await gate.model.complete(request)
    except TimeoutError:
        if not timer.expired():
            raise
        raise CallTimeout(
            "DX4701",
            f"{gate.name} did not answer within {seconds:g} s",
            fix="raise timeout on dx.LM(...), or see whether the server hangs",
            retryable=True,
            sent="maybe",
        ) from None


async def _finished(record: Coroutine[Any, Any, T]) -> T:
    """Wait for a record to be written even when the caller is cancelled meanwhile: what was paid is remembered."""
    task = asyncio.ensure_future(record)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError:
                continue
        if not task.cancelled():
            # The cancellation wins over a failed write, whose exception counts as retrieved.
            task.exception()
        raise


def upper_bound(gate: Gate, request: LMRequest) -> Spend:
    """The most that one attempt can cost: no token is shorter than a byte, and no answer longer than max_tokens."""
    size = _TURN_TOKENS
    for message in request.messages:
        size += len(message.content.encode(errors="surrogatepass")) + _TURN_TOKENS
    if request.prompt is not None:
        size += len(request.prompt.encode(errors="surrogatepass"))
    if request.json_schema is not None:
        size += len(request.json_schema.encode())
    usage = Usage(size, request.max_tokens)
    return Spend(1, size, request.max_tokens, None if gate.price is None else gate.price.cost(usage))


def _spent(gate: Gate, response: LMResponse) -> tuple[Spend, bool]:
    """What an answer cost, and whether that is exact."""
    usage, price = response.usage, gate.price
    if usage is None:
        free = price is not None and price.input == 0.0 and price.output == 0.0
        return Spend(1, 0, 0, 0.0 if free else None), False
    return Spend(1, usage.input_tokens, usage.output_tokens, None if price is None else price.cost(usage)), True


def _cost_of(error: LMError, sent: Sent) -> Spend | None:
    """What a failed attempt cost: a refusal costs a call and no tokens; None when it is unknown."""
    if sent == "yes" and isinstance(error, (RateLimited, ServerError, RequestRejected)):
        return Spend(1)
    return None


def _close(held: Reservation | None, upper: Spend, sent: Sent, cost: Spend | None) -> None:
    if held is None:
        return
    if sent == "no":
        held.release()
    elif cost is not None:
        held.settle(cost)
    else:
        held.uncertain(upper)


def _known(gate: Gate, cost: Spend | None, sent: Sent) -> Spend:
    """The known cost of a failed attempt: what may have been charged without a word is not known to be spent."""
    if sent == "no":
        return NOTHING
    if cost is not None:
        return cost
    return Spend(1, 0, 0, None if gate.price is None else 0.0)


def _too_late(progress: _Progress) -> CallTimeout:
    error = CallTimeout(
        "DX4702",
        "the deadline of this run passed before the model answered",
        fix="give run(timeout=...) more seconds",
    )
    progress.mark(error)
    return error
