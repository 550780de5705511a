"""What follows a failed attempt: another one, where and when, or a fallback, or the end of the call."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dspex.errors import BudgetExceeded, LMError, RateLimited, ServerError
from dspex.executor.attempt import KEY_REFUSED, OF_THE_ROUTE, Attempt

if TYPE_CHECKING:
    from dspex.executor.call import Call
    from dspex.executor.models import Gate
    from dspex.executor.routes import Route


class Recovery:
    """What has gone wrong with one call so far. Most calls have none.

    Args:
        others: The fallbacks.

    Attributes:
        last: Route of the latest attempt.
        barred: Routes whose key or path the server refused: asked again they would refuse again.
        hurried: Whether the caller's deadline kept it from waiting for another attempt.
        final: What the caller is told when there is nothing more to try: the error of the model that was asked.
    """

    __slots__ = (
        "_failures",
        "_limited",
        "_others",
        "_refused",
        "_renewed",
        "_waited",
        "barred",
        "final",
        "hurried",
        "last",
    )

    def __init__(self, others: tuple[Gate, ...]) -> None:
        self.barred: tuple[Route, ...] = ()
        self.hurried = False
        self.final: LMError | None = None
        self._others = others
        self._begin()

    def _begin(self) -> None:
        """With a model: it has all its retries."""
        self.last: Route | None = None
        self._failures = self._refused = 0
        self._renewed = False
        self._limited = self._waited = 0.0

    async def pause(self, call: Call, attempt: Attempt, error: LMError) -> float | None:
        """Seconds until the next attempt after `attempt` ended in `error`; None when there is none.

        Goes on to the next fallback when nothing more is to be tried on this model.
        """
        # It may have found a slot elsewhere than where it was to go.
        self.last = attempt.route
        if error.code == KEY_REFUSED and not self._renewed:
            try:
                self._renewed = await attempt.route.renew(attempt.model)
            except LMError as failure:
                # Whoever is to give a fresh key has none: the refusal stands.
                error.add_note(f"no fresh key: {failure.code} {failure.message}")
            if self._renewed:
                call.gate.tally.add("retried")
                return 0.0
        if error.code in OF_THE_ROUTE:
            self.barred = (*self.barred, attempt.route)
        seconds = None if isinstance(error, BudgetExceeded) else self._delay(call.gate, attempt, error)
        ends = call.context.deadline
        if seconds is not None and ends is not None and time.monotonic() + seconds >= ends:
            self.hurried = True
            seconds = None
        if seconds is None:
            return self._fall(call, error)
        if attempt.begun:
            call.gate.tally.add("retried")
        return seconds

    def _fall(self, call: Call, error: LMError) -> float | None:
        if self.final is None or isinstance(error, BudgetExceeded):
            # Where the budget is used up there is no further fallback, and that is what the caller has to know.
            self.final = error
        else:
            self._note(call, error)
        while self._others and not isinstance(error, BudgetExceeded):
            other, self._others = self._others[0], self._others[1:]
            try:
                request = call.adapted(other.capabilities)
            except LMError as unfit:
                call.fallback = (other, "")
                self._note(call, unfit)
                continue
            call.gate.tally.add("fell_back")
            other.tally.add("stood_in")
            self._begin()
            call.fall_back(other, request)
            return 0.0
        return None

    def _note(self, call: Call, failure: LMError) -> None:
        """A fallback failed as well."""
        if self.final is not None and call.fallback is not None:
            self.final.add_note(f"fallback {call.fallback[0].name}: {failure.code} {failure.message}")

    def _delay(self, gate: Gate, attempt: Attempt, error: LMError) -> float | None:
        policy = gate.retry
        if not attempt.begun:
            return self._patience(gate, error)
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

    def _patience(self, gate: Gate, error: LMError) -> float | None:
        """A breaker refused, and nothing was sent: go to another route, else to a fallback, else wait for it."""
        policy = gate.retry
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
