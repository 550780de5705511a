"""The multivariate tree-structured Parzen estimator."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dspex.core.parzen import Estimator, Settings
from dspex.optimizers.optimizer import Optimizer

STARTUP = 10


class TPE(Optimizer):
    """Draws from the density of good trials, takes the draw that other trials make least likely.

    Noisy values are shrunk towards their common mean before trials are divided into good and other ones. The mixture's
    size is capped, so asking costs the same after a hundred trials as after a hundred thousand.

    Sources: Bergstra et al. (2011); Watanabe (2023), arXiv:2304.11127.
    """

    name = "tpe"

    _settings = Settings()

    def configure(self, settings: Settings) -> None:
        """Use other settings of the estimator from now on; they are not part of the state."""
        with self._lock:
            self._settings = settings
            self._prepare()

    def _prepare(self) -> None:
        self._estimator = Estimator(self._lowered.sampler, self._settings)
        # A quarter of a short search, so that most of it learns.
        self._startup = STARTUP if self.budget is None else min(STARTUP, max(3, self.budget // 4))

    def _ranked(self, step: int) -> NDArray[np.float64]:
        if self._told() < self._startup:
            return self._lowered.sampler.sample(4, self.seed, step)
        candidates, order = self._estimator.suggest(self._history, self.seed, step)
        return candidates[:, order]
