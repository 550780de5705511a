"""What calls cost, added up by who made them and for whom: every attempt inside a `ledger()` block, failed ones too.

A trace keeps each call; a ledger keeps sums only, so that its size depends on the program and not on how long it runs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args, overload

from dspex.errors import UsageError
from dspex.lm.spend import PICO, Spend, pico
from dspex.lm.types import Usage

__all__ = ["DIMENSIONS", "OTHERS", "Dimension", "Entry", "Ledger", "Tab"]

Dimension = Literal["tenant", "program", "configuration", "module", "model", "outcome"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)

MOST_ROWS = 16384
"""Sums that a ledger keeps apart: a few MB."""

OTHERS = "others"
"""Where everything is counted for which there is no room any more, in every dimension."""

# Re-entrant: a finalizer that the garbage collector runs on a thread inside may write down an attempt. One for all
# ledgers, so that no thread holds it in a child process that the thread did not follow into.
_gate = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_gate.acquire, after_in_parent=_gate.release, after_in_child=_gate.release)


@dataclass(frozen=True, slots=True)
class Entry:
    """A sum over attempts and cached answers.

    Attributes:
        attempts: Requests that were sent, or may have been.
        failed: Of those, requests that gave no answer.
        unsent: Requests that failed before anything was sent, and so cost nothing.
        hits: Answers that cost no request: from the cache, from the study's log or from an equal call in the air.
        usage: Tokens as the provider counted them.
        usd: US dollars known to be spent; None when a part of it has no known price.
        uncertain: The most that attempts may have cost whose usage nobody told; not contained in `usage` and `usd`.
    """

    attempts: int = 0
    failed: int = 0
    unsent: int = 0
    hits: int = 0
    usage: Usage = field(default_factory=Usage)
    usd: float | None = 0.0
    uncertain: Spend = field(default_factory=Spend)


class _Row:
    """An `Entry` that grows; dollars in whole units of 10^-12, so that sums are exact."""

    # In every sum the new part is worked out first: a finalizer may write an attempt down between any two calls.
    __slots__ = (
        "attempts",
        "failed",
        "hits",
        "most",
        "most_pico",
        "most_unpriced",
        "pico",
        "unpriced",
        "unsent",
        "usage",
    )

    def __init__(self) -> None:
        self.attempts = self.failed = self.unsent = self.hits = self.pico = self.unpriced = 0
        self.usage = [0, 0, 0, 0, 0]
        # What may have been spent: calls, input and output tokens, dollars.
        self.most = [0, 0, 0]
        self.most_pico = self.most_unpriced = 0

    def may_cost(self, most: Spend) -> None:
        usd = None if most.usd is None else pico(most.usd)
        sums = self.most
        sums[0] += most.calls
        sums[1] += most.input_tokens
        sums[2] += most.output_tokens
        if usd is None:
            self.most_unpriced += 1
        else:
            self.most_pico += usd

    def add(self, other: _Row) -> None:
        self.attempts += other.attempts
        self.failed += other.failed
        self.unsent += other.unsent
        self.hits += other.hits
        self.pico += other.pico
        self.unpriced += other.unpriced
        self.usage = [a + b for a, b in zip(self.usage, other.usage, strict=True)]
        self.most = [a + b for a, b in zip(self.most, other.most, strict=True)]
        self.most_pico += other.most_pico
        self.most_unpriced += other.most_unpriced

    def entry(self) -> Entry:
        usd = None if self.unpriced else self.pico / PICO
        calls, given, made = self.most
        uncertain = Spend(calls, given, made, None if self.most_unpriced else self.most_pico / PICO)
        return Entry(self.attempts, self.failed, self.unsent, self.hits, Usage(*self.usage), usd, uncertain)


class Ledger:
    """The attempts made while it was open, of all threads and event loops, added up.

    The dimensions are ``tenant`` (of `using`), ``program`` (the outermost one), ``configuration`` (identity of the
    values of its Variables, as a study's trials have it; empty for none), ``module`` (its path), ``model``, and
    ``outcome``: ``answered``, ``cached``, ``abandoned`` (cancelled, or the slower of two hedged ones), else the code
    of the error.

    Args:
        rows: Sums kept apart at most; what comes later is counted under `OTHERS`.
    """

    def __init__(self, rows: int = MOST_ROWS) -> None:
        self._most = rows
        self._rows: dict[tuple[str, ...], _Row] = {}

    @property
    def total(self) -> Entry:
        """The sum of everything."""
        return self._sums(()).get((), Entry())

    @overload
    def by(self, dimension: Dimension, /) -> dict[str, Entry]: ...
    @overload
    def by(self, first: Dimension, second: Dimension, /, *more: Dimension) -> dict[tuple[str, ...], Entry]: ...
    def by(self, *dimensions: Dimension) -> dict[str, Entry] | dict[tuple[str, ...], Entry]:
        """The sums by one dimension or by several together, the dearest first.

        Raises:
            UsageError: DX4507: there is no such dimension.
        """
        unknown = [name for name in dimensions if name not in DIMENSIONS]
        if unknown or not dimensions:
            raise UsageError(
                "DX4507",
                f"a ledger is read by {', '.join(DIMENSIONS)}, got {', '.join(map(repr, unknown)) or 'nothing'}",
                where="Ledger.by",
                fix='for example ledger.by("module"), or ledger.by("tenant", "model")',
            )
        sums = self._sums(tuple(DIMENSIONS.index(name) for name in dimensions))
        return {key[0]: entry for key, entry in sums.items()} if len(dimensions) == 1 else sums

    def __repr__(self) -> str:
        total = self.total
        usd = "unpriced" if total.usd is None else f"${total.usd:.6g}"
        tokens = f"{total.usage.input_tokens} + {total.usage.output_tokens} tokens"
        return f"<Ledger: {total.attempts} attempts, {total.failed} failed, {total.hits} hits, {tokens}, {usd}>"

    def _sums(self, places: Iterable[int]) -> dict[tuple[str, ...], Entry]:
        wanted = tuple(places)
        sums: dict[tuple[str, ...], _Row] = {}
        with _gate:
            for key, row in self._rows.copy().items():
                sums.setdefault(tuple(key[place] for place in wanted), _Row()).add(row)
        entries = {key: row.entry() for key, row in sums.items()}
        return dict(
            sorted(entries.items(), key=lambda item: (-(item[1].usd or 0.0), -item[1].usage.total_tokens, item[0]))
        )

    def answered(self, key: tuple[str, ...], usage: Usage | None, spent: Spend, uncertain: Spend | None) -> None:
        """An attempt was answered; `uncertain` is its upper bound where its usage is not known."""
        with _gate:
            row = self._row(key)
            row.attempts += 1
            if usage is not None:
                tokens = row.usage
                tokens[0] += usage.input_tokens
                tokens[1] += usage.output_tokens
                tokens[2] += usage.cached_tokens
                tokens[3] += usage.reasoning_tokens
                tokens[4] += usage.written_tokens
            usd = None if spent.usd is None else pico(spent.usd)
            if usd is None:
                row.unpriced += 1
            else:
                row.pico += usd
            if uncertain is not None:
                row.may_cost(uncertain)

    def failed(self, key: tuple[str, ...], uncertain: Spend | None) -> None:
        """An attempt was sent, or may have been, and gave no answer; `uncertain` is what it may have cost."""
        with _gate:
            row = self._row(key)
            row.attempts += 1
            row.failed += 1
            if uncertain is not None:
                row.may_cost(uncertain)

    def unsent(self, key: tuple[str, ...]) -> None:
        """An attempt failed before anything was sent."""
        with _gate:
            self._row(key).unsent += 1

    def hit(self, key: tuple[str, ...]) -> None:
        """A call was answered without a request of its own."""
        with _gate:
            self._row(key).hits += 1

    def _row(self, key: tuple[str, ...]) -> _Row:
        row = self._rows.get(key)
        if row is None:
            if len(self._rows) >= self._most:
                key = (OTHERS,) * len(DIMENSIONS)
            row = self._rows.setdefault(key, _Row())
        return row


class Tab:
    """Where one call is written down: the open ledgers, and its place in them.

    Args:
        ledgers: All that are open.
        place: Tenant, program, configuration and module.
        model: The one that is asked; an attempt may be made at a fallback.
    """

    __slots__ = ("_ledgers", "_model", "_place")

    def __init__(self, ledgers: tuple[Ledger, ...], place: tuple[str, str, str, str], model: str) -> None:
        self._ledgers = ledgers
        self._place = place
        self._model = model

    def answered(self, model: str, usage: Usage | None, spent: Spend, uncertain: Spend | None) -> None:
        """See `Ledger.answered`."""
        key = (*self._place, model, "answered")
        for ledger in self._ledgers:
            ledger.answered(key, usage, spent, uncertain)

    def failed(self, model: str, outcome: str, uncertain: Spend | None) -> None:
        """See `Ledger.failed`."""
        for ledger in self._ledgers:
            ledger.failed((*self._place, model, outcome), uncertain)

    def unsent(self, model: str, outcome: str) -> None:
        """See `Ledger.unsent`."""
        for ledger in self._ledgers:
            ledger.unsent((*self._place, model, outcome))

    def hit(self) -> None:
        """See `Ledger.hit`."""
        for ledger in self._ledgers:
            ledger.hit((*self._place, self._model, "cached"))
