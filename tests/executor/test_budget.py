"""The account keeps every cap at every moment, and each reservation ends exactly once."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import dspex as dx
from dspex.errors import BudgetExceeded, DspexError, UsageError
from dspex.executor.budget import BudgetAccount, BudgetReservation
from dspex.lm.spend import Budget, Spend
from dspex.lm.types import LMRequest, LMResponse
from dspex.program.context import current
from dspex.stores.memory import MemoryEventStore
from dspex.study.loop import optimize_async, resume_async
from tests.executor.models import StepsLM
from tests.study.tasks import Router, accuracy, messages, model

PICO = 10**12

uppers = st.builds(
    Spend, st.just(1), st.integers(0, 60), st.integers(0, 60), st.sampled_from([0.0, 0.001, 0.0031, 0.01, None])
)
shares = st.sampled_from([0.0, 0.25, 0.5, 1.0])
STATES = ("settled", "uncertain", "reserved")

BUDGETS = {
    "root": Budget(calls=12, usd=0.05),
    "tenant a": Budget(calls=9, tokens=400),
    "tenant b": Budget(usd=0.02, unpriced="allow"),
    "program a": Budget(tokens=250),
    "program b": Budget(calls=4),
}
PARENTS = {"tenant a": "root", "tenant b": "root", "program a": "tenant a", "program b": "tenant b"}
LEAVES = ("program a", "program b", "tenant a")


class Held:
    """A reservation and what the naive books hold of it."""

    def __init__(self, leaf: str, reservation: BudgetReservation, upper: Spend) -> None:
        self.leaf = leaf
        self.reservation = reservation
        self.state = "reserved"
        self.amount = upper


def chain(leaf: str) -> list[str]:
    """`leaf` and the accounts around it."""
    names = [leaf]
    while names[-1] in PARENTS:
        names.append(PARENTS[names[-1]])
    return names


def fits(budget: Budget, spends: list[Spend], upper: Spend) -> bool:
    """Whether `upper` after `spends` keeps `budget`, worked out from all that was ever spent."""
    every = [*spends, upper]
    if budget.usd is not None:
        if upper.usd is None and budget.unpriced == "refuse":
            return False
        dollars = sum((Fraction(round((s.usd or 0.0) * PICO), PICO) for s in every), Fraction())
        if upper.usd is not None and dollars > Fraction(round(budget.usd * PICO), PICO):
            return False
    calls, tokens = sum(s.calls for s in every), sum(s.tokens for s in every)
    return (budget.calls is None or calls <= budget.calls) and (budget.tokens is None or tokens <= budget.tokens)


class AccountMachine(RuleBasedStateMachine):
    """A tree of accounts: random reservations, ended in any order and way, from any thread, against naive books."""

    def __init__(self) -> None:
        super().__init__()
        self.accounts: dict[str, BudgetAccount] = {}
        for name, budget in BUDGETS.items():
            parent = self.accounts.get(PARENTS.get(name, ""))
            self.accounts[name] = BudgetAccount(budget, parent=parent, name=name)
        self.books: list[Held] = []
        self.others = ThreadPoolExecutor(1)

    def teardown(self) -> None:
        self.others.shutdown()

    def spends(self, name: str, *states: str) -> list[Spend]:
        """All that was ever spent, or is held, under an account."""
        return [held.amount for held in self.books if name in chain(held.leaf) and held.state in states]

    @rule(leaf=st.sampled_from(LEAVES), upper=uppers, elsewhere=st.booleans())
    def reserve(self, leaf: str, upper: Spend, elsewhere: bool) -> None:
        wanted = all(fits(BUDGETS[name], self.spends(name, *STATES), upper) for name in chain(leaf))
        reserve = self.accounts[leaf].reserve
        if wanted:
            made = self.others.submit(reserve, upper).result() if elsewhere else reserve(upper)
            self.books.append(Held(leaf, made, upper))
        else:
            with pytest.raises(BudgetExceeded) as caught:
                reserve(upper)
            assert caught.value.sent == "no"
            assert caught.value.code == "DX4502" or upper.usd is None

    def of(self, *states: str) -> list[Held]:
        return [held for held in self.books if held.state in states]

    @precondition(lambda self: self.of("reserved", "uncertain"))
    @rule(data=st.data(), share=shares, how=st.sampled_from(["settle", "release", "uncertain"]))
    def end(self, data: st.DataObject, share: float, how: str) -> None:
        held = data.draw(st.sampled_from(self.of("reserved", "uncertain")))
        upper = held.reservation.upper
        if how == "settle":
            usd = None if upper.usd is None else upper.usd * share
            held.amount = Spend(1, int(upper.input_tokens * share), int(upper.output_tokens * share), usd)
            held.reservation.settle(held.amount)
            held.state = "settled"
        elif how == "release":
            held.reservation.release()
            held.state = "released"
        elif held.state == "reserved":
            held.reservation.uncertain(upper)
            held.state = "uncertain"
        if held.state != "uncertain":
            for again in (held.reservation.release, lambda: held.reservation.settle(upper)):
                with pytest.raises(DspexError, match="DX4504"):
                    again()
        with pytest.raises(DspexError, match="DX4504"):
            held.reservation.uncertain(upper)

    @invariant()
    def amounts_agree(self) -> None:
        for name, account in self.accounts.items():
            for state in STATES:
                kept: Spend = getattr(account, state)
                spends = self.spends(name, state)
                assert (kept.calls, kept.tokens) == (sum(s.calls for s in spends), sum(s.tokens for s in spends))
                if any(s.usd is None for s in spends):
                    assert kept.usd is None
                else:
                    assert kept.usd == sum(round((s.usd or 0.0) * PICO) for s in spends) / PICO


AccountMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
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


def test_uncertain_spend_counts_until_it_is_settled() -> None:
    outer = BudgetAccount(Budget(calls=2))
    account = BudgetAccount(Budget(tokens=100), parent=outer)
    held = account.reserve(Spend(1, 40, 60))
    held.uncertain(held.upper)
    with pytest.raises(BudgetExceeded):
        account.reserve(Spend(1, 1, 0))
    held.settle(Spend(1, 10, 5))
    assert (account.settled, account.uncertain) == (Spend(1, 10, 5), Spend())
    assert (outer.settled, outer.uncertain) == (Spend(1, 10, 5), Spend())
    account.reserve(Spend(1, 40, 45))
    with pytest.raises(BudgetExceeded):
        account.reserve(Spend(1))


def test_an_outer_cap_names_its_account_and_leaves_the_inner_one_alone() -> None:
    tenant = BudgetAccount(Budget(calls=1), name="tenant acme")
    account = BudgetAccount(Budget(calls=5), parent=tenant)
    account.reserve(Spend(1))
    with pytest.raises(BudgetExceeded, match="tenant acme"):
        account.reserve(Spend(1))
    assert account.reserved == Spend(1)


def test_an_account_of_ones_own_may_stand_around_ours() -> None:
    class Never:
        def reserve(self, upper: Spend, /) -> BudgetReservation:
            raise BudgetExceeded("DX4502", "never")

    account = BudgetAccount(Budget(calls=5), parent=BudgetAccount(Budget(), parent=Never()))
    with pytest.raises(BudgetExceeded, match="never"):
        account.reserve(Spend(1))
    assert account.reserved == Spend()


def test_unpriced_calls_are_allowed_when_the_budget_says_so() -> None:
    account = BudgetAccount(Budget(usd=0.5, unpriced="allow"))
    account.reserve(Spend(1, 10, 10, None)).settle(Spend(1, 5, 5, None))
    account.reserve(Spend(1, 10, 10, 0.5))
    with pytest.raises(BudgetExceeded):
        account.reserve(Spend(1, 10, 10, 0.01))
    assert account.settled.usd is None
    with pytest.raises(UsageError, match="DX4505"):
        Budget(usd=0.5, unpriced="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_every_cap_holds_when_many_threads_reserve_at_once() -> None:
    """Eight programs of two tenants: the root's cap binds, and no refusal comes while there is room."""
    root = BudgetAccount(Budget(calls=500))
    tenants = [BudgetAccount(Budget(calls=300), parent=root) for _ in range(2)]
    programs = [BudgetAccount(Budget(calls=120), parent=tenants[n % 2]) for n in range(8)]
    begin = threading.Barrier(8)

    def work(account: BudgetAccount) -> None:
        begin.wait()
        for turn in range(200):
            try:
                held = account.reserve(Spend(1))
            except BudgetExceeded:
                continue
            held.uncertain(Spend(1)) if turn % 3 == 0 else held.settle(Spend(1))
            if turn % 2 == 0 and turn % 3 == 0:
                held.settle(Spend(1))

    threads = [threading.Thread(target=work, args=(program,)) for program in programs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    def counted(account: BudgetAccount) -> int:
        assert account.reserved == Spend()
        return account.settled.calls + account.uncertain.calls

    assert counted(root) == 500 == sum(map(counted, tenants)) == sum(map(counted, programs))
    assert max(map(counted, tenants)) <= 300
    assert max(map(counted, programs)) <= 120


def test_a_reservation_that_ends_inside_the_account_is_counted() -> None:
    # As when the garbage collector ends an abandoned call on the thread that is inside: the clock is read there.
    inside: list[BudgetReservation] = []

    def clock() -> float:
        while inside:
            inside.pop().uncertain(Spend(1, 2, 3, 0.5))
        return 0.0

    account = BudgetAccount(Budget(calls=10, wall=60.0), clock=clock)
    inside.append(account.reserve(Spend(1, 2, 3, 0.5)))
    account.reserve(Spend(1)).release()
    assert (account.uncertain, account.reserved) == (Spend(1, 2, 3, 0.5), Spend())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_process_spends_whatever_its_parents_threads_were_doing() -> None:
    # In a process of its own: Python 3.12 and later warn of every fork beside threads.
    script = """
        import os, signal, threading
        from dspex.executor.budget import BudgetAccount
        from dspex.lm.spend import Budget, Spend

        inside, forking, here = threading.Event(), threading.Event(), threading.current_thread()

        def clock():
            if threading.current_thread() is not here:
                inside.set()
                forking.wait()
            return 0.0

        account = BudgetAccount(Budget(calls=2, wall=60.0), clock=clock)
        thread = threading.Thread(target=lambda: account.reserve(Spend(1)).release())
        # What is registered last is called first.
        os.register_at_fork(before=forking.set)
        thread.start()
        inside.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            account.reserve(Spend(1)).settle(Spend(1))
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        thread.join()
        account.reserve(Spend(1)).settle(Spend(1))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_block_spends_within_its_budget_and_all_around_it() -> None:
    tenant = dx.BudgetAccount(Budget(calls=3), name="tenant acme")
    with dx.using(budget=tenant):
        with dx.using(budget=Budget(calls=2)):
            account = current().account
            assert account is not None
            account.reserve(Spend(1)).settle(Spend(1))
            account.reserve(Spend(1)).settle(Spend(1))
            with pytest.raises(BudgetExceeded):
                account.reserve(Spend(1))
        with dx.using(budget=dx.BudgetAccount(Budget(calls=9), parent=tenant)):
            account = current().account
            assert account is not None
            account.reserve(Spend(1)).settle(Spend(1))
            with pytest.raises(BudgetExceeded, match="tenant acme"):
                account.reserve(Spend(1))
        assert tenant.settled == Spend(3)
        with pytest.raises(UsageError, match="DX4506"), dx.using(budget=dx.BudgetAccount(Budget(calls=9))):
            pass
        with pytest.raises(UsageError, match="DX4501"), dx.using(budget=7):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            pass
    assert current().account is None


def test_a_wall_cap_of_a_block_is_a_deadline() -> None:
    with dx.using(budget=Budget(wall="1h")):
        inside = current().deadline
        assert inside is not None
        with dx.using(budget=Budget(wall="2h")):
            assert current().deadline == inside
    assert current().deadline is None


class Unpriced(StepsLM):
    """A model that answers as the study's task needs, for a price that nobody knows."""

    def __init__(self) -> None:
        super().__init__(price=None)
        self.inner = model()

    async def complete(self, request: LMRequest, /) -> LMResponse:
        return await self.inner.complete(request)


@pytest.mark.parametrize("allowed", [False, True])
def test_a_study_with_an_unpriced_model_says_so_before_it_begins(allowed: bool) -> None:
    store = MemoryEventStore()
    budget = Budget(calls=120, usd=1.0, unpriced="allow" if allowed else "refuse")

    async def study() -> Router:
        return await optimize_async(
            Router(), messages(60), accuracy, budget=budget, lm=Unpriced(), store=store, strategy="random", study_id="s"
        )

    if not allowed:
        with pytest.raises(BudgetExceeded, match=r"DX4503.*test/steps"):
            asyncio.run(study())
        return
    report = asyncio.run(study()).study.report
    assert (report.calls > 50, report.usd) == (True, None)
    again = asyncio.run(resume_async("s", Router(), messages(60), accuracy, lm=Unpriced(), store=store))
    assert again.study.report.calls == report.calls
