"""The circuit breaker: calls to a server that is broken fail at once, until probes find it mended.

    closed ── too many failed or slow calls in the window ──> open ── after a pause ──> half-open
      ^                                                        ^                            │
      └──────────── all probes answered in time ───────────────┴─── a probe failed or slow ─┘

Every call enters before it is sent and leaves with its outcome. What entered in an earlier state of the breaker says
nothing about the present one: its outcome is dropped. Source: Nygard (2018), "Release It!", chapter 5.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from dspex.errors import ServerError, UsageError

if TYPE_CHECKING:
    from dspex.executor.admission import Outcome

BreakerState = Literal["closed", "open", "half-open"]

_SLICES = 10


class _Window:
    """Counts over the last `seconds`, forgotten a tenth at a time."""

    __slots__ = ("_at", "_slices", "_width", "calls", "failed", "slow")

    def __init__(self, seconds: float) -> None:
        self._width = seconds / _SLICES
        self.clear()

    def clear(self) -> None:
        self._at = 0
        self._slices = [[0, 0, 0] for _ in range(_SLICES)]
        self.calls = self.failed = self.slow = 0

    def count(self, failed: bool, slow: bool, now: float) -> None:
        """Count one call; a clock that steps back counts it in the latest slice."""
        at = int(now / self._width)
        if at > self._at:
            for stale in range(max(self._at + 1, at - _SLICES + 1), at + 1):
                old = self._slices[stale % _SLICES]
                self.calls -= old[0]
                self.failed -= old[1]
                self.slow -= old[2]
                old[:] = 0, 0, 0
            self._at = at
        slice_ = self._slices[self._at % _SLICES]
        slice_[0] += 1
        slice_[1] += failed
        slice_[2] += slow
        self.calls += 1
        self.failed += failed
        self.slow += slow


class Breaker:
    """Shared by every loop and thread that calls one endpoint: thread-safe, O(1) per call, never awaits.

    Args:
        name: Of the model or endpoint, for the error.
        window: Seconds over which calls are counted.
        calls: Calls in the window before anything is decided.
        failures: Share of failed calls at which the breaker opens, in (0, 1].
        slow: Seconds from which a call is slow; None for no such rule.
        slow_share: Share of slow calls at which the breaker opens, in (0, 1].
        pause: Seconds that it stays open the first time; they double each time that a probe fails.
        longest: Their upper bound.
        probes: Calls that are let through half-open; all must succeed.
        clock: Seconds, monotonic.

    Attributes:
        opened: How often it opened.
        refused: Calls that it did not let through.

    Raises:
        UsageError: DX4734 when a setting is out of range.
    """

    def __init__(
        self,
        name: str,
        *,
        window: float = 30.0,
        calls: int = 20,
        failures: float = 0.5,
        slow: float | None = None,
        slow_share: float = 0.8,
        pause: float = 1.0,
        longest: float = 60.0,
        probes: int = 3,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for setting, value in (("window", window), ("slow", slow), ("pause", pause), ("longest", longest)):
            if value is not None and not 0.0 < value < float("inf"):
                raise UsageError("DX4734", f"{setting} of a breaker is a positive number of seconds, got {value!r}")
        for setting, value in (("failures", failures), ("slow_share", slow_share)):
            if not 0.0 < value <= 1.0:
                raise UsageError("DX4734", f"{setting} of a breaker is in (0, 1], got {value!r}")
        if min(calls, probes) < 1:
            raise UsageError("DX4734", f"calls and probes of a breaker are at least 1, got {calls} and {probes}")
        self.name = name
        self.opened = 0
        self.refused = 0
        self._least = calls
        self._failures = failures
        self._slow = float("inf") if slow is None else slow
        self._slow_share = slow_share
        self._first_pause = min(pause, longest)
        self._longest = longest
        self._probes = probes
        self._patience = window
        self._clock = clock
        # Re-entrant: a finalizer that the garbage collector runs on a thread inside may call `leave`.
        self._lock = threading.RLock()
        self._window = _Window(window)
        self._state: BreakerState = "closed"
        self._epoch = 0
        self._pause = self._first_pause
        self._until = 0.0
        self._out = 0
        self._good = 0
        self._why = ""

    @property
    def state(self) -> BreakerState:
        """The state now; an open breaker whose pause is over counts as half-open."""
        with self._lock:
            return "half-open" if self._state == "open" and self._clock() >= self._until else self._state

    def enter(self) -> int:
        """Ask to send one call; the ticket is to be given to `leave`, exactly once.

        Raises:
            ServerError: DX4731 while the breaker is open, or half-open with all its probes out. ``sent`` is "no",
                ``retryable`` is true, and ``retry_after`` says in how many seconds it lets probes through.
        """
        # The order matters: if the state changes in between, the ticket is an old one, and its outcome is dropped.
        ticket = self._epoch
        if self._state == "closed":
            return ticket
        with self._lock:
            return self._knock(self._clock())

    def _knock(self, now: float) -> int:
        if self._state == "open" and now >= self._until:
            self._become("half-open", now + self._patience)
        elif self._state == "half-open" and self._out >= self._probes and now >= self._until:
            # A probe that never comes back must not keep the breaker half-open for ever: others take its place. If it
            # comes back after all, it counts: calls may take longer than the patience.
            self._until = now + self._patience
            self._out = self._good
        if self._state == "half-open" and self._out < self._probes:
            self._out += 1
            return self._epoch
        if self._state == "closed":
            return self._epoch
        self.refused += 1
        error = ServerError(
            "DX4731",
            f"{self.name} is not called for now: {self._why}",
            fix="see the errors of the calls before; dx.LM(fallback=...) names a model to go to meanwhile",
            retryable=True,
        )
        error.retry_after = self._until - now if self._state == "open" else min(self._first_pause, self._until - now)
        raise error

    def leave(self, ticket: int, outcome: Outcome, seconds: float = 0.0) -> None:
        """The call that entered with `ticket` ended after `seconds`.

        ``failed`` and ``overloaded`` speak against the server; ``ok``, ``rejected`` and ``limited`` speak for it, as
        it answered; ``unknown`` and ``unsent`` say nothing, and the place of a probe is free again.
        """
        with self._lock:
            if ticket != self._epoch:
                return
            silent = outcome in ("unknown", "unsent")
            failed = outcome in ("failed", "overloaded")
            slow = outcome == "ok" and seconds >= self._slow
            if self._state == "closed":
                if not silent:
                    self._window.count(failed, slow, self._clock())
                    if failed or slow:
                        self._judge()
            elif silent:
                self._out = max(self._good, self._out - 1)
            elif failed or slow:
                self._why = f"a probe {'failed' if failed else f'took {seconds:.3g} s'}"
                self._pause = min(2.0 * self._pause, self._longest)
                self._open()
            else:
                self._good += 1
                if self._good == self._probes:
                    self._pause = self._first_pause
                    self._become("closed", 0.0)

    def _judge(self) -> None:
        seen = self._window
        if seen.calls < self._least:
            return
        if seen.failed >= self._failures * seen.calls:
            self._why = f"{seen.failed} of the last {seen.calls} calls failed"
            self._open()
        elif seen.slow >= self._slow_share * seen.calls:
            self._why = f"{seen.slow} of the last {seen.calls} calls took {self._slow:g} s or longer"
            self._open()

    def _open(self) -> None:
        self.opened += 1
        self._become("open", self._clock() + self._pause)

    def _become(self, state: BreakerState, until: float) -> None:
        self._state = state
        self._until = until
        self._epoch += 1
        self._out = self._good = 0
        self._window.clear()
