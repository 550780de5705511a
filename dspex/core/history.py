"""Columnar trial history: arrays appended in place, no Python object for a trial."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core import abi
from dspex.core.abi import ParamTable
from dspex.core.kernels import tpe

PENDING: Final = 0
TOLD: Final = 1
FAILED: Final = 2


class History:
    """Trials as arrays, one column each.

    Args:
        table: The parameter table, D rows.
        objectives: M, at least 1.
        capacity: Trials to hold before the arrays grow.

    Attributes:
        count: Trials so far.
        columns: (D, capacity) float64; the first `count` columns are in use.
        losses: (M, capacity) float64, lower is better; NaN until told and when failed.
        variances: (M, capacity) float64, noise variance of each loss; 0 when exact or when `examples` says it.
        examples: (capacity,) float64, examples that each loss is the mean of; 0 when not known.
        status: (capacity,) uint8: PENDING, TOLD or FAILED.
        told: How many trials have losses.
    """

    def __init__(self, table: ParamTable, objectives: int = 1, capacity: int = 64) -> None:
        self.count = 0
        self.told = 0
        self._noisy = 0
        self.columns = abi.empty_population(abi.dimension_count(table), capacity)
        self.losses = np.full((objectives, capacity), np.nan)
        self.variances = np.zeros((objectives, capacity))
        self.examples = np.zeros(capacity)
        self.status = np.zeros(capacity, dtype=np.uint8)

    @property
    def objectives(self) -> int:
        """M."""
        return self.losses.shape[0]

    @property
    def noisy(self) -> bool:
        """Whether a trial's losses have noise, as they were told last."""
        return self._noisy > 0

    def append(self, column: NDArray[np.float64]) -> int:
        """Add a pending trial and return its index."""
        if self.count == self.status.shape[0]:
            self._grow()
        index = self.count
        self.columns[:, index] = column
        self.count += 1
        return index

    def record(self, index: int, losses: NDArray[np.float64], variances: float = 0.0, examples: int = 0) -> None:
        """Set or replace a trial's losses, (M,) float64; NaN in one of them = failed."""
        failed = any(loss != loss for loss in losses.tolist())
        self.told += (not failed) - int(self.status[index] == TOLD)
        before = bool(self.examples[index] or self.variances[:, index].any())
        self._noisy += (variances > 0.0 or examples > 0) - before
        self.losses[:, index] = np.nan if failed else losses
        self.variances[:, index] = variances
        self.examples[index] = examples
        self.status[index] = FAILED if failed else TOLD

    def recount(self) -> None:
        """Bring `told` and `noisy` up to date after the arrays were filled from elsewhere."""
        self.told = int(np.count_nonzero(self.status[: self.count] == TOLD))
        noise = self.variances[:, : self.count].any(axis=0) | (self.examples[: self.count] != 0.0)
        self._noisy = int(np.count_nonzero(noise))

    def priors(self) -> NDArray[np.float64]:
        """What the noise of all trials together says, (M, 3) float64: for `estimates`.

        For each objective the mean and the variance of what the losses estimate, infinite where there is no noise, and
        the variance of one example's score, 0 where no loss is a mean over examples.
        """
        out = np.zeros((self.objectives, 3))
        window = slice(0, self.count)
        for objective, prior in enumerate(out):
            prior[2] = self._score(objective, window)
            tpe.prior(self.losses[objective, window], self._noise(objective, window, prior[2]), prior[:2])
        return out

    def estimates(
        self, priors: NDArray[np.float64] | None = None, columns: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """Losses with their noise taken into account; NaN = pending or failed.

        Args:
            priors: From `priors`; None = those of now.
            columns: Trials, (n,) int64; None = all.

        Returns:
            (M, n) float64.
        """
        priors = self.priors() if priors is None else priors
        window = slice(0, self.count) if columns is None else columns
        out = np.array(self.losses[:, window], order="C")  # never a view: it is written to
        for objective, (mean, spread, score) in enumerate(priors.tolist()):
            if spread < np.inf:
                tpe.shrink(
                    self.losses[objective, window], self._noise(objective, window, score), mean, spread, out[objective]
                )
        return out

    def noise(self, objective: int, columns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Noise variances of losses: as told, or what these trials together say of means over examples.

        Args:
            objective: Which one.
            columns: Trials, (n,) int64.

        Returns:
            (n,) float64; without meaning for trials that failed or are pending.
        """
        return self._noise(objective, columns, self._score(objective, columns))

    def _score(self, objective: int, window: slice | NDArray[np.int64]) -> float:
        """Variance of one example's score, by the trials of the window; 0 where no loss is a mean over examples."""
        losses, examples = self.losses[objective, window], self.examples[window]
        averaged = (examples > 0.0) & (self.status[window] == TOLD)
        return example_variance(losses[averaged], examples[averaged]) if averaged.any() else 0.0

    def _noise(self, objective: int, window: slice | NDArray[np.int64], score: float) -> NDArray[np.float64]:
        """Noise variance of each loss, when one example's score has variance `score`."""
        variances, examples = self.variances[objective, window], self.examples[window]
        if score > 0.0:
            return np.where(examples > 0.0, score / np.maximum(examples, 1.0), variances)
        return variances

    def _grow(self) -> None:
        extra = self.status.shape[0]
        objectives = self.objectives
        rows = self.columns.shape[0]
        self.columns = np.concatenate([self.columns, abi.empty_population(rows, extra)], axis=1)
        self.losses = np.concatenate([self.losses, np.full((objectives, extra), np.nan)], axis=1)
        self.variances = np.concatenate([self.variances, np.zeros((objectives, extra))], axis=1)
        self.examples = np.concatenate([self.examples, np.zeros(extra)])
        self.status = np.concatenate([self.status, np.zeros(extra, dtype=np.uint8)])


def example_variance(losses: NDArray[np.float64], examples: NDArray[np.float64]) -> float:
    """Variance of one example's score, from means over examples.

    Scores in [0, 1] have at most p(1 - p), which a share of right answers has exactly; p is the pooled mean with one
    success and one failure added. Otherwise half of the spread of the means is taken as noise.
    """
    size = np.abs(losses)
    if float(size.max()) <= 1.0 and (float(losses.min()) >= 0.0 or float(losses.max()) <= 0.0):
        share = (float((size * examples).sum()) + 1.0) / (float(examples.sum()) + 2.0)
        return share * (1.0 - share)
    if losses.size < 2:
        return 0.0
    return 0.5 * float(losses.var(ddof=1)) / float((1.0 / examples).mean())
