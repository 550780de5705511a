"""Independent draws from the prior, under the rules."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dspex.optimizers.optimizer import Optimizer


class Random(Optimizer):
    """Random search: the default, then draws that were not asked before."""

    name = "random"

    def _prepare(self) -> None:
        """Draws need the sampler alone."""

    def _ranked(self, step: int) -> NDArray[np.float64]:
        return self._lowered.sampler.sample(4, self.seed, step)
