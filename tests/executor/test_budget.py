"""The account keeps every cap at every moment, and each reservation ends exactly once."""

from __future__ import annotations

import threading
from fractions import Fraction
from typing import Any, cast

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from dspex.errors import BudgetExceeded, DspexError
from dspex.executor.budget import BudgetAccount, BudgetReservation
from dspex.lm.spend import Budget, Spend

CALLS, TOKENS, USD = 12, 400, 0.03
PICO = 10**12

uppers = st.builds(
    Spend, st.just(1), st.integers(0, 60), st.integers(0, 60), st.sampled_from([0.0, 0.001, 0.0031, 0.01])
)
shares = st.sampled_from([0.0, 0.25, 0.5, 1.0])


class AccountMachine(RuleBasedStateMachine):
    """Random reservations, settled, released or left uncertain in any order, against exact arithmetic."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.outer = BudgetAccount(Budget(calls=CALLS - 1))
        self.account = BudgetAccount(Budget(calls=CALLS, tokens=TOKENS, usd=USD), parent=self.outer)
        self.sums: dict[str, list[Spend]] = {"settled": [], "uncertain": [], "reserved": []}

    def total(self, *names: str) -> tuple[int, int, Fraction]:
        spends = [spend for name in names for spend in self.sums[name]]
        return (
            sum(s.calls for s in spends),
            sum(s.tokens for s in spends),
            sum((Fraction(round((s.usd or 0.0) * PICO), PICO) for s in spends), Fraction()),
        )

    @rule(target=held, upper=uppers)
    def reserve(self, upper: Spend) -> BudgetReservation | None:
        calls, tokens, usd = self.total("settled", "uncertain", "reserved")
        cost = Fraction(round((upper.usd or 0.0) * PICO), PICO)
        fits = (
            calls + 1 <= CALLS - 1
            and tokens + upper.tokens <= TOKENS
            and usd + cost <= Fraction(round(USD * PICO), PICO)
        )
        try:
            reservation = self.account.reserve(upper)
        except BudgetExceeded as error:
            if fits or (error.code, error.sent) != ("DX4502", "no"):
                raise
            return None
        assert fits
        self.sums["reserved"].append(upper)
        return reservation

    @rule(reservation=consumes(held), share=shares, how=st.sampled_from(["settle", "release", "uncertain"]))
    def end(self, reservation: BudgetReservation | None, share: float, how: str) -> None:
        if reservation is None:
            return
        upper = reservation.upper
        self.sums["reserved"].remove(upper)
        if how == "settle":
            spent = Spend(
                1, int(upper.input_tokens * share), int(upper.output_tokens * share), (upper.usd or 0) * share
            )
            reservation.settle(spent)
            self.sums["settled"].append(spent)
        elif how == "release":
            reservation.release()
        else:
            reservation.uncertain(upper)
            self.sums["uncertain"].append(upper)
        for again in (reservation.release, lambda: reservation.settle(upper), lambda: reservation.uncertain(upper)):
            with pytest.raises(DspexError, match="DX4504"):
                again()

    @invariant()
    def amounts_agree(self) -> None:
        for name in ("settled", "uncertain", "reserved"):
            calls, tokens, usd = self.total(name)
            kept: Spend = getattr(self.account, name)
            assert (kept.calls, kept.tokens) == (calls, tokens)
            assert abs((kept.usd or 0.0) - float(usd)) < 1e-11
            outer: Spend = getattr(self.outer, name)
            assert outer.calls == calls

    @invariant()
    def no_cap_is_broken(self) -> None:
        calls, tokens, _ = self.total("settled", "uncertain", "reserved")
        assert calls <= CALLS - 1
        assert tokens <= TOKENS


TestAccountMachine = cast(Any, AccountMachine).TestCase


def test_an_unpriced_model_is_an_error_when_dollars_are_capped() -> None:
    account = BudgetAccount(Budget(usd=1.0))
    with pytest.raises(BudgetExceeded) as caught:
        account.reserve(Spend(1, 10, 10, None))
    assert caught.value.code == "DX4503"
    assert account.reserved == Spend()


def test_unpriced_spend_is_counted_as_unpriced_when_dollars_are_not_capped() -> None:
    account = BudgetAccount(Budget(calls=5))
    account.reserve(Spend(1, 10, 10, None)).settle(Spend(1, 5, 5, None))
    assert account.settled == Spend(1, 5, 5, None)
    assert account.reserved == Spend()


def test_a_call_is_refused_when_the_wall_time_is_over() -> None:
    now = [100.0]
    account = BudgetAccount(Budget(wall="4m"), clock=lambda: now[0])
    account.reserve(Spend(1)).release()
    now[0] += 240.0
    with pytest.raises(BudgetExceeded, match="wall"):
        account.reserve(Spend(1))


def test_earlier_spending_counts_when_a_study_resumes() -> None:
    account = BudgetAccount(Budget(calls=5), settled=Spend(3), uncertain=Spend(1))
    account.reserve(Spend(1))
    with pytest.raises(BudgetExceeded):
        account.reserve(Spend(1))


def test_a_provider_that_charges_more_than_reserved_is_recorded_as_it_is() -> None:
    account = BudgetAccount(Budget(tokens=100))
    account.reserve(Spend(1, 50, 40)).settle(Spend(1, 50, 400))
    assert account.settled.tokens == 450
    with pytest.raises(BudgetExceeded):
        account.reserve(Spend(1, 1, 1))


def test_the_cap_holds_when_many_threads_reserve_at_once() -> None:
    account = BudgetAccount(Budget(calls=500))
    won: list[int] = []
    begin = threading.Barrier(8)

    def work() -> None:
        begin.wait()
        mine = 0
        for _ in range(100):
            try:
                account.reserve(Spend(1)).settle(Spend(1))
            except BudgetExceeded:
                continue
            mine += 1
        won.append(mine)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(won) == 500 == account.settled.calls
