"""The multivariate tree-structured Parzen estimator."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dspex.core.parzen import Estimator, Settings
from dspex.core.standing import Standing
from dspex.optimizers import snapshot
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
        self._standing = Standing(self._history, self._settings.good)
        # A quarter of a short search, so that most of it learns.
        self._startup = STARTUP if self.budget is None else min(STARTUP, max(3, self.budget // 4))

    def _ranked(self, step: int) -> NDArray[np.float64]:
        if self._told() < self._startup:
            return self._lowered.sampler.sample(4, self.seed, step)
        candidates, order = self._estimator.suggest(self._history, self._standing, self.seed, step)
        return candidates[:, order]

    def _observe(self, index: int, again: bool) -> None:
        self._standing.observe(index, again)

    def _search_state(self) -> dict[str, Any]:
        memory = self._standing.memory()
        if memory is None:
            return {}
        ranked, pool, priors = memory
        return {"ranked": ranked, "pool": list(pool), "priors": snapshot.save_array(priors)}

    def _restore(self, state: dict[str, Any]) -> None:
        if not state:
            return
        history, ranked, pool = self._history, state.get("ranked"), state.get("pool")
        priors = snapshot.load_array(state.get("priors"), "<f8", 3 * history.objectives, "priors")
        priors = priors.reshape(history.objectives, 3)
        if not isinstance(ranked, int) or not 0 <= ranked <= history.told or not isinstance(pool, list):
            snapshot.reject(f"its last ranking was after {ranked!r} of {history.told} trials")
        if not all(isinstance(each, int) and 0 <= each < history.count for each in cast("list[object]", pool)):
            snapshot.reject("it ranked trials that its history lacks")
        if np.isnan(priors).any() or (priors[:, 1:] < 0.0).any():
            snapshot.reject("the noise that it found is no variance")
        self._standing.remember(ranked, cast("list[int]", pool), priors)
