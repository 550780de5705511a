"""Genetic search: children of the best trials so far, NSGA-II when there are several objectives."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core import abi, pareto
from dspex.core.evolution import Variation, breed
from dspex.optimizers.optimizer import Optimizer

POPULATION: Final = 50
SMALLEST: Final = 8
CROSSOVER: Final = 0.8
MUTATION: Final = 0.1
_CHILDREN: Final = 8


class Genetic(Optimizer):
    """Draws parents by tournament from the best trials so far, crosses and mutates them.

    There are no generations to wait for: each ask breeds from what is told by then, so any number of candidates may be
    in flight. The population is the best 50 trials, fewer in a short search; with several objectives, the first fronts
    and in the last of them the least crowded. Until as many are told, candidates come from the prior.

    Source: Deb et al. (2002); Durillo et al. (2009) for the steady state.
    """

    name = "genetic"

    def _prepare(self) -> None:
        # A short search breeds from fewer, so that most of it breeds; a front takes more of them to cover.
        share = 15 if len(self.objectives) == 1 else 5
        self._size = POPULATION if self.budget is None else min(POPULATION, max(SMALLEST, self.budget // share))
        rows = abi.dimension_count(self._lowered.table)
        self._variation = Variation(CROSSOVER, max(MUTATION, 1.0 / max(rows, 1)))
        self._parents: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    def _observe(self, index: int, again: bool) -> None:
        self._parents = None

    def _ranked(self, step: int) -> NDArray[np.float64]:
        if self._told() < self._size:
            return self._lowered.sampler.sample(4, self.seed, step)
        if self._parents is None:
            fitness = pareto.single(self._believed(), self._size)
            best = np.argsort(fitness, kind="stable")[: self._size]
            self._parents = np.ascontiguousarray(self._history.columns[:, best]), fitness[best]
        return breed(self._lowered.sampler, *self._parents, _CHILDREN, self.seed, step, self._variation)
