"""Who may send a call now: slots, rates, priorities and fairness, shared by every loop and thread.

One `Limit` stands before one endpoint and key. It admits a call when fewer than the limit are in flight (a fixed
number, or one that `Adaptive` finds), the `Rates` have room for it, and no call before it waits. Waiting calls are
served by priority, and within a priority the tenants take turns. A call that is admitted at once costs no await, no
timer and no task.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Literal, get_args

from dspex.errors import (
    BudgetExceeded,
    CallTimeout,
    DspexError,
    LMError,
    RateLimited,
    RequestRejected,
    ServerError,
    UsageError,
)
from dspex.executor.adaptive import Adaptive
from dspex.executor.queueing import Line, Turn
from dspex.executor.rates import Rates, exhausted
from dspex.lm.types import RateLimits

_PATIENCE = 60.0
"""The longest time, in seconds, that a server's word or its silence closes a limit before one call tries again."""

_FIRST_PAUSE = 0.1
"""Seconds until one call tries again when the server took none and did not say how long to wait; they double."""

_LONGEST_PAUSE = 5.0
"""The longest of these pauses: a storm of refusals must not hold calls back long after it is over."""

_LATEST = 256
"""Answered calls whose seconds are kept."""

_EARLY = 1e-3
"""An alarm that rings by this many seconds later than wanted is not set again."""

borrowing: contextvars.ContextVar[bool] = contextvars.ContextVar("dspex_borrowing", default=False)
"""True inside a synchronous run whose caller's event loop stands still meanwhile.

Such a call may exceed a limit by one rather than wait for a slot that only the blocked loop could free.
"""

Outcome = Literal["ok", "rejected", "limited", "overloaded", "failed", "unknown", "unsent"]
"""How an attempt ended, for the limit and the breaker.

- ``ok``: answered. Its seconds are a measure of the server.
- ``rejected``: refused or unusable for the request's own sake (4xx other than 429, an answer of a wrong shape).
- ``limited``: 429, more than the server wants to take.
- ``overloaded``: 503, 529 or a timeout: more than the server can take.
- ``failed``: the server or the way to it is broken.
- ``unknown``: abandoned by the caller (cancelled, a hedge that lost); it tells nothing.
- ``unsent``: nothing was sent.
"""


def outcome_of(error: BaseException) -> Outcome:
    """The outcome that an attempt's error means."""
    if not isinstance(error, LMError):
        return "unknown"
    if isinstance(error, BudgetExceeded):
        return "unsent"
    if isinstance(error, RateLimited):
        # An account that is empty answers 429 too, and fewer calls do not fill it.
        return "limited" if error.retryable else "rejected"
    if isinstance(error, RequestRejected):
        return "rejected"
    if isinstance(error, CallTimeout) and error.sent != "no":
        return "overloaded"
    if isinstance(error, ServerError) and error.overloaded:
        return "overloaded"
    return "failed"


class Permit:
    """The right to send one call; `release` gives it back, once.

    Attributes:
        started: When it was granted, on the limit's clock.
        tokens: The estimate that it was granted for.
        full: Whether the limit was nearly used up then.
        requests_taken, tokens_taken: Of the `Rates`, just after it was granted.
        outcome, seconds, used, limits, retry_after: As given to `release`; ``outcome`` is None before.
    """

    __slots__ = (
        "_limit",
        "full",
        "limits",
        "outcome",
        "requests_taken",
        "retry_after",
        "seconds",
        "started",
        "tokens",
        "tokens_taken",
        "used",
    )

    def __init__(self, limit: Limit, started: float, tokens: int, full: bool, taken: tuple[int, int]) -> None:
        """Made by `Limit` alone."""
        self._limit = limit
        self.started = started
        self.tokens = tokens
        self.full = full
        self.requests_taken, self.tokens_taken = taken
        self.outcome: Outcome | None = None
        self.seconds: float | None = None
        self.used: int | None = None
        self.limits: RateLimits | None = None
        self.retry_after: float | None = None

    def release(
        self,
        outcome: Outcome = "ok",
        *,
        seconds: float | None = None,
        tokens: int | None = None,
        limits: RateLimits | None = None,
        retry_after: float | None = None,
    ) -> None:
        """The call ended. Neither blocks nor awaits: it may run in a finalizer and on any thread.

        Args:
            outcome: How.
            seconds: What the server took for it; by default the time since the permit was granted.
            tokens: What it used in all; None when that is unknown, and the estimate stands.
            limits: What the response, or its error, told about the server's rates.
            retry_after: Seconds that the server asked to wait.

        Raises:
            DspexError: DX4732 when it was released before.
        """
        if self.outcome is not None:
            raise DspexError("DX4732", "a permit was released twice", fix="this is a defect of dspex: report it")
        self.outcome = outcome
        self.seconds = seconds
        self.used = tokens
        self.limits = limits
        self.retry_after = retry_after
        self._limit.take_back(self)


class Limit:
    """Admission to one endpoint with one key.

    Args:
        capacity: Calls in flight at most, where that is known (a local model), or the `Adaptive` that finds out.
        rates: Requests and tokens a minute; without it, only what the server tells binds.
        clock: Seconds, monotonic.

    Attributes:
        most_active: The most calls that were in flight.
        queued: Calls admitted after they had waited.
        waited: Seconds that these waited in all.

    Raises:
        UsageError: DX4733 when the capacity is less than one.
    """

    # Giving back must not wait for the lock: it may run in a finalizer that the garbage collector calls on a thread
    # that holds it. So what is given back goes to `_returned`, and whoever holds the lock takes it from there.

    def __init__(
        self, capacity: int | Adaptive, rates: Rates | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if isinstance(capacity, int) and capacity < 1:
            raise UsageError("DX4733", f"a limit admits at least one call at once, got {capacity}")
        self._adaptive = None if isinstance(capacity, int) else capacity
        self._fixed = capacity if isinstance(capacity, int) else capacity.ceiling
        self._rates = Rates() if rates is None else rates
        self._clock = clock
        self._lock = threading.Lock()
        self._returned: deque[Permit | Turn] = deque()
        self._line = Line()
        self._alarms: dict[asyncio.AbstractEventLoop, float] = {}
        self._active = 0
        # Refusals since the last answer; how often in a row the server took nothing, and when it last did.
        self._row = 0
        self._struck = 0
        self._since = float("-inf")
        self._refusals = 0
        self._ended: dict[Outcome, int] = dict.fromkeys(get_args(Outcome), 0)
        self._latest: deque[float] = deque(maxlen=_LATEST)
        self.most_active = 0
        self.queued = 0
        self.waited = 0.0

    @property
    def limit(self) -> int:
        """Calls that may be in flight now."""
        if self._struck:
            return 1
        return self._fixed if self._adaptive is None else self._adaptive.limit

    @property
    def active(self) -> int:
        """Calls in flight."""
        return self._active

    @property
    def waiting(self) -> int:
        """Calls queued."""
        return len(self._line)

    @property
    def admitted(self) -> int:
        """Calls admitted so far."""
        return self._rates.requests_taken

    @property
    def is_held(self) -> bool:
        """Whether nothing passes for now because of what the server answered."""
        return self._rates.is_held(self._clock())

    @property
    def refusals(self) -> int:
        """Calls that the server refused or left unanswered because it takes no more."""
        return self._refusals

    @property
    def ended(self) -> dict[Outcome, int]:
        """Calls that ended so far, by how."""
        return self._ended.copy()

    @property
    def latest(self) -> deque[float]:
        """Seconds of the latest answered calls."""
        return self._latest.copy()

    @property
    def left(self) -> tuple[float | None, float | None]:
        """Requests and tokens that the rates allow now; None where there is no rate of them."""
        with self._lock:
            left = self._rates.left(self._clock())
        self._settle()
        return left

    def try_acquire(self, tokens: int = 0) -> Permit | None:
        """Admit a call that may be sent now and overtakes nobody; None when it has to wait.

        Args:
            tokens: Upper estimate of what it uses, input and output.
        """
        with self._lock:
            permit = None
            if not self._line and self._active < self.limit:
                now = self._clock()
                if self._rates.wait(tokens, now) <= 0.0:
                    permit = self._admit(tokens, now)
        self._settle()
        return permit

    async def acquire(self, tokens: int = 0, *, priority: int = 0, tenant: Hashable = "", weight: int = 1) -> Permit:
        """Admit a call, waiting for its turn. A cancelled wait leaves nothing behind.

        Args:
            tokens: Upper estimate of what it uses, input and output.
            priority: A higher one goes first, but for the turn that a lower one is owed (`queueing.PASSED`).
            tenant: Within a priority tenants take turns, however many calls each has waiting.
            weight: Calls of this tenant that one turn serves, >= 1; the latest call's holds.

        Raises:
            UsageError: DX4733 when the weight is less than one.
        """
        permit = self.try_acquire(tokens) if weight >= 1 else None
        if permit is not None:
            return permit
        turn = self.queue(tokens, priority=priority, tenant=tenant, weight=weight)
        try:
            await turn
        except BaseException:
            # Cancelled, or a coroutine that is thrown away.
            self.leave(turn)
            raise
        return self.granted(turn)

    def queue(self, tokens: int = 0, *, priority: int = 0, tenant: Hashable = "", weight: int = 1) -> Turn:
        """`acquire` for a caller that awaits the turn itself: each coroutine in between is held by every waiting call.

        When awaiting it ends, in whatever way, the caller hands it to `granted` or to `leave`.
        """
        if weight < 1:
            raise UsageError("DX4733", f"one turn serves at least one call of a tenant, got a weight of {weight}")
        turn = Turn(asyncio.get_running_loop(), tokens, priority, tenant)
        with self._lock:
            turn.since = now = self._clock()
            if borrowing.get():
                turn.permit = self._admit(tokens, now)
                turn.set_result(None)
            else:
                self._line.push(turn, weight)
                self._serve(now)
        self._settle()
        return turn

    def granted(self, turn: Turn) -> Permit:
        """The permit of a turn that has come."""
        assert turn.permit is not None
        turn.permit.started = self._clock()
        return turn.permit

    def advance(self, turn: Turn, priority: int) -> None:
        """Let a turn that has not come yet wait as one of a higher priority."""
        with self._lock:
            if turn.permit is None and not turn.gone and priority > turn.priority:
                self._line.advance(turn, priority)
                self._serve(self._clock())
        self._settle()

    def leave(self, turn: Turn) -> None:
        """Nobody waits for `turn` any more."""
        self._returned.append(turn)
        self._settle()

    def take_back(self, permit: Permit) -> None:
        """Count a released permit; for `Permit.release` alone."""
        self._returned.append(permit)
        self._settle()

    def _settle(self) -> None:
        """Take back what was returned, and serve who waits, unless the holder of the lock is going to do so."""
        while self._returned and self._lock.acquire(blocking=False):
            try:
                now = self._clock()
                while self._returned:
                    self._take(self._returned.popleft(), now)
                self._serve(now)
            finally:
                self._lock.release()

    def _take(self, returned: Permit | Turn, now: float) -> None:
        if isinstance(returned, Permit):
            self._close(returned, now)
        elif returned.permit is None:
            self._line.abandon(returned)
        elif not returned.gone:
            # Granted, and not wanted any more.
            returned.permit.outcome = "unsent"
            self._close(returned.permit, now)

    def _admit(self, tokens: int, now: float) -> Permit:
        self._active += 1
        if self._active > self.most_active:
            self.most_active = self._active
        self._rates.take(tokens, now)
        taken = (self._rates.requests_taken, self._rates.tokens_taken)
        return Permit(self, now, tokens, self._active * 5 >= self.limit * 4, taken)

    def _serve(self, now: float) -> None:
        """Grant permits while there are slots, room in the rates, and calls that wait."""
        line = self._line
        while self._active < self.limit:
            turn = line.head()
            if turn is None:
                return
            delay = self._rates.wait(turn.tokens, now)
            if delay > 0.0:
                self._wake(now, delay)
                return
            line.pop()
            permit = self._admit(turn.tokens, now)
            if _grant(turn, permit):
                self.queued += 1
                self.waited += now - turn.since
                continue
            # Its loop was closed with the call still queued; nobody waits there any more. What is left of the call may
            # yet be thrown away, and gives back what it was granted: nothing, then.
            self._active -= 1
            self._rates.give(1, turn.tokens)
            turn.gone = True

    def _wake(self, now: float, delay: float) -> None:
        """Serve again after `delay`. Every loop with waiting calls rings: any of them may stand still or close."""
        here = _running_loop()
        when = now + delay
        for loop in [loop for loop in self._alarms if loop.is_closed()]:
            del self._alarms[loop]
        for loop in self._line.loops:
            if self._alarms.get(loop, float("inf")) <= when + _EARLY:
                continue
            self._alarms[loop] = when
            if loop is here:
                loop.call_later(delay, self._ring, loop, when)
            else:
                _send(loop, loop.call_later, delay, self._ring, loop, when)

    def _ring(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        with self._lock:
            if self._alarms.get(loop) == when:
                del self._alarms[loop]
            self._serve(self._clock())
        self._settle()

    def _close(self, permit: Permit, now: float) -> None:
        """Learn from how a call ended."""
        self._active -= 1
        outcome, rates, tokens = permit.outcome, self._rates, permit.tokens
        assert outcome is not None
        self._ended[outcome] += 1
        if outcome == "unsent":
            rates.give(1, tokens)
            return
        if permit.used is not None:
            rates.give(0, tokens - permit.used)
        if permit.limits is not None:
            rates.correct(permit.limits, permit.started, permit.requests_taken, permit.tokens_taken, now)
        if outcome in ("ok", "rejected"):
            self._struck = self._row = 0
            if outcome == "ok":
                seconds = now - permit.started if permit.seconds is None else permit.seconds
                self._latest.append(seconds)
                if self._adaptive is not None:
                    self._adaptive.answered(permit.started, seconds, permit.full, now)
        elif outcome in ("limited", "overloaded"):
            self._refusals += 1
            whole = exhausted(permit.limits, tokens)
            if whole is None:
                self._refused(permit, now)
            else:
                # Where a server counts whole minutes, nothing passes before the next one begins.
                rates.hold(now + min(whole if permit.retry_after is None else permit.retry_after, _PATIENCE))

    def _refused(self, permit: Permit, now: float) -> None:
        """The server took no more: lower the limit, and if it takes nothing, let one call try again after a pause."""
        self._row += 1
        if self._adaptive is not None:
            self._adaptive.refused(self._active, now)
            nothing = self._active == 0
        else:
            nothing = self._active == 0 or self._row >= self._fixed
        if nothing and permit.started > self._since:
            pause = permit.retry_after
            if pause is None:
                pause = min(_FIRST_PAUSE * 2.0 ** min(self._struck, 10), _LONGEST_PAUSE)
            self._struck += 1
            self._since = now
            self._rates.hold(now + min(pause, _PATIENCE))


def _grant(turn: Turn, permit: Permit) -> bool:
    """Hand a permit to a waiting call on whichever loop; False when that loop is closed."""
    turn.permit = permit
    loop = turn.get_loop()
    if loop is _running_loop():
        _done(turn)
        return True
    return _send(loop, _done, turn)


def _done(turn: Turn) -> None:
    # A call that was cancelled meanwhile gives its permit back by itself.
    if not turn.done():
        turn.set_result(None)


def _send(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *args: object) -> bool:
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:
        return False
    return True


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
