"""The one call path: every request to a language model goes through `complete` or `stream`, in this order.

cache → single-flight → settled journal → (route → budget.reserve → admission → breaker → attempt (durable start,
timeout, hedge) → classify) → retry (Retry-After, jitter, allowance, deadline) → fallback → commit.

Retries, hedges and fallbacks are attempts like the first: each reserves, waits for admission and is settled by itself.
What a call does not need costs it nothing: without a timeout no timer is made, without a cache no key is hashed,
and no task is ever started for a call that is answered in time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dspex.errors import BudgetExceeded, CallTimeout, LMError, RateLimited, Sent, ServerError
from dspex.executor.attempt import KEY_REFUSED, OF_THE_ROUTE, Attempt, upper_bound
from dspex.executor.caching import call_key
from dspex.executor.flight import TakeOver
from dspex.executor.hedge import Stragglers, hedged
from dspex.executor.models import Gate, here
from dspex.executor.routes import Route, pick
from dspex.lm.spend import NOTHING, Spend
from dspex.lm.types import Capabilities, LMRequest, LMResponse

if TYPE_CHECKING:
    from dspex.program.context import Context
    from dspex.program.ledger import Tab

TOO_LATE = "DX4702"
"""Code of the error of a call that its deadline ended."""

Adapt = Callable[[Capabilities], LMRequest]
"""Gives the request as a model of other capabilities needs it."""

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
    call = Call(gate, request, context, adapt, tab)
    keyed = gate.reads or gate.writes or context.journal is not None or shared
    go = _joined if keyed else _answered
    return go(call) if context.deadline is None else _bounded(go, call, context.deadline)


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


async def _bounded(go: Callable[[Call], Coroutine[Any, Any, Called]], call: Call, deadline: float) -> Called:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise call.too_late()
    timer = asyncio.timeout(remaining)
    try:
        async with timer:
            return await go(call)
    except TimeoutError:
        if timer.expired():
            raise call.too_late() from None
        raise


async def _joined(call: Call) -> Called:
    """Cache, single-flight and journal."""
    gate, journal = call.gate, call.context.journal
    key = call.key = call_key(gate.fingerprint, call.request)
    found = kept(gate, key)
    if found is not None:
        return call.outcome(found, cached=True)
    flights = here().flights
    # A flight is shared only by calls that the same study remembers, and that go the same way: another configuration
    # of the same model may have another key, or more patience.
    place = (key, id(journal), id(gate.model))
    flight = flights.get(place)
    if flight is None:
        flight = flights.lead(place)
    else:
        landed = await flights.follow(place, flight)
        if not isinstance(landed, TakeOver):
            call.fallback = landed.fallback
            gate.tally.add("joined")
            return call.outcome(landed.response, cached=True)
    landing: Called | None = None
    shared_error: LMError | None = None
    try:
        settled = None if journal is None else journal.settled(key)
        landing = await _answered(call) if settled is None else call.outcome(settled, cached=True)
        return landing
    except LMError as error:
        if not (isinstance(error, BudgetExceeded) or call.hurried):
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


async def _answered(call: Call) -> Called:
    """Attempts until one succeeds or there is nothing more to try."""
    call.ask(call.gate, call.request)
    while True:
        attempt = call.next()
        try:
            turn = attempt.enter()
            if turn is not None:
                try:
                    await turn
                except BaseException:
                    attempt.leave(turn)
                    raise
            await attempt.begin(turn)
            stragglers = call.gate.stragglers
            if stragglers is None or stragglers.late is None:
                await attempt.run()
            else:
                attempt = await _hedged(attempt, stragglers, stragglers.late)
            return call.outcome(attempt.response)
        except LMError as error:
            pause = await call.pause(attempt, error)
        if pause is None:
            raise call.final
        if call.known is not None:
            return call.outcome(call.known, cached=True)
        await call.gate.sleep(pause)


async def _hedged(first: Attempt, stragglers: Stragglers, late: float) -> Attempt:
    """`first`, or a second attempt at the same request once `first` has taken longer than `late` seconds."""

    async def again() -> Attempt | None:
        if first.ended or not stragglers.allowance.take():
            return None
        second = first.call.next()
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
    """One call under way: what is asked of whom, on which route, when again, and what has come of it.

    Attributes:
        gate, request: What is asked now: the model's own, then those of its fallbacks in turn.
        context, adapt, tab: As given to `complete`.
        key: The call's identity, where something needs it.
        upper: The most that an attempt can cost, where something needs it.
        fallback: The fallback that is asked, and the call's identity there.
        known: What the fallback's cache has.
        started: When it began.
        attempts: Attempts sent.
        ambiguous: How many of them may have been paid without an answer.
        sent: Whether any reached a server.
        spent: What they cost, as far as known.
        shown: Whether the caller has seen a part of an answer.
        hurried: Whether the caller's deadline kept it from waiting for another attempt.
        barred: Routes whose key or path the server refused: asked again they would refuse again.
    """

    __slots__ = (
        "_failures",
        "_final",
        "_last",
        "_limited",
        "_others",
        "_refused",
        "_renewed",
        "_waited",
        "adapt",
        "ambiguous",
        "attempts",
        "barred",
        "context",
        "fallback",
        "gate",
        "hurried",
        "key",
        "known",
        "request",
        "sent",
        "shown",
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
        self.adapt = adapt
        self.tab = tab
        self.key: str | None = None
        self.upper = NOTHING
        self.fallback: tuple[Gate, str] | None = None
        self.known: LMResponse | None = None
        self.started = time.perf_counter()
        self.attempts = 0
        self.ambiguous = 0
        self.sent: Sent = "no"
        self.spent = NOTHING
        self.shown = False
        self.hurried = False
        self.barred: tuple[Route, ...] = ()
        self._final: LMError | None = None
        self._others: tuple[Gate, ...] = gate.fallback
        self._failures = 0
        self._refused = 0
        self._renewed = False
        self._limited = 0.0
        self._waited = 0.0
        self._last: Route | None = None

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

    @property
    def final(self) -> LMError:
        """What the caller is told once there is nothing more to try: the error of the model that was asked."""
        assert self._final is not None
        return self.mark(self._final)

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

    def ask(self, gate: Gate, request: LMRequest) -> None:
        """Begin with a model: it has all its retries."""
        self.gate = gate
        self.request = request
        bound = self.context.account is not None or self.context.journal is not None
        self.upper = upper_bound(gate, request) if bound else NOTHING
        self._failures = self._refused = 0
        self._renewed = False
        self._limited = self._waited = 0.0
        self._last = None
        gate.allowance.earn()
        if gate.stragglers is not None:
            gate.stragglers.allowance.earn()

    def next(self) -> Attempt:
        """The next attempt, on another route than the one before where there are several."""
        gate = self.gate
        routes = gate.routes
        if self.barred:
            routes = [route for route in routes if route not in self.barred] or routes
        self._last = route = gate.route or pick(routes, gate.retry.rng, self._last)
        return Attempt(self, route)

    async def pause(self, attempt: Attempt, error: LMError) -> float | None:
        """Seconds until the next attempt after `attempt` ended in `error`; None when `final` is to be raised.

        Goes on to the next fallback when nothing more is to be tried on this model.
        """
        # It may have found a slot elsewhere than where it was to go.
        self._last = attempt.route
        if error.code == KEY_REFUSED and not self._renewed:
            self._renewed = await attempt.route.renew(attempt.model)
            if self._renewed:
                self.gate.tally.add("retried")
                return 0.0
        if error.code in OF_THE_ROUTE:
            self.barred = (*self.barred, attempt.route)
        seconds = None if isinstance(error, BudgetExceeded) else self._delay(attempt, error)
        ends = self.context.deadline
        if seconds is not None and ends is not None and time.monotonic() + seconds >= ends:
            self.hurried = True
            seconds = None
        if seconds is None:
            return self._fall(error)
        if attempt.begun:
            self.gate.tally.add("retried")
        return seconds

    def _fall(self, error: LMError) -> float | None:
        if self._final is None or isinstance(error, BudgetExceeded):
            # Where the budget is used up there is no further fallback, and that is what the caller has to know.
            self._final = error
        else:
            self._note(error)
        while self._others and not isinstance(error, BudgetExceeded):
            other, self._others = self._others[0], self._others[1:]
            try:
                request = self.request if self.adapt is None else self.adapt(other.capabilities)
            except LMError as unfit:
                self.fallback = (other, "")
                self._note(unfit)
                continue
            self.fallback = (other, call_key(other.fingerprint, request))
            self.known = kept(*self.fallback)
            self.gate.tally.add("fell_back")
            other.tally.add("stood_in")
            self.ask(other, request)
            return 0.0
        return None

    def _note(self, failure: LMError) -> None:
        """A fallback failed as well."""
        if self._final is not None and self.fallback is not None:
            self._final.add_note(f"fallback {self.fallback[0].name}: {failure.code} {failure.message}")

    def _delay(self, attempt: Attempt, error: LMError) -> float | None:
        gate, policy = self.gate, self.gate.retry
        if not attempt.begun:
            return self._patience(error)
        self._failures += 1
        failures = self._failures
        elsewhere = gate.route is None and failures < min(len(gate.routes), policy.retries + 1)
        if elsewhere and (policy.may(error, failures) or error.code in OF_THE_ROUTE):
            delay = 0.0
        else:
            found = policy.delay(error, failures, self._limited)
            if found is None:
                return None
            delay = found
            if isinstance(error, RateLimited):
                self._limited += delay
        if not (isinstance(error, RateLimited) or gate.allowance.take()):
            # A 429 is paced by its Retry-After and by admission; every other retry is load on a server in trouble.
            error.add_note("not tried again: too many calls to this model are being retried already")
            return None
        return delay

    def _patience(self, error: LMError) -> float | None:
        """A breaker refused, and nothing was sent: go to another route, else to a fallback, else wait for it."""
        gate, policy = self.gate, self.gate.retry
        if not (isinstance(error, ServerError) and error.retryable):
            return None
        self._refused += 1
        if self._refused % len(gate.routes):
            return 0.0
        if self._others:
            return None
        pause = (error.retry_after or 0.0) + policy.rng.uniform(0.0, policy.base)
        self._waited += pause
        return pause if self._waited <= policy.ceiling else None
