"""How many calls a server takes at once, found out while it serves.

Two kinds of servers tell it in two ways. One *refuses* what is too much: each refusal then takes away the slot that it
used, so that a burst of them leaves exactly what was accepted. Another *queues*: then more calls in flight bring no
more throughput, only longer calls. So throughput is compared at two limits: by Little's law (1961) the elasticity of
throughput to the limit L is 1 - ln(W2 / W1) / ln(L2 / L1), with W the mean seconds of a call, and a larger limit is
kept only where that is at least a half. Unlike a comparison of latencies alone, this neither takes longer answers for
an overloaded server nor stops where latency grows with load and throughput still grows more.
"""

from __future__ import annotations

import math
from typing import Literal

from dspex.errors import UsageError

_PAUSE = 1.0
"""Seconds between a sign that the limit is reached and the next probe beyond it."""

_CALLS = 50
"""Calls answered in between, so that probing costs at most one refusal in so many calls."""

_DOUBLINGS = 4
"""How often the pause doubles while probes of a server that queues bring nothing."""

_GAIN, _SOME = 0.5, 0.15
"""Elasticities from which a larger limit is worth its longer calls, and from which a part of it is."""

_ERROR = 0.2
"""Standard error of an elasticity that is small enough to give up a larger limit for it."""

_ENOUGH = 600
"""Calls of one measurement after which it is used, however uncertain."""

_PARDON = 0.2
"""The largest share of refusals that is pardoned."""

_ALIKE = 0.4
"""Share of refusals below a limit, in terms of that above, from which they are not the limit's doing.

Where refusals take as long as answers, a capacity that falls below two thirds of the limit leaves at most so many.
"""

_EVENTS = 5
"""Refusals that are counted before a share of them is believed."""

_CHANCE = 0.005
"""The share of refusals that is pardoned anyway: any server hiccups."""

_MEMORY = 50_000.0
"""Calls over which a pardon fades."""

_HEADROOM = 1.1
"""Factor by which an estimated capacity is exceeded: a short queue costs less than slots that stand empty."""

_SIGMAS = 3.0
"""Standard errors by which calls must have become longer, or shorter, to be called so."""

_STRETCH = 1.5
"""Ratio of two limits whose throughputs are compared, and of latencies at one limit that calls for a look below it."""


_SHARP = (_ERROR * math.log(_STRETCH)) ** 2 / 2.0
"""Variance of a measurement that gives an elasticity of that certainty together with another one like it."""


class _Latency:
    """The seconds of calls that began at or after `since`."""

    __slots__ = ("_mean", "_squares", "count", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.count = 0
        self._mean = 0.0
        self._squares = 0.0

    def add(self, seconds: float) -> None:
        """Count one call. Source: Welford (1962), Technometrics 4(3)."""
        self.count += 1
        step = seconds - self._mean
        self._mean += step / self.count
        self._squares += step * (seconds - self._mean)

    @property
    def log(self) -> float:
        """Logarithm of the mean."""
        return math.log(max(self._mean, 1e-9))

    @property
    def variance(self) -> float:
        """Of `log`, to the first order."""
        return self._squares / max(1, self.count - 1) / self.count / max(self._mean, 1e-9) ** 2


class _Chance:
    """Which refusals are not the limit's doing, and are pardoned.

    Refusals at a limit that was fine before mean that the server takes less now, or that it refuses some calls whatever
    their number. Such a run of them lowers the limit by up to a third, to `floor`. If their share there is no smaller,
    the limit was not its reason.
    """

    __slots__ = ("_above", "_below", "_credit", "_share", "floor")

    def __init__(self) -> None:
        self.floor = 0
        # Calls answered and refused since the run began, and since the limit is at the floor.
        self._above = (0, 0)
        self._below = (0, 0)
        self._share = _CHANCE
        self._credit = 0.0

    def begin(self, limit: int) -> None:
        """A run of refusals begins at `limit`."""
        self.floor = max(1, int(limit / _STRETCH))
        self._above = self._below = (0, 0)

    def earn(self) -> None:
        """A call was answered."""
        self._credit = min(self._credit + self._share, self._most())
        self._share -= (self._share - _CHANCE) / _MEMORY

    def pardon(self) -> bool:
        """Whether a refusal is pardoned."""
        if self._credit < 1.0:
            return False
        self._credit -= 1.0
        return True

    def is_small_above(self, answered: int, refused: int) -> bool:
        """Count a call above the floor; whether a refusal shows that chance is a possible reason, so far."""
        self._above = above = (self._above[0] + answered, self._above[1] + refused)
        return refused > 0 and _EVENTS <= above[1] <= _PARDON * sum(above)

    def is_chance(self, answered: int, refused: int) -> bool | None:
        """Count a call at the floor; whether chance is the reason, None while it is too early to say."""
        self._below = below = (self._below[0] + answered, self._below[1] + refused)
        calls, refusals = sum(below), below[1]
        # Counting stopped at a refusal, which is therefore left out of the share (Haldane 1945, inverse sampling).
        expected = calls * max(0, self._above[1] - 1) / max(1, sum(self._above))
        if refusals <= max(3.0, _PARDON * calls):
            if refusals < _EVENTS and expected < 2 * _EVENTS:
                # Where a few at once brought the limit down there is nothing to compare with: it ends when they cease.
                return False if self._above[1] < _EVENTS and calls > _CALLS * (refusals + 1) else None
            if refusals > _ALIKE * expected:
                # At the upper end of what is likely; and what is pardoned already was not counted.
                self._share = min(_PARDON, self._share + (refusals + 2.0 * math.sqrt(refusals)) / calls)
                self._credit = self._most()
                return True
        return False

    def _most(self) -> float:
        """Refusals that are pardoned at once."""
        return 2.0 + 200.0 * self._share


class Adaptive:
    """A concurrency limit that follows a server's capacity. Not thread-safe by itself: `Limit` calls it in its lock.

    It begins by doubling, and then holds what it found. From there it probes: by one more slot where the server
    refuses, by half as many again where it queues; a probe that goes well is followed by doubling. When calls at a
    held limit have become much longer, it looks below: if throughput does not fall there, the limit was too high.

    Args:
        ceiling: The limit's upper bound, >= 1.
        start: The first limit; `ceiling` for a server that is believed to take as much.
        latency: Whether the calls' seconds count. Without, only refusals lower the limit, and it rises again until
            there are some: for a number that is the user's word.

    Attributes:
        limit: Calls that may be in flight, in [1, ceiling].

    Raises:
        UsageError: DX4733 when the ceiling or the start is less than one.
    """

    __slots__ = (
        "_base",
        "_calm",
        "_chance",
        "_failed",
        "_latency",
        "_mode",
        "_now",
        "_seen",
        "_step",
        "_until",
        "ceiling",
        "limit",
    )

    def __init__(self, ceiling: int, *, start: int = 16, latency: bool = True) -> None:
        if min(ceiling, start) < 1:
            raise UsageError("DX4733", f"a limit admits at least one call at once, got {min(ceiling, start)}")
        self.ceiling = ceiling
        self.limit = min(start, ceiling)
        self._mode: Literal["grow", "hold", "shrink"] = "grow"
        # The measurement at the present limit, the one at the limit that it is compared with, and the shortest one
        # since the calls were last found to be of another kind.
        self._now = _Latency(float("-inf"))
        self._base: tuple[int, _Latency] | None = None
        self._calm: _Latency | None = None
        self._latency = latency
        self._step = self.limit
        self._until = float("-inf")
        self._seen = 0
        self._failed = 0
        self._chance = _Chance()

    def answered(self, started: float, seconds: float, full: bool, now: float) -> None:
        """A call was answered.

        Args:
            started: When it was admitted, on the caller's clock.
            seconds: How long the server took.
            full: Whether the limit was nearly used up when it was admitted; other calls say nothing about it.
            now: Time of the caller's clock.
        """
        self._chance.earn()
        if self._chance.floor:
            self._count(1, 0, now)
        here = self._now
        if started < here.since or not full:
            return
        here.add(seconds)
        self._seen += 1
        if here.count < max(self.limit, 4):
            return
        if self._mode == "grow":
            self._grow(now)
        elif self._mode == "shrink":
            self._shrink(now)
        else:
            self._stay(now)

    def refused(self, active: int, now: float) -> None:
        """The server took no more (429, 503, 529, a timeout) while `active` other calls were in flight."""
        chance = self._chance
        if chance.pardon():
            return
        if chance.floor:
            self._count(0, 1, now)
        elif self._mode == "hold" and self._seen >= self.limit:
            chance.begin(self.limit)
        if self.limit <= chance.floor:
            return
        self.limit = max(1, min(self.limit - 1, max(active, self.limit // 2)))
        self._failed = 0
        self._hold(1, now)

    def _count(self, answered: int, refused: int, now: float) -> None:
        """Count a call of a run of refusals."""
        chance = self._chance
        if self.limit > chance.floor:
            if chance.is_small_above(answered, refused):
                self.limit = chance.floor
                self._hold(1, now)
            return
        verdict = chance.is_chance(answered, refused)
        if verdict is not None:
            chance.floor = 0
        if verdict:
            self._until = now

    def _grow(self, now: float) -> None:
        base, here = self._base, self._now
        if base is None or not self._latency or self.limit < _STRETCH * base[0]:
            if base is None:
                self._base = (self.limit, here)
            self._climb(now)
            return
        if not self._comparable(base):
            return
        gain, error = self._elasticity(base)
        if gain >= _GAIN:
            self._failed = 0
            self._base = (self.limit, here)
            self._climb(now)
        elif error > _ERROR:
            # What was measured in haste is measured again with care before the next probe.
            self.limit = self._knee(base[0], self.limit, base[1], here)
            self._hold((self.limit + 1) // 2, now)
        else:
            self._failed += 1
            if gain < _SOME and base[0] > 1:
                # What brings nothing above may bring nothing here either.
                self._look_below(base, now)
            else:
                self.limit = self._knee(base[0], self.limit, base[1], here)
                self._hold((self.limit + 1) // 2, now)

    def _climb(self, now: float) -> None:
        if self.limit < self.ceiling:
            self._go(self.limit + self._step, now)
            self._step *= 2
        else:
            self._hold(1, now)

    def _stay(self, now: float) -> None:
        here, calm = self._now, self._calm
        if here.count < _ENOUGH and (here.count < min(_CALLS, 8 * self.limit) or here.variance > _SHARP):
            return
        longer = 0.0 if calm is None else here.log - calm.log
        noise = 0.0 if calm is None else _SIGMAS * math.sqrt(here.variance + calm.variance)
        if self._latency and longer > math.log(_STRETCH) + noise and self.limit > 1:
            self._look_below((self.limit, here), now)
            return
        if calm is None or longer < -noise:
            self._calm = here
        if now >= self._until and self._chance.floor < self.limit < self.ceiling:
            self._chance.floor = 0
            self._mode = "grow"
            self._base = (self.limit, here)
            self._climb(now)
        else:
            self._now = _Latency(now)

    def _shrink(self, now: float) -> None:
        assert self._base is not None
        limit, latency = self._base
        if not self._comparable(self._base):
            return
        gain, _ = self._elasticity(self._base)
        if gain < _SOME and self.limit > 1:
            self._look_below((self.limit, self._now), now)
            return
        self.limit = limit if gain >= _GAIN else self._knee(self.limit, limit, self._now, latency)
        # The calls are longer for a reason of their own; what they take now is the new measure.
        self._calm = None
        self._hold((self.limit + 1) // 2, now)

    def _look_below(self, base: tuple[int, _Latency], now: float) -> None:
        self._mode = "shrink"
        self._base = base
        self._go(int(base[0] / _STRETCH), now)

    def _comparable(self, base: tuple[int, _Latency]) -> bool:
        """Whether the present limit was measured for as many rounds as `base`.

        Short calls end first, so a mean over few rounds is too low; over equally many, it is by an equal share.
        """
        return self._now.count * base[0] >= base[1].count * self.limit

    def _elasticity(self, base: tuple[int, _Latency]) -> tuple[float, float]:
        """Of throughput to the limit, between that of `base` and the present one, with its standard error."""
        limit, latency = base
        ratio = math.log(self.limit / limit)
        error = math.sqrt(self._now.variance + latency.variance) / abs(ratio)
        return 1.0 - (self._now.log - latency.log) / ratio, error

    @staticmethod
    def _knee(low: int, high: int, at_low: _Latency, at_high: _Latency) -> int:
        """The limit between `low` and `high` from which a server without a queue at `low` begins to have one."""
        return max(low, min(high, round(_HEADROOM * high * math.exp(at_low.log - at_high.log))))

    def _go(self, limit: int, now: float) -> None:
        self.limit = max(1, min(self.ceiling, limit))
        self._now = _Latency(now)

    def _hold(self, step: int, now: float) -> None:
        self._mode = "hold"
        self._base = None
        self._step = step
        self._until = now + _PAUSE * 2.0 ** min(self._failed, _DOUBLINGS)
        self._seen = 0
        self._now = _Latency(now)
