"""A scrambled Sobol' sequence through the prior: random search that leaves no gaps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dspex.core import sobol
from dspex.optimizers import snapshot
from dspex.optimizers.optimizer import Optimizer

BLOCK = 4
BLOCKS = 64


class QMC(Optimizer):
    """Quasi-random search: the default, then the points of one sequence, each a quantile of every Variable's prior.

    A Variable's coordinate is used where it is active. Points that break a rule are repaired, those that were asked
    before are passed over. From the 1,112th Variable on coordinates are random.
    """

    name = "qmc"

    _point = 0

    def _prepare(self) -> None:
        """The sequence needs the sampler alone."""

    def _ranked(self, step: int) -> NDArray[np.float64]:
        del step  # the sequence goes on where it stopped, whatever else was asked in between
        population = self._block()
        for _ in range(BLOCKS):
            for column in range(BLOCK):
                self._point += 1
                if self._first_fresh(population[:, column : column + 1]) is not None:
                    return population[:, column:]
            population = self._block()
        return population

    def _block(self) -> NDArray[np.float64]:
        sampler = self._lowered.sampler
        population = sobol.candidates(sampler, BLOCK, self.seed, self._point)
        sampler.repair(population, self.seed, self._point)
        return population

    def _search_state(self) -> dict[str, Any]:
        return {"point": self._point}

    def _restore(self, state: dict[str, Any]) -> None:
        point = state.get("point")
        if state.keys() != {"point"} or not isinstance(point, int) or not 0 <= point < 1 << sobol.BITS:
            snapshot.reject(f"its place in the sequence is {state}")
        self._point = point
