"""The Gaussian processes of a search: one for each objective, conditioned on the trials that matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core import pareto
from dspex.core.gaussian import Features, Prior, Process
from dspex.core.history import FAILED, PENDING, TOLD, History
from dspex.core.warping import Warp

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

MOST: Final = 300
"""Trials that a model holds: beyond, asking would slow down with the cube of their number."""
MOST_FITTED: Final = 200
"""Trials that hyperparameters are fitted to."""
_ASCENT: Final = 30
_FAILURE_NOISE: Final = 0.1
"""Least noise variance of a failed trial, which stands at the worst loss told: it repels, but it is no measurement."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Hyperparameters, and how many trials had ended when they were fitted.

    Attributes:
        thetas: As `Process.theta` for each objective, (M, F + 2) float64.
        trials: Told and failed ones; 0 = never fitted.
    """

    thetas: Array
    trials: int


class Surrogate:
    """What the trials say about losses anywhere.

    Attributes:
        features: Of the space.
        warps: The map of each objective's losses to the model's units.
        told: Trials in the model that have a loss, (k,) int64.
        believed: Posterior means of these, in the model's units, (M, k) float64.
    """

    def __init__(self, features: Features, objectives: int, prior: Prior) -> None:
        self.features = features
        self.warps: list[Warp] = []
        self.told: Indices = np.empty(0, dtype=np.int64)
        self.believed: Array = np.empty((objectives, 0))
        self._processes = [Process(features, prior) for _ in range(objectives)]

    @property
    def unfitted(self) -> Fit:
        """The prior's medians."""
        return Fit(np.stack([process.centre for process in self._processes]), 0)

    def condition(self, history: History, fit: Fit) -> Fit:
        """Model these trials, at least one of them told. Returns `fit`, or a new one when it was due.

        When a fit is due depends on counts of trials alone. Pending trials are taken as told with what is expected of
        them, so that nothing is gained by asking near them.
        """
        status = history.status[: history.count]
        ended = chosen(history, MOST)
        trials = int(np.count_nonzero(status != PENDING))
        due = trials - fit.trials >= max(1, trials // 32) or not fit.trials
        # A warm start follows one maximum; now and then the others get a chance.
        afresh = not fit.trials or trials // 16 > fit.trials // 16
        waiting = np.flatnonzero(status == PENDING)
        is_told = status[ended] == TOLD
        points, ahead = self._features(history, ended), self._features(history, waiting)
        self.told, self.warps = ended[is_told], []
        self.believed = np.empty((history.objectives, self.told.size))
        thetas = fit.thetas.copy()
        for m, process in enumerate(self._processes):
            warp = Warp.fit(history.losses[m, self.told])
            self.warps.append(warp)
            if due:
                fitted = chosen(history, MOST_FITTED)
                thetas[m] = process.fit(
                    self._features(history, fitted), *_observed(history, m, fitted, warp), thetas[m], _ASCENT, afresh
                )
            targets, variances = _observed(history, m, ended, warp)
            process.condition(thetas[m], points, targets, variances)
            self.believed[m] = process.posterior(np.ascontiguousarray(points[:, is_told]))[0]
            if waiting.size:
                expected, _ = process.posterior(ahead)
                process.condition(
                    thetas[m],
                    np.concatenate([points, ahead], axis=1),
                    np.concatenate([targets, expected]),
                    np.concatenate([variances, np.zeros(waiting.size)]),
                )
        return Fit(thetas, trials) if due else fit

    def posterior(self, columns: Array) -> tuple[Array, Array]:
        """Means and variances of candidates' losses, in the model's units: (D, n) to two arrays (M, n) float64."""
        features = self.features.of(columns)
        parts = [process.posterior(features) for process in self._processes]
        return np.stack([part[0] for part in parts]), np.stack([part[1] for part in parts])

    def _features(self, history: History, trials: Indices) -> Array:
        return self.features.of(np.ascontiguousarray(history.columns[:, trials]))


def chosen(history: History, most: int) -> Indices:
    """The told and failed trials, ascending; of more than `most` a third best, a third latest, the rest spread."""
    status = history.status[: history.count]
    ended = np.flatnonzero(status != PENDING)
    if ended.size <= most:
        return ended
    told = np.flatnonzero(status == TOLD)
    order = np.argsort(pareto.single(history.estimates())[told], kind="stable")
    keep = np.zeros(history.count, dtype=np.bool_)
    keep[told[order[: most // 3]]] = True
    keep[ended[-(most // 3) :]] = True
    rest = ended[~keep[ended]]
    left = most - int(np.count_nonzero(keep))
    keep[rest[(np.arange(left) * rest.size) // left]] = True
    return np.flatnonzero(keep)


def _observed(history: History, objective: int, trials: Indices, warp: Warp) -> tuple[Array, Array]:
    """Warped losses and their known noise variances; failures at the worst loss told."""
    losses, failed = history.losses[objective, trials], history.status[trials] == FAILED
    worst = float(losses[~failed].max())
    losses = np.where(failed, worst, losses)
    variances = history.noise(objective, trials)
    # Where most trials fail, a failure says little about its place.
    odds = np.count_nonzero(failed) / np.count_nonzero(~failed)
    return warp.forward(losses), np.where(failed, max(_FAILURE_NOISE, odds), variances * warp.slope(losses) ** 2)
