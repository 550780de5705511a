"""Populations under rules: draw, repair, and the walk that always ends.

Three stages, each bounded: repair draws half of the rows of every broken rule again; what is still broken starts from a
candidate that is sound and walks, one row a step, inside the rules; when no sound candidate can be found at all, the
error names the rules that stayed broken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core import abi, checks, streams
from dspex.core.abi import ParamTable
from dspex.core.jit import bind
from dspex.core.kernels import sampling
from dspex.core.rules import evaluate_rules
from dspex.errors import CoreError

REPAIR_ROUNDS: Final = 32
DESCENTS: Final = 16
DESCENT_MOVES: Final = 64
WALK_ROUNDS: Final = 64

# Streams of random numbers that must not meet: added to a caller's step, which stays below 2**40.
_REPAIR: Final = 1 << 40
_DESCENT: Final = 1 << 41
_WALK: Final = 1 << 42
_INSIDE: Final = 1 << 20


class Sampler:
    """Draws candidates of one table.

    Args:
        table: A validated table.
        rules: Text of each rule, for errors.
        start: A column known to be sound (the default configuration), or None.
    """

    def __init__(self, table: ParamTable, rules: Sequence[str] = (), start: NDArray[np.float64] | None = None) -> None:
        rows, count = abi.dimension_count(table), abi.rule_count(table)
        self.table = table
        self.rules = tuple(rules) or tuple(f"rule {index}" for index in range(count))
        self.origin = np.empty(rows)
        self.width = np.empty(rows)
        sampling.frame(table, self.origin, self.width)
        self.rule_rows = np.zeros((count, rows), dtype=np.uint8)
        sampling.rule_rows(table, self.rule_rows)
        self.start = start

    @property
    def stack(self) -> NDArray[np.float64]:
        """Scratch of the rule machine, new for each use: kernels run without the GIL, and samplers are shared."""
        return np.empty((abi.MAX_STACK, abi.BLOCK))

    def holds(self, population: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Which rules hold for which candidates, (R, N) uint8."""
        result = np.empty((self.rule_rows.shape[0], population.shape[1]), dtype=np.uint8)
        if result.size:
            evaluate_rules(self.table, population, self.stack, result)
        return result

    def sample(self, count: int, seed: int, step: int = 0) -> NDArray[np.float64]:
        """Candidates from the prior that obey every rule, (D, count) float64.

        Args:
            count: How many.
            seed: Key of the random numbers, below 2**63.
            step: Key of the random numbers, below 2**40.

        Raises:
            CoreError: DX3010 when no candidate that obeys the rules was found.
        """
        population = np.empty((abi.dimension_count(self.table), count))
        sampling.sample(self.table, self.origin, self.width, seed, step, self.stack, population)
        self.repair(population, seed, step)
        return population

    def repair(self, population: NDArray[np.float64], seed: int, step: int) -> None:
        """Change candidates that break rules until they obey them, in place.

        Raises:
            CoreError: DX3010 as in `sample`.
        """
        if not self.rule_rows.shape[0]:
            return
        checks.population(self.table, population)
        broken = np.flatnonzero(self.holds(population).min(axis=0) == 0)
        for round_ in range(REPAIR_ROUNDS):
            if not broken.size:
                return
            part = np.ascontiguousarray(population[:, broken])
            chosen = np.empty(part.shape, dtype=np.uint8)
            key = step + _REPAIR + _INSIDE * (2 * round_ + 2)
            sampling.mark_broken(self.rule_rows, self.holds(part), seed, key, broken, chosen)
            self._redraw(part, chosen, seed, key + _INSIDE, broken)
            population[:, broken] = part
            broken = broken[self.holds(part).min(axis=0) == 0]
        if broken.size:
            self._walk(population, broken, seed, step)

    def _redraw(
        self,
        population: NDArray[np.float64],
        chosen: NDArray[np.uint8],
        seed: int,
        step: int,
        index: NDArray[np.int64],
    ) -> None:
        sampling.redraw(self.table, self.origin, self.width, seed, step, index, chosen, self.stack, population)

    def _walk(self, population: NDArray[np.float64], broken: NDArray[np.int64], seed: int, step: int) -> None:
        """Replace broken candidates by sound ones that have walked inside the rules."""
        sound = np.flatnonzero(self.holds(population).min(axis=0) == 1)
        donors = population[:, sound] if sound.size else self._find(seed, step)[:, np.newaxis]
        picks = [streams.below(donors.shape[1], seed, step + _WALK, -1, int(i)) for i in broken]
        part = np.ascontiguousarray(donors[:, picks])
        rows = part.shape[0]
        trial, chosen = np.empty_like(part), np.empty(part.shape, dtype=np.uint8)
        holds = np.empty((self.rule_rows.shape[0], part.shape[1]), dtype=np.uint8)
        judge = bind(evaluate_rules, self.table, trial, self.stack, holds)
        for round_ in range(min(WALK_ROUNDS, 4 * rows)):
            key = step + _WALK + _INSIDE * (round_ + 2)
            trial[:] = part
            chosen[:] = 0
            for column, i in enumerate(broken):
                chosen[streams.below(rows, seed, key, -2, int(i)), column] = 1
            self._redraw(trial, chosen, seed, key, broken)
            judge()
            accepted = holds.min(axis=0) == 1
            part[:, accepted] = trial[:, accepted]
        population[:, broken] = part

    def _find(self, seed: int, step: int) -> NDArray[np.float64]:
        """One sound candidate: the start, or the end of a descent in the number of broken rules."""
        if self.start is not None and self.holds(self.start[:, np.newaxis]).all():
            return self.start
        rows = self.rule_rows.shape[1]
        fewest: NDArray[np.uint8] | None = None
        for descent in range(DESCENTS):
            column = np.empty((rows, 1))
            key = step + _DESCENT + _INSIDE * (descent * (DESCENT_MOVES + 2) + 2)
            sampling.sample(self.table, self.origin, self.width, seed, key, self.stack, column)
            holds = self.holds(column)[:, 0]
            for move in range(DESCENT_MOVES):
                if holds.all():
                    return column[:, 0]
                if fewest is None or holds.sum() > fewest.sum():
                    fewest = holds
                column, holds = self._descend(column, holds, seed, key + _INSIDE * (move + 1))
            if holds.all():
                return column[:, 0]
        assert fewest is not None
        names = [text for text, good in zip(self.rules, fewest, strict=True) if not good]
        raise CoreError(
            "DX3010",
            f"no candidate obeys the rules; the best one found still breaks: {'; '.join(names)}",
            fix="widen the bounds of the Variables in these rules, or drop a rule",
        )

    def _descend(
        self, column: NDArray[np.float64], holds: NDArray[np.uint8], seed: int, key: int
    ) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """Set one row of a broken rule to the value, out of many, that breaks fewest rules (ties at random)."""
        rule = np.flatnonzero(holds == 0)
        rule = rule[streams.below(rule.size, seed, key, -3, 0)]
        candidates = np.flatnonzero(self.rule_rows[rule])
        row = int(candidates[streams.below(candidates.size, seed, key, -3, 1)])
        trial = np.repeat(column, abi.BLOCK, axis=1)
        for i in range(abi.BLOCK):
            if not np.isnan(column[row, 0]):
                u = (i + streams.uniform(seed, key, -4, i)) / abi.BLOCK
                trial[row, i] = self._spread(row, i, u)
        chosen = np.zeros(trial.shape, dtype=np.uint8)
        self._redraw(trial, chosen, seed, key, np.arange(abi.BLOCK, dtype=np.int64))
        result = self.holds(trial)
        kept = result.sum(axis=0)
        best = np.flatnonzero(kept == kept.max())
        pick = int(best[streams.below(best.size, seed, key, -3, 2)])
        return np.ascontiguousarray(trial[:, pick : pick + 1]), result[:, pick]

    def _spread(self, row: int, i: int, u: float) -> float:
        """Entry i of a spread over the row's domain: both ends, then quantiles; a small domain in full."""
        categories = int(self.table.ncat[row])
        if 0 < categories <= abi.BLOCK:
            return float(i % categories)
        if i == 0 or categories:
            return float(self.table.lo[row]) if not categories else float(int(u * categories))
        table = self.table
        return sampling.draw_number(
            int(table.kind[row]),
            int(table.log_flag[row]),
            table.lo[row],
            table.hi[row],
            table.step[row],
            self.origin[row],
            self.width[row],
            1.0 if i == 1 else u,
        )
