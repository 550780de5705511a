"""The Parzen estimator that ranks new candidates against the history."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dspex.core import abi, pareto
from dspex.core.history import History
from dspex.core.kernels import tpe
from dspex.core.population import Sampler


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the estimator; the defaults were chosen by `benchmarks/test_optimizers.py`.

    Attributes:
        gamma: Share of trials that count as good.
        good: Most trials that count as good.
        kernels: Most kernels of the other mixture; with it, ask does not slow down as history grows.
        recent: Of these, how many are the latest trials; the rest are spread evenly over the others.
        candidates: Candidates drawn and scored for each ask.
        bandwidth: Bandwidth of a numeric row for one observation, as a share of its interval.
        narrowest: Smallest bandwidth, as a share of the interval.
        smoothing: Prior mass of a categorical kernel relative to its point mass, for one observation.
        prior: Weight of the prior beside an observation's weight of one.
    """

    gamma: float = 0.12
    good: int = 25
    kernels: int = 96
    recent: int = 32
    candidates: int = 64
    bandwidth: float = 0.15
    narrowest: float = 0.01
    smoothing: float = 1.0
    prior: float = 1.0


class Estimator:
    """Ranks candidates by the ratio of two densities: good trials against the others.

    Pending and failed trials count among the others, so the search keeps away from them.
    """

    def __init__(self, sampler: Sampler, settings: Settings) -> None:
        self.sampler = sampler
        self.settings = settings
        table = sampler.table
        rows = abi.dimension_count(table)
        self._floor = np.full(rows, settings.narrowest)
        gridded = (sampler.width > 0.0) & (table.step > 0.0) & (table.log_flag == 0)
        # Below half a step the density at a grid point says nothing about the point's share of the mass.
        self._floor[gridded] = np.maximum(self._floor[gridded], 0.5 * table.step[gridded] / sampler.width[gridded])

    def suggest(self, history: History, seed: int, step: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Candidates that obey the rules, and their order from best to worst.

        Args:
            history: All trials; at least one told.
            seed: Key of the random numbers.
            step: Key of the random numbers, below 2**40.

        Returns:
            (D, N) float64 candidates and (N,) int64 indices.
        """
        settings, sampler, table = self.settings, self.sampler, self.sampler.table
        good, others = self.divide(history)
        good_sigma = self._sigma(good.size)
        other_sigma = self._sigma(others.size)
        good_weights, other_weights = self._weights(good.size), self._weights(others.size)
        rows, n = abi.dimension_count(table), settings.candidates

        centres, norms = np.empty((good.size + 1, rows)), np.empty((good.size + 1, rows))
        tpe.build_mixture(table, sampler.origin, sampler.width, history.columns, good, good_sigma, centres, norms)
        candidates = abi.empty_population(rows, n)
        good_smoothing = self._smoothing(good.size)
        tpe.propose(
            table,
            sampler.origin,
            sampler.width,
            centres,
            np.cumsum(good_weights),
            good_sigma,
            good_smoothing,
            seed,
            step,
            sampler.stack,
            candidates,
        )
        sampler.repair(candidates, seed, step)
        score = np.empty(n)
        tpe.log_density(
            table,
            sampler.origin,
            sampler.width,
            centres,
            norms,
            np.log(good_weights),
            good_sigma,
            good_smoothing,
            candidates,
            np.empty((good.size + 1, n)),
            score,
        )
        centres, norms = np.empty((others.size + 1, rows)), np.empty((others.size + 1, rows))
        tpe.build_mixture(table, sampler.origin, sampler.width, history.columns, others, other_sigma, centres, norms)
        against = np.empty(n)
        tpe.log_density(
            table,
            sampler.origin,
            sampler.width,
            centres,
            norms,
            np.log(other_weights),
            other_sigma,
            self._smoothing(others.size),
            candidates,
            np.empty((others.size + 1, n)),
            against,
        )
        return candidates, np.argsort(against - score, kind="stable")

    def divide(self, history: History) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices of the good trials, best first, and of the others that stand for all others, oldest first."""
        settings = self.settings
        losses = pareto.single(history.estimates())
        told = int(np.count_nonzero(~np.isnan(losses)))
        best = np.empty(min(settings.good, math.ceil(settings.gamma * told)), dtype=np.int64)
        found = tpe.split(losses, best)
        best = best[:found]
        is_other = np.ones(history.count, dtype=np.bool_)
        is_other[best] = False
        others = np.flatnonzero(is_other)
        if others.size > settings.kernels:
            older = others.size - settings.recent
            spread = (np.arange(settings.kernels - settings.recent) * older) // (settings.kernels - settings.recent)
            others = np.concatenate([others[spread], others[older:]])
        return best, others

    def _sigma(self, observations: int) -> NDArray[np.float64]:
        exponent = -1.0 / (self._floor.shape[0] + 4.0)
        return np.maximum(self.settings.bandwidth * max(observations, 1) ** exponent, self._floor)

    def _smoothing(self, observations: int) -> float:
        return self.settings.smoothing / max(observations, 1)

    def _weights(self, observations: int) -> NDArray[np.float64]:
        weights = np.ones(observations + 1)
        weights[-1] = self.settings.prior
        return weights / weights.sum()
