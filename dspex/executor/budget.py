"""The account of a budget: reserve before a call, settle after it, exactly once each.

Accounts nest: a call reserves in its account and in every account around it, or in none. Amounts are kept as integers
(dollars in units of 10^-12), so that thousands of reservations and settlements add up without drift and a cap is
either kept or broken, never nearly.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from dspex.errors import BudgetExceeded, DspexError, UsageError
from dspex.lm.spend import PICO, Budget, Spend, check_budget, pico

if TYPE_CHECKING:
    from dspex.program.context import Account, Reservation

State = Literal["reserved", "uncertain", "settled"]

# Re-entrant: a finalizer that the garbage collector runs on a thread inside may close a reservation. One for all
# accounts, so that no thread holds it in a child process that the thread did not follow into.
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


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
        elif spend.usd:
            # In two steps: a finalizer that runs in between must not be overwritten.
            amount = sign * pico(spend.usd)
            self.pico += amount

    def spend(self) -> Spend:
        usd = None if self.unpriced else self.pico / PICO
        return Spend(self.calls, self.input_tokens, self.output_tokens, usd)


class BudgetAccount:
    """Spending against one `Budget`, shared by any number of tasks, threads and event loops.

    At every moment settled + uncertain + reserved is at most the cap, unless a provider charges more than the upper
    bound of a call, which is then recorded as it is. The same holds of every account around this one: all accounts
    share a lock, so that a call is refused only where a cap would really be broken.

    Args:
        budget: The caps; an empty budget only counts.
        settled: Spent before this account was opened (a resumed study).
        uncertain: Possibly spent before it (attempts that a crash left unsettled).
        parent: The account around this one, which every reservation must also fit in.
        name: Whose account it is, for the error that a cap gives: ``tenant acme``.
        clock: Seconds; the wall cap counts from construction.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        settled: Spend | None = None,
        uncertain: Spend | None = None,
        parent: Account | None = None,
        name: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = budget
        self.name = name
        self._clock = clock
        self._started = clock()
        self._settled, self._uncertain, self._reserved = _Amount(), _Amount(), _Amount()
        if settled is not None:
            self._settled.add(settled)
        if uncertain is not None:
            self._uncertain.add(uncertain)
        self._usd_cap = None if budget.usd is None else pico(budget.usd)
        # From this account outwards; an account of another kind stands outside of them all.
        self._chain: tuple[BudgetAccount, ...] = (self,)
        self._foreign: Account | None = None
        if isinstance(parent, BudgetAccount):
            self._chain += parent._chain
            self._foreign = parent._foreign
        else:
            self._foreign = parent

    @property
    def settled(self) -> Spend:
        """Known to be spent."""
        with _lock:
            return self._settled.spend()

    @property
    def uncertain(self) -> Spend:
        """Upper bound of what calls that may have been sent, without a known outcome, have cost."""
        with _lock:
            return self._uncertain.spend()

    @property
    def reserved(self) -> Spend:
        """Upper bound of the calls now in flight."""
        with _lock:
            return self._reserved.spend()

    @property
    def elapsed(self) -> float:
        """Seconds since the account was opened."""
        return self._clock() - self._started

    def lies_in(self, other: Account) -> bool:
        """Whether `other` is this account or one around it."""
        return other in self._chain or other is self._foreign

    def reserve(self, upper: Spend) -> BudgetReservation:
        """Set `upper` aside for one call, here and in every account around this one.

        Raises:
            BudgetExceeded: DX4502 when a cap would be broken, DX4503 when dollars are capped and the
                model has no known price. Nothing was sent or reserved.
        """
        chain = self._chain
        with _lock:
            for account in chain:
                account._check(upper)
            for account in chain:
                account._reserved.add(upper)
        outer: Reservation | None = None
        if self._foreign is not None:
            try:
                outer = self._foreign.reserve(upper)
            except BaseException:
                with _lock:
                    for account in chain:
                        account._reserved.add(upper, -1)
                raise
        return BudgetReservation(self, upper, outer)

    def _check(self, upper: Spend) -> None:
        budget = self.budget
        if self._usd_cap is not None:
            if upper.usd is not None:
                used = self._settled.pico + self._uncertain.pico + self._reserved.pico
                if used + pico(upper.usd) > self._usd_cap:
                    raise self._exceeded("usd", budget.usd, used / PICO, upper.usd)
            elif budget.unpriced == "refuse":
                raise unpriced(budget, "this model", self.name)
        if budget.calls is not None:
            used = self._settled.calls + self._uncertain.calls + self._reserved.calls
            if used + upper.calls > budget.calls:
                raise self._exceeded("calls", budget.calls, used, upper.calls)
        if budget.tokens is not None:
            used = sum(a.input_tokens + a.output_tokens for a in (self._settled, self._uncertain, self._reserved))
            if used + upper.tokens > budget.tokens:
                raise self._exceeded("tokens", budget.tokens, used, upper.tokens)
        if budget.wall_seconds is not None and self.elapsed >= budget.wall_seconds:
            raise self._exceeded("wall", f"{budget.wall_seconds:g} s", f"{self.elapsed:.3g} s", "one call")

    def _exceeded(self, name: str, cap: object, used: object, upper: object) -> BudgetExceeded:
        return BudgetExceeded(
            "DX4502",
            f"the budget's {name} cap of {cap} would be broken: {used} spent or reserved, {upper} more needed",
            where=f"Budget({name}=...)" + (f" of {self.name}" if self.name else ""),
            fix=f"raise {name}; a call reserves its upper bound (input and max_tokens) before it is sent",
        )

    def move(self, before: State, held: Spend, after: State | None, kept: Spend) -> None:
        """Take `held` out of one sum and put `kept` into another, in the whole chain; for `BudgetReservation`."""
        with _lock:
            for account in self._chain:
                account._sum(before).add(held, -1)
                if after is not None:
                    account._sum(after).add(kept)

    def _sum(self, state: State) -> _Amount:
        if state == "reserved":
            return self._reserved
        return self._settled if state == "settled" else self._uncertain


class BudgetReservation:
    """One call's upper bound, set aside until one of the three methods is called.

    After `uncertain`, which counts as spent, `settle` or `release` may follow once: what the call cost came to be
    known later.
    """

    __slots__ = ("_account", "_held", "_outer", "_state", "upper")

    def __init__(self, account: BudgetAccount, upper: Spend, outer: Reservation | None) -> None:
        self.upper = upper
        self._account = account
        self._outer = outer
        self._state: State | None = "reserved"
        self._held = upper

    def settle(self, spent: Spend) -> None:
        """The call's cost is known."""
        self._move("settled", spent)
        if self._outer is not None:
            self._outer.settle(spent)

    def release(self) -> None:
        """Nothing was sent."""
        self._move(None, self.upper)
        if self._outer is not None:
            self._outer.release()

    def uncertain(self, upper: Spend) -> None:
        """The call may have been sent and its cost is unknown: `upper` counts as spent."""
        self._move("uncertain", upper)
        if self._outer is not None:
            self._outer.uncertain(upper)

    def _move(self, into: State | None, amount: Spend) -> None:
        before = self._state
        if before is None or before == into:
            raise DspexError("DX4504", "a reservation was closed twice", fix="this is a defect of dspex: report it")
        self._account.move(before, self._held, into, amount)
        self._state = "uncertain" if into == "uncertain" else None
        self._held = amount


def unpriced(budget: Budget, model: str, where: str = "") -> BudgetExceeded:
    """The error of a call whose price nobody knows under a cap on dollars."""
    return BudgetExceeded(
        "DX4503",
        f"dollars are capped at {budget.usd} but {model} has no known price",
        where=where or None,
        fix="give one: dx.LM(..., price=Price(input, output)) in dollars per million tokens, FREE for a server of your "
        'own; or pip install "dspex[prices]" for a price list; or cap calls or tokens; or '
        'Budget(..., unpriced="allow") to leave such calls out of the cap',
    )


def entered(budget: Budget | BudgetAccount, around: Account | None) -> tuple[Account, float | None]:
    """The account that a block spends from, and the time of `time.monotonic` at which its wall cap ends.

    Args:
        budget: A budget for this block alone, or an account that others may spend from as well.
        around: The account of what surrounds the block.

    Raises:
        UsageError: DX4501: it is neither; DX4506: the account does not lie within `around`.
    """
    if isinstance(budget, BudgetAccount):
        account = budget
        if around is not None and not account.lies_in(around):
            raise UsageError(
                "DX4506",
                "the account does not lie within the budget that surrounds it, whose caps it would pass by",
                where="using(budget=...)",
                fix="open it with parent=, or outside of the surrounding budget",
            )
    else:
        check_budget(budget)
        account = BudgetAccount(budget, parent=around)
    wall = account.budget.wall_seconds
    return account, None if wall is None else time.monotonic() + wall - account.elapsed
