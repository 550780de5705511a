"""The account of a budget: reserve before a call, settle after it, exactly once each.

Amounts are kept as integers (dollars in units of 10^-12), so that thousands of reservations and
settlements add up without drift and a cap is either kept or broken, never nearly.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from dspex.errors import BudgetExceeded, DspexError
from dspex.lm.spend import Budget, Spend

if TYPE_CHECKING:
    from dspex.program.context import Account, Reservation

_PICO = 1_000_000_000_000


class _Amount:
    """A mutable sum of `Spend`s in whole units; ``unpriced`` counts the parts without a price."""

    __slots__ = ("calls", "input_tokens", "output_tokens", "pico", "unpriced")

    def __init__(self) -> None:
        self.calls = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.pico = 0
        self.unpriced = 0

    def add(self, spend: Spend, sign: int = 1) -> None:
        self.calls += sign * spend.calls
        self.input_tokens += sign * spend.input_tokens
        self.output_tokens += sign * spend.output_tokens
        if spend.usd is None:
            self.unpriced += sign
        else:
            self.pico += sign * _pico(spend.usd)

    def spend(self) -> Spend:
        usd = None if self.unpriced else self.pico / _PICO
        return Spend(self.calls, self.input_tokens, self.output_tokens, usd)


def _pico(usd: float) -> int:
    return math.ceil(usd * _PICO - 0.5)


class BudgetAccount:
    """Spending against one `Budget`, shared by any number of tasks, threads and event loops.

    At every moment settled + uncertain + reserved is at most the cap, unless a provider charges more
    than the upper bound of a call, which is then recorded as it is.

    Args:
        budget: The caps; an empty budget only counts.
        settled: Spent before this account was opened (a resumed study).
        uncertain: Possibly spent before it (attempts that a crash left unsettled).
        parent: An account that every reservation must also fit in.
        clock: Seconds; the wall cap counts from construction.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        settled: Spend | None = None,
        uncertain: Spend | None = None,
        parent: Account | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = budget
        self._parent = parent
        self._clock = clock
        self._started = clock()
        self._lock = threading.Lock()
        self._settled, self._uncertain, self._reserved = _Amount(), _Amount(), _Amount()
        if settled is not None:
            self._settled.add(settled)
        if uncertain is not None:
            self._uncertain.add(uncertain)
        self._usd_cap = None if budget.usd is None else math.floor(budget.usd * _PICO + 0.5)

    @property
    def settled(self) -> Spend:
        """Known to be spent."""
        with self._lock:
            return self._settled.spend()

    @property
    def uncertain(self) -> Spend:
        """Upper bound of what calls that may have been sent, without a known outcome, have cost."""
        with self._lock:
            return self._uncertain.spend()

    @property
    def reserved(self) -> Spend:
        """Upper bound of the calls now in flight."""
        with self._lock:
            return self._reserved.spend()

    @property
    def elapsed(self) -> float:
        """Seconds since the account was opened."""
        return self._clock() - self._started

    def reserve(self, upper: Spend) -> BudgetReservation:
        """Set `upper` aside for one call.

        Raises:
            BudgetExceeded: DX4502 when a cap would be broken, DX4503 when dollars are capped and the
                model has no known price. Nothing was sent or reserved.
        """
        with self._lock:
            self._check(upper)
            self._reserved.add(upper)
        outer: Reservation | None = None
        if self._parent is not None:
            try:
                outer = self._parent.reserve(upper)
            except BudgetExceeded:
                with self._lock:
                    self._reserved.add(upper, -1)
                raise
        return BudgetReservation(self, upper, outer)

    def _check(self, upper: Spend) -> None:
        budget = self.budget
        if self._usd_cap is not None:
            if upper.usd is None:
                raise BudgetExceeded(
                    "DX4503",
                    f"dollars are capped at {budget.usd} but this model has no known price",
                    fix="give one: dx.LM(..., price=Price(input, output)) in dollars per million tokens, FREE for a "
                    'server of your own; or pip install "dspex[prices]" for a price list; or cap calls or tokens',
                )
            used = self._settled.pico + self._uncertain.pico + self._reserved.pico
            if used + _pico(upper.usd) > self._usd_cap:
                raise self._exceeded("usd", budget.usd, used / _PICO, upper.usd)
        if budget.calls is not None:
            used = self._settled.calls + self._uncertain.calls + self._reserved.calls
            if used + upper.calls > budget.calls:
                raise self._exceeded("calls", budget.calls, used, upper.calls)
        if budget.tokens is not None:
            used = sum(a.input_tokens + a.output_tokens for a in (self._settled, self._uncertain, self._reserved))
            if used + upper.tokens > budget.tokens:
                raise self._exceeded("tokens", budget.tokens, used, upper.tokens)
        if budget.wall_seconds is not None and self.elapsed >= budget.wall_seconds:
            raise self._exceeded("wall", f"{budget.wall_seconds:g} s", f"{self.elapsed:.3g} s", "one more call")

    def _exceeded(self, name: str, cap: object, used: object, upper: object) -> BudgetExceeded:
        return BudgetExceeded(
            "DX4502",
            f"the budget's {name} cap of {cap} would be broken: {used} spent or reserved, {upper} more needed",
            where=f"Budget({name}=...)",
            fix=f"raise {name}; a call reserves its upper bound (input and max_tokens) before it is sent",
        )

    def close(self, upper: Spend, settled: Spend | None, uncertain: Spend | None) -> None:
        """Replace one reservation of `upper` by what came of it; for `BudgetReservation`."""
        with self._lock:
            self._reserved.add(upper, -1)
            if settled is not None:
                self._settled.add(settled)
            if uncertain is not None:
                self._uncertain.add(uncertain)


class BudgetReservation:
    """One call's upper bound, set aside. Exactly one of its three methods is called, once."""

    __slots__ = ("_account", "_open", "_outer", "upper")

    def __init__(self, account: BudgetAccount, upper: Spend, outer: Reservation | None) -> None:
        self.upper = upper
        self._account = account
        self._outer = outer
        self._open = True

    def settle(self, spent: Spend) -> None:
        """The call's cost is known."""
        self._once()
        self._account.close(self.upper, spent, None)
        if self._outer is not None:
            self._outer.settle(spent)

    def release(self) -> None:
        """Nothing was sent."""
        self._once()
        self._account.close(self.upper, None, None)
        if self._outer is not None:
            self._outer.release()

    def uncertain(self, upper: Spend) -> None:
        """The call may have been sent and its cost is unknown: `upper` counts as spent."""
        self._once()
        self._account.close(self.upper, None, upper)
        if self._outer is not None:
            self._outer.uncertain(upper)

    def _once(self) -> None:
        if not self._open:
            raise DspexError("DX4504", "a reservation was closed twice", fix="this is a defect of dspex: report it")
        self._open = False
