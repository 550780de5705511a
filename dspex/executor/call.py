"""The one call path: every request to a language model goes through `complete` or `stream`, in this order.

cache → single-flight → settled journal → (route → budget.reserve → durable start → admission → breaker → attempt
(timeout, hedge) → classify) → retry (Retry-After, jitter, allowance, deadline) → fallback → commit.

Retries, hedges and fallbacks are attempts like the first: each reserves, waits for admission and is settled by itself.
What a call does not need costs it nothing: without a timeout no timer is made, without a cache no key is hashed,
and no task is ever started for a call that is answered in time.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from dspex.errors import BudgetExceeded, CallTimeout, LMError, Sent
from dspex.executor.attempt import Attempt, upper_bound
from dspex.executor.caching import call_key
from dspex.executor.flight import Flight, TakeOver
from dspex.executor.hedge import Stragglers, hedged
from dspex.executor.models import Gate, here
from dspex.executor.recovery import Recovery
from dspex.executor.routes import Route, pick
from dspex.lm.record import record
from dspex.lm.spend import NOTHING, Spend
from dspex.lm.types import Capabilities, LMRequest, LMResponse

if TYPE_CHECKING:
    from dspex.executor.queueing import Turn
    from dspex.program.context import Context
    from dspex.program.ledger import Tab

TOO_LATE = "DX4702"
"""Code of the error of a call that its deadline ended."""

Adapt = Callable[[Capabilities], LMRequest]
"""Gives the request as a model of other capabilities needs it."""

_NO_CONTEXT = contextvars.Context()
"""For what reads no context variable: a copy of the caller's would be made for each."""

_RANK: dict[Sent, int] = {"no": 0, "maybe": 1, "yes": 2}


@record
class Called:
    """How a call came out.

    Attributes:
        response: The answer.
        key: The call's identity; None where nothing needed it.
        cached: Whether this call was answered without being sent (cache, journal, or another call's flight).
        attempts: Attempts sent for it.
        spent: What they cost, as far as known.
        seconds: From entering the path to leaving it.
        ambiguous: How many of the attempts may have been paid without an answer.
        fallback: The model that answered in place of the one that was asked, and the call's identity there.
    """

    response: LMResponse
    key: str | None
    cached: bool
    attempts: int
    spent: Spend
    seconds: float
    ambiguous: int = 0
    fallback: tuple[Gate, str] | None = None


def complete(
    gate: Gate,
    request: LMRequest,
    context: Context,
    *,
    shared: bool = False,
    adapt: Adapt | None = None,
    tab: Tab | None = None,
) -> Coroutine[Any, Any, Called]:
    """Answer one request.

    Args:
        gate: The model, opened on the running loop.
        request: What to ask.
        context: Whose budget, journal and deadline bind the call.
        shared: Whether equal calls in the air join even when nothing is cached.
        adapt: Gives `request` as a fallback of other capabilities needs it; None sends it as it is.
        tab: Where attempts and hits are written down for the open ledgers; None where none is open.

    Raises:
        LMError: With ``attempts``, ``sent`` and ``spent`` of the call as a whole.
    """
    # No coroutine of its own: a hundred thousand calls that wait hold on to each one that stands between.
    return carried(Call(gate, request, context, adapt, tab), shared)


def store(gate: Gate, called: Called) -> None:
    """Keep an answer that proved usable; for the caller of `complete`, after validation.

    A fallback's answer is kept as the fallback's: the model that was asked may answer again next time.
    """
    key = called.key
    if called.fallback is not None:
        gate, key = called.fallback
    if gate.writes and not called.cached and key is not None and gate.cache is not None:
        if not gate.replaces and gate.cache.get(key) is not None:
            return
        gate.cache.put(key, called.response)


async def carried(call: Call, shared: bool = False) -> Called:
    """The outcome of `call`, from its beginning."""
    place = call.begin(shared)
    if place is not None:
        try:
            await place
        except BaseException:
            call.leave(place)
            # It may hold the error, whose traceback holds this frame.
            del place
            raise
    return await call.end(place)


async def _hedged(first: Attempt, stragglers: Stragglers, late: float) -> Attempt:
    """`first`, or a second attempt at the same request once `first` has taken longer than `late` seconds."""

    async def again() -> Attempt | None:
        if first.ended or not stragglers.allowance.take():
            return None
        second = first.call.next(first.route)
        # The straggler keeps its slot. The second attempt gets the next one, or there would be none in a busy hour.
        await second.wait(urgent=True)
        return await second.run()

    winner = await hedged(first.run(), again, late)
    if winner is not first:
        stragglers.overtaken += 1
        # Without the time that the loser would have taken at least, fewer and fewer calls would count as late.
        stragglers.saw(time.perf_counter() - first.began)
    return winner


def kept(gate: Gate, key: str) -> LMResponse | None:
    """The answer in the cache, where `gate` reads it."""
    return gate.cache.get(key) if gate.reads and gate.cache is not None else None


class Call:
    """One call under way: what is asked of whom, and what has come of it.

    `begin` does all that can be done at once, and gives what has to be awaited before `end`, if anything has. So the
    caller's own coroutine is the only one that a waiting call holds. When that wait ends in an error, the caller says
    so to `leave`.

    Attributes:
        gate, request: What is asked now: the model's own, then those of its fallbacks in turn.
        context, tab: As given to `complete`.
        key: The call's identity, where something needs it.
        upper: The most that an attempt can cost, where something needs it.
        attempt: The one that waits for admission. It holds the call: at other times they would hold each other.
        recovery: What follows from failures; None as long as there was none.
        fallback: The fallback that is asked, and the call's identity there.
        known: The answer, where it need not be bought.
        started: When it began.
        attempts: Attempts sent.
        ambiguous: How many of them may have been paid without an answer.
        sent: Whether any reached a server.
        spent: What they cost, as far as known.
        priority: Its own, or a higher one of an equal call that waits for it.
    """

    __slots__ = (
        "_adapt",
        "_flight",
        "_timer",
        "ambiguous",
        "attempt",
        "attempts",
        "context",
        "fallback",
        "gate",
        "key",
        "known",
        "priority",
        "recovery",
        "request",
        "sent",
        "spent",
        "started",
        "tab",
        "upper",
    )

    def __init__(
        self, gate: Gate, request: LMRequest, context: Context, adapt: Adapt | None = None, tab: Tab | None = None
    ) -> None:
        self.gate = gate
        self.request = request
        self.context = context
        self._adapt = adapt
        self.tab = tab
        self.priority = context.priority
        self.key: str | None = None
        self.upper = NOTHING
        self.attempt: Attempt | None = None
        self.recovery: Recovery | None = None
        self.fallback: tuple[Gate, str] | None = None
        self.known: LMResponse | None = None
        self.started = time.perf_counter()
        self.attempts = 0
        self.ambiguous = 0
        self.sent: Sent = "no"
        self.spent = NOTHING
        self._timer: asyncio.TimerHandle | None = None
        self._flight: Flight[Called] | None = None

    # ----------------------------------------------------------------- the way of `complete`

    def begin(self, shared: bool = False) -> asyncio.Future[Any] | None:
        """Look for a known answer, join an equal call in the air, or reserve and ask for admission.

        Gives what has to be awaited before `end`: the other call's outcome, or the turn; None for nothing.

        Raises:
            LMError: The deadline has passed.
        """
        deadline = self.context.deadline
        if deadline is None:
            return self._begun(shared)
        left = deadline - time.monotonic()
        if left <= 0:
            raise self.too_late()
        place = self._begun(shared)
        if place is not None:
            self._timer = asyncio.get_running_loop().call_later(left, self._expire, place, context=_NO_CONTEXT)
        return place

    def _begun(self, shared: bool) -> asyncio.Future[Any] | None:
        gate, journal = self.gate, self.context.journal
        if not (shared or journal is not None or gate.reads or gate.writes):
            return self._enter()
        key = self.key = call_key(gate.fingerprint, self.request)
        self.known = kept(gate, key)
        if self.known is not None:
            return None
        # A flight is shared only by calls that the same study remembers, and that go the same way: another
        # configuration of the same model may have another key, or more patience.
        flight = self._flight = here().flights.board(key, (id(journal), id(gate.model)), self)
        if flight.leader is not self:
            flight.leader.hurry(self.priority)
            return flight.follow()
        try:
            self.recall()
            return self._enter() if self.known is None else None
        except BaseException:
            flight.give_up()
            raise

    def leave(self, place: asyncio.Future[Any]) -> None:
        """What `begin` gave is not awaited any more, or was an error."""
        if self._timer is not None:
            self._timer.cancel()
        attempt, self.attempt = self.attempt, None
        flight, self._flight = self._flight, None
        if attempt is not None:
            attempt.leave()
            if flight is not None:
                flight.give_up()
        elif flight is not None:
            flight.leave(place)

    def end(self, place: asyncio.Future[Any] | None) -> Coroutine[Any, Any, Called]:
        """The call's outcome, once what `begin` gave has come."""
        if self._timer is not None:
            self._timer.cancel()
        deadline = self.context.deadline
        # From here on it is not left: what refers to each other would wait for the garbage collector.
        flight, self._flight = self._flight, None
        going = self._answered() if flight is None else self._landed(flight, place)
        if deadline is None:
            return going
        return here().deadlines.bound(going, max(0.0, deadline - time.monotonic()), self.too_late)

    def hurry(self, priority: int) -> None:
        """An equal call of that priority waits for this one."""
        if priority > self.priority:
            self.priority = priority
            if self.attempt is not None:
                self.attempt.hurry(priority)

    def _expire(self, place: asyncio.Future[Any]) -> None:
        """The deadline has come while the call waited."""
        if not place.done():
            place.set_exception(self.too_late())
            # Whoever is cancelled in this instant does not look at it.
            place.exception()

    def _enter(self) -> Turn | None:
        self.ask(self.gate, self.request)
        self.attempt = self.next()
        return self.attempt.enter()

    async def _landed(self, flight: Flight[Called], place: asyncio.Future[Any] | None) -> Called:
        """What `flight` came to, or has to come to under this call's lead."""
        if flight.leader is not self:
            assert place is not None
            landed = place.result()
            if not isinstance(landed, TakeOver):
                self.fallback = landed.fallback
                self.gate.tally.add("joined")
                return self.outcome(landed.response, cached=True)
        landing: Called | None = None
        shared_error: LMError | None = None
        try:
            if flight.leader is not self:
                self.priority = max(self.priority, flight.leader.priority)
                flight.leader = self
                self.recall()
                self.ask(self.gate, self.request)
            landing = await self._answered()
            return landing
        except LMError as error:
            hurried = self.recovery is not None and self.recovery.hurried
            if not (isinstance(error, BudgetExceeded) or hurried):
                shared_error = error
            raise
        finally:
            if landing is not None:
                flight.land(landing)
            elif shared_error is not None:
                flight.crash(shared_error)
            else:
                # Cancelled, out of budget, or the journal failed: reasons that are this caller's own.
                flight.give_up()
            # As with the attempt; and the error's traceback holds this frame.
            self._flight = shared_error = None

    async def _answered(self) -> Called:
        """Attempts until one succeeds or there is nothing more to try."""
        attempt, self.attempt = self.attempt, None
        while self.known is None:
            if attempt is None:
                attempt = await self._admitted()
            try:
                attempt.begin()
                if attempt.record is not None:
                    await attempt.noted(attempt.record)
                stragglers = self.gate.stragglers
                if stragglers is None or stragglers.late is None:
                    await attempt.run()
                else:
                    attempt = await _hedged(attempt, stragglers, stragglers.late)
                return self.outcome(attempt.response)
            except LMError as error:
                pause = await self.pause(attempt, error)
            if pause is None:
                raise self.failure()
            if self.known is None:
                await self.gate.sleep(pause)
            attempt = None
        return self.outcome(self.known, cached=True)

    async def _admitted(self) -> Attempt:
        """Another attempt, once its turn has come."""
        attempt = self.attempt = self.next()
        try:
            await attempt.admitted()
        finally:
            self.attempt = None
        return attempt

    # ----------------------------------------------------------------- what has come of it

    def saw(self, sent: Sent) -> None:
        """An attempt got so far."""
        if _RANK[sent] > _RANK[self.sent]:
            self.sent = sent

    def paid(self, spent: Spend) -> None:
        """An attempt cost so much, as far as known."""
        self.spent = spent if self.spent is NOTHING else self.spent + spent

    def mark(self, error: LMError) -> LMError:
        """Write into `error` what the whole call did, not its last attempt alone."""
        error.attempts = self.attempts
        if _RANK[self.sent] > _RANK[error.sent]:
            error.sent = self.sent
        error.spent = self.spent.usd
        return error

    def outcome(self, response: LMResponse, *, cached: bool = False) -> Called:
        """How the call came out; it ends now."""
        if cached:
            self.gate.tally.add("hits")
            if self.tab is not None:
                self.tab.hit()
        seconds = time.perf_counter() - self.started
        return Called(response, self.key, cached, self.attempts, self.spent, seconds, self.ambiguous, self.fallback)

    def failure(self) -> LMError:
        """What the caller is told once there is nothing more to try: the error of the model that was asked."""
        recovery = self.recovery
        assert recovery is not None
        final, recovery.final = recovery.final, None
        assert final is not None
        return self.mark(final)

    def too_late(self) -> LMError:
        """The error of a call that its deadline ended."""
        return self.mark(
            CallTimeout(
                TOO_LATE,
                "the deadline of this run passed before the model answered",
                fix="give run(timeout=...) more seconds",
            )
        )

    # ----------------------------------------------------------------- what is tried

    def recall(self) -> None:
        """Take the answer that the study has paid for already, if there is one."""
        journal, key = self.context.journal, self.key
        settled = None if journal is None or key is None else journal.settled(key)
        if journal is None or key is None or settled is None:
            return
        name = journal.answered_by(key)
        if name != self.gate.name:
            other = next((one for one in self.gate.fallback if one.name == name), None)
            if other is None:
                # Of a fallback that this configuration has not: the model may answer itself.
                return
            self.fallback = (other, call_key(other.fingerprint, self.adapted(other.capabilities)))
        self.known = settled

    def adapted(self, capabilities: Capabilities) -> LMRequest:
        """The request as a model of other capabilities needs it."""
        return self.request if self._adapt is None else self._adapt(capabilities)

    def ask(self, gate: Gate, request: LMRequest) -> None:
        """Begin with a model."""
        self.gate = gate
        self.request = request
        bound = self.context.account is not None or self.context.journal is not None
        self.upper = upper_bound(gate, request) if bound else NOTHING
        gate.allowance.earn()
        if gate.stragglers is not None:
            gate.stragglers.allowance.earn()

    def fall_back(self, gate: Gate, request: LMRequest) -> None:
        """Go on with a fallback, unless its answer is known."""
        key = call_key(gate.fingerprint, request)
        self.fallback = (gate, key)
        self.known = kept(gate, key)
        self.ask(gate, request)

    def next(self, avoid: Route | None = None) -> Attempt:
        """The next attempt, on another route than `avoid`, by default the one before's, where there are several."""
        gate = self.gate
        route = gate.route
        if route is None:
            routes = [route for route in gate.routes if route not in self.barred] or gate.routes
            if avoid is None and self.recovery is not None:
                avoid = self.recovery.last
            route = pick(routes, gate.retry.rng, avoid)
        return Attempt(self, route)

    @property
    def barred(self) -> tuple[Route, ...]:
        """Routes that are not asked again."""
        return () if self.recovery is None else self.recovery.barred

    def pause(self, attempt: Attempt, error: LMError) -> Coroutine[Any, Any, float | None]:
        """Seconds until the next attempt after `attempt` ended in `error`; None when `failure` is to be raised.

        Goes on to the next fallback when nothing more is to be tried on this model.
        """
        if self.recovery is None:
            self.recovery = Recovery(self.gate.fallback)
        return self.recovery.pause(self, attempt, error)
