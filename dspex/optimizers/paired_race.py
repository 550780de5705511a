"""Paired racing by rungs: successive halving over candidates × one fixed order of examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dspex.errors import CoreError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Rung(NamedTuple):
    """One decided rung.

    Attributes:
        examples: Examples that every candidate of the rung was scored on: the first ones of the fixed order.
        candidates: Ids that took part.
        promoted: Ids that went on, best first.
    """

    examples: int
    candidates: tuple[int, ...]
    promoted: tuple[int, ...]


class PairedRace:
    """Which candidate to evaluate on which example next.

    All candidates see the same examples in the same order, so their differences are paired. A rung is decided when its
    last result has come in, from all results in the order of ids and examples: arrival order changes nothing.

    Args:
        candidates: Ids; at least one, none twice.
        examples: How many examples there are, or their indices in the order to use.
        eta: The share 1/eta of a rung goes on, and the next rung has eta times as many examples.
        first: Examples of the first rung; None = such that the last rung has all of them.
        keep: How many candidates the race ends with.
        failures: `"worst"` scores a failed example as `worst`, `"exclude"` leaves it out of the mean.
        worst: The score of a failed example.

    Source: Karnin, Koren & Somekh (2013); Jamieson & Talwalkar (2016).
    """

    def __init__(
        self,
        candidates: Sequence[int],
        examples: int | Sequence[int],
        *,
        eta: int = 2,
        first: int | None = None,
        keep: int = 1,
        failures: Literal["worst", "exclude"] = "worst",
        worst: float = 0.0,
    ) -> None:
        self.order, self.candidates = entrants(candidates, examples)
        if eta < 2 or keep < 1 or (first is not None and first < 1) or not math.isfinite(worst):
            raise CoreError(
                "DX3016",
                f"a race needs eta >= 2, keep >= 1, first >= 1 and a finite worst, got {eta}, {keep}, {first}, {worst}",
            )
        self.eta, self.keep, self.failures, self.worst = eta, keep, failures, worst
        if first is None:
            rungs = math.ceil(math.log(max(len(self.candidates) / keep, 1), eta) - 1e-9)
            first = math.ceil(len(self.order) / eta**rungs)
        self._used = min(first, len(self.order))
        self._scores: dict[tuple[int, int], float | None] = {}
        self._issued: set[tuple[int, int]] = set()
        self._alive: tuple[int, ...] = self.candidates
        self._places = {example: place for place, example in enumerate(self.order)}
        self._members = frozenset(self.candidates)
        self.rungs: list[Rung] = []
        self.done = False
        self._missing = self._open()
        self._advance()

    def next(self) -> list[tuple[int, int]]:
        """(candidate, example) pairs of the current rung that were not handed out yet, candidate by candidate.

        Empty while results are awaited and when the race is done.
        """
        if self.done:
            return []
        pairs = [
            (candidate, example)
            for candidate in self._alive
            for example in self.order[: self._used]
            if (candidate, example) not in self._scores and (candidate, example) not in self._issued
        ]
        self._issued.update(pairs)
        return pairs

    def report(self, candidate: int, example: int, score: float | None) -> None:
        """Record one result; None = the example failed. A pair that was not asked for yet may be reported too.

        Raises:
            CoreError: DX3017 for an unknown pair, a second report with another score, or a score that is not finite.
        """
        pair = (candidate, example)
        if candidate not in self._members or example not in self._places:
            raise CoreError("DX3017", f"candidate {candidate}, example {example} is not part of this race")
        if score is not None and not math.isfinite(score):
            raise CoreError("DX3017", f"a score is finite or None, got {score}", fix="report a failure as None")
        if pair in self._scores:
            if self._scores[pair] != score:
                raise CoreError(
                    "DX3017",
                    f"candidate {candidate}, example {example} was {self._scores[pair]}, now reported as {score}",
                )
            return
        self._scores[pair] = score
        self._missing.discard(pair)
        self._advance()

    def survivors(self) -> tuple[int, ...]:
        """Ids still in the race: best first once a rung was decided."""
        return self._alive

    def means(self) -> dict[int, float]:
        """Mean score of each candidate over the examples reported for it; a candidate without any is left out."""
        result: dict[int, float] = {}
        for candidate in self.candidates:
            values = [value for example in self.order if (value := self._value(candidate, example)) is not None]
            if values:
                result[candidate] = math.fsum(values) / len(values)
        return result

    def counts(self) -> dict[int, int]:
        """How many examples were reported for each candidate."""
        result = dict.fromkeys(self.candidates, 0)
        for candidate, _ in self._scores:
            result[candidate] += 1
        return result

    def scores(self, candidate: int) -> list[tuple[int, float | None]]:
        """(example, score) of a candidate in the fixed order; None = failed."""
        return [(each, self._scores[candidate, each]) for each in self.order if (candidate, each) in self._scores]

    def state(self) -> dict[str, Any]:
        """Results so far as JSON-able data; reporting them to a new race of the same arguments restores it."""
        return {"scores": [[*pair, score] for pair, score in sorted(self._scores.items())]}

    def _value(self, candidate: int, example: int) -> float | None:
        if (candidate, example) not in self._scores:
            return None
        score = self._scores[candidate, example]
        if score is None:
            return self.worst if self.failures == "worst" else None
        return score

    def _open(self) -> set[tuple[int, int]]:
        used = self.order[: self._used]
        return {(c, e) for c in self._alive for e in used if (c, e) not in self._scores}

    def _advance(self) -> None:
        while not self.done and not self._missing:
            final = self._used == len(self.order)
            keep = self.keep if final else max(self.keep, math.ceil(len(self._alive) / self.eta))
            promoted = self._promote(keep)
            self.rungs.append(Rung(self._used, self._alive, promoted))
            self._alive = promoted
            if final or not promoted:
                self.done = True
                return
            self._used = min(self._used * self.eta, len(self.order))
            self._missing = self._open()

    def _promote(self, keep: int) -> tuple[int, ...]:
        import numpy as np

        from dspex.core.kernels import racing

        ranked = tuple(sorted(self._alive))  # the lower id wins a tie
        scores = np.full((len(ranked), self._used), np.nan)
        for row, candidate in enumerate(ranked):
            for column, example in enumerate(self.order[: self._used]):
                value = self._value(candidate, example)
                if value is not None:
                    scores[row, column] = value
        means: NDArray[np.float64] = np.empty(len(ranked))
        chosen: NDArray[np.int64] = np.empty(len(ranked), dtype=np.int64)
        count = racing.promote(scores, self._used, min(keep, len(ranked)), means, chosen)
        return tuple(ranked[int(row)] for row in chosen[:count])


def entrants(candidates: Sequence[int], examples: int | Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The order of examples and the candidates, when there are some of each and none twice."""
    order = tuple(range(examples)) if isinstance(examples, int) else tuple(examples)
    ids = tuple(candidates)
    if not ids or len(set(ids)) < len(ids):
        raise CoreError("DX3016", f"a race needs candidates, none of them twice, got {list(ids)[:20]}")
    if not order or len(set(order)) < len(order):
        raise CoreError("DX3016", f"a race needs examples, none of them twice, got {len(order)}")
    return order, ids
