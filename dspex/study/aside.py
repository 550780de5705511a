"""What a search must leave: the final evaluation of the default, of the best zero-shot format, and of the winner.

Who wins is not known before the end, so the most expensive of those in question counts. Every result may change
what its candidate will cost; then the rest is not looked at again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from dspex.lm.spend import NOTHING, Spend
from dspex.program.schema import Schema
from dspex.study.evaluations import Candidate, Evaluations
from dspex.study.ledger import larger

I = TypeVar("I", bound=Schema)  # noqa: E741
O = TypeVar("O", bound=Schema)  # noqa: E741

RESERVED_PER_TOKEN = 6
"""Bytes that a token stands for at most, as a rule: a call reserves its input by bytes, and pays for it by tokens."""


class _Largest(Generic[I, O]):
    """The largest of each amount over several candidates, of whom one changes at a time."""

    def __init__(self) -> None:
        self.value = NOTHING
        self._of: dict[Candidate[I, O], Spend] = {}

    def __contains__(self, candidate: Candidate[I, O]) -> bool:
        return candidate in self._of

    def put(self, candidate: Candidate[I, O], spend: Spend) -> None:
        before = self._of.get(candidate, NOTHING)
        self._of[candidate] = spend
        if larger(spend, before) is spend:
            self.value = larger(self.value, spend)
            return
        value = NOTHING
        for each in self._of.values():
            value = larger(value, each)
        self.value = value


class Aside(Generic[I, O]):
    """Sets aside what the final evaluation takes.

    Args:
        evaluations: Whose ledger keeps clear of it.
        default: Evaluated in any case.
        formats: Zero-shot candidates, the default among them or not; the sequence may grow later.
        count: Held-out examples.
        other_formats: Whether a zero-shot format other than the default's is going to be tried.
        searching: Whether there may be another winner than the default.
    """

    def __init__(
        self,
        evaluations: Evaluations[I, O],
        default: Candidate[I, O],
        formats: Sequence[Candidate[I, O]],
        count: int,
        *,
        other_formats: bool,
        searching: bool,
    ) -> None:
        self._evaluations = evaluations
        self._default = default
        self._formats = formats
        self._count = count
        self._other_formats = other_formats
        self._searching = searching
        self._followed: Sequence[Candidate[I, O]] = ()
        self._zero = self._after = self._reserve = _Largest[I, O]()
        self._known: tuple[Spend, int] | None = None

    @property
    def least(self) -> int:
        """Calls that are set aside at the least, whatever the search finds."""
        return (1 + self._other_formats + self._searching) * self._default.calls * self._count

    def hold(self, alive: Sequence[Candidate[I, O]]) -> None:
        """Set aside for the default, the best zero-shot format, and any of `alive`."""
        self._fill(alive)
        self._known = None

    def follow(self, alive: Sequence[Candidate[I, O]]) -> None:
        """`hold`, and again whenever one of the candidates has `learned`."""
        self._followed = alive
        self._fill(alive)

    def learned(self, candidate: Candidate[I, O]) -> None:
        """`candidate` has one more result, which may show that the final evaluation costs more."""
        known = self._known
        if known is None or known[0] is not self._evaluations.most or known[1] != len(self._formats):
            # What is not evaluated yet is taken to cost the most that anything did.
            self._fill(self._followed)
            return
        self._put(candidate)
        self._set()

    def _fill(self, alive: Sequence[Candidate[I, O]]) -> None:
        self._zero, self._after, self._reserve = _Largest[I, O](), _Largest[I, O](), _Largest[I, O]()
        default = self._default
        others = [candidate for candidate in self._formats if candidate is not default]
        # Before anything else is known, the other two are taken to cost what the default does.
        if others or self._other_formats:
            self._zero.put(default, NOTHING)
        if self._searching:
            self._after.put(default, NOTHING)
        self._reserve.put(default, NOTHING)
        for candidate in others:
            self._zero.put(candidate, NOTHING)
        for candidate in alive:
            if candidate is not default:
                self._after.put(candidate, NOTHING)
                self._reserve.put(candidate, NOTHING)
        for candidate in dict.fromkeys((default, *others, *alive)):
            self._put(candidate)
        self._known = (self._evaluations.most, len(self._formats))
        self._set()

    def _put(self, candidate: Candidate[I, O]) -> None:
        cost = self._evaluations.final_cost(candidate, self._count)
        for largest in (self._zero, self._after):
            if candidate in largest:
                largest.put(candidate, cost)
        if candidate in self._reserve:
            # What the last call must be able to reserve beyond its cost: bytes for input tokens, and `max_tokens`.
            most = candidate.most
            usd = None if most.usd is None else most.usd * RESERVED_PER_TOKEN
            reserve = Spend(0, most.input_tokens * RESERVED_PER_TOKEN, candidate.most_output, usd)
            self._reserve.put(candidate, reserve)

    def _set(self) -> None:
        cost = self._evaluations.final_cost(self._default, self._count)
        self._evaluations.ledger.aside = cost + self._zero.value + self._after.value + self._reserve.value
