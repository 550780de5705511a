"""A full factorial search that need not be finished."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dspex.core.factorial import Factorial, level_counts, levels, size, values
from dspex.optimizers import snapshot
from dspex.optimizers.optimizer import Optimizer

FEWEST = 3
MOST = 1 << 20
BLOCK = 64
ATTEMPTS = 256


class Grid(Optimizer):
    """Grid search: every value of what has few, and a number of levels, from end to end, of everything else.

    With a budget that number is the largest whose grid the budget can finish, else 3. When a grid is finished, the
    levels are halved and the search goes on with what is new. The order spreads over the space, so a search that stops
    early has seen all of it coarsely. Combinations that mean the same, or break a rule, are passed over; where rules
    leave less than about one combination in ten thousand, repaired ones are asked instead.
    """

    name = "grid"

    def _prepare(self) -> None:
        self._counts = values(self._lowered.table)
        self._begin(self._first_levels())

    def _first_levels(self) -> int:
        if self.budget is None or not self._fits(FEWEST, self.budget):
            return FEWEST
        low, high = FEWEST, MOST
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._fits(middle, self.budget) else (low, middle)
        return low

    def _fits(self, k: int, budget: int) -> bool:
        return size(self._lowered.table, level_counts(self._counts, k)) <= budget

    def _begin(self, k: int, place: int = 0) -> None:
        self._levels, self._place = k, place
        self._design = Factorial(self._lowered.sampler, levels(self._lowered.sampler, k), self.seed)

    def _ranked(self, step: int) -> NDArray[np.float64]:
        sampler = self._lowered.sampler
        for attempt in range(ATTEMPTS):
            if self._place >= self._design.total and not self._refine():
                break
            count = min(1 << attempt, BLOCK, self._design.total - self._place)
            population = self._design.candidates(self._place, count)
            holds = sampler.holds(population).min(axis=0, initial=1)
            for column in range(count):
                self._place += 1
                if holds[column] and self._first_fresh(population[:, column : column + 1]) is not None:
                    return population[:, column : column + 1]
        population = self._design.candidates(0, min(BLOCK, self._design.total))
        sampler.repair(population, self.seed, step)
        return population

    def _refine(self) -> bool:
        """Halve the distance of levels and begin again; whether there was anything to halve."""
        finer = 2 * self._levels - 1
        if finer > MOST or level_counts(self._counts, finer) == level_counts(self._counts, self._levels):
            return False
        self._begin(finer)
        return True

    def _search_state(self) -> dict[str, Any]:
        return {"levels": self._levels, "place": self._place, "total": hex(self._design.total)}

    def _restore(self, state: dict[str, Any]) -> None:
        k, place = state.get("levels"), state.get("place")
        if (
            state.keys() != {"levels", "place", "total"}
            or not isinstance(k, int)
            or not isinstance(place, int)
            or not (1 <= k <= MOST and place >= 0)
        ):
            snapshot.reject(f"its place in the grid is {state}")
        self._begin(k, place)
        if state["total"] != hex(self._design.total):
            self._place = 0  # pools grew, which makes another grid; what was asked is passed over
