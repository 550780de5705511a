"""The logical budget of a study: what it would have spent, had every call been bought once and in order.

Every distinct call is charged once, at the logical position of the first evaluation that used it, whether
it was bought, answered from a cache or settled before a crash. So every decision that depends on the
budget is a function of the seed and of the results in logical order. What really is spent is capped by
the executor's account; the two differ only by cache hits, retries and repeats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dspex.lm.spend import NOTHING, Budget, Spend

Charges = Mapping[str, Spend]
"""What an evaluation used: the cost of each call by its key."""


@dataclass(frozen=True, slots=True)
class Caps:
    """Upper limits; None does not bind."""

    calls: int | None = None
    tokens: int | None = None
    usd: float | None = None

    @classmethod
    def of(cls, budget: Budget) -> Caps:
        return cls(budget.calls, budget.tokens, budget.usd)

    def hold(self, *spends: Spend) -> bool:
        """Whether all of `spends` together are within every cap. An unpriced amount is not held to a cap in dollars."""
        if self.calls is not None and sum([spend.calls for spend in spends]) > self.calls:
            return False
        if self.tokens is not None and sum([spend.tokens for spend in spends]) > self.tokens:
            return False
        if self.usd is None:
            return True
        dollars = [spend.usd for spend in spends if spend.usd is not None]
        return len(dollars) < len(spends) or sum(dollars) <= self.usd


def scaled(spend: Spend, factor: int) -> Spend:
    """`factor` times `spend`."""
    usd = None if spend.usd is None else spend.usd * factor
    return Spend(spend.calls * factor, spend.input_tokens * factor, spend.output_tokens * factor, usd)


def larger(a: Spend, b: Spend) -> Spend:
    """The larger of each amount; `a` itself where none of `b` is."""
    dearer = a.usd is not None and (b.usd is None or b.usd > a.usd)
    if not dearer and b.calls <= a.calls and b.input_tokens <= a.input_tokens and b.output_tokens <= a.output_tokens:
        return a
    usd = None if a.usd is None or b.usd is None else max(a.usd, b.usd)
    return Spend(max(a.calls, b.calls), max(a.input_tokens, b.input_tokens), max(a.output_tokens, b.output_tokens), usd)


class Ledger:
    """Logical spending under caps, less what is set aside for the final evaluation.

    Attributes:
        caps: The budget's.
        spent: Charged so far.
        aside: Set aside; `fits` keeps clear of it.
        started: Upper bounds of what has started and is not charged yet.
    """

    def __init__(self, caps: Caps) -> None:
        self.caps = caps
        self.spent = NOTHING
        self.aside = NOTHING
        self.started = NOTHING
        self._seen: set[str] = set()

    def charged(self, key: str) -> bool:
        """Whether this call was charged before."""
        return key in self._seen

    def charge(self, charges: Charges) -> Spend:
        """Charge the calls that were not charged before; what they cost together."""
        new = NOTHING
        for key, spend in charges.items():
            if key not in self._seen:
                self._seen.add(key)
                new = new + spend
        self.spent = self.spent + new
        return new

    def fits(self, upper: Spend) -> bool:
        """Whether `upper` more, after all that was charged, keeps the caps and what is set aside."""
        return self.caps.hold(self.spent, self.aside, upper)

    def fits_now(self, upper: Spend) -> bool:
        """Whether `upper` more fits even if all that has started costs its upper bound."""
        return self.caps.hold(self.spent, self.aside, self.started, upper)

    def evaluations_left(self, each: Spend) -> int | None:
        """How many evaluations at `each` still fit; None when no cap binds."""
        room: list[float] = []
        used = self.spent + self.aside
        if self.caps.calls is not None:
            room.append((self.caps.calls - used.calls) / max(1, each.calls))
        if self.caps.tokens is not None:
            room.append((self.caps.tokens - used.tokens) / max(1, each.tokens))
        if self.caps.usd is not None and used.usd is not None and each.usd:
            room.append((self.caps.usd - used.usd) / each.usd)
        return max(0, int(min(room))) if room else None
