"""Which trials are good, and which stand for the others: kept up to date at a cost that does not grow with history."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core import pareto
from dspex.core.history import TOLD, History
from dspex.core.kernels import tpe

RANKED: Final = 1024
"""Up to so many told trials all of them are ranked whenever one is told."""
FEWEST: Final = 64
"""Beyond, a ranking holds until told trials are more by one part in so many, or by `MOST`."""
MOST: Final = 64
SEVERAL: Final = 4
"""With several objectives so many times more are kept, since their order may still change, and rankings hold longer."""


class Standing:
    """The order of the best trials.

    A ranking of all trials keeps those that may be among the good ones; until the next one, only these and the trials
    told since are ordered, with the noise as the ranking found it. With one objective and without noise that is the
    order of all at any time, and so it is up to `RANKED` trials, which are ranked each time.

    Args:
        history: All trials.
        most: Most trials that are ever asked for.
    """

    def __init__(self, history: History, most: int) -> None:
        self._history = history
        self._scale = 1 if history.objectives == 1 else SEVERAL
        self._kept = self._scale * most
        self._ranked = -1
        self._changed = True
        self._pool: list[int] = []
        self._priors = np.empty((history.objectives, 3))
        self._order = np.empty(0, dtype=np.int64)

    def observe(self, index: int, again: bool) -> None:
        """Take note that a trial was told or failed, `again` when that is not the first time."""
        self._changed = True
        if again:
            self._ranked = -1
        elif self._history.status[index] == TOLD:
            self._pool.append(index)

    def best(self, count: int) -> NDArray[np.int64]:
        """The best told trials, best first; the earlier one of equals. Fewer than `count` when fewer were told."""
        history = self._history
        if self._changed:
            if self._ranked < 0 or history.told - self._ranked > self._patience():
                self._rank()
            pool = np.array(self._pool, dtype=np.int64)
            losses = pareto.single(history.estimates(self._priors, pool))
            self._order = pool[np.lexsort((pool, losses))]
            self._changed = False
        return self._order[:count]

    def memory(self) -> tuple[int, list[int], NDArray[np.float64]] | None:
        """When the last ranking was, the trials in question and the noise then; None = the history says everything."""
        exact = self._history.objectives == 1 and not self._history.noisy
        return None if exact or self._patience() == 0 or self._ranked < 0 else (self._ranked, self._pool, self._priors)

    def remember(self, ranked: int, pool: list[int], priors: NDArray[np.float64]) -> None:
        """Take over what `memory` gave."""
        self._ranked, self._pool, self._priors = ranked, list(pool), priors
        self._changed = True

    def _patience(self) -> int:
        """How many more told trials a ranking holds for."""
        history = self._history
        if history.objectives == 1 and not history.noisy:
            return MOST
        return 0 if history.told <= RANKED else self._scale * min(history.told // FEWEST, MOST)

    def _rank(self) -> None:
        history = self._history
        self._ranked = history.told
        self._priors = history.priors()
        losses = pareto.single(history.estimates(self._priors), self._kept)
        best = np.empty(min(self._kept, history.told), dtype=np.int64)
        self._pool = best[: tpe.split(losses, best)].tolist()


def others(count: int, good: NDArray[np.int64], spread: int, recent: int) -> NDArray[np.int64]:
    """Trials that stand for all but the good ones, oldest first: the latest, and older ones at even distances.

    The distance is a power of two, so that they stay the same while history grows.

    Args:
        count: How many trials there are.
        good: The good ones.
        spread: Most of the older ones.
        recent: How many of the latest.
    """
    older = max(count - recent, 0)
    distance = 1 << max(math.ceil(older / spread) - 1, 0).bit_length()
    left = set(good.tolist())
    return np.array(
        [*(i for i in range(0, older, distance) if i not in left), *(i for i in range(older, count) if i not in left)],
        dtype=np.int64,
    )
