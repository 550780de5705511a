"""The Parzen estimator that ranks new candidates against the history."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dspex.core import abi
from dspex.core.history import History
from dspex.core.kernels import tpe
from dspex.core.population import Sampler
from dspex.core.standing import Standing, others


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the estimator; the defaults were chosen by `benchmarks/test_optimizers.py`.

    Attributes:
        gamma: Share of trials that count as good.
        good: Most trials that count as good.
        spread: Most kernels of the other mixture for older trials, at even distances; with it and `recent`, ask does
            not slow down as history grows.
        recent: Kernels for the latest trials.
        candidates: Candidates drawn and scored for each ask.
        bandwidth: Bandwidth of a numeric row for one observation, as a share of its interval.
        narrowest: Smallest bandwidth, as a share of the interval.
        smoothing: Prior mass of a categorical kernel relative to its point mass, for one observation.
        prior: Weight of the prior beside an observation's weight of one.
    """

    gamma: float = 0.12
    good: int = 25
    spread: int = 96
    recent: int = 32
    candidates: int = 64
    bandwidth: float = 0.15
    narrowest: float = 0.01
    smoothing: float = 1.0
    prior: float = 1.0


_NEAR: Final = 500
"""Trials that are kept side by side; a power of two would put all rows into the same lines of the cache."""


@dataclass(frozen=True, slots=True)
class _Weights:
    """What depends on the number of a mixture's observations alone: (k + 1,) arrays, the prior last."""

    sigma: NDArray[np.float64]
    smoothing: float
    cumulative: NDArray[np.float64]
    logarithm: NDArray[np.float64]


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
        groups = np.empty((rows, 4), dtype=np.int64)
        self._groups = groups[: tpe.group_rows(table, sampler.width, groups)].copy()
        self._weights: dict[int, _Weights] = {}
        # Columns of a long history lie far apart in memory; those in use are kept side by side.
        self._near = np.empty((rows, _NEAR))
        self._places: dict[int, int] = {}
        self._scratch: dict[str, NDArray[np.float64]] = {}

    def suggest(
        self, history: History, standing: Standing, seed: int, step: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Candidates that obey the rules, and their order from best to worst.

        Args:
            history: All trials; at least one told.
            standing: Their order.
            seed: Key of the random numbers.
            step: Key of the random numbers, below 2**40.

        Returns:
            (D, N) float64 candidates and (N,) int64 indices.
        """
        settings, sampler, table = self.settings, self.sampler, self.sampler.table
        good = standing.best(min(settings.good, math.ceil(settings.gamma * history.told)))
        rest = others(history.count, good, settings.spread, settings.recent)
        weights = self._weigh(good.size)
        centres, below, mass = self._mixture(history, good, weights)
        count = settings.candidates
        candidates = np.empty((centres.shape[0], count))
        tpe.propose(
            table,
            sampler.origin,
            sampler.width,
            centres,
            below,
            mass,
            weights.cumulative,
            weights.sigma,
            weights.smoothing,
            seed,
            step,
            sampler.stack,
            np.empty(count, dtype=np.int64),
            candidates,
        )
        sampler.repair(candidates, seed, step)
        score = self._score(centres, mass, weights, candidates)
        weights = self._weigh(rest.size)
        centres, below, mass = self._mixture(history, rest, weights)
        score -= self._score(centres, mass, weights, candidates)
        return candidates, np.argsort(-score, kind="stable")

    def _mixture(
        self, history: History, members: NDArray[np.int64], weights: _Weights
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        sampler, sigma = self.sampler, weights.sigma
        centres, below, mass = self._borrow("mixture", 3, sigma.size, members.size + 1)
        places = self._gather(history, members.tolist())
        tpe.build_mixture(sampler.table, sampler.origin, sampler.width, self._near, places, sigma, centres, below, mass)
        return centres, below, mass

    def _gather(self, history: History, members: list[int]) -> NDArray[np.int64]:
        """Columns of `_near` that hold the trials, which never change."""
        places = self._places
        missing = [member for member in members if member not in places]
        if len(places) + len(missing) > self._near.shape[1]:
            places.clear()
            missing = members
            if len(missing) > self._near.shape[1]:
                self._near = np.empty((self._near.shape[0], 2 * len(missing)))
        for member in missing:
            place = places[member] = len(places)
            self._near[:, place] = history.columns[:, member]
        return np.array([places[member] for member in members], dtype=np.int64)

    def _score(
        self,
        centres: NDArray[np.float64],
        mass: NDArray[np.float64],
        weights: _Weights,
        candidates: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        kernels, count = centres.shape[1], candidates.shape[1]
        out = np.empty(count)
        tpe.log_density(
            self.sampler.table,
            self._groups,
            self.sampler.origin,
            self.sampler.width,
            centres,
            mass,
            weights.logarithm,
            weights.sigma,
            weights.smoothing,
            candidates,
            self._borrow("terms", 5, kernels),
            self._borrow("scores", kernels + 10, tpe.DENSITY_BLOCK),
            out,
        )
        return out

    def _borrow(self, use: str, *shape: int) -> NDArray[np.float64]:
        """Scratch that lasts: a fresh array of this size costs the system more than filling it."""
        size = math.prod(shape)
        if use not in self._scratch or self._scratch[use].size < size:
            self._scratch[use] = np.empty(2 * size)
        return self._scratch[use][:size].reshape(shape)

    def _weigh(self, observations: int) -> _Weights:
        if observations not in self._weights:
            settings, size = self.settings, max(observations, 1)
            sigma = np.maximum(settings.bandwidth * size ** (-1.0 / (self._floor.shape[0] + 4.0)), self._floor)
            weights = np.ones(observations + 1)
            weights[-1] = settings.prior
            weights /= weights.sum()
            self._weights[observations] = _Weights(
                sigma, settings.smoothing / size, np.cumsum(weights), np.log(weights)
            )
        return self._weights[observations]
